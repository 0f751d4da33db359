import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { GenerationDefaults } from '../../server/engine/types.js'
import { BUILT_IN } from '../../server/prompt/builtin-templates.js'
import { chatBody, type Harness, startHarness } from './harness.js'

const CHAT = '/v1/chat/completions'

describe('fields honoured', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({ answer: () => ({ pieces: ['ok'] }) })
  })
  after(() => harness.close())

  const request = async (body: object, path = CHAT) => {
    const response = await harness.post(path, body)
    assert.equal(response.status, 200, await response.clone().text())
    assert.equal(response.headers.get('x-ignored-params'), null)
    const last = harness.engine.requests.at(-1)
    assert.ok(last)
    return last
  }

  test('at the edge of what is refused', async () => {
    const { sampling } = await request(chatBody({ min_tokens: 8, max_tokens: 8 }))
    assert.equal(sampling?.minTokens, 8)
    await request(chatBody({ allowed_token_ids: [262], stop_token_ids: [262] }))
  })

  test('larger than anything means without a limit', async () => {
    const { MAX_SAFE_INTEGER: huge } = Number
    const { sampling } = await request(
      chatBody({ top_k: huge, thinking_token_budget: huge, truncate_prompt_tokens: huge }),
    )
    const { vocabSize, maxModelLen } = harness.engine.info
    assert.deepEqual([sampling?.topK, sampling?.thinkingBudget], [vocabSize, maxModelLen])
  })

  test('each reaches the engine', async () => {
    const { sampling, n, priority, cacheSalt } = await request(
      chatBody({
        n: 2,
        max_tokens: 40,
        temperature: 0.5,
        top_p: 0.9,
        top_k: 7,
        min_p: 0.1,
        stop: ['a', 'b'],
        stop_token_ids: [3],
        include_stop_str_in_output: true,
        skip_special_tokens: false,
        bad_words: ['no'],
        allowed_token_ids: [1, 2],
        seed: -1,
        logprobs: true,
        top_logprobs: 4,
        logprobs_mode: 'processed_logprobs',
        prompt_logprobs: 2,
        logit_bias: { 5: -100, 6: 1.5 },
        presence_penalty: 0.5,
        frequency_penalty: -0.5,
        repetition_penalty: 1.1,
        min_tokens: 3,
        ignore_eos: true,
        priority: -2,
        cache_salt: 'salt',
      }),
    )
    assert.deepEqual(sampling, {
      maxTokens: 40,
      processedLogprobs: true,
      temperature: 0.5,
      topP: 0.9,
      topK: 7,
      minP: 0.1,
      stop: ['a', 'b'],
      // What stands before the answer is no part of it.
      stopScope: 'afterBlock',
      stopTokenIds: [3],
      includeStop: true,
      skipSpecialTokens: false,
      badWordIds: [[...Buffer.from('no')], [...Buffer.from(' no')]],
      allowedTokenIds: [1, 2],
      seed: 2n ** 64n - 1n,
      logprobs: 4,
      promptLogprobs: 2,
      logitBias: new Map([
        [5, -100],
        [6, 1.5],
      ]),
      presencePenalty: 0.5,
      frequencyPenalty: -0.5,
      repetitionPenalty: 1.1,
      minTokens: 3,
      ignoreEos: true,
    })
    assert.deepEqual([n, priority, cacheSalt], [2, -2, 'salt'])
  })

  test('a bare request leaves the rest to the engine', async () => {
    const { sampling, n, promptTokenIds } = await request(chatBody())
    assert.deepEqual(sampling, {
      maxTokens: 1024 - promptTokenIds.length,
      temperature: 0,
      topP: 1,
      skipSpecialTokens: true,
    })
    assert.equal(n, 1)
  })

  test('the newer of the two limits wins', async () => {
    const both = await request(chatBody({ max_tokens: 5, max_completion_tokens: 6 }))
    assert.equal(both.sampling?.maxTokens, 6)
    assert.equal((await request(chatBody({ max_tokens: 5 }))).sampling?.maxTokens, 5)
  })

  test('values with a meaning of their own', async () => {
    assert.equal((await request(chatBody({ seed: -5 }))).sampling?.seed, 2n ** 64n - 5n)
    assert.equal((await request(chatBody({ top_k: -1 }))).sampling?.topK, 0)
    const { sampling } = await request(chatBody({ top_p: 0 }))
    assert.ok(sampling?.topP !== undefined && sampling.topP > 0 && sampling.topP < 1e-9)
    assert.deepEqual((await request(chatBody({ stop: 'x' }))).sampling?.stop, ['x'])
    assert.equal((await request(chatBody({ logprobs: true }))).sampling?.logprobs, 0)
    assert.equal((await request(chatBody({ logprobs: false }))).sampling?.logprobs, undefined)
  })

  test('a prompt is cut only when asked, at its front', async () => {
    const whole = await request(chatBody())
    const cut = await request(chatBody({ truncate_prompt_tokens: 5 }))
    assert.deepEqual(Array.from(cut.promptTokenIds), Array.from(whole.promptTokenIds).slice(-5))
    const long = chatBody({
      messages: [{ role: 'user', content: 'x'.repeat(3000) }],
      max_tokens: 24,
      truncate_prompt_tokens: -1,
    })
    assert.equal((await request(long)).promptTokenIds.length, 1000)
  })
})

describe('where the caller gives no sampling', () => {
  const INSTRUCT = 'nvidia/Llama-3.1-Nemotron-70B-Instruct-HF'
  const drawn = async (id: string, generation: GenerationDefaults, body: object = {}) => {
    const harness = await startHarness({
      id,
      template: BUILT_IN.nemotron_70b,
      answer: () => ({ pieces: ['ok'] }),
      info: { generation },
    })
    try {
      assert.equal((await harness.post(CHAT, chatBody({ model: id, ...body }))).status, 200)
      const { temperature, topP, topK, minP, repetitionPenalty } =
        harness.engine.requests.at(-1)?.sampling ?? {}
      return { temperature, topP, topK, minP, repetitionPenalty }
    } finally {
      await harness.close()
    }
  }
  const none = { topK: undefined, minP: undefined, repetitionPenalty: undefined }

  test("the checkpoint's holds", async () => {
    const all = { temperature: 0.6, topP: 0.9, topK: 20, minP: 0.05, repetitionPenalty: 1.1 }
    assert.deepEqual(await drawn(INSTRUCT, { ...all, greedy: false }), all)
    assert.deepEqual(await drawn(INSTRUCT, { ...all, greedy: false }, { min_p: 0 }), {
      ...all,
      minP: 0,
    })
  })

  test("the registry's holds where the checkpoint says nothing", async () => {
    const greedy = { ...none, temperature: 0, topP: 1 }
    assert.deepEqual(await drawn(INSTRUCT, { greedy: false }), greedy)
    assert.deepEqual(await drawn(INSTRUCT, { greedy: false }, { temperature: 0.5 }), {
      ...greedy,
      temperature: 0.5,
    })
    const others = 'nvidia/Llama-3.3-Nemotron-70B-Edit'
    assert.deepEqual(await drawn(others, { greedy: false }), { ...greedy, temperature: 1 })
    assert.deepEqual(await drawn(others, { greedy: true }), greedy)
  })
})
