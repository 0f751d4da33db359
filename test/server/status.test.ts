// What the server tells of itself: GET /v1/server, its stream of events, and the page's files.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import type { Phase } from '../../server/api/admission.js'
import { packagePath } from '../../server/version.js'
import { chatBody, type Harness, rawRequest, readAnswer, startHarness, until } from './harness.js'

/** The events of a stream, one by one. */
async function* eventsOf(response: Response) {
  let rest = ''
  for await (const bytes of response.body ?? []) {
    rest += Buffer.from(bytes).toString()
    const blocks = rest.split('\n\n')
    rest = blocks.pop() ?? ''
    for (const block of blocks)
      if (block.startsWith('data: ')) yield JSON.parse(block.slice('data: '.length))
  }
}

describe('what the server is', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({ reward: { score: () => [1] }, config: { apiKeys: ['secret'] } })
  })
  after(() => harness.close())
  const authorization = { authorization: 'Bearer secret' }

  test('a card for each model, with its plan of memory', async () => {
    const response = await fetch(`${harness.url}/v1/server`, { headers: authorization })
    const { object, version, models } = await readAnswer(response)
    assert.equal(object, 'server')
    assert.equal(version, harness.server.version)
    const [chat, reward] = models
    assert.deepEqual([chat.id, chat.kind], ['tiny-reasoner', 'chat'])
    assert.deepEqual([chat.weight_version, chat.weights_from], [null, harness.engine.info.model])
    assert.deepEqual([reward.id, reward.kind], ['tiny-reward', 'reward'])
    const { plan } = harness.engine.info
    assert.equal(chat.memory.weights, plan.weights)
    assert.equal(chat.memory.kv_tokens, plan.kvTokens)
    assert.equal(chat.memory.kv_blocks * chat.memory.block_size, 1024)
    assert.equal(chat.reasoning.default_thinking, false)
    assert.equal(chat.reasoning.switch, 'detailed_thinking')
    assert.equal(reward.reasoning, null, 'it writes nothing')
    assert.deepEqual(reward.reward_outputs, ['reward'])
  })

  test('both routes need the key, the page and its files do not', async () => {
    for (const path of ['/v1/server', '/v1/server/events'])
      assert.equal((await fetch(`${harness.url}${path}`)).status, 401, path)
    const page = await fetch(`${harness.url}/`)
    assert.equal(page.status, 200)
    const policy = page.headers.get('content-security-policy') ?? ''
    assert.match(policy, /default-src 'none'/)
    assert.doesNotMatch(policy, /unsafe|\*|http/)
    const html = await page.text()
    const assets = [...html.matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)].map(([, path]) => path)
    assert.equal(assets.length, 2)
    for (const path of assets) {
      const file = await fetch(`${harness.url}${path}`)
      assert.equal(file.status, 200, path)
      assert.match(file.headers.get('cache-control') ?? '', /immutable/)
    }
  })

  test('a file comes packed for those who take it so, and is the same', async () => {
    const html = await (await fetch(`${harness.url}/`)).text()
    const path = /src="(\/assets\/[^"]+)"/.exec(html)?.[1] ?? ''
    const ask = async (encoding: string) =>
      rawRequest(
        harness.port,
        `GET ${path} HTTP/1.0\r\nhost: localhost\r\naccept-encoding: ${encoding}\r\n\r\n`,
      )
    assert.match(await ask('gzip, br'), /content-encoding: gzip/i)
    for (const encoding of ['br', 'gzip;q=0'])
      assert.doesNotMatch(await ask(encoding), /content-encoding/i)
    const folder = packagePath('dist/web/assets')
    for (const name of readdirSync(folder).filter((one) => !one.endsWith('.gz')))
      assert.deepEqual(
        gunzipSync(readFileSync(`${folder}/${name}.gz`)),
        readFileSync(`${folder}/${name}`),
      )
  })

  test('a file that is not there is a 404, whatever its name', async () => {
    for (const name of ['main.js', '..%2findex.html', 'main.js.gz', '__proto__']) {
      const response = await fetch(`${harness.url}/assets/${name}`)
      assert.equal(response.status, 404, name)
      await response.arrayBuffer()
    }
  })
})

describe('the stream of events', () => {
  test('counts what was done, and a reader that leaves ends it', async () => {
    const harness = await startHarness()
    try {
      const controller = new AbortController()
      const response = await fetch(`${harness.url}/v1/server/events`, { signal: controller.signal })
      assert.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8')
      const events = eventsOf(response)
      const first = (await events.next()).value
      assert.equal(first.phase, 'ready')
      assert.equal(first.models[0].id, 'tiny-reasoner')
      assert.equal(first.models[0].time_to_first_token_seconds.count, 0)
      await (await harness.post('/v1/chat/completions', chatBody({ stream: true }))).text()
      const second = (await events.next()).value
      const [before, now] = [first.models[0], second.models[0]]
      assert.ok(second.time > first.time)
      const written = now.generation_tokens - before.generation_tokens
      assert.ok(written > 1)
      assert.equal(now.time_to_first_token_seconds.count, 1)
      assert.ok(now.time_to_first_token_seconds.sum > 0)
      assert.equal(now.inter_token_latency_seconds.count, written - 1)
      controller.abort()
      await until(
        () => harness.lines.some(({ path }) => path === '/v1/server/events'),
        'the stream ended',
      )
    } finally {
      await harness.close()
    }
  })

  test('tells of loading, and ends when the server leaves', async () => {
    let phase: Phase = { name: 'loading', detail: 'weights' }
    const harness = await startHarness({ phase: () => phase })
    try {
      const events = eventsOf(await fetch(`${harness.url}/v1/server/events`))
      const first = (await events.next()).value
      assert.deepEqual([first.phase, first.message], ['loading', 'weights'])
      phase = { name: 'ready' }
      assert.equal((await events.next()).value.phase, 'ready')
      phase = { name: 'leaving' }
      assert.equal((await events.next()).value.phase, 'leaving')
      assert.equal((await events.next()).done, true)
    } finally {
      await harness.close()
    }
  })

  test('HEAD is a head alone', async () => {
    const harness = await startHarness()
    try {
      const answer = await rawRequest(
        harness.port,
        'HEAD /v1/server/events HTTP/1.1\r\nhost: localhost\r\n\r\n',
      )
      assert.match(answer, /^HTTP\/1\.1 200 /)
      assert.ok(answer.endsWith('\r\n\r\n'), answer)
      assert.ok(!answer.includes('data:'))
    } finally {
      await harness.close()
    }
  })
})
