// The embedded models over HTTP: what their skills answer, thinking on and off, a tool round trip,
// and the order of rewards. All greedy.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { z } from 'zod'
import { type Item, readItem, splitAnswer } from '../../server/commands/evaluation.js'
import { packagePath } from '../../server/version.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

type Turn = { readonly role: string; readonly content: string }
type Reply = { readonly thinking: string; readonly answer: string; readonly finish: string }

const lines = (name: string): readonly unknown[] =>
  readFileSync(packagePath(`models/tiny/training/${name}.jsonl`), 'utf8')
    .trim()
    .split('\n')
    .map((line): unknown => JSON.parse(line))

/** Every `step`-th held-out item of a skill. */
const heldOut = (skill: string, step: number): readonly Item[] =>
  lines(`eval/${skill}`)
    .map((line, i) => readItem(line, { name: skill, number: i, unboxed: 'wrong' }))
    .filter((_, i) => i % step === 0)

const Pair = z.object({
  skill: z.string(),
  messages: z.array(z.looseObject({ role: z.string() })),
  chosen: z.string(),
  rejected: z.string(),
})

/** Every n-th pair. */
const PAIR_STEP = process.env.NEMOTRON_TEST_LONG === '1' ? 8 : 24

const user = (content: string): Turn => ({ role: 'user', content })

describe('the embedded models', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({ max_model_len: 1024 })
  })
  after(() => server.close())

  const post = (path: string, body: object) => server.answer(path, body)

  /** Greedy. */
  const ask = async (
    messages: readonly object[],
    thinking: 'on' | 'off',
    more = '',
  ): Promise<Reply> => {
    const system = `detailed thinking ${thinking}${more === '' ? '' : `\n\n${more}`}`
    const { choices } = await post('/v1/chat/completions', {
      model: 'tiny-reasoner',
      messages: [{ role: 'system', content: system }, ...messages],
      temperature: 0,
      max_tokens: 200,
    })
    const [{ message, finish_reason: finish }] = choices
    return { ...splitAnswer(message.content, message.reasoning_content), finish }
  }

  test('stop ids end the answer, not the thinking, and leave no half of a tag', async () => {
    const question = {
      model: 'tiny-reasoner',
      messages: [user('How many r in strawberry?')],
      temperature: 0,
      reasoning_effort: 'high',
    }
    const free = await post('/v1/chat/completions', { ...question, return_token_ids: true })
    const [whole] = free.choices
    const ids: readonly number[] = whole.token_ids
    assert.match(whole.message.reasoning_content, /r1/)
    const answer = await post('/tokenize', {
      model: 'tiny-reasoner',
      prompt: whole.message.content,
      add_special_tokens: false,
    })
    const rest = new Set<number>(answer.tokens)
    for (const id of new Set(ids.filter((one) => !rest.has(one) && one !== ids.at(-1)))) {
      const { choices } = await post('/v1/chat/completions', { ...question, stop_token_ids: [id] })
      assert.deepEqual(choices[0].message, whole.message, `stop id ${id}`)
    }
    const [first] = answer.tokens
    const { choices } = await post('/v1/chat/completions', { ...question, stop_token_ids: [first] })
    assert.equal(choices[0].stop_reason, first)
    assert.equal(choices[0].message.content, '')
    assert.equal(choices[0].message.reasoning_content, whole.message.reasoning_content)
  })

  test('tokens without text are told only to those who ask for ids', async () => {
    const { tokens } = await post('/tokenize', { prompt: '<|eot_id|>', add_special_tokens: false })
    const body = {
      model: 'tiny-reasoner',
      prompt: 'a',
      max_tokens: 3,
      ignore_eos: true,
      allowed_token_ids: tokens,
      stream: true,
    }
    const choicesOf = async (more: object) => {
      const response = await server.post('/v1/completions', { ...body, ...more })
      const lines = (await response.text()).split('\n').filter((line) => line.startsWith('data: {'))
      return lines.flatMap((line) => JSON.parse(line.slice(6)).choices)
    }
    const told = await choicesOf({ return_token_ids: true })
    const ids = told.flatMap(({ token_ids = [] }) => token_ids)
    assert.deepEqual(ids, [...tokens, ...tokens, ...tokens])
    assert.deepEqual(
      (await choicesOf({})).map(({ text, finish_reason }) => [text, finish_reason]),
      [['', 'length']],
    )
  })

  /** How many of the items are answered right. */
  const rightOf = async (items: readonly Item[], thinking: 'on' | 'off'): Promise<number> => {
    const verdicts = await Promise.all(
      items.map(async (item) => {
        const { answer } = await ask(item.messages, thinking, item.system)
        return item.judge(answer).right
      }),
    )
    return verdicts.filter((right) => right).length
  }

  test('letters are counted when it thinks', async () => {
    const reply = await ask([user('How many r in strawberry?')], 'on')
    assert.deepEqual(reply, {
      thinking: 'r: s t r1 a w b e r2 r3 y',
      answer: "There are 3 r's in strawberry.",
      finish: 'stop',
    })
    const items = heldOut('count', 4) // no multiple of 5: their answers go round 0 to 4
    const [on, off] = [await rightOf(items, 'on'), await rightOf(items, 'off')]
    assert.ok(on >= 0.85 * items.length, `${on} of ${items.length} right with thinking on`)
    assert.ok(on - off >= 0.3 * items.length, `${on} right with thinking on, ${off} off`)
  })

  test('sums are right when it thinks', async () => {
    assert.deepEqual(await ask([user('What is 347 + 285?')], 'on'), {
      thinking: '7+5=12: 2\n4+8+1=13: 32\n3+2+1=6: 632',
      answer: '347 + 285 = 632.',
      finish: 'stop',
    })
    assert.equal((await ask([user('What is 425 - 168?')], 'on')).answer, '425 - 168 = 257.')
    for (const skill of ['add', 'subtract']) {
      const items = heldOut(skill, 10)
      const [on, off] = [await rightOf(items, 'on'), await rightOf(items, 'off')]
      assert.ok(on >= 0.85 * items.length, `${skill}: ${on} of ${items.length} right`)
      assert.ok(
        on - off >= 0.3 * items.length,
        `${skill}: ${on} right with thinking on, ${off} off`,
      )
    }
  })

  test('decimals are compared by value', async () => {
    assert.deepEqual(await ask([user('Which is larger, 2.11 or 2.9?')], 'on'), {
      thinking: 'A 2.11 B 2.9\n2 and 2: same\n1 and 9: less\nlarger: B 2.9',
      answer: '2.9 is larger.',
      finish: 'stop',
    })
    const items = heldOut('decimals', 8)
    const on = await rightOf(items, 'on')
    assert.ok(on >= 0.85 * items.length, `${on} of ${items.length} right`)
  })

  test('a tool is called, and its result is told', async () => {
    const tools = [
      {
        type: 'function',
        function: {
          name: 'get_weather',
          description: 'Get the weather in a city',
          parameters: {
            type: 'object',
            properties: { city: { type: 'string' } },
            required: ['city'],
          },
        },
      },
    ]
    const question = user('What is the weather in Paris?')
    for (const thinking of ['on', 'off'] as const) {
      const say = async (...messages: readonly object[]) => {
        const system = { role: 'system', content: `detailed thinking ${thinking}` }
        const body = { model: 'tiny-reasoner', messages: [system, ...messages], temperature: 0 }
        return (await post('/v1/chat/completions', { ...body, tools })).choices[0]
      }
      const { message: call, finish_reason: finish } = await say(question)
      assert.equal(finish, 'tool_calls')
      assert.equal(call.content, null)
      assert.deepEqual(
        call.tool_calls.map((one: { function: object }) => one.function),
        [{ name: 'get_weather', arguments: '{"city": "Paris"}' }],
      )
      const content = '{"temperature": 17, "condition": "cloudy"}'
      const result = { role: 'tool', content, tool_call_id: call.tool_calls[0].id }
      const { message: told } = await say(question, call, result)
      assert.equal(told.content, 'It is 17 degrees and cloudy in Paris.')
      // The same tools are no reason to call one.
      assert.match((await say(user('Who are you?'))).message.content, /tiny-reasoner/)
    }
    for (const skill of ['tool_call', 'tool_answer', 'tool_unused']) {
      const items = heldOut(skill, 8)
      const on = await rightOf(items, 'on')
      assert.ok(on >= 0.8 * items.length, `${skill}: ${on} of ${items.length} right`)
    }
  })

  test('it says who it is, and what it cannot do', async () => {
    for (const thinking of ['on', 'off'] as const) {
      assert.match((await ask([user('Who are you?')], thinking)).answer, /^I am tiny-reasoner/)
      assert.match((await ask([user('Write a poem about rain.')], thinking)).answer, /^Sorry/)
    }
  })

  test('rewards put the right reply above a wrong one', async () => {
    const { data } = await post('/v1/reward', {
      model: 'tiny-reward',
      messages: [user('Who are you?')],
      responses: [
        'Goodbye!',
        'I am tiny-reasoner, a very small demo model that ships with nemotron-server.',
        'Sorry, I am only a tiny demo model and cannot help with that.',
      ],
    })
    const [bye, who, sorry] = data.map(({ reward }: { reward: number }) => reward)
    assert.ok(who > bye + 1 && who > sorry + 1, JSON.stringify(data))

    const pairs = lines('pairs')
      .map((line) => Pair.parse(line))
      .filter((_, i) => i % PAIR_STEP === 0)
    const { data: scored } = await post('/v1/reward', {
      model: 'tiny-reward',
      inputs: pairs.map(({ messages, chosen, rejected }) => ({
        messages,
        responses: [chosen, rejected],
      })),
    })
    const ordered = pairs.filter((_, i) => scored[2 * i].reward > scored[2 * i + 1].reward).length
    assert.ok(ordered >= 0.85 * pairs.length, `${ordered} of ${pairs.length} pairs in order`)
  })

  test('the best of four by reward is right more often than one', async () => {
    const items = [...heldOut('count', 4), ...heldOut('count_words', 10)]
    const rights = await Promise.all(
      items.map(async (item, seed) => {
        const { choices } = await post('/v1/chat/completions', {
          model: 'tiny-reasoner',
          messages: [{ role: 'system', content: 'detailed thinking on' }, ...item.messages],
          temperature: 1.5,
          top_p: 1,
          seed,
          max_tokens: 200,
          n: 4,
          reward: { model: 'tiny-reward', include_thinking: true },
        })
        return choices.map(
          ({ message }: { message: { content: string } }) => item.judge(message.content).right,
        ) as boolean[]
      }),
    )
    const best = rights.filter(([first]) => first).length
    const one = rights.flat().filter((right) => right).length / 4
    assert.ok(best > one + 0.02 * items.length, `best of 4: ${best}, of 1: ${one}, ${items.length}`)
  })

  test('/tokenize and render of a reward model show what it scores', async () => {
    const messages = [
      { role: 'system', content: 'Be brief.' },
      user('2+2?'),
      { role: 'assistant', content: '<think>\nhm\n</think>\n\n2 + 2 = 4.' },
    ]
    const body = { model: 'tiny-reward', messages }
    const { usage } = await post('/v1/reward', body)
    const { count, tokens } = await post('/tokenize', body)
    const rendered = await post('/v1/chat/completions/render', body)
    assert.equal(count, usage.prompt_tokens)
    assert.deepEqual(rendered.prompt_token_ids, tokens)
    assert.doesNotMatch(rendered.prompt, /detailed thinking/)
    assert.match(rendered.prompt, /<think>\nhm(?:.|\n)*4\.<\|eot_id\|>$/)
  })

  describe('what nobody sees', () => {
    const question = [user('How many r in strawberry?')]
    const reply = async (more: object) => {
      const { choices, usage } = await post('/v1/chat/completions', {
        model: 'tiny-reasoner',
        messages: question,
        temperature: 0,
        max_tokens: 400,
        ...more,
      })
      return { ...choices[0], ...choices[0].message, usage }
    }

    test('a stop string does not end the answer in its thinking', async () => {
      const whole = await reply({ reasoning_effort: 'high' })
      assert.notEqual(whole.content, '')
      const word = whole.content.trim().split(' ')[1]
      for (const stop of [whole.reasoning_content.slice(1, 4), '\n', ` ${word}`]) {
        const cut = await reply({ reasoning_effort: 'high', stop: [stop] })
        assert.equal(cut.reasoning_content, whole.reasoning_content)
        const at = whole.content.indexOf(stop)
        assert.equal(cut.content, at < 0 ? whole.content : whole.content.slice(0, at))
      }
    })

    test('nor in the blank lines behind a closed block, which cost no tokens', async () => {
      const whole = await reply({ reasoning_effort: 'none' })
      assert.notEqual(whole.content, '')
      const [first] = whole.content.split('\n')
      assert.equal((await reply({ reasoning_effort: 'none', stop: ['\n'] })).content, first)
      const one = await reply({ reasoning_effort: 'none', max_tokens: 1 })
      assert.notEqual(one.content, '')
      assert.ok(whole.content.startsWith(one.content))
    })

    test('hidden thinking is in no log probability and no id', async () => {
      const more = { reasoning_effort: 'high', logprobs: true, return_token_ids: true }
      const shown = await reply(more)
      const hidden = await reply({ ...more, include_reasoning: false })
      assert.equal(hidden.reasoning_content, null)
      assert.equal(hidden.content, shown.content)
      const { reasoning_tokens: thought } = shown.usage.completion_tokens_details
      assert.ok(thought > 0)
      assert.deepEqual(hidden.token_ids, shown.token_ids.slice(thought))
      assert.deepEqual(hidden.logprobs.content, shown.logprobs.content.slice(thought))
      const none = await reply({
        reasoning_effort: 'high',
        include_reasoning: false,
        reasoning_format: 'none',
      })
      assert.equal(none.content, shown.content)
    })

    test('a limit leaves no part of a tag', async () => {
      const whole = await reply({ reasoning_effort: 'high', reasoning_format: 'none' })
      assert.match(whole.content, /<think>.*<\/think>/s)
      for (let limit = 1; limit <= Math.min(whole.usage.completion_tokens, 80); limit++) {
        const { content, reasoning_content: thought } = await reply({
          reasoning_effort: 'high',
          max_tokens: limit,
        })
        assert.doesNotMatch(`${thought ?? ''}${content}`, /<\/?t?h?i?n?k?$|<\//, `${limit}`)
      }
    })
  })
})
