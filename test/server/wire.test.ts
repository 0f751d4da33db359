// HTTP below what a client library lets one say: raw sockets, methods, odd bodies.

import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { createConnection } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { pino } from 'pino'
import { routes } from '../../server/app.js'
import { listen } from '../../server/http/listen.js'
import { packagePath } from '../../server/version.js'
import { chatBody, type Harness, rawRequest, readAnswer, startHarness } from './harness.js'

const CHAT = '/v1/chat/completions'

describe('on the wire', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({ reward: { score: () => [1] } })
  })
  after(() => harness.close())

  const ask = (body: string, head: string, version = '1.1') =>
    `POST ${CHAT} HTTP/${version}\r\nhost: localhost\r\n${head}\r\n\r\n${body}`
  const withLength = (body: string, more = '') => ask(body, `content-length: ${body.length}${more}`)
  const body = JSON.stringify(chatBody({ max_tokens: 3 }))
  const streamed = JSON.stringify(chatBody({ max_tokens: 3, stream: true }))
  const close = '\r\nconnection: close'

  test('requests sent ahead are answered in their order', async () => {
    const version = `GET /version HTTP/1.1\r\nhost: localhost${close}\r\n\r\n`
    const text = await rawRequest(
      harness.port,
      withLength(body) + withLength(streamed) + withLength(body) + version,
    )
    assert.equal(text.match(/HTTP\/1\.1 200/g)?.length, 4)
    const kinds = [...text.matchAll(/"object":"(chat\.completion[^"]*)"|"version"/g)].map(
      ([all, object]) => object ?? all,
    )
    assert.equal(kinds[0], 'chat.completion')
    assert.equal(kinds[1], 'chat.completion.chunk')
    assert.deepEqual(kinds.slice(-2), ['chat.completion', '"version"'])
  })

  test('a body in chunks, and one that waits to be asked for', async () => {
    const half = body.length >> 1
    const chunk = (part: string) => `${part.length.toString(16)}\r\n${part}\r\n`
    const chunked = await rawRequest(
      harness.port,
      ask(chunk(body.slice(0, half)), `transfer-encoding: chunked${close}`),
      () => `${chunk(body.slice(half))}0\r\n\r\n`,
    )
    assert.match(chunked, /^HTTP\/1\.1 200/)
    const expecting = await rawRequest(
      harness.port,
      ask('', `content-length: ${body.length}\r\nexpect: 100-continue${close}`),
      () => body,
    )
    assert.match(expecting, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200/)
  })

  test('HTTP/1.0 gets its stream without chunks, and the end of the connection', async () => {
    const text = await rawRequest(
      harness.port,
      ask(streamed, `content-length: ${streamed.length}`, '1.0'),
    )
    const [head = '', ...rest] = text.split('\r\n\r\n')
    assert.doesNotMatch(head, /transfer-encoding/i)
    assert.match(rest.join('\r\n\r\n'), /^data: \{[\s\S]*data: \[DONE\]\n\n$/)
  })

  test('two lengths, or a header beyond measure, are refused in the error shape', async () => {
    for (const [bytes, status] of [
      [ask('0\r\n\r\n', 'content-length: 5\r\ntransfer-encoding: chunked'), 400],
      [`GET /version HTTP/1.1\r\nhost: localhost\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`, 431],
    ] as const) {
      const text = await rawRequest(harness.port, bytes)
      assert.match(text, new RegExp(`^HTTP/1\\.1 ${status}`))
      assert.equal(JSON.parse(text.split('\r\n\r\n')[1] ?? '').error.type, 'invalid_request_error')
    }
  })

  test('a client that closes its sending side has left', async () => {
    const before = harness.engine.stats().aborted
    const long = JSON.stringify(chatBody({ messages: [{ role: 'user', content: 'x'.repeat(20) }] }))
    await new Promise<void>((done, fail) => {
      const socket = createConnection(harness.port, '127.0.0.1', () => socket.end(withLength(long)))
      socket.on('data', () => fail(new Error('an answer to nobody')))
      socket.on('close', () => done())
    })
    for (let i = 0; i < 100 && harness.engine.stats().aborted === before; i++)
      await new Promise((done) => setTimeout(done, 5))
    assert.ok(harness.engine.stats().running === 0)
  })

  test('every route says which methods it has', async () => {
    const [asset = ''] = readdirSync(packagePath('dist/web/assets'))
    const all = routes(harness.server)
    for (const pattern of new Set(all.map((route) => route.path))) {
      const has: string[] = all.filter((one) => one.path === pattern).map((one) => one.method)
      if (has.includes('GET')) has.push('HEAD')
      const path = pattern.replace(/:id(\{.*\})?/, 'tiny-reasoner').replace(/:name\{.*\}/, asset)
      const others = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE']
      for (const other of others.filter((one) => !has.includes(one))) {
        const response = await fetch(`${harness.url}${path}`, { method: other })
        assert.equal(response.status, 405, `${other} ${path}`)
        const allow = response.headers.get('allow')?.split(', ') ?? []
        assert.deepEqual(allow.toSorted(), [...has, 'OPTIONS'].toSorted(), `${other} ${path}`)
        const text = await response.text()
        if (other !== 'HEAD') assert.equal(JSON.parse(text).error.type, 'invalid_request_error')
      }
      const options = await fetch(`${harness.url}${path}`, { method: 'OPTIONS' })
      assert.equal(options.status, 204)
      // Without --data-dir nothing is kept.
      if (!has.includes('GET') || /^\/v1\/(files|batches)\b/.test(path)) continue
      const head = await fetch(`${harness.url}${path}`, { method: 'HEAD' })
      assert.equal(head.status, 200, `HEAD ${path}`)
      assert.equal(await head.text(), '')
    }
  })

  test('odd JSON is read as JSON says, or refused', async () => {
    const chat = (rest: string) =>
      harness.post(
        CHAT,
        `{"model":"tiny-reasoner","messages":[{"role":"user","content":"Hi"}]${rest}}`,
      )
    const twice = await readAnswer(await chat(',"max_tokens":9,"max_tokens":2'))
    assert.equal(twice.usage.completion_tokens, 2)
    for (const number of ['1e400', '99999999999999999999', '-0.5', '1e-5', '"3"', 'true']) {
      const response = await chat(`,"max_tokens":${number}`)
      assert.equal(response.status, 400, number)
      assert.equal((await readAnswer(response)).error.param, 'max_tokens')
    }
    assert.equal((await chat(',"max_tokens":1e0')).status, 200)
    assert.equal((await chat(',"max_tokens":2,"__proto__":{"n":5}')).status, 200)
    const surrogate = await harness.post(
      CHAT,
      '{"model":"tiny-reasoner","messages":[{"role":"user","content":"a\\ud800b"}],"max_tokens":2}',
    )
    assert.equal(surrogate.status, 400)
    assert.match((await readAnswer(surrogate)).error.message, /surrogate/)
  })
})

/** Connects `count` times to `port`, says so in `connected`, and posts what came back on each. */
const CLIENTS = `
  const { workerData: { port, count, connected }, parentPort } = require('node:worker_threads')
  const { createConnection } = require('node:net')
  let open = 0
  const ask = () => new Promise((resolve) => {
    let text = ''
    const socket = createConnection(port, '127.0.0.1', () => {
      socket.write('GET / HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n')
      open += 1
      if (open < count) return
      Atomics.store(connected, 0, 1)
      Atomics.notify(connected, 0)
    })
    socket.on('data', (data) => { text += data })
    socket.on('error', (error) => resolve(error.code))
    socket.on('end', () => resolve(text.slice(0, 12)))
  })
  Promise.all(Array.from({ length: count }, ask)).then((all) => parentPort.postMessage(all))
`

test('who had connected before the socket closes is answered', async () => {
  const listening = await listen({
    ...{ fetch: () => new Response('here'), log: pino({ level: 'silent' }) },
    ...{ host: '127.0.0.1', port: 0, writeIdle: 5000, bodyTime: 5000 },
  })
  const connected = new Int32Array(new SharedArrayBuffer(4))
  const clients = new Worker(CLIENTS, {
    eval: true,
    workerData: { port: listening.port, count: 40, connected },
  })
  const answers = new Promise((resolve) => clients.once('message', resolve))
  // Nobody is accepted meanwhile: the thread that would is this one.
  assert.equal(Atomics.wait(connected, 0, 0, 20_000), 'ok')
  await listening.stop()
  assert.deepEqual(await answers, Array(40).fill('HTTP/1.1 200'))
  await clients.terminate()
})
