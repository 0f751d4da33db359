import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { ChatRequest, CompletionRequest } from '../../server/api/openai/schema.js'
import { UNSERVED, UNSERVED_OF_COMPLETIONS } from '../../server/api/unserved-fields.js'
import { unknownRoute } from '../../server/http/unknown-route.js'
import { BUILT_IN } from '../../server/prompt/builtin-templates.js'
import { packagePath } from '../../server/version.js'
import { chatBody, type Harness, readAnswer, startHarness } from './harness.js'

/** Values that ask for something, where `true` does not. */
const ASKS: Readonly<Record<string, unknown>> = {
  top_logprobs: 2,
  detokenize: false,
  do_sample: false,
  separate_reasoning: false,
  stream_reasoning: false,
  include_reasoning: false,
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

  test('that the official client of OpenAI has is known', async () => {
    const types = (path: string) =>
      readFileSync(packagePath(`node_modules/openai/resources/${path}.d.ts`), 'utf8')
    const completions = types('chat/completions/completions')
    const from = completions.indexOf('interface ChatCompletionCreateParamsBase')
    const own = completions.slice(from, completions.indexOf('\n}', from))
    const names = [...own.matchAll(/^ {4}(\w+)\??:/gm)].map(([, name = '']) => name)
    assert.ok(names.length > 30)
    for (const name of names)
      assert.ok(
        Object.hasOwn(ChatRequest.shape, name) ||
          UNSERVED.withoutEffect.has(name) ||
          UNSERVED.refused.has(name),
        name,
      )
    const [, efforts = ''] = /type ReasoningEffort = (.*);/.exec(types('shared')) ?? []
    const all = [...efforts.matchAll(/'(\w+)'/g)].map(([, effort]) => effort)
    assert.ok(all.length > 5)
    for (const reasoning_effort of all)
      assert.equal((await chat({ reasoning_effort })).status, 200, reasoning_effort)
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

  test('that only chats have is refused in completions, or has no effect in either', async () => {
    const { refused, withoutEffect } = UNSERVED_OF_COMPLETIONS
    const silent = Object.keys(ChatRequest.shape).filter(
      (name) =>
        !Object.hasOwn(CompletionRequest.shape, name) &&
        !refused.has(name) &&
        !withoutEffect.has(name),
    )
    assert.deepEqual(silent, [])
    const { error } = await readAnswer(await complete({ max_completion_tokens: 5 }))
    assert.match(error.message, /'max_completion_tokens' .* use 'max_tokens'/)
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

  test('in a message that nothing reads is told in the header, each once', async () => {
    const messages = [
      { role: 'user', content: 'a', weight: 3 },
      { role: 'assistant', content: 'b', weight: 2, id: 'x', annotations: [] },
      { role: 'user', content: 'c' },
    ]
    const chatted = await chat({ messages })
    assert.equal(chatted.headers.get('x-ignored-params'), 'messages.weight, messages.id')
  })

  test('that has no effect beside another is a 400, not ignored', async () => {
    const messages = [{ role: 'user', content: 'a' }]
    const reward = { model: 'tiny-reward', messages, responses: ['b'] }
    const tools = [{ type: 'function', function: { name: 'a' } }]
    for (const [path, body, param, why] of [
      [
        '/v1/reward',
        { ...reward, include_thinking: true },
        'include_thinking',
        /reasoning_content/,
      ],
      ['/v1/reward', { model: 'tiny-reward', prompt: 'a', response: 'b' }, 'prompt', /'messages'/],
      [
        '/v1/reward',
        { model: 'tiny-reward', question: 'a', response: 'b' },
        'question',
        /'inputs'/,
      ],
      [
        '/v1/chat/completions',
        { messages, include_thinking: true },
        'include_thinking',
        /reward\./,
      ],
      [
        '/v1/chat/completions',
        { messages, logprobs_mode: 'processed_logprobs' },
        'logprobs_mode',
        /with 'logprobs'/,
      ],
      ['/tokenize', { prompt: 'a', tools }, 'tools', /with 'messages'/],
      [
        '/tokenize',
        { prompt: 'a', reasoning_effort: 'high' },
        'reasoning_effort',
        /with 'messages'/,
      ],
      ['/tokenize', { messages, add_special_tokens: true }, 'add_special_tokens', /with 'prompt'/],
      [
        '/v1/chat/completions/render',
        { messages, truncate_prompt_tokens: 5 },
        'truncate_prompt_tokens',
        /whole prompt/,
      ],
    ] as const) {
      const response = await harness.post(path, { model: 'tiny-reasoner', ...body })
      const { error } = await readAnswer(response)
      assert.equal(response.status, 400, `${path} ${param}`)
      assert.equal(error.param, param)
      assert.match(error.message, why)
    }
  })

  test('in a message is a 400 by its place, unless it says nothing', async () => {
    const said = (role: string, more: object) =>
      chat({
        messages: [
          { role: 'user', content: 'a' },
          { role, content: 'b', ...more },
        ],
      })
    for (const [role, more, why] of [
      ['assistant', { function_call: { name: 'a', arguments: '{}' } }, /tool_calls/],
      ['user', { images: ['x'] }, /text only/],
      ['assistant', { audio: { id: 'x' } }, /text only/],
      ['assistant', { thinking: 'hm' }, /reasoning_content/],
      ['assistant', { reasoning_details: [{ text: 'hm' }] }, /reasoning_content/],
      ['assistant', { prefix: true }, /continue_final_message/],
      ['assistant', { partial: true }, /continue_final_message/],
      ['assistant', { refusal: 'no' }, /content/],
      ['user', { reasoning_content: 'hm' }, /of messages of role 'assistant'/],
      ['system', { reasoning: 'hm' }, /of messages of role 'assistant'/],
      ['user', { tool_calls: [{ function: { name: 'a' } }] }, /of messages of role 'assistant'/],
      ['assistant', { tool_call_id: 'a' }, /of messages of role 'tool'/],
    ] as const) {
      const response = await said(role, more)
      const { error } = await readAnswer(response)
      assert.equal(response.status, 400, JSON.stringify(more))
      assert.equal(error.param, `messages.1.${Object.keys(more)[0]}`)
      assert.match(error.message, why)
    }
    const nothing = { refusal: null, audio: null, function_call: null, prefix: false, images: [] }
    const response = await said('assistant', { ...nothing, annotations: [] })
    assert.equal(response.status, 200)
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
      ['/rank', 'POST /v1/rerank'],
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

  test('of a path with many slashes is told as soon as of another', () => {
    const told = (path: string) => unknownRoute('GET', path).message
    assert.equal(told('/api/version//'), 'Invalid URL (GET /api/version//): use GET /version.')
    assert.equal(told('//'), 'Invalid URL (GET //)')
    const began = performance.now()
    assert.ok(told(`/v1${'/'.repeat(100_000)}x`).startsWith('Invalid URL'))
    assert.ok(performance.now() - began < 3000)
  })
})

describe('what asks a reward model for more than a score', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({ reward: { score: () => [1] } })
  })
  after(() => harness.close())

  const messages = [
    { role: 'user', content: 'a' },
    { role: 'assistant', content: 'b' },
  ]

  test('in a message of its inputs is told in the header', async () => {
    const [asked, answer] = messages
    const inputs = [{ messages: [asked, { ...answer, include_thinking: true }] }]
    const response = await harness.post('/v1/reward', { model: 'tiny-reward', inputs })
    assert.equal(response.status, 200)
    assert.equal(response.headers.get('x-ignored-params'), 'inputs.messages.include_thinking')
  })

  test('is refused by name at every door', async () => {
    for (const path of ['/v1/chat/completions', '/tokenize', '/v1/chat/completions/render'])
      for (const [more, param] of [
        [{ reasoning_effort: 'high' }, 'reasoning_effort'],
        [{ chat_template_kwargs: { thinking: true } }, 'chat_template_kwargs.thinking'],
        [{ chat_template_kwargs: { date: 'x' } }, 'chat_template_kwargs.date'],
        [{ add_generation_prompt: true }, 'add_generation_prompt'],
        [{ continue_final_message: true }, 'continue_final_message'],
        [{ keep_thinking: true }, 'keep_thinking'],
        [{ tools: [{ type: 'function', function: { name: 'a' } }] }, 'tools'],
      ] as const) {
        const response = await harness.post(path, { model: 'tiny-reward', messages, ...more })
        assert.equal(response.status, 400, `${path} ${param}`)
        assert.equal((await readAnswer(response)).error.param, param)
      }
    const cut = { model: 'tiny-reward', messages, truncate_prompt_tokens: 5 }
    assert.equal((await harness.post('/v1/chat/completions', cut)).status, 400)
  })

  test('and what other servers change a score by, at the doors that score', async () => {
    const model = 'tiny-reward'
    for (const [path, body] of [
      ['/v1/reward', { model, messages }],
      ['/pooling', { model, messages }],
      ['/classify', { model, text: 'a' }],
      ['/v1/rerank', { model, query: 'a', documents: ['b'] }],
      ['/v1/score', { model, text_1: 'a', text_2: 'b' }],
    ] as const) {
      for (const [name, value] of [
        ['truncate_prompt_tokens', 5],
        ['normalize', true],
        ['use_activation', true],
        ['softmax', true],
        ['dimensions', 1],
        ['reasoning_effort', 'high'],
        ['chat_template_kwargs', { thinking: true }],
        ['stream', true],
        ['add_special_tokens', false],
      ] as const) {
        const response = await harness.post(path, { ...body, [name]: value })
        assert.equal(response.status, 400, `${path} ${name}`)
        assert.equal((await readAnswer(response)).error.param, name)
      }
      const nothing = { normalize: false, use_activation: false, stream: false, n: 1, tools: [] }
      assert.equal((await harness.post(path, { ...body, ...nothing })).status, 200, path)
    }
  })
})

describe('what an object of ours has not', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({
      answer: () => ({ pieces: ['ok'] }),
      reward: { score: () => [1] },
    })
  })
  after(() => harness.close())

  const messages = [{ role: 'user', content: 'a' }]
  const chat = { model: 'tiny-reasoner' }
  const reward = { model: 'tiny-reward' }
  const refine = { ...chat, messages, feedback: chat, edit: chat, select: reward }
  const whole = [
    { role: 'user', content: 'a' },
    { role: 'assistant', content: 'b' },
  ]
  const asked = {
    ...{ ...chat, state: 'a', questions: { q: { type: 'noul', instructions: 'is it?' } } },
  }

  test('is refused by name, with what it has', async () => {
    for (const [path, body, param, instead] of [
      [
        'refine',
        { ...refine, feedback: { ...chat, max_tokens: 5 } },
        'feedback.max_tokens',
        /'max_tokens' of the request/,
      ],
      [
        'refine',
        { ...refine, edit: { ...chat, max_tokens: 5 } },
        'edit.max_tokens',
        /'max_tokens' of the request/,
      ],
      [
        'refine',
        { ...refine, edit: { ...chat, n: 5 } },
        'edit.n',
        /model, prompt, temperature, top_p/,
      ],
      [
        'refine',
        { ...refine, select: { ...reward, include_thinking: true } },
        'select.include_thinking',
        /model, principle/,
      ],
      [
        'reward',
        { ...reward, messages: whole, judge: { vote: 3 } },
        'judge.vote',
        /both_orders, votes/,
      ],
      [
        'reward',
        { ...reward, inputs: [{ messages: whole, pairwise: true }] },
        'inputs.0.pairwise',
        /messages, responses/,
      ],
      [
        'chat/completions',
        { ...chat, messages, reward: { ...reward, thinking: true } },
        'reward.thinking',
        /include_thinking/,
      ],
      [
        'systemone',
        { ...asked, chat_template_kwargs: { thinking: true } },
        'chat_template_kwargs.thinking',
        /false/,
      ],
      [
        'systemone',
        { ...asked, chat_template_kwargs: { date: 'x' } },
        'chat_template_kwargs.date',
        /enable_thinking, thinking/,
      ],
    ] as const) {
      const response = await harness.post(`/v1/${path}`, body)
      const { error } = await readAnswer(response)
      assert.equal(response.status, 400, param)
      assert.equal(error.param, param)
      assert.match(error.message, instead)
    }
  })

  test('passes where it is null', async () => {
    const nothing = { model: 'tiny-reward', thinking: null }
    const response = await harness.post('/v1/chat/completions', {
      ...{ ...chat, messages, reward: nothing },
    })
    assert.equal(response.status, 200)
  })
})

const TOOL = { type: 'function', function: { name: 'f', parameters: { type: 'object' } } }
const IGNORED = 'x-ignored-params'

describe('a member that no schema names', () => {
  let harness: Harness
  let strict: Harness
  before(async () => {
    const options = {
      answer: () => ({ pieces: ['ok'] }),
      reward: { score: () => [1] },
      dataDir: mkdtempSync(join(tmpdir(), 'nemotron-members-')),
    }
    harness = await startHarness(options)
    const { dataDir: _, ...rest } = options
    strict = await startHarness({ ...rest, config: { strictParams: true } })
  })
  after(async () => {
    await harness.close()
    await strict.close()
  })

  const model = 'tiny-reasoner'
  const user = { role: 'user', content: 'a' }
  const call = { id: 'c', type: 'function', function: { name: 'f', arguments: '{}' } }
  const called = [user, { role: 'assistant', content: null, tool_calls: [call] }]
  const result = { role: 'tool', content: 'a', tool_call_id: 'c' }
  const chat = { model, messages: [user] }
  const message = { ...chat, max_tokens: 8 }
  const blocks = (...content: object[]) => ({
    ...message,
    messages: [user, { role: 'assistant', content: [{ type: 'text', text: 'a' }, ...content] }],
  })
  const question = { type: 'predicate', instructions: 'a' }

  const CASES: readonly (readonly [path: string, body: object, name: string, param?: string])[] = [
    [
      '/v1/chat/completions',
      { ...chat, stream: true, stream_options: { include_usag: true } },
      'stream_options.include_usag',
    ],
    [
      '/v1/chat/completions',
      { ...chat, messages: [{ ...user, content: [{ type: 'text', text: 'a', colour: 1 }] }] },
      'messages.content.colour',
      'messages.0.content.0.colour',
    ],
    [
      '/v1/chat/completions',
      {
        ...chat,
        messages: [
          user,
          { ...called[1], tool_calls: [{ ...call, function: { ...call.function, args: 1 } }] },
          result,
        ],
      },
      'messages.tool_calls.function.args',
      'messages.1.tool_calls.0.function.args',
    ],
    [
      '/v1/chat/completions',
      {
        ...{ ...chat, tools: [TOOL] },
        tool_choice: { type: 'function', function: { name: 'f', strict: true } },
      },
      'tool_choice.function.strict',
    ],
    [
      '/v1/chat/completions',
      { ...chat, tools: [{ ...TOOL, cache_control: { type: 'ephemeral' } }] },
      'tools.cache_control',
    ],
    [
      '/v1/chat/completions/render',
      { ...chat, tools: [{ ...TOOL, cache_control: { type: 'ephemeral' } }] },
      'tools.cache_control',
    ],
    [
      '/tokenize',
      { ...chat, tools: [{ ...TOOL, cache_control: { type: 'ephemeral' } }] },
      'tools.cache_control',
    ],
    [
      '/v1/chat/completions/batch',
      { model, messages: [[user], [{ ...user, weight: 3 }]] },
      'messages.weight',
      'messages.1.0.weight',
    ],
    [
      '/v1/completions',
      { model, prompt: 'a', stream: true, stream_options: { chunk_size: 3 } },
      'stream_options.chunk_size',
    ],
    [
      '/v1/responses',
      { model, input: [{ ...user, content: [{ type: 'input_text', text: 'a', colour: 1 }] }] },
      'input.content.colour',
      'input.0.content.0.colour',
    ],
    ['/v1/responses', { model, input: 'a', reasoning: { efort: 'low' } }, 'reasoning.efort'],
    ['/v1/responses', { model, input: 'a', text: { formt: {} } }, 'text.formt'],
    [
      '/v1/responses',
      { model, input: 'a', tools: [{ type: 'function', name: 'f', descripton: 'd' }] },
      'tools.descripton',
      'tools.0.descripton',
    ],
    [
      '/v1/messages',
      { ...message, thinking: { type: 'disabled', budget_tokens: 5 } },
      'thinking.budget_tokens',
    ],
    ['/v1/messages', { ...message, output_config: { efort: 'low' } }, 'output_config.efort'],
    [
      '/v1/messages',
      blocks({ type: 'thinking', thinking: 'a', signature: '', block_id: 1 }),
      'messages.content.block_id',
      'messages.1.content.1.block_id',
    ],
    [
      '/v1/messages/count_tokens',
      { ...chat, tools: [{ name: 'f', input_schema: {}, descripton: 'd' }] },
      'tools.descripton',
      'tools.0.descripton',
    ],
    [
      '/v1/decisions',
      { model, input: 'a', questions: [{ ...question, weight: 2 }] },
      'questions.weight',
      'questions.0.weight',
    ],
    [
      '/v1/systemone',
      { model, state: 'a', questions: { q: { type: 'noul', instructions: 'a', weight: 2 } } },
      'questions.weight',
      'questions.q.weight',
    ],
    [
      '/v1/rerank',
      { model: 'tiny-reward', query: 'a', documents: ['a', { text: 'b', title: 'c' }] },
      'documents.title',
      'documents.1.title',
    ],
  ]

  test('is told by its path, in every dialect', async () => {
    for (const [path, body, name] of CASES) {
      const response = await harness.post(path, body)
      assert.equal(response.status, 200, `${path} ${await response.clone().text()}`)
      assert.equal(response.headers.get(IGNORED), name, path)
    }
  })

  test('is refused where that is wished, by its place', async () => {
    for (const [path, body, name, param = name] of CASES) {
      const response = await strict.post(path, body)
      assert.equal(response.status, 400, `${path} ${name}`)
      const { error } = await readAnswer(response)
      if (path.startsWith('/v1/messages')) assert.ok(error.message.includes(`'${param}'`))
      else assert.equal(error.param, param)
    }
  })

  test('of a batch is told too', async () => {
    const form = new FormData()
    form.set('purpose', 'batch')
    form.set('file', new Blob(['{}']), 'a.jsonl')
    const sent = await fetch(`${harness.url}/v1/files`, { method: 'POST', body: form })
    const { id } = await readAnswer(sent)
    const response = await harness.post('/v1/batches', {
      ...{ input_file_id: id, endpoint: '/v1/completions', completion_window: '24h', priority: 1 },
      output_expires_after: { anchor: 'created_at', seconds: 3600, minutes: 5 },
    })
    assert.equal(response.status, 200)
    assert.equal(response.headers.get(IGNORED), 'priority, output_expires_after.minutes')
  })

  test('is none of an object that is handed through, nor asks for nothing', async () => {
    const schema = { type: 'object', properties: { a: { type: 'string', odd: 1 } }, 'x-odd': 2 }
    const named = { name: 'n', schema }
    for (const [path, body] of [
      [
        '/v1/chat/completions',
        { ...chat, response_format: { type: 'json_schema', json_schema: named } },
      ],
      ['/v1/chat/completions', { ...chat, response_format: { type: 'json_object', schema } }],
      ['/v1/chat/completions', { ...chat, structured_outputs: { json: schema } }],
      ['/v1/chat/completions', { ...chat, guided_json: schema, disable_fallback: undefined }],
      [
        '/v1/chat/completions',
        { ...chat, structured_outputs: { json: schema, disable_fallback: true } },
      ],
      [
        '/v1/chat/completions',
        { ...chat, tools: [{ ...TOOL, function: { name: 'f', parameters: schema } }] },
      ],
      ['/v1/chat/completions', { ...chat, chat_template_kwargs: { documents: [{ odd: 1 }] } }],
      ['/v1/chat/completions', { ...chat, metadata: { odd: { odd: 1 } } }],
      [
        '/v1/chat/completions',
        { ...chat, messages: [{ ...user, weight: null, odd: false, other: '', more: [] }] },
      ],
      ['/v1/responses', { model, input: 'a', metadata: { odd: { odd: 1 } } }],
      ['/v1/responses', { model, input: 'a', text: { format: { type: 'json_schema', ...named } } }],
      [
        '/v1/messages',
        { ...message, metadata: { odd: 1 }, tools: [{ name: 'f', input_schema: schema }] },
      ],
      ['/v1/messages', { ...message, output_config: { format: { type: 'json_schema', schema } } }],
      [
        '/v1/decisions',
        {
          ...{ model, questions: [question], prompt_cache_options: { odd: 1 } },
          input: [{ role: 'user', content: [{ type: 'input_json', data: [{ odd: { odd: 1 } }] }] }],
        },
      ],
      [
        '/v1/systemone',
        {
          model,
          state: { odd: { odd: 1 } },
          questions: { q: { type: 'noul', instructions: 'a' } },
        },
      ],
    ] as const) {
      const response = await strict.post(path, body)
      assert.equal(response.status, 200, `${path} ${await response.clone().text()}`)
      assert.equal(response.headers.get(IGNORED), null)
    }
  })

  test('is none that official clients send back with an answer', async () => {
    const answered = {
      ...{ role: 'assistant', content: null, refusal: null, audio: null, function_call: null },
      ...{ annotations: [], parsed: { a: 1 }, reasoning: 'r', reasoning_content: 'r' },
      tool_calls: [
        { ...call, index: 0, function: { ...call.function, parsed_arguments: { a: 1 } } },
      ],
    }
    const part = { type: 'text', text: 'a', cache_control: { type: 'ephemeral' } }
    const item = { id: 'i', status: 'completed' }
    const cached = { cache_control: { type: 'ephemeral' } }
    for (const [path, body] of [
      [
        '/v1/chat/completions',
        { ...chat, messages: [{ ...user, content: [part] }, answered, result, user] },
      ],
      [
        '/v1/chat/completions',
        {
          ...chat,
          stream: true,
          stream_options: { include_usage: true, include_obfuscation: true },
        },
      ],
      [
        '/v1/responses',
        {
          model,
          input: [
            { ...user, ...item },
            { type: 'reasoning', ...item, summary: [], encrypted_content: 'x' },
            {
              ...{ type: 'message', role: 'assistant', phase: 'commentary', ...item },
              content: [{ type: 'output_text', text: 'a', annotations: [{ a: 1 }], logprobs: [1] }],
            },
            {
              ...{ type: 'function_call', call_id: 'c', name: 'f', arguments: '{}', ...item },
              caller: { type: 'direct' },
            },
            { type: 'function_call_output', call_id: 'c', output: 'a', ...item },
            user,
          ],
          tools: [
            {
              ...{ type: 'namespace', name: 'n', description: 'd' },
              tools: [{ type: 'function', name: 'f', parameters: null, strict: null }],
            },
          ],
        },
      ],
      [
        '/v1/messages',
        {
          ...message,
          system: [{ type: 'text', text: 'a', ...cached }],
          messages: [
            { role: 'user', content: [{ type: 'text', text: 'a', citations: null, ...cached }] },
            {
              role: 'assistant',
              content: [
                { type: 'thinking', thinking: 'a', signature: 'unsigned' },
                { type: 'text', text: 'a', citations: [{ a: 1 }] },
                {
                  ...{ type: 'tool_use', id: 'c', name: 'f', input: {}, ...cached },
                  caller: { type: 'direct' },
                },
              ],
            },
            {
              role: 'user',
              content: [{ type: 'tool_result', tool_use_id: 'c', content: 'a', ...cached }],
            },
          ],
          tools: [
            {
              ...{ name: 'f', input_schema: {}, ...cached, allowed_callers: ['direct'] },
              ...{ input_examples: [{ a: 1 }], eager_input_streaming: true },
            },
          ],
          context_management: { edits: [{ type: 'clear_thinking_20251015', keep: 'all' }] },
        },
      ],
    ] as const) {
      const response = await strict.post(path, body)
      assert.equal(response.status, 200, `${path} ${await response.clone().text()}`)
      assert.equal(response.headers.get(IGNORED), null)
    }
  })

  test('of a tool is told where the template does not show it', async () => {
    const picks = `{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}<TOOLCALL>
      {% if tools %}{% for t in tools %}{{ t.function.name }} {{ t.function.returns }}{% endfor %}{% endif %}`
    const tools = [
      { ...TOOL, kind: 'k', function: { ...TOOL.function, returns: 'text', example: 'e' } },
    ]
    for (const [template, ignored] of [
      [BUILT_IN.nemotron_nano, 'tools.kind'],
      [BUILT_IN.nemotron_70b, null],
      [picks, 'tools.kind, tools.function.example'],
    ] as const) {
      const one = await startHarness({ answer: () => ({ pieces: ['ok'] }), template })
      try {
        const rendered = await one.post('/v1/chat/completions/render', { ...chat, tools })
        assert.equal(rendered.headers.get(IGNORED), ignored)
        const { prompt } = await readAnswer(rendered)
        // What is not told is shown.
        for (const [name, text] of [
          ['tools.kind', '"k"'],
          ['tools.function.returns', 'text'],
          ['tools.function.example', '"e"'],
        ] as const)
          assert.equal(prompt.includes(text), !ignored?.includes(name), name)
        const asked = await one.post('/v1/chat/completions', { ...chat, tools })
        assert.equal(asked.headers.get(IGNORED), ignored)
        const unused = { ...chat, tools, tool_choice: 'none' }
        assert.equal((await one.post('/v1/chat/completions', unused)).status, 200)
      } finally {
        await one.close()
      }
    }
  })
})

describe('what would change an answer, asked of a reward model in a chat', () => {
  const body = {
    model: 'tiny-reward',
    messages: [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
    ],
  }
  const asked = {
    ...{ temperature: 0.5, top_p: 0.9, top_k: 5, min_p: 0.1, seed: 3, stop: ['x'] },
    ...{ max_tokens: 4, max_completion_tokens: 4, presence_penalty: 1, logit_bias: { 5: 1 } },
    ...{ top_logprobs: 3, timings: true, tool_choice: 'required', reasoning_format: 'none' },
  }

  test('is told, and what asks for nothing is not', async () => {
    const harness = await startHarness({ reward: { score: () => [1] } })
    try {
      const plain = await harness.post('/v1/chat/completions', body)
      assert.equal(plain.headers.get(IGNORED), null)
      const { choices } = await readAnswer(plain)
      const response = await harness.post('/v1/chat/completions', { ...body, ...asked })
      assert.equal(response.status, 200)
      const told = response.headers.get(IGNORED)?.split(', ')
      assert.deepEqual(told?.sort(), Object.keys(asked).sort())
      assert.deepEqual((await readAnswer(response)).choices, choices)
      const nothing = {
        ...{ n: 1, best_of: 1, stream: false, stop: [], tools: [], tool_choice: 'auto' },
        ...{ logprobs: true, parallel_tool_calls: true, response_format: { type: 'text' } },
        ...{ priority: 1, cache_salt: 's', chat_template_kwargs: {}, temperature: null },
      }
      const quiet = await harness.post('/v1/chat/completions', { ...body, ...nothing })
      assert.equal(quiet.status, 200)
      assert.equal(quiet.headers.get(IGNORED), null)
    } finally {
      await harness.close()
    }
  })

  test('is refused where that is wished', async () => {
    const config = { strictParams: true }
    const harness = await startHarness({ reward: { score: () => [1] }, config })
    try {
      assert.equal((await harness.post('/v1/chat/completions', body)).status, 200)
      for (const [name, value] of Object.entries(asked)) {
        const response = await harness.post('/v1/chat/completions', { ...body, [name]: value })
        assert.equal(response.status, 400, name)
        assert.equal((await readAnswer(response)).error.param, name)
      }
    } finally {
      await harness.close()
    }
  })
})
