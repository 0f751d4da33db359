// A storm of refusals: their pace, what a connection gets, and that the work goes on.

import assert from 'node:assert/strict'
import { Agent, type IncomingMessage, request } from 'node:http'
import { connect } from 'node:net'
import { describe, test } from 'node:test'
import { createRefusalPace, EARLY, FAIR } from '../../server/http/refusals.js'
import { badRequest, RequestError } from '../../server/request-error.js'
import { chatBody, type Harness, rawRequest, startHarness, until } from './harness.js'

const CHAT = '/v1/chat/completions'

describe('the pace of refusals', () => {
  for (const [who, pace] of [
    ['who came back early', EARLY],
    ['all others', FAIR],
  ] as const) {
    const { rate, maxWaitMs } = pace
    test(`${who}: a burst at once, then ${rate} a second, after ${maxWaitMs} ms at most`, () => {
      let time = 5000
      const wait = createRefusalPace(pace, () => time)
      const first = Array.from({ length: 100 }, wait)
      assert.ok(first.every((ms) => ms < 1e-6))
      const next = Array.from({ length: Math.floor((rate * maxWaitMs) / 1000) }, wait)
      for (const [i, ms] of next.entries()) assert.ok(Math.abs(ms - ((i + 1) * 1000) / rate) < 1e-6)
      const many = Array.from({ length: 10_000 }, wait)
      assert.ok(Math.abs(Math.max(...many) - maxWaitMs) < 1e-6)
      // What came in the flood is not held against those that come later.
      time += maxWaitMs
      assert.ok(wait() < 1000 / rate + 1e-6)
      time += 10_000
      assert.ok(Array.from({ length: 100 }, wait).every((ms) => ms < 1e-6))
    })

    test(`${who}: ${rate} a second, evenly, never wait`, () => {
      let time = 0
      const wait = createRefusalPace(pace, () => time)
      for (let i = 0; i < 1000; i++) {
        time += 1000 / rate
        assert.ok(wait() < 1e-6)
      }
    })
  }
})

test('a refusal walks no stack, what is wrong with a request does', () => {
  const lines = (error: Error) => (error.stack ?? '').split('\n').length
  assert.equal(lines(new RequestError('Full.', { kind: 'busy' })), 1)
  assert.ok(lines(badRequest('Wrong.')) > 3)
})

/** One place, taken until `free` is called. */
const withFullServer = async (
  run: (harness: Harness, free: () => Promise<void>) => Promise<void>,
): Promise<void> => {
  const answer = (prompt: string) =>
    prompt.includes('stay')
      ? { pieces: ['late'], delaySteps: 1_000_000 }
      : { pieces: ['here'], delaySteps: 0 }
  const harness = await startHarness({ answer, maxNumSeqs: 1, maxWaiting: 0 })
  const gone = new AbortController()
  const body = JSON.stringify(chatBody({ messages: [{ role: 'user', content: 'stay' }] }))
  const running = fetch(`${harness.url}${CHAT}`, { method: 'POST', body, signal: gone.signal })
  running.catch(() => {})
  const free = async () => {
    gone.abort()
    await until(() => !harness.engine.isFull(), 'the place is free')
  }
  try {
    await until(() => harness.engine.isFull(), 'the place is taken')
    await run(harness, free)
  } finally {
    gone.abort()
    await harness.close()
  }
}

const ask = (harness: Harness, agent: Agent): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    const options = { method: 'POST', agent }
    const outgoing = request(`${harness.url}${CHAT}`, options, (incoming) => {
      incoming.resume()
      incoming.on('end', () => resolve(incoming))
    })
    outgoing.on('error', reject)
    outgoing.end(JSON.stringify(chatBody()))
  })

describe('clients that ignore Retry-After', () => {
  test('are refused slower than they ask, all of them, and the server stays healthy', () =>
    withFullServer(async (harness) => {
      const agent = new Agent({ keepAlive: true })
      const start = performance.now()
      let refused = 0
      const client = async () => {
        while (performance.now() - start < 1000) {
          const { statusCode, headers } = await ask(harness, agent)
          assert.equal(statusCode, 429)
          assert.ok(Number(headers['retry-after']) >= 1)
          refused++
        }
      }
      const clients = Array.from({ length: 64 }, client)
      const health = await fetch(`${harness.url}/health`)
      assert.equal(health.status, 200)
      await Promise.all(clients)
      const seconds = (performance.now() - start) / 1000
      // The bursts, the rate, and the last wait of each, which the limit of a wait may have cut short.
      const most = 2 * 100 + EARLY.rate * seconds + 64 * Math.ceil(seconds)
      assert.ok(refused <= most, `${refused} refusals in ${seconds} s`)
      assert.ok(refused >= 64)
      const metrics = await harness.server.metrics.text()
      assert.match(metrics, new RegExp(`admission_rejections_total\\{.*\\} ${refused}\n`))
      agent.destroy()
    }))

  test('lose a connection after eight refusals in a row; an answer between them counts anew', () =>
    withFullServer(async (harness, free) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 })
      const kept = async () => (await ask(harness, agent)).headers.connection !== 'close'
      for (let i = 0; i < 2; i++) {
        const refusals = []
        for (let j = 0; j < 8; j++) refusals.push(await kept())
        assert.deepEqual(refusals, [...Array(7).fill(true), false])
      }
      for (let i = 0; i < 7; i++) assert.ok(await kept())
      await free()
      assert.equal((await ask(harness, agent)).statusCode, 200)
      agent.destroy()
    }))

  test('who leave before they hear are told in the same line a second', () =>
    withFullServer(async ({ port, lines }) => {
      const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n`
      const leave = () =>
        new Promise<void>((resolve) => {
          const socket = connect(port, '127.0.0.1', () => {
            socket.write(head)
            socket.once('data', () => socket.destroy())
            setTimeout(() => socket.destroy(), 50)
          })
          socket.once('close', () => resolve())
        })
      // The first hundred hear at once, the others leave while their refusal waits.
      await Promise.all(Array.from({ length: 400 }, leave))
      const refusals = () => lines.filter(({ error }) => error === 'rate_limit_exceeded')
      const told = () => refusals().reduce((sum, { refused = 1 }) => sum + Number(refused), 0)
      await until(() => told() === 400, 'all 400 are told')
      assert.ok(refusals().length < 10, `${refusals().length} lines`)
    }))

  test('are refused before their body has come', () =>
    withFullServer(async ({ port }) => {
      const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n`
      assert.match(await rawRequest(port, head), /^HTTP\/1\.1 429 /)
    }))
})
