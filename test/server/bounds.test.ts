import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { type AddressInfo, createConnection } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Delta, GenerateRequest } from '../../server/engine/types.js'
import { createBodies } from '../../server/http/body.js'
import { chatBody, type Harness, readAnswer, startHarness, until } from './harness.js'

const CHAT = '/v1/chat/completions'
const COMPLETIONS = '/v1/completions'
const user = { role: 'user', content: 'Hi' }
const many = <T>(count: number, one: T): T[] => Array.from({ length: count }, () => one)
const keys = (count: number, value: unknown, prefix = '') =>
  Object.fromEntries(many(count, 0).map((_, i) => [`${prefix}${i}`, value]))
const complete = (more: object) => ({ model: 'tiny-reasoner', prompt: 'a', ...more })

/** Characters of a prompt where the context is short. */
const MOST_TEXT = 1 << 20

type Shape = readonly [name: string, path: string, body: unknown, message: RegExp]

const SHAPES: readonly Shape[] = [
  ['biases with zeros in front', CHAT, chatBody({ logit_bias: { '0001': 1 } }), /logit_bias/],
  [
    'kwargs',
    CHAT,
    chatBody({ chat_template_kwargs: { a: many(30_000, 1) } }),
    /'chat_template_kwargs': it has too many values/,
  ],
  [
    'arguments',
    CHAT,
    chatBody({
      messages: many(40, {
        role: 'assistant',
        content: '',
        tool_calls: [{ function: { name: 'f', arguments: `[${many(999, 1)}]` } }],
      }),
    }),
    /function.arguments': it has too many values/,
  ],
  [
    'answers',
    COMPLETIONS,
    complete({ prompt: many(2048, 'a'), n: 128 }),
    /262144 answers: 'tiny-reasoner' has 320 places/,
  ],
  [
    'one answer too many',
    COMPLETIONS,
    complete({ prompt: many(107, 'a'), n: 3 }),
    /321 answers: 'tiny-reasoner' has 320 places/,
  ],
  ['fields', CHAT, chatBody(keys(512, 1)), /has 514 fields: at most 512/],
  [
    'a long number',
    COMPLETIONS,
    `{"model":"tiny-reasoner","prompt":${'1'.repeat(65)}}`,
    /a number of more than 64 characters/,
  ],
  [
    'fractions',
    COMPLETIONS,
    complete({ prompt: many(70_000, 1.123456789) }),
    /more than 65536 keys, texts, lists, objects and long numbers/,
  ],
  [
    'a long word',
    COMPLETIONS,
    `{"prompt":${'t'.repeat(100_000)}}`,
    /could not parse the JSON body/,
  ],
  [
    'tokens of prompts',
    COMPLETIONS,
    complete({ prompt: many(40, 'a'.repeat(30_000)), truncate_prompt_tokens: 2 }),
    /more than 1048576 tokens together/,
  ],
  [
    'biases of prompts',
    COMPLETIONS,
    complete({ prompt: many(300, 'a'), logit_bias: keys(900, 1) }),
    /for each of 300 prompts/,
  ],
  [
    'kept log probabilities',
    CHAT,
    chatBody({ n: 128, max_tokens: 200, logprobs: true, top_logprobs: 20 }),
    /537600: at most 500000/,
  ],
  [
    'kept log probabilities of completions',
    COMPLETIONS,
    complete({ n: 128, max_tokens: 200, logprobs: 20 }),
    /537600: at most 500000/,
  ],
  [
    'log probabilities of the prompt of many choices',
    COMPLETIONS,
    complete({ prompt: 'a'.repeat(999), n: 128, prompt_logprobs: 3, max_tokens: 1, stream: true }),
    /have 128000 tokens, each with 4 .* together 512000: at most 500000/,
  ],
  [
    'log probabilities of many prompts',
    COMPLETIONS,
    complete({ prompt: many(256, many(100, 97)), prompt_logprobs: 20, max_tokens: 1 }),
    /have 25600 tokens, each with 21 .* together 537600/,
  ],
  [
    'log probabilities of echoes',
    COMPLETIONS,
    complete({ prompt: many(256, many(100, 97)), echo: true, logprobs: 20, max_tokens: 0 }),
    /have 25600 tokens, each with 21 .* together 537600/,
  ],
  [
    'log probabilities of prompts and of echoes',
    COMPLETIONS,
    complete({
      ...{ prompt: many(256, many(100, 97)), echo: true, logprobs: 0, max_tokens: 0 },
      prompt_logprobs: 9,
    }),
    /have 51200 tokens, each with 10 .* together 512000/,
  ],
  [
    'log probabilities of the prompts of conversations',
    `${CHAT}/batch`,
    chatBody({
      messages: many(256, [{ role: 'user', content: 'a'.repeat(90) }]),
      prompt_logprobs: 20,
    }),
    /have \d+ tokens, each with 21 .*: at most 500000/,
  ],
  [
    'a text that cannot fit',
    CHAT,
    chatBody({ messages: [{ role: 'user', content: 'a '.repeat(500_000) }] }),
    /1000\d* bytes, which are at least/,
  ],
  [
    'a prompt that cannot fit',
    COMPLETIONS,
    complete({ prompt: 'a '.repeat(500_000) }),
    /at least \d+ tokens/,
  ],
  [
    'a conversation of much text',
    CHAT,
    chatBody({ messages: many(2, { role: 'user', content: 'a'.repeat(MOST_TEXT / 2 + 1) }) }),
    /the prompt has 1048578 characters: at most 1048576/,
  ],
  [
    'much text in calls',
    CHAT,
    chatBody({
      messages: [
        {
          role: 'assistant',
          content: '',
          tool_calls: [{ function: { name: 'f', arguments: `"${'a'.repeat(MOST_TEXT)}"` } }],
        },
      ],
    }),
    /the prompt has 10485\d\d characters/,
  ],
  [
    'a long prompt that is cut',
    COMPLETIONS,
    complete({ prompt: 'a'.repeat(MOST_TEXT + 1), truncate_prompt_tokens: 5 }),
    /the prompt has 1048577 characters/,
  ],
  ['a long text', '/tokenize', { prompt: 'a'.repeat(MOST_TEXT + 1) }, /1048577 characters/],
  [
    'a long conversation to score',
    '/v1/reward',
    { model: 'tiny-reward', messages: [user], responses: ['a'.repeat(MOST_TEXT)] },
    /responses.0: .* 1048578 characters/,
  ],
  [
    'a conversation for many responses',
    '/v1/reward',
    {
      model: 'tiny-reward',
      messages: [{ role: 'user', content: 'a'.repeat(100_000) }],
      responses: many(400, 'a'),
    },
    /have 40000400 characters: at most 33554432 in one request/,
  ],
  [
    'a text in kwargs',
    CHAT,
    chatBody({ chat_template_kwargs: { a: 'a'.repeat(MOST_TEXT + 1) } }),
    /it has too much text .*1048576 characters/,
  ],
  [
    'nested arguments',
    CHAT,
    chatBody({
      messages: [
        {
          role: 'assistant',
          content: '',
          tool_calls: [{ function: { name: 'f', arguments: '['.repeat(1000) } }],
        },
      ],
    }),
    /it is nested too deep/,
  ],
  [
    'an effort',
    CHAT,
    chatBody({ reasoning_effort: 'x'.repeat(MOST_TEXT) }),
    /^Invalid value for 'reasoning_effort': "x{100}"\.\.\.\. Supported/,
  ],
  ['a bad word', CHAT, chatBody({ bad_words: ['a'.repeat(1025)] }), /at most 1024 characters/],
  [
    'ids to text',
    '/detokenize',
    { tokens: many((1 << 18) + 1, 65) },
    /it has 262145 token ids, at most 262144/,
  ],
  [
    'pairs',
    '/v1/reward',
    { model: 'tiny-reward', messages: [user], responses: many(1024, 'a'), pairwise: true },
    /523776 preferences: at most 40000/,
  ],
]

describe('no shape of a body costs much', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({
      answer: () => ({ pieces: ['ok'] }),
      reward: { score: () => [1] },
      config: { bodyLimit: 16 << 20 },
    })
  })
  after(() => harness.close())

  for (const [name, path, body, message] of SHAPES)
    test(name, async () => {
      const response = await harness.post(path, body)
      const { error } = await readAnswer(response)
      assert.equal(response.status, 400, JSON.stringify(error))
      assert.match(error.message, message)
      assert.equal(harness.engine.requests.length, 0)
    })

  test('a refusal does not say everything again', async () => {
    const long = 'x'.repeat(MOST_TEXT)
    const { error } = await readAnswer(await harness.post(CHAT, chatBody({ model: long })))
    assert.ok(error.message.length < 2000)
    const strange = await harness.post(CHAT, chatBody({ chat_template_kwargs: 1, [long]: 1 }))
    assert.ok((await strange.text()).length < 2000)
  })

  test('preferences are of candidates of one prompt, in order', async () => {
    const body = {
      model: 'tiny-reward',
      pairwise: true,
      inputs: [
        { messages: [user], responses: ['a', 'b', 'c'] },
        { messages: [user, { role: 'assistant', content: 'd' }] },
        { messages: [user], responses: ['e', 'f'] },
      ],
    }
    const { preferences } = await readAnswer(await harness.post('/v1/reward', body))
    const pairs = preferences.map((one: Record<string, number>) => [one.chosen, one.rejected])
    assert.deepEqual(pairs, [
      [0, 1],
      [0, 2],
      [1, 2],
      [4, 5],
    ])
  })

  test('words are encoded once for all prompts', async (t) => {
    const one = await startHarness({ answer: () => ({ pieces: ['ok'] }) })
    t.after(() => one.close())
    const words = ['ab', 'cd']
    const body = complete({ prompt: many(50, 'a'), bad_words: words, max_tokens: 4 })
    assert.equal((await one.post(COMPLETIONS, body)).status, 200)
    const lists = one.engine.requests.map(({ sampling }) => sampling?.badWordIds)
    assert.equal(lists.length, 50)
    assert.equal(new Set(lists).size, 1)
  })

  test('prompts come in where each answer has a place, and others come in beside them', async (t) => {
    const one = await startHarness({
      answer: () => ({ pieces: many(200, 'a') }),
      maxNumSeqs: 2,
      maxWaiting: 4,
    })
    t.after(() => one.close())
    const stop = new AbortController()
    const ask = (body: object) =>
      fetch(`${one.url}${COMPLETIONS}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(complete({ max_tokens: 200, stream: true, ...body })),
        signal: stop.signal,
      })
    assert.equal((await ask({ prompt: many(4, 'a') })).status, 200)
    const full = await ask({ prompt: many(3, 'b') })
    assert.equal(full.status, 429)
    assert.match(await full.text(), /Retry in/)
    assert.ok(Number(full.headers.get('retry-after')) >= 1)
    const twice = await ask({ prompt: many(2, 'b'), n: 2 })
    assert.equal(twice.status, 429)
    assert.equal((await ask({ prompt: 'b' })).status, 200)
    assert.equal(
      (await ask({ prompt: 'b', n: 3 })).status,
      200,
      'one place is enough for one prompt',
    )
    assert.equal(one.engine.requests.length, 6)
    stop.abort()
  })

  test('prompts that every choice tells again have a bound', async (t) => {
    const one = await startHarness({ info: { maxModelLen: 1 << 20 } })
    t.after(() => one.close())
    const told = { prompt: many(2, many(131_100, 97)), n: 128, max_tokens: 1 }
    for (const more of [{ return_token_ids: true }, { return_token_ids: true, echo: true }]) {
      const response = await one.post(COMPLETIONS, complete({ ...told, ...more }))
      const { error } = await readAnswer(response)
      assert.equal(response.status, 400)
      assert.match(error.message, /would tell \d+ characters of prompts.*at most 268435456/)
      assert.equal(error.param, Object.keys(more).at(-1))
    }
    assert.equal(one.engine.requests.length, 0)
    assert.equal((await one.post(COMPLETIONS, complete({ ...told, n: 1 }))).status, 200)
  })

  test('the least number of tokens has to fit behind every prompt', async () => {
    const ask = (length: number) =>
      harness.post(COMPLETIONS, complete({ prompt: ['a', 'a'.repeat(length)], min_tokens: 8 }))
    assert.equal((await ask(1010)).status, 200)
    const short = await ask(1020)
    assert.equal(short.status, 400)
    assert.equal((await readAnswer(short)).error.param, 'min_tokens')
  })

  test('what is within the bounds passes', async (t) => {
    const one = await startHarness({
      answer: () => ({ pieces: ['ok'] }),
      config: { bodyLimit: 16 << 20 },
    })
    t.after(() => one.close())
    for (const [path, body] of [
      [`${CHAT}/render`, chatBody({ messages: many(2048, user) })],
      [CHAT, chatBody({ stop: many(16, 'zz'), bad_words: many(128, 'q'), max_tokens: 2 })],
      [CHAT, chatBody({ logprobs: true, top_logprobs: 20 })],
      [COMPLETIONS, complete({ prompt: many(200, 'a'), logit_bias: { 5: 1 }, max_tokens: 2 })],
      [COMPLETIONS, complete({ prompt: many(160, 'a'), n: 2, max_tokens: 1 })],
      [COMPLETIONS, complete({ prompt: many(999, 97), n: 16, prompt_logprobs: 20 })],
      [CHAT, chatBody({ n: 128, max_tokens: 1, prompt_logprobs: 20 })],
    ] as const) {
      const response = await one.post(path, body)
      assert.equal(response.status, 200, (await response.text()).slice(0, 300))
    }
  })
})

/** Bytes of objects and Buffers that something holds. */
const bytesHeld = (): number => {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

test('a long answer takes about its text until it is told', async () => {
  const tokens = 200_000
  for (const [path, body] of [
    [COMPLETIONS, complete({ return_token_ids: true })],
    [CHAT, chatBody({ reward: { model: 'tiny-reward' }, return_token_ids: true })],
  ] as const) {
    const one = await startHarness({ reward: { score: () => [1] } })
    let held = 0
    Object.assign(one.engine, {
      submit: (_: GenerateRequest, onDelta: (delta: Delta) => void) => {
        setImmediate(() => {
          const before = bytesHeld()
          for (let i = 0; i < tokens; i++) onDelta({ choice: 0, text: '', tokenIds: [97] })
          held = bytesHeld() - before
          onDelta({ choice: 0, text: 'a', tokenIds: [97], finish: 'stop' })
        })
        return { id: 1, abort: () => {} }
      },
    })
    try {
      const response = await one.post(path, body)
      assert.equal(response.status, 200)
      assert.equal((await readAnswer(response)).choices[0].token_ids.length, tokens + 1)
      assert.ok(held < 30 * tokens, `${path}: ${held} bytes are held of ${tokens} tokens`)
    } finally {
      await one.close()
    }
  }
})

test('the best of long candidates is told with all its log probabilities', async (t) => {
  const tokens = 150_000
  const one = await startHarness({ reward: { score: () => [1] } })
  t.after(() => one.close())
  Object.assign(one.engine, {
    submit: (_: GenerateRequest, onDelta: (delta: Delta) => void) => {
      const tokenIds = many(tokens, 97)
      const logprobs = many(tokens, { id: 97, logprob: -1, rank: 1, top: [] })
      setImmediate(() => onDelta({ choice: 0, text: 'a', tokenIds, logprobs, finish: 'stop' }))
      return { id: 1, abort: () => {} }
    },
  })
  const body = chatBody({ reward: { model: 'tiny-reward' }, logprobs: true, max_tokens: 1 })
  const response = await one.post(CHAT, body)
  assert.equal(response.status, 200)
  assert.equal((await readAnswer(response)).choices[0].logprobs.content.length, tokens)
})

test('a body that comes byte by byte takes about its bytes', async (t) => {
  const bodies = createBodies(1 << 20, 60_000)
  const text = Array.from({ length: 200_000 }, (_, i) => String.fromCharCode(97 + (i % 26))).join(
    '',
  )
  let came = 0
  let body: Promise<Buffer> | undefined
  const node = createServer((incoming, outgoing) => {
    body = bodies.read(incoming)
    incoming.on('data', (chunk: Buffer) => {
      came += chunk.length
    })
    body.then(() => outgoing.end())
  })
  t.after(() => node.close())
  await new Promise<void>((done) => node.listen(0, '127.0.0.1', done))
  const socket = createConnection((node.address() as AddressInfo).port, '127.0.0.1')
  t.after(() => socket.destroy())
  const frames = Buffer.from(text.replaceAll(/./g, '1\r\n$&\r\n'))
  const before = bytesHeld()
  socket.write('POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n')
  socket.write(frames)
  await until(() => came === text.length, 'all bytes are there')
  const held = bytesHeld() - before
  assert.ok(held < 4e6, `${held} bytes are held of ${text.length}`)
  socket.write('0\r\n\r\n')
  assert.equal(String(await body), text)
})
