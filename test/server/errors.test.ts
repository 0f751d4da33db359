import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import OpenAI from 'openai'
import { WEIGHTS_HEADER } from '../../server/api/respond.js'
import { packagePath } from '../../server/version.js'
import { chatBody, type Harness, rawRequest, readAnswer, startHarness, until } from './harness.js'

const CHAT = '/v1/chat/completions'
const COMPLETIONS = '/v1/completions'

type Expected = {
  readonly status?: number
  readonly param?: string | null
  readonly code?: string | null
  readonly type?: string
  readonly message?: RegExp
}

/** Every error has the four fields, `code` a string or null, CORS and a request id. */
const checkError = async (response: Response, expected: Expected) => {
  const { error } = await readAnswer(response)
  assert.equal(response.status, expected.status ?? 400, JSON.stringify(error))
  assert.deepEqual(Object.keys(error).sort(), ['code', 'message', 'param', 'type'])
  assert.equal(error.type, expected.type ?? 'invalid_request_error')
  if (expected.param !== undefined) assert.equal(error.param, expected.param)
  assert.equal(error.code, expected.code ?? null)
  assert.ok(error.message.length > 0)
  if (expected.message) assert.match(error.message, expected.message)
  assert.equal(response.headers.get('access-control-allow-origin'), '*')
  assert.ok(response.headers.get('x-request-id'))
  return error
}

describe('errors', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness()
  })
  after(() => harness.close())

  const user = { role: 'user', content: 'Hi' }
  const cases: readonly [string, Record<string, unknown>, Expected][] = [
    ['no messages', { messages: undefined }, { param: 'messages' }],
    ['messages that are null', { messages: null }, { param: 'messages' }],
    ['no model', { model: undefined }, { param: 'model' }],
    ['an empty list of messages', { messages: [] }, { param: 'messages' }],
    [
      'an unknown role',
      { messages: [{ role: 'robot', content: 'x' }] },
      {
        ...{ param: 'messages.0.role', code: 'unsupported_value' },
        message: /"robot"\. Supported values are: "system", "developer", "user"/,
      },
    ],
    [
      'the function role',
      { messages: [{ role: 'function', content: 'x' }] },
      { param: 'messages.0.role', code: 'unsupported_value' },
    ],
    [
      'content of a number',
      { messages: [user, { role: 'user', content: 5 }] },
      { param: 'messages.1.content' },
    ],
    ['no content', { messages: [{ role: 'user' }] }, { param: 'messages.0.content' }],
    ['a message that is text', { messages: ['hi'] }, { param: 'messages.0' }],
    [
      'an image part',
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
      { param: 'messages.0.content.0.type', code: 'unsupported_value' },
    ],
    [
      'a part without text',
      { messages: [{ role: 'user', content: [{ type: 'text' }] }] },
      { param: 'messages.0.content.0.text' },
    ],
    ['temperature beyond 2', { temperature: 2.1 }, { param: 'temperature' }],
    ['temperature below 0', { temperature: -0.1 }, { param: 'temperature' }],
    ['temperature as text', { temperature: '1' }, { param: 'temperature' }],
    ['top_p beyond 1', { top_p: 1.01 }, { param: 'top_p' }],
    ['n of 0', { n: 0 }, { param: 'n' }],
    ['n of 129', { n: 129 }, { param: 'n' }],
    ['n of 1.5', { n: 1.5 }, { param: 'n' }],
    ['max_tokens of 0', { max_tokens: 0 }, { param: 'max_tokens' }],
    [
      'max_completion_tokens of -1',
      { max_completion_tokens: -1 },
      { param: 'max_completion_tokens' },
    ],
    ['stream as text', { stream: 'yes' }, { param: 'stream' }],
    [
      'stream_options without stream',
      { stream_options: { include_usage: true } },
      { param: 'stream_options' },
    ],
    ['top_logprobs without logprobs', { top_logprobs: 2 }, { param: 'top_logprobs' }],
    ['top_logprobs beyond 20', { logprobs: true, top_logprobs: 21 }, { param: 'top_logprobs' }],
    ['logprobs as a number', { logprobs: 1 }, { param: 'logprobs' }],
    ['an empty stop', { stop: '' }, { param: 'stop' }],
    ['a stop of numbers', { stop: [1] }, { param: 'stop.0' }],
    ['a bias beyond 100', { logit_bias: { 5: 101 } }, { param: 'logit_bias.5' }],
    ['a bias for a word', { logit_bias: { hello: 1 } }, { param: 'logit_bias.hello' }],
    ['a bias beyond the vocabulary', { logit_bias: { 99999: 1 } }, { param: 'logit_bias' }],
    [
      'a stop token beyond the vocabulary',
      { stop_token_ids: [3, 9999] },
      { param: 'stop_token_ids.1' },
    ],
    ['no allowed tokens', { allowed_token_ids: [] }, { param: 'allowed_token_ids' }],
    ['presence_penalty of 3', { presence_penalty: 3 }, { param: 'presence_penalty' }],
    [
      'repetition_penalty beyond float32',
      { repetition_penalty: 1e-300 },
      { param: 'repetition_penalty' },
    ],
    ['repetition_penalty of 0', { repetition_penalty: 0 }, { param: 'repetition_penalty' }],
    ['min_tokens above max_tokens', { min_tokens: 9, max_tokens: 8 }, { param: 'min_tokens' }],
    ['a seed of 1.5', { seed: 1.5 }, { param: 'seed' }],
    [
      'an unknown effort',
      { reasoning_effort: 'huge' },
      { param: 'reasoning_effort', code: 'unsupported_value' },
    ],
    ['audio', { audio: { voice: 'x' } }, { param: 'audio', code: 'unsupported_parameter' }],
    [
      'audio output',
      { modalities: ['text', 'audio'] },
      { param: 'modalities', code: 'unsupported_value' },
    ],
    [
      'functions',
      { functions: [{ name: 'f' }] },
      { param: 'functions', code: 'unsupported_parameter' },
    ],
    [
      'function_call',
      { function_call: { name: 'f' } },
      { param: 'function_call', code: 'unsupported_parameter' },
    ],
    [
      'web search',
      { web_search_options: {} },
      { param: 'web_search_options', code: 'unsupported_parameter' },
    ],
    [
      'a prediction',
      { prediction: { type: 'content', content: 'x' } },
      { param: 'prediction', code: 'unsupported_parameter' },
    ],
    ['a suffix', { suffix: 'x' }, { param: 'suffix', code: 'unsupported_parameter' }],
    [
      'functions',
      { functions: [{ name: 'f' }] },
      { param: 'functions', code: 'unsupported_parameter' },
    ],
    [
      'an unknown form of answers',
      { response_format: { type: 'structural_tag' } },
      { param: 'response_format.type', code: 'unsupported_value' },
    ],
    [
      'both ways to end the prompt',
      { continue_final_message: true, add_generation_prompt: true },
      { param: 'continue_final_message' },
    ],
    ['nothing to continue', { continue_final_message: true }, { param: 'continue_final_message' }],
    [
      'a call to continue',
      {
        continue_final_message: true,
        messages: [
          {
            role: 'assistant',
            content: 'Let me see.',
            tool_calls: [{ id: 'a', function: { name: 'f', arguments: '{}' } }],
          },
        ],
      },
      { param: 'continue_final_message' },
    ],
    [
      'a switch that is text',
      { chat_template_kwargs: { enable_thinking: 'yes' } },
      { param: 'chat_template_kwargs.enable_thinking' },
    ],
    [
      'truncate_prompt_tokens of 0',
      { truncate_prompt_tokens: 0 },
      { param: 'truncate_prompt_tokens' },
    ],
    [
      'an unknown model',
      { model: 'gpt-4' },
      { status: 404, param: 'model', code: 'model_not_found' },
    ],
    [
      'an answer that cannot fit',
      { max_tokens: 5000 },
      { param: 'max_tokens', code: 'context_length_exceeded', message: /1024.*50\d\d/s },
    ],
    [
      'a prompt that cannot fit',
      { messages: [{ role: 'user', content: 'x'.repeat(2000) }] },
      { param: 'messages', code: 'context_length_exceeded', message: /1024.*20\d\d/s },
    ],
  ]
  for (const [name, more, expected] of cases) {
    test(`chat refuses ${name}`, async () => {
      await checkError(await harness.post(CHAT, chatBody(more)), expected)
      // The same for a stream: a real status, never an error inside a 200.
      if (!('stream' in more) && !('stream_options' in more))
        await checkError(await harness.post(CHAT, chatBody({ ...more, stream: true })), expected)
    })
  }

  const textCases: readonly [string, Record<string, unknown>, Expected][] = [
    ['no prompt', {}, { param: 'prompt' }],
    ['an empty list', { prompt: [] }, { param: 'prompt' }],
    ['a mixed list', { prompt: ['a', 1] }, { param: 'prompt.1' }],
    ['an empty list inside', { prompt: [[1], []] }, { param: 'prompt.1' }],
    ['a token beyond the vocabulary', { prompt: [1, 5000] }, { param: 'prompt' }],
    ['negative tokens', { prompt: [-1] }, { param: 'prompt.0' }],
    ['a suffix', { prompt: 'a', suffix: 'b' }, { param: 'suffix', code: 'unsupported_parameter' }],
    ['logprobs beyond 20', { prompt: 'a', logprobs: 21 }, { param: 'logprobs' }],
    ['no tokens without echo', { prompt: 'a', max_tokens: 0 }, { param: 'max_tokens' }],
    [
      'best_of beyond n',
      { prompt: 'a', best_of: 2 },
      { param: 'best_of', code: 'unsupported_value' },
    ],
    [
      'a prompt that cannot fit',
      { prompt: 'x'.repeat(1024) },
      { param: 'prompt', code: 'context_length_exceeded' },
    ],
  ]
  for (const [name, more, expected] of textCases) {
    test(`completions refuse ${name}`, async () => {
      const response = await harness.post(COMPLETIONS, { model: 'tiny-reasoner', ...more })
      await checkError(response, expected)
    })
  }

  test('a value nested without end', async () => {
    const deep = (levels: number) => JSON.parse(`${'['.repeat(levels)}${']'.repeat(levels)}`)
    for (const levels of [100, 100_000])
      await checkError(
        await harness.post(
          CHAT,
          `{"model":"tiny-reasoner","messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"x":${'['.repeat(levels)}${']'.repeat(levels)}}}`,
        ),
        { message: /nested/ },
      )
    assert.equal(
      (await harness.post(CHAT, chatBody({ chat_template_kwargs: { x: deep(20) } }))).status,
      200,
    )
  })

  test('bodies that are no JSON object', async () => {
    for (const body of ['', ' ', '{', '[]', '"x"', 'null', '5', '{"a":}', '\u0000'])
      await checkError(await harness.post(CHAT, body), { param: null })
    const response = await fetch(`${harness.url}${CHAT}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]),
    })
    await checkError(response, { param: null, message: /UTF-8/ })
  })

  test('half of a surrogate pair is refused by its place, a whole one is not', async () => {
    const chat = (content: string, more = '') =>
      harness.post(
        CHAT,
        `{"model":"tiny-reasoner","max_tokens":1,"messages":[{"role":"user","content":"${content}"}]${more}}`,
      )
    for (const content of ['a\\ud83d', '\\uDE00b', '\\ude00\\ud83d', '\\\\\\ud83d'])
      await checkError(await chat(content), { status: 400, param: 'messages.0.content' })
    await checkError(await chat('a', ',"stop":["b","\\ud800"]'), { status: 400, param: 'stop.1' })
    await checkError(await chat('a', ',"chat_template_kwargs":{"\\ud800":1}'), {
      status: 400,
      param: 'chat_template_kwargs.\ufffd',
    })
    for (const content of ['\\ud83d\\ude00', '\\\\ud83d', '😀'])
      assert.equal((await chat(content)).status, 200, content)
  })

  test('a form is 415, no content type is JSON', async () => {
    for (const type of [
      'application/x-www-form-urlencoded',
      'multipart/form-data; boundary=x',
      'text/html',
    ])
      await checkError(await harness.post(CHAT, chatBody(), { 'content-type': type }), {
        status: 415,
      })
    const body = JSON.stringify(chatBody())
    const bare = await rawRequest(
      harness.port,
      `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
    assert.match(bare, /^HTTP\/1.1 200 /)
    const charset = await harness.post(CHAT, chatBody(), {
      'content-type': 'application/json; charset=UTF-8',
    })
    assert.equal(charset.status, 200)
    await checkError(await harness.post(CHAT, chatBody(), { 'content-encoding': 'gzip' }), {
      status: 415,
    })
  })

  test('unknown routes and methods', async () => {
    await checkError(await fetch(`${harness.url}/v1/nothing`), { status: 404 })
    await checkError(await harness.post('/v1/embeddings', {}), { status: 404 })
    await checkError(await harness.post('/v1/responses/resp_1', {}), { status: 404 })
    // Other servers' routes name what to use here.
    for (const [path, instead] of [
      ['/openai/deployments/x/chat/completions', /POST \/v1\/chat\/completions/],
      ['/v1beta/models/gemini:generateContent', /POST \/v1\/chat\/completions/],
      ['/v2/models/x/infer', /KServe/],
      ['/v1/load_lora_adapter', /adapters/],
      ['/encode', /embeddings/],
      ['/api/embed', /embeddings/],
      ['/sleep', /starting it anew/],
    ] as const) {
      const answer = await harness.post(path, {})
      assert.match(await answer.clone().text(), instead)
      await checkError(answer, { status: 404 })
    }
    const get = await fetch(`${harness.url}${CHAT}`)
    assert.match(get.headers.get('allow') ?? '', /POST/)
    await checkError(get, { status: 405 })
    const post = await harness.post('/v1/models', {})
    assert.match(post.headers.get('allow') ?? '', /GET/)
    await checkError(post, { status: 405 })
    await checkError(await fetch(`${harness.url}/health`, { method: 'DELETE' }), { status: 405 })
    await checkError(await fetch(`${harness.url}/v1/models/none`), {
      status: 404,
      code: 'model_not_found',
      param: 'model',
    })
  })

  test('a body that is too large is 413 and the client can read it', async () => {
    const response = await harness.post(CHAT, 'x'.repeat(8 << 20))
    await checkError(response, { status: 413 })
    const chunked = await fetch(`${harness.url}${CHAT}`, {
      method: 'POST',
      body: new Blob([new Uint8Array(3 << 20)]).stream(),
      duplex: 'half',
    } as RequestInit)
    await checkError(chunked, { status: 413 })
  })

  test('what is no HTTP gets an answer and a closed socket', async () => {
    const text = await rawRequest(harness.port, 'nonsense\r\n\r\n')
    assert.match(text, /^HTTP\/1.1 400 /)
    assert.equal(JSON.parse(text.split('\r\n\r\n')[1] ?? '').error.type, 'invalid_request_error')
    const badHost = await rawRequest(
      harness.port,
      'GET /health HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n',
    )
    assert.match(badHost, /^HTTP\/1.1 400 /)
  })

  test('unknown fields are named in a header, fields without effect are not', async () => {
    const response = await harness.post(
      CHAT,
      chatBody({
        foo: 1,
        'b a\u00e9\u{1f600}r': 2,
        user: 'me',
        store: true,
        metadata: {},
        baz: null,
      }),
    )
    assert.equal(response.status, 200)
    assert.equal(response.headers.get('x-ignored-params'), 'foo, b%20a%c3%a9%f0%9f%98%80r')
    const none = await harness.post(CHAT, chatBody({ service_tier: 'auto', verbosity: 'low' }))
    assert.equal(none.headers.get('x-ignored-params'), null)
  })

  test('null means absent', async () => {
    const nulls = Object.fromEntries(
      [
        'n',
        'stop',
        'temperature',
        'tools',
        'audio',
        'suffix',
        'stream_options',
        'response_format',
        'logit_bias',
        'seed',
      ].map((key) => [key, null]),
    )
    assert.equal((await harness.post(CHAT, chatBody(nulls))).status, 200)
  })

  test('the official client throws its own classes', async () => {
    const client = new OpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'x', maxRetries: 0 })
    const ask = (more: object) =>
      client.chat.completions.create({
        model: 'tiny-reasoner',
        messages: [{ role: 'user', content: 'x' }],
        ...more,
      })
    await assert.rejects(ask({ model: 'none' }), (error: InstanceType<typeof OpenAI.APIError>) => {
      assert.ok(error instanceof OpenAI.NotFoundError)
      assert.equal(error.code, 'model_not_found')
      assert.equal(error.param, 'model')
      return true
    })
    await assert.rejects(ask({ temperature: 9 }), OpenAI.BadRequestError)
  })

  test('one log line a request, without content', async () => {
    harness.lines.length = 0
    await (
      await harness.post(CHAT, chatBody({ messages: [{ role: 'user', content: 'SECRET' }] }), {
        'x-request-id': 'my-id',
      })
    ).text()
    await (await harness.post(CHAT, chatBody({ n: 0 }))).text()
    await until(() => harness.lines.length >= 2, 'two lines')
    assert.equal(harness.lines.length, 2)
    const [good, bad] = harness.lines
    assert.equal(good?.request_id, 'my-id')
    assert.equal(good?.status, 200)
    assert.equal(good?.model, 'tiny-reasoner')
    assert.equal(typeof good?.completion_tokens, 'number')
    assert.equal(bad?.status, 400)
    assert.ok(!JSON.stringify(harness.lines).includes('SECRET'))
  })
})

describe('strict parameters', () => {
  test('unknown fields are a 400', async (t) => {
    const harness = await startHarness({ config: { strictParams: true } })
    t.after(() => harness.close())
    await checkError(await harness.post(CHAT, chatBody({ foo: 1 })), {
      param: 'foo',
      code: 'unsupported_parameter',
    })
    assert.equal((await harness.post(CHAT, chatBody({ user: 'x' }))).status, 200)
  })
})

/** What the routes' sources have where an expression has its group. */
const found = (expression: RegExp): readonly string[] => {
  const folders = ['server/api', 'server/http'].map(packagePath)
  const files = folders.flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name)),
  )
  return files
    .filter((path) => path.endsWith('.ts'))
    .flatMap((path) => [...readFileSync(path, 'utf8').matchAll(expression)])
    .map(([, name = '']) => name)
}

describe('API keys and CORS', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({ config: { apiKeys: ['key-one', 'key-two'] } })
  })
  after(() => harness.close())

  test('everything that computes or shows data needs a key', async () => {
    for (const [method, path] of [
      ['POST', CHAT],
      ['POST', COMPLETIONS],
      ['POST', '/tokenize'],
      ['POST', '/detokenize'],
      ['POST', '/v1/chat/completions/render'],
      ['GET', '/v1/models'],
      ['GET', '/metrics'],
      ['GET', '/version'],
    ] as const) {
      const bare = await fetch(`${harness.url}${path}`, { method })
      await checkError(bare, { status: 401, code: 'invalid_api_key' })
      const wrong = await fetch(`${harness.url}${path}`, {
        method,
        headers: { authorization: 'Bearer key-three' },
      })
      await checkError(wrong, { status: 401, code: 'invalid_api_key' })
    }
    for (const key of ['key-one', 'key-two']) {
      const response = await fetch(`${harness.url}/v1/models`, {
        headers: { authorization: `Bearer ${key}` },
      })
      assert.equal(response.status, 200)
    }
  })

  test('pages, health and OPTIONS are open', async () => {
    for (const path of [
      '/health',
      '/v1/health/live',
      '/v1/health/ready',
      '/docs',
      '/',
      '/openapi.json',
    ])
      assert.equal((await fetch(`${harness.url}${path}`)).status, 200, path)
    const preflight = await fetch(`${harness.url}${CHAT}`, {
      method: 'OPTIONS',
      headers: {
        origin: 'http://example.com',
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization, content-type, x-stainless-os',
      },
    })
    assert.equal(preflight.status, 204)
    assert.equal(preflight.headers.get('access-control-allow-origin'), '*')
    assert.match(preflight.headers.get('access-control-allow-headers') ?? '', /x-stainless-os/)
  })

  test('pages may use every method, and read every header that is ours', async () => {
    const ask = (method: string, path: string) =>
      fetch(`${harness.url}${path}`, {
        method: 'OPTIONS',
        headers: { origin: 'http://localhost:3000', 'access-control-request-method': method },
      })
    const preflight = await ask('DELETE', '/v1/files/file-1')
    const listOf = (name: string) => preflight.headers.get(name)?.split(', ') ?? []
    const allowed = listOf('access-control-allow-methods')
    for (const method of found(/method: '([A-Z]+)'/g)) assert.ok(allowed.includes(method), method)
    const exposed = listOf('access-control-expose-headers')
    const own = found(/addHeader\(\s*c,\s*'([^']+)'/g).filter(
      (name) => !/^(vary|connection|x-content-type-options|access-control-.*)$/.test(name),
    )
    assert.ok(own.length > 3)
    for (const name of [...own, WEIGHTS_HEADER, 'retry-after'])
      assert.ok(exposed.includes(name), name)
  })

  test('only allowed origins are told so', async (t) => {
    const narrow = await startHarness({ config: { allowedOrigins: ['http://good.example'] } })
    t.after(() => narrow.close())
    const ask = (origin: string) => fetch(`${narrow.url}/health`, { headers: { origin } })
    const good = await ask('http://good.example')
    assert.equal(good.headers.get('access-control-allow-origin'), 'http://good.example')
    assert.equal((await ask('http://bad.example')).headers.get('access-control-allow-origin'), null)
  })
})
