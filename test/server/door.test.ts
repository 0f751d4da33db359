// Who may come in: foreign names, foreign pages, callers with keys of their own.

import assert from 'node:assert/strict'
import { request } from 'node:http'
import { describe, test } from 'node:test'
import { ConfigError, readSettings } from '../../server/settings/read.js'
import { type Harness, type HarnessOptions, rawRequest, startHarness } from './harness.js'

const LOOPBACK = { config: { allowedOrigins: ['loopback'] } }

const withHarness = async (options: HarnessOptions, act: (harness: Harness) => Promise<void>) => {
  const harness = await startHarness(options)
  try {
    await act(harness)
  } finally {
    await harness.close()
  }
}

type Headers = Readonly<Record<string, string>>

/** fetch() sets Host and Origin as it likes. */
const send = ({ port }: Harness, path: string, headers: Headers, body?: string) =>
  new Promise<{ status: number; code: string | null; allowed: string | undefined }>(
    (resolve, reject) => {
      const method = body === undefined ? 'GET' : 'POST'
      const sent = request({ host: '127.0.0.1', port, path, method, headers }, (response) => {
        let text = ''
        response.setEncoding('utf8').on('data', (chunk) => {
          text += chunk
        })
        response.on('end', () => {
          const status = response.statusCode ?? 0
          const allowed = response.headers['access-control-allow-origin']
          const code = status >= 400 ? JSON.parse(text).error.code : null
          resolve({ status, code, allowed })
        })
      })
      sent.on('error', reject)
      sent.end(body)
    },
  )

const CHAT = '/v1/chat/completions'
const body = JSON.stringify({ model: 'tiny-reasoner', messages: [{ role: 'user', content: 'Hi' }] })
const json = { 'content-type': 'application/json' }

describe('on the loopback interface', () => {
  test('a foreign Host is refused on every route', () =>
    withHarness(LOOPBACK, async (harness) => {
      for (const path of ['/v1/models', '/metrics', '/health', '/', '/nowhere']) {
        const foreign = await send(harness, path, { host: 'evil.example' })
        assert.equal(foreign.status, 403, path)
        assert.equal(foreign.code, 'host_not_allowed', path)
      }
      assert.equal((await send(harness, CHAT, { ...json, host: 'evil.example' }, body)).status, 403)
    }))

  test('its own names are its own', () =>
    withHarness(LOOPBACK, async (harness) => {
      for (const host of [
        'localhost',
        'localhost:8000',
        'localhost.:8000',
        'LocalHost',
        'an_upstream',
        '127.0.0.1',
        '127.9.9.9:1',
        '[::1]:80',
        '127.1:8000',
        '2130706433',
        '[::ffff:127.0.0.1]',
        '[::ffff:127.0.0.1]:8000',
        '[::FFFF:7f00:1]:80',
        '[0:0:0:0:0:0:0:1]:8000',
      ])
        assert.equal((await send(harness, '/v1/models', { host })).status, 200, host)
      for (const host of [
        '127.0.0.1.evil.example',
        'localhost.evil.example',
        '[::2]',
        '127.0.0.1x',
        '128.1',
        '[::ffff:128.0.0.1]',
      ])
        assert.equal((await send(harness, '/v1/models', { host })).status, 403, host)
    }))

  test('a name can be allowed, or all of them', async () => {
    for (const allowedHosts of [['proxy.example'], ['*']])
      await withHarness({ config: { ...LOOPBACK.config, allowedHosts } }, async (harness) => {
        const named = await send(harness, '/v1/models', { host: 'Proxy.Example:443' })
        assert.equal(named.status, 200)
        const other = await send(harness, '/v1/models', { host: 'other.example' })
        assert.equal(other.status, allowedHosts.includes('*') ? 200 : 403)
      })
  })

  test('elsewhere any Host is served', () =>
    withHarness({ config: { ...LOOPBACK.config, host: '0.0.0.0' } }, async (harness) => {
      assert.equal((await send(harness, '/v1/models', { host: 'any.example' })).status, 200)
    }))
})

describe('pages', () => {
  test('of other sites may not call, nor read', () =>
    withHarness(LOOPBACK, async (harness) => {
      for (const origin of ['https://evil.example', 'null', 'http://localhost.evil.example']) {
        const asked = await send(harness, CHAT, { ...json, origin }, body)
        assert.deepEqual(asked, { status: 403, code: 'origin_not_allowed', allowed: undefined })
        assert.equal((await send(harness, '/metrics', { origin })).status, 403, origin)
      }
      assert.equal(harness.engine.requests.length, 0)
    }))

  test("of this machine may, and so may the server's own", () =>
    withHarness({ config: { ...LOOPBACK.config, host: '0.0.0.0' } }, async (harness) => {
      for (const origin of ['http://localhost:5173', 'http://127.0.0.1', 'https://[::1]:3000']) {
        const { status, allowed } = await send(harness, CHAT, { ...json, origin }, body)
        assert.deepEqual([status, allowed], [200, origin])
      }
      const own = { host: '10.0.0.5:8000', origin: 'http://10.0.0.5:8000' }
      assert.equal((await send(harness, CHAT, { ...json, ...own }, body)).status, 200)
    }))

  test('say that they send JSON', () =>
    withHarness(LOOPBACK, async (harness) => {
      const origin = 'http://localhost:5173'
      for (const type of [{}, { 'content-type': 'text/plain' }])
        assert.equal((await send(harness, CHAT, { ...type, origin }, body)).status, 415)
      // Programs need not.
      for (const type of [{}, { 'content-type': 'text/plain' }])
        assert.equal((await send(harness, CHAT, type, body)).status, 200)
    }))

  test('of every site may where the operator says so', () =>
    withHarness({}, async (harness) => {
      const origin = 'https://any.example'
      const { status, allowed } = await send(harness, CHAT, { ...json, origin }, body)
      assert.deepEqual([status, allowed], [200, '*'])
    }))
})

describe('keys', () => {
  const salts = async (apiKeys: readonly string[], given: readonly [string, object][]) => {
    const found: (string | undefined)[] = []
    await withHarness({ config: { apiKeys }, reward: { score: () => [1] } }, async (harness) => {
      for (const [key, more] of given) {
        const text = JSON.stringify({ ...JSON.parse(body), ...more })
        const headers = { ...json, authorization: `Bearer ${key}` }
        assert.equal((await send(harness, CHAT, headers, text)).status, 200)
      }
      found.push(...harness.engine.requests.map(({ cacheSalt }) => cacheSalt))
    })
    return found
  }

  test('callers with keys of their own share no cached prefix', async () => {
    const [a, b, again, salted, other] = await salts(
      ['one', 'two'],
      [
        ['one', {}],
        ['two', {}],
        ['one', {}],
        ['one', { cache_salt: 's' }],
        ['two', { cache_salt: 's' }],
      ],
    )
    assert.ok(a !== undefined && b !== undefined)
    assert.equal(again, a)
    assert.equal(new Set([a, b, salted, other]).size, 4)
    assert.doesNotMatch(String(a), /one/)
  })

  test('one key is one caller', async () => {
    assert.deepEqual(await salts(['one'], [['one', {}]]), [undefined])
  })

  test('an empty key is refused, not ignored', () => {
    const message = /NEMOTRON_API_KEY is set and empty/
    assert.throws(() => readSettings({}, { NEMOTRON_API_KEY: '' }), message)
    assert.throws(() => readSettings({ api_key: [''] }, {}), ConfigError)
    assert.throws(() => readSettings({}, { NEMOTRON_API_KEY: 'a,,b' }), ConfigError)
  })
})

describe('what is not understood', () => {
  test('an unknown Expect is a 417 with an error object', () =>
    withHarness({}, async ({ port }) => {
      const text = await rawRequest(
        port,
        `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\nexpect: miracles\r\ncontent-length: 2\r\n\r\n{}`,
      )
      assert.match(text, /^HTTP\/1\.1 417 /)
      assert.match(text, /"error":\{"message":"The only 'Expect'/)
    }))

  test('a body whose framing breaks ends the connection, and nothing runs', () =>
    withHarness({}, async ({ port, engine }) => {
      const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`
      for (const broken of [
        `${head}transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n`,
        `${head}content-length: 5\r\ncontent-length: 6\r\n\r\n{}`,
        `${head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
      ])
        assert.match(await rawRequest(port, broken), /^$|^HTTP\/1\.1 400 [\s\S]*"error"/)
      assert.equal(engine.requests.length, 0)
    }))
})
