// /v1/chat/completions/batch: each choice is what the conversation gets by itself. Choices of completions.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { noAddon, type RealServer, startReal } from './real-server.js'

const CHAT = '/v1/chat/completions'
const model = 'tiny-reasoner'
const user = (content: string) => [{ role: 'user', content }]
const CONVERSATIONS = [
  user('How many r in strawberry?'),
  user('Hello'),
  [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'What is 2+2?' },
    { role: 'assistant', content: '4' },
    { role: 'user', content: 'And 3+3?' },
  ],
]

describe('batches of chats', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({
      max_model_len: 1024,
      max_num_seqs: 4,
      max_waiting: 4,
    })
  })
  after(() => server.close())

  const post = (path: string, body: object) => server.answer(path, body)
  const refused = async (body: object) => {
    const response = await server.post(`${CHAT}/batch`, {
      model,
      messages: CONVERSATIONS,
      max_tokens: 1,
      ...body,
    })
    const { error } = JSON.parse(await response.text())
    assert.equal(response.status, 400, JSON.stringify(error))
    return error
  }

  for (const more of [
    { temperature: 0, reasoning_effort: 'none' },
    { temperature: 1, seed: 7, reasoning_effort: 'high', logprobs: true, top_logprobs: 2 },
    { temperature: 0, response_format: { type: 'json_object' }, reasoning_effort: 'none' },
    { return_token_ids: true, prompt_logprobs: 1, seed: 3, include_reasoning: false },
  ])
    test(`choices are those of single chats: ${JSON.stringify(more)}`, async () => {
      const fields = { model, max_tokens: 40, ...more }
      const { choices, usage, object } = await post(`${CHAT}/batch`, {
        ...fields,
        messages: CONVERSATIONS,
      })
      assert.equal(object, 'chat.completion')
      assert.equal(choices.length, CONVERSATIONS.length)
      let prompt = 0
      for (const [index, messages] of CONVERSATIONS.entries()) {
        const one = await post(CHAT, { ...fields, messages })
        const { prompt_token_ids, prompt_logprobs, ...choice } = choices[index]
        assert.deepEqual(choice, { ...one.choices[0], index })
        assert.deepEqual(prompt_token_ids, one.prompt_token_ids)
        assert.deepEqual(prompt_logprobs, one.prompt_logprobs)
        prompt += one.usage.prompt_tokens
      }
      assert.equal(usage.prompt_tokens, prompt)
    })

  test('what only one conversation can have is refused by its name', async () => {
    for (const [field, value] of Object.entries({
      n: 2,
      stream: true,
      tools: [{ type: 'function', function: { name: 'f', parameters: {} } }],
      tool_choice: 'required',
      best_of: 2,
      reward: { model: 'tiny-reward' },
      prompt_token_ids: [1, 2],
    })) {
      const error = await refused({ [field]: value })
      assert.equal(error.param, field)
      assert.match(error.message, /completions/)
    }
    const asked = { n: 1, stream: false, tools: [], tool_choice: 'auto', stream_options: null }
    await post(`${CHAT}/batch`, { model, messages: [user('Hi')], max_tokens: 1, ...asked })
  })

  test('errors name the conversation', async () => {
    for (const [messages, param] of [
      [[], 'messages'],
      [user('Hi'), 'messages.0'],
      [[user('Hi'), []], 'messages.1'],
      [[user('Hi'), [{ role: 'user', content: 5 }]], 'messages.1.0.content'],
      [[user('Hi'), [{ role: 'nobody', content: '' }]], 'messages.1.0.role'],
      [[user('Hi'), user('x'.repeat(9000))], 'messages.1'],
      [Array.from({ length: 9 }, () => user('Hi')), 'messages'],
    ] as const) {
      const error = await refused({ messages })
      assert.equal(error.param, param, error.message)
    }
    const long = await refused({ messages: [user('Hi'), user('x'.repeat(9000))] })
    assert.match(long.message, /^messages\.1: /)
  })

  test('a reward model writes no answers', async () => {
    const error = await refused({ model: 'tiny-reward' })
    assert.match(error.message, /reward model.*tiny-reasoner/)
  })
})

describe('choices of completions by the native engine', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({ max_model_len: 1024, max_num_seqs: 4, max_waiting: 4 })
  })
  after(() => server.close())

  test('all tell their prompt, whose log probabilities the engine tells once', async () => {
    const prompt = ['What is 2+2?', 'Hello there']
    const asked = { model, prompt, max_tokens: 2, echo: true, logprobs: 1, prompt_logprobs: 1 }
    const { choices } = await server.answer('/v1/completions', { ...asked, n: 3 })
    const alone = await server.answer('/v1/completions', asked)
    assert.equal(choices.length, 6)
    for (const [i, choice] of choices.entries()) {
      const one = alone.choices[Math.floor(i / 3)]
      const length = one.prompt_logprobs.length
      assert.ok(length > 1)
      assert.deepEqual(choice.prompt_logprobs, one.prompt_logprobs)
      for (const key of ['tokens', 'token_logprobs', 'top_logprobs'])
        assert.deepEqual(choice.logprobs[key].slice(0, length), one.logprobs[key].slice(0, length))
    }
  })

  test('bad words that leave nothing are a 400, and no failure of the engine', async () => {
    const text = { model, prompt: 'q', add_special_tokens: false }
    const { tokens } = await server.answer('/tokenize', text)
    const asked = { model, prompt: 'a', allowed_token_ids: tokens, bad_words: ['qq'] }
    const response = await server.post('/v1/completions', asked)
    assert.equal(response.status, 400)
    assert.equal(JSON.parse(await response.text()).error.param, 'bad_words')
    const metrics = await (await fetch(`${server.url}/metrics`)).text()
    assert.match(metrics, /requests_failed_total\{model_name="tiny-reasoner"[^}]*\} 0/)
  })
})
