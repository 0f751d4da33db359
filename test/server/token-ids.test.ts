// Tokens in, tokens out, and what log probabilities are of: by the embedded models.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { noAddon, type RealServer, startReal } from './real-server.js'

const CHAT = '/v1/chat/completions'
const model = 'tiny-reasoner'
const messages = [{ role: 'user', content: 'How many r in strawberry?' }]

describe('token ids', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({ max_model_len: 1024 })
  })
  after(() => server.close())

  const post = async (path: string, body: object) => {
    const response = await server.post(path, body)
    const text = await response.text()
    assert.equal(response.status, 200, text)
    return JSON.parse(text)
  }
  const refused = async (path: string, body: object) => {
    const response = await server.post(path, body)
    const { error } = JSON.parse(await response.text())
    assert.equal(response.status, 400, JSON.stringify(error))
    return error
  }
  const render = async (more: object): Promise<number[]> =>
    (await post(`${CHAT}/render`, { model, messages, ...more })).prompt_token_ids

  const GREEDY = { model, temperature: 0, max_tokens: 60, logprobs: true, return_token_ids: true }

  for (const reasoning_effort of ['none', 'high'])
    test(`a chat's own prompt as ids is the same chat, reasoning ${reasoning_effort}`, async () => {
      const prompt_token_ids = await render({ reasoning_effort })
      const byMessages = await post(CHAT, { ...GREEDY, messages, reasoning_effort })
      assert.deepEqual(byMessages.prompt_token_ids, prompt_token_ids)
      assert.equal(byMessages.choices[0].message.reasoning !== null, reasoning_effort === 'high')
      for (const more of [{}, { messages: [] }]) {
        const byIds = await post(CHAT, { ...GREEDY, ...more, prompt_token_ids })
        assert.deepEqual(byIds.choices, byMessages.choices)
        assert.deepEqual(byIds.prompt_token_ids, prompt_token_ids)
      }
      const prompt = await post('/v1/completions', { ...GREEDY, logprobs: 0, prompt_token_ids })
      assert.deepEqual(prompt.choices[0].token_ids, byMessages.choices[0].token_ids)
    })

  test('an answer goes on from any of its tokens', async () => {
    const prompt = await render({ reasoning_effort: 'high' })
    const { choices } = await post(CHAT, { ...GREEDY, prompt_token_ids: prompt })
    const [{ token_ids: ids, message }] = choices
    const cuts = Array.from(ids as number[], (_, i) => i).filter((i) => i % 3 === 1)
    let whole = 0
    for (const cut of cuts) {
      const { prompt: begun } = await post('/detokenize', { model, tokens: ids.slice(0, cut) })
      if (/<[^>]*$/.test(begun)) continue // within a tag
      whole++
      const prompt_token_ids = [...prompt, ...ids.slice(0, cut)]
      const [rest] = (await post(CHAT, { ...GREEDY, prompt_token_ids })).choices
      assert.deepEqual(rest.token_ids, ids.slice(cut), `behind ${cut}`)
      assert.ok(message.content.endsWith(rest.message.content), rest.message.content)
      if (rest.message.reasoning !== null)
        assert.ok(message.reasoning.endsWith(rest.message.reasoning))
    }
    assert.ok(whole > 3)
  })

  test('several prompts of a completion', async () => {
    const prompts = [await render({}), await render({ reasoning_effort: 'none' })]
    const body = { model, temperature: 0, max_tokens: 20 }
    const byPrompt = await post('/v1/completions', { ...body, prompt: prompts })
    const byIds = await post('/v1/completions', { ...body, prompt_token_ids: prompts })
    assert.deepEqual(byIds.choices, byPrompt.choices)
  })

  test('what is wrong with them is said', async () => {
    for (const [path, more, param] of [
      [CHAT, { prompt_token_ids: [1], messages }, 'prompt_token_ids'],
      [CHAT, { prompt_token_ids: [] }, 'prompt_token_ids'],
      [CHAT, { prompt_token_ids: [1, -1] }, 'prompt_token_ids.1'],
      [CHAT, { prompt_token_ids: [1, 1 << 20] }, 'prompt_token_ids.1'],
      [CHAT, { prompt_token_ids: Array(1100).fill(1) }, 'prompt_token_ids'],
      [CHAT, { prompt_token_ids: [1], reasoning_effort: 'high' }, 'reasoning_effort'],
      [CHAT, { prompt_token_ids: [1], continue_final_message: true }, 'continue_final_message'],
      [CHAT, { prompt_token_ids: [1], reward: { model: 'tiny-reward' } }, 'reward'],
      [CHAT, { prompt_token_ids: [1], model: 'tiny-reward' }, 'prompt_token_ids'],
      [CHAT, { messages: [] }, 'messages'],
      [CHAT, {}, 'messages'],
      ['/v1/completions', {}, 'prompt'],
      ['/v1/completions', { prompt: 'a', prompt_token_ids: [1] }, 'prompt_token_ids'],
      ['/v1/completions', { prompt_token_ids: [[1], [1 << 20]] }, 'prompt_token_ids.1'],
      ['/v1/completions', { prompt_token_ids: 'a' }, 'prompt_token_ids'],
      ['/v1/reward', { prompt_token_ids: [1] }, 'prompt_token_ids'],
      [CHAT, { messages, logprobs_mode: 'processed_logprobs' }, 'logprobs_mode'],
      [CHAT, { messages, input_ids: [1] }, 'input_ids'],
    ] as const)
      assert.equal((await refused(path, { model, ...more })).param, param, JSON.stringify(more))
    await post(CHAT, { model, messages, max_tokens: 1, logprobs_mode: 'raw_logprobs' })
  })

  test("log probabilities are the model's own, whatever may be drawn and however", async () => {
    const prompt_token_ids = await render({ reasoning_effort: 'none' })
    const first = async (more: object) => {
      const body = { ...GREEDY, max_tokens: 1, prompt_token_ids, top_logprobs: 20, ...more }
      const [choice] = (await post(CHAT, body)).choices
      const [{ logprob, top_logprobs: top }] = choice.logprobs.content
      return { id: choice.token_ids[0], logprob, top }
    }
    const free = await first({})
    assert.equal(free.logprob, free.top[0].logprob)
    const words = free.top.map(({ token }: { token: string }) => token)
    const at = words.findIndex((word: string, i: number) => i > 0 && /^[A-Za-z]+$/.test(word))
    assert.ok(at > 0, words.join())
    const { tokens } = await post('/tokenize', {
      model,
      prompt: words[at],
      add_special_tokens: false,
    })
    assert.equal(tokens.length, 1)
    for (const more of [
      { allowed_token_ids: tokens },
      { logit_bias: { [tokens[0]]: 100 } },
      { guided_choice: [words[at]] },
    ]) {
      const held = await first({ ...more, temperature: 0.3, top_p: 0.5, top_k: 3 })
      assert.deepEqual(held, { ...free, id: tokens[0], logprob: free.top[at].logprob })
    }
    assert.deepEqual(await first({ logit_bias: { [free.id]: 50 }, temperature: 2 }), free)
  })
})
