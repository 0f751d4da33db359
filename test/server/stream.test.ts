import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text as textOf } from 'node:stream/consumers'
import { describe, test } from 'node:test'
import { EngineFailure } from '../../server/failure.js'
import { createTurns, finishInSlices } from '../../server/slices.js'
import { createByteTokenizer } from './byte-tokenizer.js'
import {
  chatBody,
  type HarnessOptions,
  rawRequest,
  readAnswer,
  readEvents,
  startHarness,
  until,
} from './harness.js'

const CHAT = '/v1/chat/completions'

const withHarness = async (
  options: HarnessOptions,
  body: (harness: Awaited<ReturnType<typeof startHarness>>) => Promise<void>,
) => {
  const harness = await startHarness(options)
  try {
    await body(harness)
  } finally {
    await harness.close()
  }
}

/** A client that writes a request and then does as it is told. */
const openRaw = (port: number, body: object): Promise<Socket> =>
  new Promise((resolve) => {
    const text = JSON.stringify(body)
    const socket = createConnection(port, '127.0.0.1', () => {
      socket.write(
        `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
      )
      resolve(socket)
    })
    socket.on('error', () => {})
  })

const endless = {
  answer: () => ({ pieces: Array<string>(100_000).fill('word ') }),
  stepMs: 1,
  info: { maxModelLen: 1 << 20 },
}

/** Characters of an answer that no kernel holds for a reader. */
const HUGE = 20_000_000
const huge = {
  answer: () => ({ pieces: Array<string>(200).fill('x'.repeat(HUGE / 200)) }),
  info: { maxModelLen: 10 * HUGE },
}

describe('streams', () => {
  test('a client that leaves frees its sequence within a step', () =>
    withHarness(endless, async (harness) => {
      for (const stream of [true, false]) {
        const socket = await openRaw(harness.port, chatBody({ stream }))
        await until(() => harness.engine.stats().running === 1, 'running')
        socket.destroy()
        await until(() => harness.engine.stats().running === 0, 'freed')
        await until(() => harness.model.pace.inFlight() === 0, 'left the gate')
      }
      assert.equal(harness.engine.stats().aborted, 2)
      await until(() => harness.lines.length === 2, 'two lines')
      assert.deepEqual(
        harness.lines.map((line) => line.finish),
        ['abort', 'abort'],
      )
    }))

  test('a client that leaves before the first token too', () =>
    withHarness({ answer: () => ({ pieces: ['x'], delaySteps: 100_000 }) }, async (harness) => {
      const socket = await openRaw(harness.port, chatBody({ stream: true }))
      await until(() => harness.engine.stats().running === 1, 'running')
      socket.destroy()
      await until(() => harness.engine.stats().running === 0, 'freed')
      await until(() => harness.lines.length === 1, 'a line')
      assert.equal(harness.lines[0]?.status, 499)
    }))

  test('an event of a long prompt, made in slices, comes before what was written meanwhile', () =>
    withHarness(
      { answer: () => ({ pieces: [...'one two three'] }), info: { maxModelLen: 1 << 17 } },
      async (harness) => {
        const prompt = Array.from({ length: 40_000 }, (_, i) => 97 + (i % 26))
        const logprobs = { logprobs: 1, prompt_logprobs: 0, return_token_ids: true }
        const body = { model: 'tiny-reasoner', prompt, echo: true, ...logprobs }
        const { choices } = await readAnswer(await harness.post('/v1/completions', body))
        const streamed = { ...body, stream: true }
        const { chunks, done } = await readEvents(await harness.post('/v1/completions', streamed))
        assert.ok(done)
        const parts = chunks.flatMap((chunk) => chunk.choices)
        assert.ok(parts.length > 3)
        const whole = choices[0]
        assert.equal(parts.map(({ text }) => text).join(''), whole.text)
        for (const name of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset']) {
          const all = parts.flatMap((part) => part.logprobs?.[name] ?? [])
          assert.deepEqual(all, whole.logprobs[name], name)
        }
        assert.deepEqual(parts[0].prompt_logprobs, whole.prompt_logprobs)
        assert.deepEqual(parts[0].prompt_token_ids, prompt)
      },
    ))

  test('what breaks in a later slice is told, and nothing after it is done', async () => {
    const done: string[] = []
    const told = new Promise((resolve) => {
      const inTurn = createTurns(resolve)
      function* broken(): Generator<string, string> {
        // Left for the event loop at least once, however long a slice lasts.
        let left = false
        setImmediate(() => {
          left = true
        })
        while (!left) yield ''
        throw new RangeError('Invalid string length')
      }
      inTurn(() =>
        finishInSlices(
          broken(),
          (text) => done.push(text),
          () => true,
        ),
      )
      inTurn(() => void done.push('late'))
    })
    assert.match(String(await told), /Invalid string length/)
    assert.deepEqual(done, [])
  })

  test('a reader that stalls is cut off and slows nobody', () =>
    withHarness({ ...endless, config: { writeIdleTimeout: 0.3 } }, async (harness) => {
      const logprobs = { logprobs: true, top_logprobs: 20 }
      const socket = await openRaw(harness.port, chatBody({ stream: true, n: 16, ...logprobs }))
      socket.pause()
      await until(() => harness.engine.stats().running === 16, 'running')
      const before = harness.engine.stats().steps
      const other = await harness.post(CHAT, chatBody({ max_tokens: 50 }))
      assert.equal((await readAnswer(other)).usage.completion_tokens, 50)
      assert.ok(harness.engine.stats().steps > before)
      await until(() => harness.engine.stats().running === 0, 'cut off')
      await until(() => harness.lines.some((line) => line.gone === 'stalled'), 'a line')
      socket.destroy()
    }))

  test('a reader of a whole answer that stalls is cut off, and its line says so', () =>
    withHarness({ ...huge, config: { writeIdleTimeout: 0.3 } }, async (harness) => {
      const socket = await openRaw(harness.port, chatBody({ max_tokens: HUGE }))
      socket.pause()
      await until(() => harness.lines.some((line) => line.gone === 'stalled'), 'a line')
      assert.equal(harness.server.live.size, 0)
      socket.destroy()
    }))

  test('a client that stops to send its body gets a 408, and its line says so', () =>
    withHarness({ config: { writeIdleTimeout: 0.3 } }, async (harness) => {
      const socket = createConnection(harness.port, '127.0.0.1')
      socket.write(
        'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n' +
          'content-length: 100\r\n\r\n{"model',
      )
      const text = await textOf(socket)
      assert.match(text, /^HTTP\/1\.1 408 Request Timeout\r\n/)
      assert.match(
        text,
        /"message":"The request is not whole, and nothing of it came for 0\.3 s\."/,
      )
      await until(() => harness.lines.some((line) => line.gone === 'stalled'), 'a line')
      assert.equal(harness.server.live.size, 0)
    }))

  /** Sends a request in pieces, and all that is answered. */
  const send = async (
    port: number,
    head: string,
    { pieces, every }: { readonly pieces: readonly Buffer[]; readonly every: number },
  ): Promise<string> => {
    const socket = createConnection(port, '127.0.0.1')
    let answer = ''
    socket.on('data', (chunk: Buffer) => {
      answer += chunk.toString()
    })
    const ended = new Promise((done) => socket.on('close', done))
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0)
    socket.on('error', () => {})
    socket.write(
      `${head}\r\nhost: localhost\r\nconnection: close\r\ncontent-length: ${length}\r\n\r\n`,
    )
    for (const piece of pieces) {
      if (!socket.writable) break
      socket.write(piece)
      await new Promise((done) => setTimeout(done, every))
    }
    await ended
    return answer || 'closed'
  }
  const form = (size: number): readonly Buffer[] => {
    const part = '--xx\r\ncontent-disposition: form-data; name='
    const file = `${part}"file"; filename="in.jsonl"\r\n\r\n`
    const mib = Buffer.alloc(1 << 20, ' ')
    return [
      Buffer.from(`${part}"purpose"\r\n\r\nbatch\r\n${file}`),
      ...Array.from({ length: size }, () => mib),
      Buffer.from('\r\n--xx--\r\n'),
    ]
  }
  const bytes = (count: number): readonly Buffer[] =>
    Array.from({ length: count }, () => Buffer.from(' '))
  const UPLOAD = 'POST /v1/files HTTP/1.1\r\ncontent-type: multipart/form-data; boundary=xx'
  const JSON_HEAD = `POST ${CHAT} HTTP/1.1\r\ncontent-type: application/json`

  test('a file may come for longer than a body, while it comes', async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'nemotron-files-'))
    try {
      await withHarness({ dataDir, fileLimit: 16 << 20, bodyTime: 4000 }, async ({ port }) => {
        const [text, slow] = await Promise.all([
          send(port, UPLOAD, { pieces: form(10), every: 450 }),
          send(port, UPLOAD, { pieces: bytes(1000), every: 25 }),
        ])
        assert.match(text, /^HTTP\/1\.1 200 .*"bytes":10485760/s)
        assert.match(slow, /^HTTP\/1\.1 408 Request Timeout\r\n.*1048576 bytes .* each 4 s\./s)
      })
    } finally {
      rmSync(dataDir, { recursive: true })
    }
  })

  test('a body that comes too slowly is refused, before and after its answer', () =>
    withHarness({ bodyTime: 4000, config: { bodyLimit: 40 << 20 } }, async ({ port, server }) => {
      const large = Array.from({ length: 28 }, () => Buffer.alloc(1 << 20, ' '))
      const many = bytes(1000)
      const [late, slow, nowhere] = await Promise.all([
        send(port, JSON_HEAD, { pieces: large, every: 200 }),
        send(port, JSON_HEAD, { pieces: many, every: 25 }),
        send(port, 'POST /nowhere HTTP/1.1', { pieces: many, every: 25 }),
      ])
      assert.match(late, /^HTTP\/1\.1 408 .*"The request body did not come whole in 4 s\."/s)
      assert.match(slow, /^HTTP\/1\.1 408 Request Timeout\r\n/)
      // Its connection is closed: all of it would have taken 25 s.
      assert.match(nowhere, /^HTTP\/1\.1 404 |^closed$/)
      assert.equal(server.live.size, 0)
    }))

  // It never has all that was written, so that only its progress tells it from one that stalls.
  for (const stream of [true, false])
    test(`a slow reader gets all of ${stream ? 'a stream' : 'a whole answer'}`, () =>
      withHarness({ ...huge, config: { writeIdleTimeout: 4 } }, async (harness) => {
        const socket = await openRaw(harness.port, chatBody({ max_tokens: HUGE, stream }))
        let read = 0
        while (read < HUGE) {
          const chunk: Buffer | null = socket.read()
          read += chunk?.length ?? 0
          assert.ok(!socket.closed, `${read} bytes`)
          await new Promise((done) => setTimeout(done, 20))
        }
        assert.ok(harness.lines.every((line) => line.gone === undefined))
        socket.destroy()
      }))

  test('an answer that its model takes long for, and a connection that is kept, are not cut off', () =>
    withHarness(
      {
        answer: () => ({ pieces: ['x'], delaySteps: 100 }),
        stepMs: 10,
        config: { writeIdleTimeout: 0.2 },
      },
      async (harness) => {
        const body = JSON.stringify(chatBody())
        const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${body.length}`
        const socket = createConnection(harness.port, '127.0.0.1')
        let text = ''
        socket.on('data', (data) => {
          text += data
        })
        for (const count of [1, 2]) {
          socket.write(`${head}\r\n\r\n${body}`)
          await until(() => text.split('HTTP/1.1 200').length > count, 'an answer')
          await new Promise((done) => setTimeout(done, 500))
        }
        socket.destroy()
      },
    ))

  test('what ends a line in Unicode is escaped, so that an event is one line to every reader', () => {
    const odd = 'a\u2028b\u2029c\u0085d'
    const raw = /[\u0085\u2028\u2029]/
    return withHarness({ answer: () => ({ pieces: [odd, ' é', ' plain'] }) }, async (harness) => {
      const body = JSON.stringify(chatBody({ stream: true }))
      const ask = (version: string) =>
        rawRequest(
          harness.port,
          `POST ${CHAT} HTTP/${version}\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
        )
      // In chunks that are written at once, and by way of Node.
      for (const version of ['1.1', '1.0']) {
        const text = await ask(version)
        assert.doesNotMatch(text, raw, version)
        const said = text.split('\n').flatMap((one) => {
          if (!one.startsWith('data: {')) return []
          return JSON.parse(one.slice(6)).choices[0]?.delta.content ?? []
        })
        assert.equal(said.join(''), `${odd} é plain`, version)
      }
      const { text, chunks } = await readEvents(
        await harness.post(CHAT, chatBody({ stream: true })),
      )
      assert.doesNotMatch(text, raw)
      assert.ok(chunks.length > 3)
    })
  })

  test('ping while a request waits', () =>
    withHarness(
      {
        answer: () => ({ pieces: ['x'], delaySteps: 200 }),
        stepMs: 10,
        config: { pingInterval: 0.3 },
      },
      async (harness) => {
        const { comments, chunks, done } = await readEvents(
          await harness.post(CHAT, chatBody({ stream: true })),
        )
        assert.ok(comments.length >= 2, `${comments.length} pings`)
        assert.equal(comments[0], ': ping')
        assert.ok(done && chunks.length === 2)
      },
    ))

  test('an engine that fails before the first byte is a 500', () =>
    withHarness(
      { answer: () => ({ pieces: [], finish: 'error', error: 'boom' }) },
      async (harness) => {
        for (const stream of [true, false]) {
          const response = await harness.post(CHAT, chatBody({ stream }))
          assert.equal(response.status, 500)
          const { error } = await readAnswer(response)
          assert.equal(error.type, 'server_error')
        }
      },
    ))

  test('an engine that fails later is one error event, then [DONE]', () =>
    withHarness(
      { answer: () => ({ pieces: ['a', 'b', 'c'], finish: 'error', error: 'boom' }) },
      async (harness) => {
        const response = await harness.post(CHAT, chatBody({ stream: true }))
        assert.equal(response.status, 200)
        const { chunks, done } = await readEvents(response)
        assert.ok(done)
        assert.deepEqual(Object.keys(chunks.at(-1)), ['error'])
        assert.equal(chunks.at(-1).error.message, 'boom')
        assert.equal(chunks.filter((chunk) => 'error' in chunk).length, 1)
      },
    ))

  test('a bug of ours is a 500 for its request and a line in the log, not the end of the server', () => {
    const tokenizer = createByteTokenizer()
    const bytes = (id: number) => {
      if (id === 33) throw new Error('a bug')
      return tokenizer.bytes(id)
    }
    const options = {
      tokenizer: { ...tokenizer, bytes },
      answer: () => ({ pieces: ['ab', '!', 'c'] }),
      reward: { score: () => [1] },
    }
    return withHarness(options, async (harness) => {
      // The best of several is told when nobody waits for the engine any more.
      for (const more of [{}, { best_of: 2, reward: { model: 'tiny-reward' } }]) {
        const body = chatBody({ logprobs: true, ...more })
        const response = await harness.post(CHAT, body)
        assert.equal(response.status, 500)
        assert.ok(!(await response.text()).includes('a bug'))
        const { chunks, done } = await readEvents(
          await harness.post(CHAT, { ...body, stream: true }),
        )
        assert.ok(done)
        assert.equal(chunks.at(-1).error.type, 'server_error')
      }
      await until(() => harness.lines.length === 4, 'four lines')
      assert.ok(harness.lines.every((line) => String(line.bug).includes('a bug')))
      await until(() => harness.engine.stats().running === 0, 'freed')
      assert.equal((await harness.post(CHAT, chatBody())).status, 200)
    })
  })

  test('several choices, logprobs, ids, usage: a stream adds up to the whole answer', () =>
    withHarness(
      {
        answer: (_prompt, _request, choice) => ({
          pieces: ['<think>', `thought ${choice}`, '</think>', '\n', `answer ${choice}`, ' é'],
          ...(choice === 1 && { finish: 'length' as const }),
          ...(choice === 2 && { stopReason: 'END' }),
        }),
      },
      async (harness) => {
        const body = chatBody({
          n: 3,
          logprobs: true,
          top_logprobs: 2,
          prompt_logprobs: 1,
          return_token_ids: true,
          reasoning_effort: 'high',
          truncate_prompt_tokens: 50,
          cache_salt: 'cached',
        })
        const whole = await readAnswer(await harness.post(CHAT, body))
        const { chunks } = await readEvents(
          await harness.post(CHAT, {
            ...body,
            stream: true,
            stream_options: { include_usage: true, continuous_usage_stats: true },
          }),
        )
        assert.deepEqual(chunks.at(-1).usage, whole.usage)
        assert.equal(whole.usage.prompt_tokens_details.cached_tokens, 4)
        assert.equal(whole.usage.prompt_tokens, 50)
        assert.ok(chunks.every((chunk) => chunk.usage.total_tokens > 0))
        assert.deepEqual(chunks[0].prompt_token_ids, whole.prompt_token_ids)
        assert.equal(whole.prompt_token_ids.length, 50)
        assert.deepEqual(chunks[0].prompt_logprobs, whole.prompt_logprobs)
        assert.equal(whole.prompt_logprobs[0], null)
        assert.equal(chunks[0].truncate_prompt_tokens, 50)
        assert.equal(whole.truncated_tokens, chunks[0].truncated_tokens)
        for (const index of [0, 1, 2]) {
          const mine = chunks
            .flatMap((chunk) => chunk.choices)
            .filter((choice) => choice.index === index)
          const { message, logprobs, token_ids, finish_reason, stop_reason } = whole.choices[index]
          assert.equal(mine.map((one) => one.delta.content ?? '').join(''), message.content)
          assert.equal(
            mine.map((one) => one.delta.reasoning_content ?? '').join(''),
            message.reasoning_content,
          )
          assert.equal(message.content, `answer ${index} é`)
          assert.equal(message.reasoning_content, `thought ${index}`)
          assert.deepEqual(
            mine.flatMap((one) => one.logprobs?.content ?? []),
            logprobs.content,
          )
          assert.deepEqual(
            mine.flatMap((one) => one.token_ids ?? []),
            token_ids,
          )
          assert.equal(logprobs.content.length, token_ids.length)
          assert.equal(logprobs.content[0].top_logprobs.length, 2)
          assert.deepEqual(mine.filter((one) => one.delta.role).length, 1)
          assert.equal(mine[0].delta.role, 'assistant')
          assert.equal(mine.at(-1).finish_reason, finish_reason)
          assert.equal(finish_reason, index === 1 ? 'length' : 'stop')
          assert.equal(stop_reason, index === 2 ? 'END' : undefined)
          assert.equal(mine.at(-1).stop_reason, stop_reason)
        }
      },
    ))

  test('reasoning can be left in the content or left out', () =>
    withHarness({ answer: () => ({ pieces: ['<think>a', '</think>', 'b'] }) }, async (harness) => {
      const ask = async (more: object) => {
        const body = chatBody({ reasoning_effort: 'low', ...more })
        const whole = await readAnswer(await harness.post(CHAT, body))
        const { chunks } = await readEvents(await harness.post(CHAT, { ...body, stream: true }))
        const { message } = whole.choices[0]
        const join = (key: string) =>
          chunks.map((chunk) => chunk.choices[0].delta[key] ?? '').join('')
        assert.equal(join('content'), message.content)
        assert.equal(join('reasoning_content'), message.reasoning_content ?? '')
        return message
      }
      const raw = await ask({ reasoning_format: 'none' })
      assert.equal(raw.content, '<think>a</think>b')
      assert.equal(raw.reasoning_content, null)
      const hidden = await ask({ include_reasoning: false })
      assert.equal(hidden.content, 'b')
      assert.equal(hidden.reasoning_content, null)
    }))

  test('timings come when asked', () =>
    withHarness({}, async (harness) => {
      const whole = await readAnswer(await harness.post(CHAT, chatBody({ timings: true })))
      assert.equal(whole.timings.queue_seconds, 0.001)
      const { chunks } = await readEvents(
        await harness.post(CHAT, chatBody({ stream: true, timings: true })),
      )
      assert.equal(chunks.at(-1).timings.prefill_seconds, 0.002)
      assert.ok(!('timings' in (await readAnswer(await harness.post(CHAT, chatBody())))))
    }))

  test('a time limit ends a request', () =>
    withHarness({ ...endless, config: { requestTimeout: 0.2 } }, async (harness) => {
      const whole = await harness.post(CHAT, chatBody())
      assert.equal(whole.status, 504)
      const { chunks, done } = await readEvents(
        await harness.post(CHAT, chatBody({ stream: true })),
      )
      assert.equal(chunks.at(-1).error.code, 'request_timeout')
      assert.ok(done)
      await until(() => harness.engine.stats().running === 0, 'freed')
    }))
})

describe('the queue', () => {
  const slow = {
    answer: () => ({ pieces: ['a', 'b'], delaySteps: 20 }),
    stepMs: 10,
    maxNumSeqs: 1,
    maxWaiting: 1,
  }

  test('beyond it is 429 with an honest Retry-After, before the body is parsed', () =>
    withHarness(slow, async (harness) => {
      const told = await (await fetch(`${harness.url}/metrics`)).text()
      assert.match(told, /vllm:admission_rejections_total\{[^}]*\} 0/, 'told before there is one')
      const first = harness.post(CHAT, chatBody())
      const second = harness.post(CHAT, chatBody({ stream: true }))
      await until(() => harness.model.pace.inFlight() === 2, 'full')
      for (const body of [chatBody(), chatBody({ stream: true }), '{not json']) {
        const refused = await harness.post(CHAT, body)
        assert.equal(refused.status, 429)
        const { error } = await readAnswer(refused)
        assert.equal(error.type, 'rate_limit_error')
        assert.equal(error.code, 'rate_limit_exceeded')
        const seconds = Number(refused.headers.get('retry-after'))
        assert.ok(Number.isInteger(seconds) && seconds >= 1 && seconds <= 2, `${seconds}`)
      }
      assert.equal((await first).status, 200)
      assert.ok((await readEvents(await second)).done)
      assert.equal((await harness.post(CHAT, chatBody())).status, 200)
      const metrics = await (await fetch(`${harness.url}/metrics`)).text()
      assert.match(metrics, /vllm:admission_rejections_total\{[^}]*\} 3/)
    }))

  test('what fills up while a body comes in is refused by the engine, and counted', () =>
    withHarness(slow, async (harness) => {
      const { isFull, submit } = harness.engine
      let asked = 0
      // Room before the body is read, none afterwards.
      Object.assign(harness.engine, {
        isFull: () => asked++ > 0 && isFull(),
        submit: (...[request, onDelta]: Parameters<typeof submit>) => {
          if (request.admitted !== true) for (const _ of [1, 2]) submit(request, () => {})
          return submit(request, onDelta)
        },
      })
      const refused = await harness.post('/v1/completions', { model: 'tiny-reasoner', prompt: 'a' })
      assert.equal(refused.status, 429)
      assert.ok(Number(refused.headers.get('retry-after')) >= 1)
      assert.equal(harness.model.pace.inFlight(), 0)
      const metrics = await (await fetch(`${harness.url}/metrics`)).text()
      assert.match(metrics, /vllm:admission_rejections_total\{[^}]*\} 1/)
    }))

  test('what comes of a prompt is nothing where the engine refuses the next', () =>
    withHarness(slow, async (harness) => {
      const { submit } = harness.engine
      Object.assign(harness.engine, {
        submit: (...[request, onDelta]: Parameters<typeof submit>) => {
          if (harness.engine.requests.length === 1)
            throw new EngineFailure({ code: 'unavailable', message: 'the engine has failed' })
          return submit(request, onDelta)
        },
      })
      const body = { model: 'tiny-reasoner', prompt: ['a', 'b'] }
      assert.equal((await harness.post('/v1/completions', body)).status, 503)
      assert.equal(harness.model.pace.inFlight(), 0)
      Object.assign(harness.engine, { submit })
      // In the steps of this one the first prompt ends.
      assert.equal((await harness.post(CHAT, chatBody())).status, 200)
      assert.equal(harness.engine.stats().aborted, 1)
    }))

  test('waiting requests hold their place; 64 at once are all answered', () =>
    withHarness({ ...slow, maxNumSeqs: 4, maxWaiting: 60, stepMs: 1 }, async (harness) => {
      const answers = await Promise.all(
        Array.from({ length: 64 }, () => harness.post(CHAT, chatBody())),
      )
      assert.ok(answers.every((answer) => answer.status === 200))
      assert.equal(harness.model.pace.inFlight(), 0)
    }))
})

describe('health', () => {
  test('says which phase, and 503 unless ready', async () => {
    let phase: 'loading' | 'ready' | 'draining' = 'loading'
    await withHarness(
      { phase: () => (phase === 'loading' ? { name: phase, detail: 'weights' } : { name: phase }) },
      async (harness) => {
        const health = (path: string) => fetch(`${harness.url}${path}`)
        for (const path of ['/health', '/v1/health/ready']) {
          const loading = await health(path)
          assert.equal(loading.status, 503)
          assert.equal((await readAnswer(loading)).phase, 'loading')
        }
        assert.equal((await health('/v1/health/live')).status, 200)
        const early = await harness.post(CHAT, chatBody())
        assert.equal(early.status, 503)
        assert.ok(Number(early.headers.get('retry-after')) > 0)
        assert.equal((await readAnswer(early)).error.code, 'loading')

        phase = 'ready'
        assert.equal((await health('/health')).status, 200)
        harness.engine.override.lastStepAge = 100
        const stalled = await health('/health')
        assert.equal(stalled.status, 503)
        assert.equal((await readAnswer(stalled)).phase, 'stalled')
        delete harness.engine.override.lastStepAge
        harness.engine.override.failure = 'device lost'
        assert.equal((await health('/v1/health/ready')).status, 503)
        delete harness.engine.override.failure

        phase = 'draining'
        assert.equal((await health('/health')).status, 503)
        const late = await harness.post(CHAT, chatBody())
        assert.equal(late.status, 503)
        assert.equal((await readAnswer(late)).error.code, 'draining')
        assert.equal((await health('/v1/models')).status, 200)
      },
    )
  })
})
