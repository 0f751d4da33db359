// /v1/decisions and /v1/systemone: what is told of a question is what /v1/completions tells of the same tokens.

import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import OpenAI from 'openai'
import { packagePath } from '../../server/version.js'
import { readAnswer } from './harness.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

const REASONER = packagePath('models/tiny/tiny-reasoner')
const REWARDS = packagePath('test/golden/reward_row')
const model = 'chat'

type Body = Readonly<Record<string, unknown>>
const near = (a: number, b: number, tolerance = 1e-9) =>
  assert.ok(Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(b)), `${a} and ${b}`)
const sum = (values: readonly number[]) => values.reduce((all, one) => all + one, 0)

const PREDICATE = { type: 'predicate', name: 'is it', instructions: 'The text is a greeting.' }
const CHOICE = {
  type: 'choice',
  instructions: 'What is it?',
  choices: [
    { value: 'a greeting' },
    { value: 'a sum', description: 'of numbers' },
    { value: true },
  ],
}
const SCORE = {
  type: 'score',
  instructions: 'How kind is it?',
  levels: [{ label: 'not' }, { label: 'somewhat' }, { label: 'very' }],
}

describe('decisions', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({
      block_size: 16,
      max_model_len: 512,
      models: [
        { model: REASONER, served_model_name: model },
        { model: REWARDS, served_model_name: 'rewards', reward: { rows: [0] } },
        {
          model: REWARDS,
          served_model_name: 'principled',
          reward: { rows: [0], question: 'Does it satisfy {principle}?' },
        },
      ],
    })
  })
  after(() => server.close())

  const answered = async (path: string, body: Body) => {
    const response = await server.post(path, { model, ...body })
    const answer = await readAnswer(response)
    assert.equal(response.status, 200, JSON.stringify(answer))
    return { answer, response }
  }
  const decide = async (body: Body) => (await answered('/v1/decisions', body)).answer
  const refused = async (path: string, body: Body) => {
    const response = await server.post(path, { model, ...body })
    const answer = await readAnswer(response)
    assert.equal(response.status, 400, JSON.stringify(answer))
    return answer.error
  }

  /** How likely the model's answer to the messages begins with the text, by its own tokens. */
  const likely = async (messages: readonly object[], text: string): Promise<number> => {
    const rendered = (
      await answered('/v1/chat/completions/render', { messages, reasoning_effort: 'none' })
    ).answer
    const prompt: number[] = rendered.token_ids ?? rendered.prompt_token_ids ?? rendered.tokens
    const { tokens } = (await answered('/tokenize', { prompt: text, add_special_tokens: false }))
      .answer
    const { choices } = (
      await answered('/v1/completions', {
        prompt: [...prompt, ...tokens],
        max_tokens: 1,
        prompt_logprobs: 0,
      })
    ).answer
    const told = choices[0].prompt_logprobs.slice(-tokens.length)
    return Math.exp(
      sum(
        told.map(
          (one: object, i: number) =>
            (one as Record<string, { logprob: number }>)[tokens[i]]?.logprob ?? 0,
        ),
      ),
    )
  }

  it('a predicate is the share of yes among yes and no, in all their forms', async () => {
    const input = 'Hello there!'
    const { answers, usage } = await decide({ input, questions: [PREDICATE] })
    const text = `${input}\n\nIs the following true of the above? Answer with Yes or No only.\n\n${PREDICATE.instructions}`
    const messages = [{ role: 'user', content: text }]
    const of = async (word: string) => {
      const forms = [word, word.toLowerCase(), word.toUpperCase()].flatMap((one) => [
        one,
        ` ${one}`,
      ])
      const all: number[] = []
      for (const form of forms) all.push(await likely(messages, form))
      return sum(all)
    }
    const [yes, no] = [await of('Yes'), await of('No')]
    const [answer] = answers
    assert.deepEqual([answer.type, answer.name], ['predicate', 'is it'])
    near(answer.probability, yes / (yes + no), 1e-5)
    near(answer.label_mass, yes + no, 1e-5)
    assert.equal(usage.output_tokens, 0)
    assert.equal(usage.total_tokens, usage.input_tokens)
  })

  it('a choice and a score: options in their order, the likeliest, what is expected', async () => {
    const input = [{ role: 'user', content: [{ type: 'input_text', text: 'Hi!' }] }]
    const { answer, response } = await answered('/v1/decisions', {
      input,
      questions: [CHOICE, SCORE],
    })
    const [choice, score] = answer.answers
    assert.deepEqual(
      choice.probabilities.map(({ value }: { value: unknown }) => value),
      ['a greeting', 'a sum', true],
    )
    const of = (one: { probabilities: { probability: number }[] }) =>
      one.probabilities.map(({ probability }) => probability)
    for (const one of [choice, score]) {
      near(sum(of(one)), 1)
      near(one.confidence, Math.max(...of(one)) * one.label_mass)
    }
    assert.equal(
      choice.choice,
      choice.probabilities[of(choice).indexOf(Math.max(...of(choice)))].value,
    )
    near(score.score, sum(of(score).map((p, i) => i * p)))
    assert.deepEqual(
      score.probabilities.map(({ label, value }: { label: string; value: number }) => [
        label,
        value,
      ]),
      [
        ['not', 0],
        ['somewhat', 1],
        ['very', 2],
      ],
    )
    const mass = Math.min(choice.label_mass, score.label_mass)
    assert.equal(Number(response.headers.get('x-label-mass')), mass)
    const text =
      'Hi!\n\nHow kind is it?\n\nLevels, from the lowest to the highest:\n0: not\n1: somewhat\n2: very\n\nAnswer with the number of one level only.'
    const masses: number[] = []
    for (const level of ['0', '1', '2'])
      masses.push(
        (await likely([{ role: 'user', content: text }], level)) +
          (await likely([{ role: 'user', content: text }], ` ${level}`)),
      )
    near(score.label_mass, sum(masses), 1e-5)
    for (const [i, p] of of(score).entries()) near(p, (masses[i] ?? 0) / sum(masses), 1e-5)
  })

  it('the same bits alone, among others and while others run; the prompt is computed once', async () => {
    const input = 'There are 3 small birds and a dog in the garden. '.repeat(3)
    const questions = [PREDICATE, CHOICE, SCORE]
    const together = await decide({ input, questions })
    const busy = Array.from({ length: 4 }, () =>
      server.post('/v1/chat/completions', {
        model,
        max_tokens: 60,
        messages: [{ role: 'user', content: 'Hi' }],
      }),
    )
    const again = await decide({ input, questions })
    await Promise.all(busy)
    assert.deepEqual(again.answers, together.answers)
    for (const [i, question] of questions.entries()) {
      const alone = await decide({ input, questions: [question] })
      assert.deepEqual(alone.answers[0], together.answers[i])
    }
    const { cached_tokens: cached } = again.usage.input_tokens_details
    assert.ok(cached > 0.6 * again.usage.input_tokens, `${cached} of ${again.usage.input_tokens}`)
    assert.ok(cached <= again.usage.input_tokens)
  })

  it('255 options, and as many questions as fit', async () => {
    const choices = Array.from({ length: 255 }, (_, i) => ({ value: `n${i}` }))
    const { answers } = await decide({
      input: 'x',
      questions: [{ type: 'choice', instructions: 'Which?', choices: choices.slice(0, 27) }],
    })
    near(
      sum(answers[0].probabilities.map(({ probability }: { probability: number }) => probability)),
      1,
    )
    const error = await refused('/v1/decisions', {
      input: 'x'.repeat(400),
      questions: [{ type: 'choice', instructions: 'Which?', choices }],
    })
    assert.equal(error.param, 'questions.0')
    assert.match(error.message, /maximum context length is 512/)
  })

  it('calls and their outputs are part of the conversation', async () => {
    const input = [
      { role: 'developer', content: 'Be brief.' },
      { role: 'user', content: [{ type: 'input_json', data: { a: [1] } }] },
      { type: 'function_call', call_id: 'c', name: 'f', arguments: '{"x":1}' },
      { type: 'function_call_output', call_id: 'c', output: '7' },
      { role: 'assistant', content: [{ type: 'output_text', text: 'It is 7.' }] },
    ]
    const { answers } = await decide({ input, questions: [PREDICATE] })
    assert.equal(answers.length, 1)
    const orphan = await refused('/v1/decisions', { input: [input[3]], questions: [PREDICATE] })
    assert.equal(orphan.param, 'input.0.call_id')
    const open = await refused('/v1/decisions', {
      input: input.slice(0, 3),
      questions: [PREDICATE],
    })
    assert.equal(open.param, 'input.2.call_id')
  })

  it('shows JSON to the model as it is written', async () => {
    const data = '{"2": 1.0, "1": 18446744073709551616}'
    const question = JSON.stringify(PREDICATE)
    const raw = (path: string, body: string) =>
      fetch(`${server.url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
      }).then(readAnswer)
    const ask = (input: string) =>
      raw('/v1/decisions', `{"model":"${model}","input":${input},"questions":[${question}]}`)
    const item = (part: string) => `[{"role":"user","content":[${part}]}]`
    const [told] = (await ask(JSON.stringify(data))).answers
    const [same] = (await ask(item(`{"type":"input_json","data":${data}}`))).answers
    assert.deepEqual(same, told)
    const noul = { type: 'noul', instructions: PREDICATE.instructions }
    const questions = JSON.stringify({ a: noul })
    const { answers } = await raw(
      '/v1/systemone',
      `{"model":"${model}","state":${data},"questions":${questions}}`,
    )
    assert.equal(answers.a.noul, told.probability)
    const [list] = (await ask(item(`{"type":"input_json","data":[${data}]}`))).answers
    assert.deepEqual(list, (await ask(JSON.stringify(`[${data}]`))).answers[0])
  })

  it('names the field that is wrong', async () => {
    const ask = (questions: unknown, more: Body = {}) =>
      refused('/v1/decisions', { input: 'x', questions, ...more })
    assert.equal((await ask([])).param, 'questions')
    for (const instructions of ['', []])
      assert.equal((await ask([{ ...PREDICATE, instructions }])).param, 'questions.0.instructions')
    assert.equal(
      (await ask([{ ...CHOICE, choices: [{ value: 'a' }] }])).param,
      'questions.0.choices',
    )
    const twice = [{ value: 'a' }, { value: true }, { value: 'true' }, { value: 'a' }]
    assert.equal((await ask([{ ...CHOICE, choices: twice }])).param, 'questions.0.choices.3.value')
    assert.match(
      (await ask([{ type: 'guess', instructions: 'x' }])).message,
      /"predicate", "choice", "score"/,
    )
    const image = [{ role: 'user', content: [{ type: 'input_image', image_url: 'x' }] }]
    assert.match((await ask([PREDICATE], { input: image })).message, /takes text only/)
    assert.equal((await ask([PREDICATE], { tools: [{}] })).param, 'tools')
    assert.equal((await ask([PREDICATE], { stream: true })).param, 'stream')
  })

  it('each field has an effect, is checked, or says that it has none', async () => {
    const body = {
      ...{ priority: 0, cache_salt: 'a', prompt_cache_key: 'k', prompt_cache_options: {} },
      input: [
        { type: 'message', role: 'developer', content: 'Be brief.' },
        {
          role: 'user',
          content: [
            { type: 'input_text', text: 'Hi!' },
            { type: 'input_json', data: { a: 1 } },
          ],
        },
        {
          role: 'assistant',
          content: [
            { type: 'output_text', text: 'Yes.' },
            { type: 'refusal', refusal: 'No.' },
          ],
        },
        { type: 'function_call', call_id: 'c', name: 'f', arguments: '{"x":1}' },
        {
          ...{ type: 'function_call_output', call_id: 'c' },
          output: [{ type: 'input_text', text: '7' }],
        },
        { type: 'custom_tool_call', call_id: 'd', name: 'g', input: '1' },
        { type: 'custom_tool_call_output', call_id: 'd', output: '8' },
      ],
      questions: [
        {
          ...{ type: 'predicate', name: 'n' },
          instructions: [
            { type: 'input_text', text: 'It is kind.' },
            { type: 'input_json', data: { b: 1 } },
          ],
        },
        {
          ...{ type: 'choice', instructions: 'Which?' },
          choices: [{ value: 'x', description: 'd' }, { value: 'y' }],
        },
        {
          ...{ type: 'score', instructions: 'How much?' },
          levels: [{ label: 'x', description: 'e' }, { label: 'y' }],
        },
      ],
    }
    /** Other right values. Those of others are checked alone: a type, and what an answer does not show. */
    const others: Readonly<Record<string, unknown>> = {
      input: 'Hello',
      'input.role': 'user',
      'input.content': 'Be kind.',
      'input.content.text': 'Ho!',
      'input.content.data': { a: 2 },
      'input.content.refusal': 'Never.',
      'input.name': 'h',
      'input.arguments': '{"x":2}',
      'input.input': '2',
      'input.output': '9',
      'input.output.text': '9',
      'questions.name': 'm',
      'questions.instructions': 'It is good.',
      'questions.instructions.text': 'It is good.',
      'questions.instructions.data': { b: 2 },
      'questions.choices': [{ value: 'x' }, { value: 'z' }],
      'questions.choices.value': 'z',
      'questions.choices.description': 'f',
      'questions.levels': [{ label: 'x' }, { label: 'z' }],
      'questions.levels.label': 'z',
      'questions.levels.description': 'f',
    }
    const checked = [
      ...[
        'model',
        'priority',
        'cache_salt',
        'questions',
        'input.type',
        'input.content.type',
        'input.call_id',
      ],
      ...['input.output.type', 'questions.type', 'questions.instructions.type'],
    ]
    const { components } = await readAnswer(await fetch(`${server.url}/openapi.json`))
    const seen = new Map<string, boolean>()
    const look = (schema: Body, path: string): void => {
      for (const one of (schema.anyOf ?? schema.oneOf ?? []) as Body[]) look(one, path)
      if (schema.items !== undefined) look(schema.items as Body, path)
      for (const [name, one] of Object.entries((schema.properties ?? {}) as Record<string, Body>)) {
        const at = path === '' ? name : `${path}.${name}`
        seen.set(at, String(one.description).startsWith('Of no effect'))
        look(one, at)
      }
    }
    look(components.schemas.DecisionsRequest, '')
    const named = [...seen].filter(([, isIdle]) => !isIdle).map(([path]) => path)
    assert.deepEqual(named.sort(), [...Object.keys(others), ...checked].sort())

    /** With another value in the first such place; and where that is. */
    const changed = (value: unknown, path: readonly string[], by: unknown): [unknown, string] => {
      const [key = '', ...rest] = path
      if (path.length === 0) return [by, '']
      if (Array.isArray(value)) {
        for (const [i, one] of value.entries()) {
          const [next, at] = changed(one, path, by)
          if (next !== undefined) return [value.with(i, next), `${i}.${at}`]
        }
        return [undefined, '']
      }
      if (typeof value !== 'object' || value === null) return [undefined, '']
      const had = Object.hasOwn(value, key) || (rest.length === 0 && seen.get(path.join('.')))
      const [next, at] = had ? changed((value as Body)[key], rest, by) : [undefined, '']
      return next === undefined ? [undefined, ''] : [{ ...value, [key]: next }, `${key}.${at}`]
    }
    const ask = async (given: unknown) => {
      const { answer, response } = await answered('/v1/decisions', given as Body)
      assert.equal(response.headers.get('x-ignored-params'), null)
      return JSON.stringify(answer.answers)
    }
    const plain = await ask(body)
    const whole = { model, ...body }
    for (const [path, isIdle] of seen) {
      const parts = path.split('.')
      if (Object.hasOwn(others, path)) {
        const [other] = changed(whole, parts, others[path])
        assert.notEqual(await ask(other), plain, path)
      }
      if (isIdle && parts.length > 1) continue
      const [wrong, at] = changed(whole, parts, path === 'priority' ? 'zz' : 7)
      const place = at.slice(0, -1)
      const error = await refused('/v1/decisions', wrong as Body)
      assert.ok(
        place.startsWith(error.param) || error.param.startsWith(place),
        `${path} ${error.param}`,
      )
    }
    const cachedOf = async (salt: string) =>
      (await decide({ ...body, cache_salt: salt })).usage.input_tokens_details.cached_tokens
    const first = await cachedOf('b')
    assert.ok(first < (await cachedOf('b')))
    const [orphan] = changed(whole, ['input', 'call_id'], 'z')
    assert.match((await refused('/v1/decisions', orphan as Body)).message, /call/)
    const back = { id: 'i', status: 'completed' }
    assert.equal(
      await ask({ ...body, input: body.input.map((one) => ({ ...one, ...back })) }),
      plain,
    )
    const none = body.questions.map((question) => ({ ...question, name: null }))
    assert.equal((await decide({ ...body, questions: none })).answers[0].name, null)
    for (const priority of [2 ** 31, 0.5])
      assert.match(
        (await refused('/v1/decisions', { ...body, priority })).message,
        /'priority': expected an integer from -2147483648 to 2147483647, but got/,
      )
    assert.equal((await server.post('/v1/decisions', { ...body, model: 'none' })).status, 404)
  })

  it('says that a reward model does not read what options mean', async () => {
    const input = [{ role: 'user', content: '1 + 1?' }]
    const choices = [{ value: '2', description: 'two' }, { value: '3' }]
    const ask = (more: object) =>
      answered('/v1/decisions', {
        ...{ model: 'rewards', input },
        questions: [{ type: 'choice', instructions: 'Answer.', choices, ...more }],
      })
    const { answer, response } = await ask({})
    assert.equal(response.headers.get('x-ignored-params'), 'questions.choices.description')
    const plain = await ask({ choices: choices.map(({ value }) => ({ value })) })
    assert.equal(plain.response.headers.get('x-ignored-params'), null)
    assert.deepEqual(answer.answers, plain.answer.answers)
    const criteria = { 2: 'two', 3: null }
    const { response: byId } = await answered('/v1/systemone', {
      ...{ model: 'rewards', state: '1 + 1?' },
      questions: { q: { type: 'choice', instructions: 'Answer.', criteria } },
    })
    assert.equal(byId.headers.get('x-ignored-params'), 'questions.criteria')
  })

  it('a reward model prefers, one with principles says yes or no', async () => {
    const input = [{ role: 'user', content: '1 + 1?' }]
    const choices = [{ value: '2' }, { value: '3' }]
    const question = { type: 'choice', instructions: 'Answer.', choices }
    const { answers } = await decide({ model: 'rewards', input, questions: [question] })
    const messages = [{ role: 'user', content: '1 + 1?\n\nAnswer.' }]
    const { data } = (
      await answered('/v1/reward', { model: 'rewards', messages, responses: ['2', '3'] })
    ).answer
    const [a, b] = data.map(({ reward }: { reward: number }) => reward)
    near(answers[0].probabilities[0].probability, 1 / (1 + Math.exp(b - a)), 1e-9)
    const said = [...input, { role: 'assistant', content: '2' }]
    const predicate = { type: 'predicate', instructions: 'correctness' }
    const judged = await decide({ model: 'principled', input: said, questions: [predicate] })
    const reward = (
      await answered('/v1/reward', {
        model: 'principled',
        messages: said,
        principle: 'correctness',
      })
    ).answer.data[0].reward
    near(judged.answers[0].probability, 1 / (1 + Math.exp(-reward)))
    const no = { model: 'rewards', input: said, questions: [predicate] }
    assert.match((await refused('/v1/decisions', no)).message, /judges by no principle/)
  })

  it('the official client, in its own words', async () => {
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'x', maxRetries: 0 })
    const body = { model, input: 'Hello', questions: [PREDICATE, CHOICE] }
    const decision = await client.post<{ answers: { type: string }[] }>('/decisions', { body })
    assert.deepEqual(
      decision.answers.map(({ type }) => type),
      ['predicate', 'choice'],
    )
  })

  it('/v1/systemone has questions by id about a state', async () => {
    const questions = {
      kind: {
        type: 'choice',
        instructions: 'What is it?',
        criteria: { 'a greeting': null, 'a sum': 'of numbers' },
      },
      so: { type: 'noul', instructions: 'The text is a greeting.' },
      how: {
        type: 'score',
        instructions: 'How kind is it?',
        criteria: ['not', 'somewhat', 'very'],
      },
    }
    const { answer } = await answered('/v1/systemone', { state: 'Hello there!', questions })
    assert.deepEqual(Object.keys(answer.answers), ['kind', 'so', 'how'])
    const { answers: same } = await decide({ input: 'Hello there!', questions: [PREDICATE, SCORE] })
    assert.equal(answer.answers.so.noul, same[0].probability)
    assert.equal(answer.answers.how.score, same[1].score)
    assert.equal(answer.diagnostics.how.label_mass, same[1].label_mass)
    assert.deepEqual(answer.answers.how.legend, { 0: 'not', 1: 'somewhat', 2: 'very' })
    assert.equal(typeof answer.diagnostics.so.argmax_is_label, 'boolean')
    const one = { kind: { ...questions.kind, criteria: { a: null } } }
    assert.equal(
      (await refused('/v1/systemone', { state: 1, questions: one })).param,
      'questions.kind.criteria',
    )
    assert.equal((await refused('/v1/systemone', { questions })).param, 'state')
    // A name that objects have of themselves is one like others.
    const odd = JSON.parse('{"__proto__": {"type": "noul", "instructions": "It is a sum."}}')
    const { answer: named } = await answered('/v1/systemone', { state: 1, questions: odd })
    assert.deepEqual(Object.keys(named.answers), ['__proto__'])
    const unnamed = await refused('/v1/systemone', { state: 1, questions: { '': questions.so } })
    assert.equal(unnamed.param, 'questions.')
    const bad = await refused('/v1/systemone', { state: 1, questions: { a: { type: 'x' } } })
    assert.match(bad.message, /type "x" is not supported: there are "noul", "choice", "score"/)
    const thinking = { state: 1, questions, chat_template_kwargs: { enable_thinking: true } }
    assert.equal(
      (await refused('/v1/systemone', thinking)).param,
      'chat_template_kwargs.enable_thinking',
    )
  })
})
