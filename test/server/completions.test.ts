import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import OpenAI from 'openai'
import { type Harness, readAnswer, readEvents, startHarness } from './harness.js'

const COMPLETIONS = '/v1/completions'
const ids = (text: string): number[] => [...Buffer.from(text)]

describe('text completions', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({
      answer: (prompt, _request, choice) => ({
        pieces: [`<${prompt.slice(-3)}`, `:${choice}>`, ' é'],
      }),
    })
  })
  after(() => harness.close())

  const ask = async (more: object) => {
    const response = await harness.post(COMPLETIONS, { model: 'tiny-reasoner', ...more })
    const answer = await readAnswer(response)
    assert.equal(response.status, 200, JSON.stringify(answer))
    return answer
  }
  const askStream = async (more: object) =>
    readEvents(await harness.post(COMPLETIONS, { model: 'tiny-reasoner', stream: true, ...more }))

  test('the official client gets an answer, streamed and not', async () => {
    const client = new OpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'x', maxRetries: 0 })
    const whole = await client.completions.create({ model: 'tiny-reasoner', prompt: 'abc' })
    assert.equal(whole.object, 'text_completion')
    assert.equal(whole.choices[0]?.text, '<abc:0> é')
    assert.equal(whole.choices[0]?.finish_reason, 'stop')
    let text = ''
    for await (const chunk of await client.completions.create({
      model: 'tiny-reasoner',
      prompt: 'abc',
      stream: true,
    }))
      text += chunk.choices[0]?.text ?? ''
    assert.equal(text, '<abc:0> é')
  })

  test('prompts in all four forms; choice index = prompt * n + choice', async () => {
    for (const prompt of ['abc', ['abc'], ids('abc'), [ids('abc')]])
      assert.equal((await ask({ prompt })).choices[0].text, '<abc:0> é')
    for (const prompt of [
      ['abc', 'xyz'],
      [ids('abc'), ids('xyz')],
    ]) {
      const answer = await ask({ prompt, n: 2 })
      assert.deepEqual(
        answer.choices.map((choice: { index: number; text: string }) => [
          choice.index,
          choice.text,
        ]),
        [
          [0, '<abc:0> é'],
          [1, '<abc:1> é'],
          [2, '<xyz:0> é'],
          [3, '<xyz:1> é'],
        ],
      )
    }
  })

  test('BOS stands once before text, never before ids; names in text are parsed', async () => {
    const promptOf = async (more: object) => {
      await ask(more)
      return Array.from(harness.engine.requests.at(-1)?.promptTokenIds ?? [])
    }
    assert.deepEqual(await promptOf({ prompt: 'a' }), [256, 97])
    assert.deepEqual(await promptOf({ prompt: '<|begin_of_text|>a<|eot_id|>' }), [256, 97, 260])
    assert.deepEqual(await promptOf({ prompt: [97] }), [97])
    assert.deepEqual(await promptOf({ prompt: 'a', add_special_tokens: false }), [97])
    assert.deepEqual(await promptOf({ prompt: '' }), [256])
  })

  test('16 tokens by default, as many as fit near the end of the context', async () => {
    await ask({ prompt: 'a' })
    assert.equal(harness.engine.requests.at(-1)?.sampling?.maxTokens, 16)
    await ask({ prompt: ids('x'.repeat(1020)) })
    assert.equal(harness.engine.requests.at(-1)?.sampling?.maxTokens, 4)
  })

  test('echo and logprobs: the first is null, every token has its place in the text', async () => {
    const { choices } = await ask({ prompt: 'aé', echo: true, logprobs: 2, max_tokens: 8 })
    const [{ text, logprobs }] = choices
    assert.equal(text, 'aé<aé:0> ')
    assert.equal(logprobs.token_logprobs[0], null)
    assert.equal(logprobs.top_logprobs[0], null)
    assert.equal(logprobs.tokens[0], '<|begin_of_text|>')
    assert.deepEqual(logprobs.tokens.slice(1, 4), ['a', 'bytes:\\xc3', 'bytes:\\xa9'])
    assert.deepEqual(logprobs.text_offset.slice(0, 5), [0, 0, 1, 1, 2])
    const characters = [...text]
    logprobs.tokens.forEach((token: string, i: number) => {
      if (token.length === 1) assert.equal(characters[logprobs.text_offset[i]], token)
    })
    for (const key of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset'])
      assert.equal(logprobs[key].length, 4 + 8, key)
    assert.ok(Object.keys(logprobs.top_logprobs[1]).length >= 2)
  })

  test('echo alone: max_tokens 0 scores the prompt', async () => {
    const answer = await ask({
      prompt: [ids('ab'), ids('cde')],
      echo: true,
      logprobs: 1,
      max_tokens: 0,
    })
    assert.deepEqual(
      answer.choices.map((choice: { text: string }) => choice.text),
      ['ab', 'cde'],
    )
    assert.deepEqual(
      answer.choices.map(
        (choice: { logprobs: { tokens: string[] } }) => choice.logprobs.tokens.length,
      ),
      [2, 3],
    )
    assert.equal(answer.usage.completion_tokens, 0)
    assert.equal(answer.usage.prompt_tokens, 5)
    assert.equal(answer.choices[0].finish_reason, 'length')
  })

  test('a stream tells of the prompt before there is any text', async (t) => {
    const late = await startHarness({ answer: () => ({ pieces: ['', 'a'] }) })
    t.after(() => late.close())
    const ask = { model: 'tiny-reasoner', prompt: ids('bc'), prompt_logprobs: 0, stream: true }
    const { chunks } = await readEvents(await late.post('/v1/completions', ask))
    assert.equal(chunks[0].choices[0].prompt_logprobs.length, 2)
    assert.equal(chunks[1].choices[0].prompt_logprobs, undefined)
  })

  test('a stream adds up to the whole answer', async () => {
    const body = {
      prompt: ['abc', 'xyz'],
      n: 2,
      echo: true,
      logprobs: 1,
      prompt_logprobs: 1,
      return_token_ids: true,
      truncate_prompt_tokens: 3,
    }
    const whole = await ask(body)
    const { chunks, done } = await askStream({ ...body, stream_options: { include_usage: true } })
    assert.ok(done)
    assert.deepEqual(chunks.at(-1).choices, [])
    assert.deepEqual(chunks.at(-1).usage, whole.usage)
    assert.equal(whole.truncated_tokens, 2)
    for (const choice of whole.choices) {
      assert.equal(choice.prompt_logprobs.length, 3)
      const mine = chunks
        .flatMap((chunk) => chunk.choices)
        .filter(({ index }) => index === choice.index)
      assert.equal(mine.map((one) => one.text).join(''), choice.text)
      assert.deepEqual(
        mine.flatMap((one) => one.token_ids ?? []),
        choice.token_ids,
      )
      for (const key of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset'])
        assert.deepEqual(
          mine.flatMap((one) => one.logprobs?.[key] ?? []),
          choice.logprobs[key],
        )
      assert.deepEqual(mine[0].prompt_logprobs, choice.prompt_logprobs)
      assert.deepEqual(mine[0].prompt_token_ids, choice.prompt_token_ids)
      assert.equal(mine.at(-1).finish_reason, choice.finish_reason)
      assert.equal(mine.at(-1).text, '')
    }
  })

  test('a stream says of its prompts what a whole answer does, though its text comes late or never', async (t) => {
    const late = await startHarness({
      answer: (prompt) => ({ pieces: prompt.endsWith('none') ? [] : ['', 'a'] }),
    })
    t.after(() => late.close())
    for (const prompt of ['late', 'none', ['late', 'none'], ['none', 'late']])
      for (const more of [
        { prompt_logprobs: 0 },
        { truncate_prompt_tokens: 4 },
        { prompt_logprobs: 0, truncate_prompt_tokens: 4, return_token_ids: true },
      ]) {
        const body = { model: 'tiny-reasoner', prompt, ...more }
        const whole = await readAnswer(await late.post(COMPLETIONS, body))
        const { chunks } = await readEvents(await late.post(COMPLETIONS, { ...body, stream: true }))
        const truncated = chunks.flatMap((chunk) => chunk.truncated_tokens ?? [])
        assert.deepEqual(truncated, 'truncated_tokens' in whole ? [whole.truncated_tokens] : [])
        for (const choice of whole.choices) {
          const mine = chunks
            .flatMap((chunk) => chunk.choices)
            .filter(({ index }) => index === choice.index)
          const all = Object.assign({}, ...mine.toReversed())
          assert.deepEqual(all.prompt_logprobs, choice.prompt_logprobs)
          assert.deepEqual(all.prompt_token_ids, choice.prompt_token_ids)
          assert.equal(mine.map(({ text }) => text).join(''), choice.text)
        }
      }
  })
})
