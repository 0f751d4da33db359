import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Phase } from '../../server/api/admission.js'
import { chatBody, startHarness, until } from './harness.js'

const DEBUG = 20
const INFO = 30
const WARN = 40

test('probes and scrapes that go well are debug lines', async () => {
  const harness = await startHarness()
  const { lines } = harness
  try {
    const paths = ['/health', '/v1/health/live', '/metrics', '/version']
    for (const path of paths) await (await fetch(`${harness.url}${path}`)).arrayBuffer()
    await until(() => lines.length === paths.length, 'four lines')
    assert.deepEqual(
      lines.map(({ path, level }) => [path, level]),
      [
        ['/health', DEBUG],
        ['/v1/health/live', DEBUG],
        ['/metrics', DEBUG],
        ['/version', INFO],
      ],
    )
  } finally {
    await harness.close()
  }
})

test('a probe that finds the server loading is a debug line, a stalled or failed one a warning', async () => {
  let phase: Phase = { name: 'loading', detail: 'weights' }
  const harness = await startHarness({ phase: () => phase })
  const { lines } = harness
  try {
    const probe = async () => {
      const before = lines.length
      await (await fetch(`${harness.url}/health`)).arrayBuffer()
      await until(() => lines.length > before, 'its line')
      const { level, status, error } = lines.at(-1) ?? {}
      return { level, status, error }
    }
    assert.deepEqual(await probe(), { level: DEBUG, status: 503, error: 'loading' })
    phase = { name: 'draining' }
    assert.deepEqual(await probe(), { level: DEBUG, status: 503, error: 'draining' })
    phase = { name: 'failed', detail: 'no memory' }
    assert.deepEqual(await probe(), { level: WARN, status: 503, error: 'failed' })
    phase = { name: 'ready' }
    harness.engine.override.lastStepAge = 1000
    assert.deepEqual(await probe(), { level: WARN, status: 503, error: 'stalled' })
  } finally {
    await harness.close()
  }
})

test('a storm of refusals is a line a second, which says how many there were', async () => {
  const answer = () => ({ pieces: ['late'], delaySteps: 1_000_000 })
  const harness = await startHarness({ answer, maxNumSeqs: 1, maxWaiting: 0 })
  const { lines } = harness
  const gone = new AbortController()
  try {
    const body = JSON.stringify(chatBody())
    const url = `${harness.url}/v1/chat/completions`
    const running = fetch(url, { method: 'POST', body, signal: gone.signal })
    running.catch(() => {})
    await until(() => harness.engine.requests.length === 1, 'the running request')
    for (let i = 0; i < 40; i++) {
      const response = await harness.post('/v1/chat/completions', body)
      assert.equal(response.status, 429)
      await response.arrayBuffer()
    }
    const refusals = () => lines.filter(({ status }) => status === 429)
    const told = () => refusals().reduce((sum, { refused = 1 }) => sum + Number(refused), 0)
    await until(() => told() === 40, 'all 40 are told')
    assert.ok(refusals().length < 10, `${refusals().length} lines`)
  } finally {
    gone.abort()
    await harness.close()
  }
})

test('a request that its client left is counted under its route', async () => {
  const answer = () => ({ pieces: ['late'], delaySteps: 1_000_000 })
  const harness = await startHarness({ answer })
  const gone = new AbortController()
  try {
    const url = `${harness.url}/v1/chat/completions`
    const body = JSON.stringify(chatBody())
    const left = fetch(url, { method: 'POST', body, signal: gone.signal })
    await until(() => harness.engine.requests.length === 1, 'the running request')
    gone.abort()
    await assert.rejects(left)
    await until(() => harness.lines.length === 1, 'its line')
    const counted = (await harness.server.metrics.text())
      .split('\n')
      .filter((line) => line.startsWith('http_requests_total{'))
    assert.equal(counted.length, 1)
    assert.match(counted[0] ?? '', /handler="\/v1\/chat\/completions"/)
  } finally {
    await harness.close()
  }
})
