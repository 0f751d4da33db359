// Tokens in, tokens out, and what log probabilities are of: by the embedded models.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { isDeepStrictEqual } from 'node:util'
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

  const post = (path: string, body: object) => server.answer(path, body)
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
      [CHAT, { messages, logprobs_mode: 'raw_logits' }, 'logprobs_mode'],
      [CHAT, { messages, logprob_token_ids: [1] }, 'logprob_token_ids'],
      [CHAT, { messages, logprobs: true, logprob_token_ids: [] }, 'logprob_token_ids'],
      [CHAT, { messages, logprobs: true, logprob_token_ids: [1e6] }, 'logprob_token_ids.0'],
      [
        CHAT,
        { messages, logprobs: true, logprob_token_ids: Array(129).fill(1) },
        'logprob_token_ids',
      ],
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

  test('log probabilities of given ids, in chats, their streams and completions', async () => {
    const prompt_token_ids = await render({ reasoning_effort: 'none' })
    const body = { ...GREEDY, max_tokens: 4, prompt_token_ids }
    const likeliest = (await post(CHAT, { ...body, top_logprobs: 5 })).choices[0]
    const top = likeliest.logprobs.content[0].top_logprobs
    const ids: number[] = await Promise.all(
      top.map(async ({ token }: { token: string }) => {
        const { tokens } = await post('/tokenize', {
          model,
          prompt: token,
          add_special_tokens: false,
        })
        return tokens.at(-1)
      }),
    )
    const logprob_token_ids = [...ids].reverse().concat(7)
    const told = (await post(CHAT, { ...body, logprob_token_ids })).choices[0]
    assert.deepEqual(told.token_ids, likeliest.token_ids)
    const [first] = told.logprobs.content
    assert.equal(first.logprob, likeliest.logprobs.content[0].logprob)
    assert.equal(first.top_logprobs.length, 6)
    const known = top.filter(({ token }: { token: string }) => !token.startsWith('bytes:'))
    for (const one of known)
      assert.ok(first.top_logprobs.some((other: object) => isDeepStrictEqual(one, other)))
    const completion = await post('/v1/completions', {
      model,
      temperature: 0,
      max_tokens: 4,
      prompt: prompt_token_ids,
      logprobs: 0,
      logprob_token_ids,
    })
    const beside = completion.choices[0].logprobs.top_logprobs[0]
    for (const { token, logprob } of first.top_logprobs) assert.equal(beside[token], logprob)
    const stream = await server.post(CHAT, { ...body, logprob_token_ids, stream: true })
    const entries = (await stream.text())
      .split('\n\n')
      .filter((line) => line.startsWith('data: {'))
      .flatMap((line) => JSON.parse(line.slice(6)).choices[0]?.logprobs?.content ?? [])
    assert.deepEqual(entries, told.logprobs.content)
  })

  test('processed log probabilities are of what is drawn', async () => {
    const prompt_token_ids = await render({ reasoning_effort: 'none' })
    const first = async (more: object) => {
      const body = { ...GREEDY, max_tokens: 1, prompt_token_ids, top_logprobs: 20, ...more }
      const [choice] = (await post(CHAT, body)).choices
      return choice.logprobs.content[0]
    }
    const processed = { logprobs_mode: 'processed_logprobs', top_p: 1 }
    const raw = await first({})
    // Greedy without anything that changes logits: the same.
    assert.deepEqual(await first(processed), raw)
    // Halved logits: the differences are halves.
    const warm = await first({ ...processed, temperature: 2, top_k: 20, seed: 5 })
    const gap = (entry: typeof raw, i: number) =>
      entry.top_logprobs[0].logprob - entry.top_logprobs[i].logprob
    for (const i of [1, 5, 19]) assert.ok(Math.abs(gap(warm, i) - gap(raw, i) / 2) < 1e-4)
    const sum = warm.top_logprobs.reduce(
      (all: number, { logprob }: { logprob: number }) => all + Math.exp(logprob),
      0,
    )
    assert.ok(Math.abs(sum - 1) < 1e-4, `${sum}`)
    const three = await first({ ...processed, temperature: 1, top_k: 3, seed: 5 })
    assert.deepEqual(
      three.top_logprobs.map(({ logprob }: { logprob: number }) => logprob > -9999),
      Array.from({ length: 20 }, (_, i) => i < 3),
    )
    const only = await first({ ...processed, allowed_token_ids: [40] })
    assert.equal(only.logprob, 0)
    // A tag that a budget writes is drawn from itself alone.
    const budget = await post(CHAT, {
      ...GREEDY,
      ...processed,
      messages,
      reasoning_effort: 'high',
      thinking_token_budget: 0,
      max_tokens: 1,
    })
    assert.equal(budget.choices[0].logprobs.content[0].logprob, 0)
  })

  test('--logprobs-mode holds where a request does not say', async () => {
    const own = await startReal({ max_model_len: 1024, logprobs_mode: 'processed_logprobs' })
    try {
      const ask = async (more: object) => {
        const response = await own.post('/v1/completions', {
          model,
          prompt: 'a',
          max_tokens: 1,
          logprobs: 0,
          allowed_token_ids: [40],
          ...more,
        })
        return JSON.parse(await response.text()).choices[0].logprobs.token_logprobs[0]
      }
      assert.equal(await ask({}), 0)
      assert.ok((await ask({ logprobs_mode: 'raw_logprobs' })) < -0.01)
    } finally {
      await own.close()
    }
  })
})
