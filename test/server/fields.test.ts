import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { ChatRequest, CompletionRequest } from '../../server/api/openai/schema.js'
import { UNSERVED } from '../../server/api/unserved-fields.js'
import { chatBody, type Harness, readAnswer, startHarness } from './harness.js'

/** Values that ask for something, where `true` does not. */
const ASKS: Readonly<Record<string, unknown>> = {
  top_logprobs: 2,
  detokenize: false,
  do_sample: false,
  separate_reasoning: false,
  stream_reasoning: false,
  penalize_nl: false,
}

describe('a field of another server', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({ answer: () => ({ pieces: ['ok'] }) })
  })
  after(() => harness.close())

  const chat = (more: Record<string, unknown>) =>
    harness.post('/v1/chat/completions', chatBody(more))
  const complete = (more: object) =>
    harness.post('/v1/completions', { model: 'tiny-reasoner', prompt: 'a', ...more })

  test('that would change the answer is a 400 by name, in chat and completions', async () => {
    for (const name of UNSERVED.refused.keys()) {
      const more = { [name]: ASKS[name] ?? true }
      for (const [send, served] of [
        [chat, ChatRequest.shape],
        [complete, CompletionRequest.shape],
      ] as const) {
        if (Object.hasOwn(served, name)) continue
        const response = await send(more)
        const { error } = await readAnswer(response)
        assert.equal(response.status, 400, name)
        assert.equal(error.param, name)
        assert.ok(error.message.includes(`'${name}'`), error.message)
      }
    }
  })

  test('as the issue trackers have it is a 400 by name', async () => {
    for (const more of [
      { structural_tag: 'a' },
      { json_schema: { type: 'object' } },
      { regex: 'a+' },
      { ebnf: 'root ::= "a"' },
      { guided_decoding: { choice: ['a'] } },
      { nvext: { guided_choice: ['a'] } },
      { stop_sequences: ['a'] },
      { enable_thinking: false },
      { thinking: { type: 'enabled', budget_tokens: 5 } },
      { reasoning: { effort: 'high' } },
      { max_new_tokens: 5 },
      { repeat_penalty: 1.1 },
      { typical_p: 0.9 },
      { n_predict: 5 },
      { tool_choice: 'required' },
    ]) {
      const response = await chat(more)
      assert.equal(response.status, 400, JSON.stringify(more))
      assert.equal((await readAnswer(response)).error.param, Object.keys(more)[0])
    }
  })

  test('that asks for nothing passes', async () => {
    for (const more of [
      { top_logprobs: 0, logprobs: false },
      { top_logprobs: 0 },
      { suffix: '' },
      { function_call: 'none' },
      { functions: [], tools: [], tool_choice: 'none' },
      { grammar: '', regex: '', stop_sequences: [], nvext: {}, guided_decoding: null },
      { modalities: ['text'], response_format: { type: 'text' } },
      { typical_p: 1, mirostat: 0, repeat_penalty: 1, do_sample: true, watermark: false },
      { stream_options: { include_usage: false } },
      { stream_options: {} },
      { echo: false },
      { previous_response_id: null, web_search_options: null },
    ])
      assert.equal((await chat(more)).status, 200, JSON.stringify(more))
    for (const more of [
      { suffix: '' },
      { best_of: 1 },
      { top_logprobs: 0 },
      { use_beam_search: false },
    ])
      assert.equal((await complete(more)).status, 200, JSON.stringify(more))
  })

  test('in chat_template_kwargs goes past no refusal', async () => {
    for (const [name, value] of [
      ['tools', [{ type: 'function', function: { name: 'f' } }]],
      ['custom_tools', [{}]],
      ['messages', [{}]],
      ['add_generation_prompt', false],
      ['bos_token', ''],
      ['thinking_budget', 5],
    ] as const) {
      const response = await chat({ chat_template_kwargs: { [name]: value } })
      assert.equal(response.status, 400, name)
      assert.equal((await readAnswer(response)).error.param, `chat_template_kwargs.${name}`)
    }
    assert.equal((await chat({ chat_template_kwargs: { tools: [], documents: [] } })).status, 200)
  })

  test('and a route of another server says what to use instead', async () => {
    for (const [path, instead] of [
      ['/responses', 'POST /v1/responses'],
      ['/v1/responses/resp_1', 'POST /v1/responses'],
      ['/messages', 'POST /v1/messages'],
      ['/anthropic/v1/messages/count_tokens', 'POST /v1/messages'],
      ['/v1/embeddings', 'POST /v1/reward'],
      ['/rerank', 'POST /v1/rerank'],
      ['/v2/rerank', 'POST /v1/rerank'],
      ['/score', 'POST /v1/score'],
      ['/decisions', 'POST /v1/decisions'],
      ['/v1/batches/a/b', '/v1/files and /v1/batches'],
      ['/v1/uploads', 'POST /v1/files'],
      ['/v1/audio/speech', 'text only'],
      ['/api/chat', 'POST /v1/chat/completions'],
      ['/chat/completions', 'POST /v1/chat/completions'],
      ['/v1/v1/chat/completions', '/v1 twice'],
      ['/generate', 'POST /v1/completions'],
      ['/apply-template', 'POST /v1/chat/completions/render'],
      ['/healthz', 'GET /health'],
      ['/v1/tokenize', 'without /v1'],
    ] as const) {
      const response = await harness.post(path, {})
      const { error } = await readAnswer(response)
      assert.equal(response.status, 404, path)
      assert.ok(error.message.startsWith(`Invalid URL (POST ${path})`), error.message)
      assert.ok(error.message.includes(instead), error.message)
    }
    const { error } = await readAnswer(await harness.post('/v1/nothing', {}))
    assert.equal(error.message, 'Invalid URL (POST /v1/nothing)')
  })
})
