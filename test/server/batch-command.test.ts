// `nemotron-server batch` against a server over a scripted engine.

import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text as textOf } from 'node:stream/consumers'
import { after, before, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { runHere, startCommand } from './command.js'
import { type Harness, startHarness } from './harness.js'

const run = (args: readonly string[]) => runHere(['batch', ...args])

const chat = (id: string, body: object = {}, more: object = {}): string =>
  JSON.stringify({
    custom_id: id,
    method: 'POST',
    url: '/v1/chat/completions',
    body: { model: 'tiny-reasoner', messages: [{ role: 'user', content: id }], ...body },
    ...more,
  })

const read = (path: string) =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter((one) => one !== '')
    .map((one) => JSON.parse(one))

/** A server that answers what it is told to. */
const startTelling = async (
  answer: (body: string) => readonly [status: number, text: string],
): Promise<{ readonly url: string; readonly close: () => Promise<void> }> => {
  const server = createServer(async (request, response) => {
    const [status, told] = answer(await textOf(request))
    response.writeHead(status).end(told)
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    close: async () => {
      server.closeAllConnections()
      await new Promise((done) => server.close(done))
    },
  }
}

describe('batch', () => {
  let server: Harness
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-batch-'))
  before(async () => {
    server = await startHarness({
      ...{ stepMs: 5, maxNumSeqs: 4, reward: { score: () => [1] } },
      config: { reloadFrom: folder },
    })
  })
  after(() => server.close())
  const url = () => ['--url', `${server.url}/v1`]

  it('answers lines of any route, and tells of each bad one what is wrong', async () => {
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')]
    const reward = {
      model: 'tiny-reward',
      messages: [{ role: 'user', content: 'a' }],
      responses: ['b'],
    }
    const lines = [
      chat('good'),
      chat('score', {}, { url: '/v1/reward', body: reward }),
      chat('generative', {}, { url: '/pooling', body: { model: 'tiny-reward', input: 'a' } }),
      'no JSON',
      chat('good', { temperature: 0 }),
      chat('streams', { stream: true }),
      chat('field', { temperature: 'hot' }),
      chat('route', {}, { url: '/v1/nowhere' }),
    ]
    writeFileSync(input, lines.join('\n'))
    const { code, text } = await run([input, '-o', output, ...url()])
    assert.equal(code, 0, text)
    assert.match(
      text,
      /8 lines: 3 completed, 5 failed\none of them: Line 5 has the custom_id 'good' of line 1/,
    )
    const told = read(output)
    assert.deepEqual(
      told.map((one) => [
        one.custom_id ?? null,
        one.response?.status_code ?? one.error.code ?? 'text',
      ]),
      [
        ['good', 200],
        ['score', 200],
        ['generative', 200],
        [null, 'text'],
        ['good', 'duplicate_custom_id'],
        ['streams', 'unsupported_value'],
        ['field', 400],
        ['route', 404],
      ],
    )
    assert.deepEqual(Object.keys(told[0]).sort(), ['custom_id', 'error', 'id', 'response'])
    assert.equal(told[6].response.body.error.param, 'temperature')
    const versions = told.slice(0, 3).map((one) => one.response.weight_version)
    assert.deepEqual(versions, ['default', 'default', 'default'])
    assert.ok(!('weight_version' in told[6].response))
  })

  it('goes on after a line that is too deep', async () => {
    const [input, output] = [join(folder, 'deep.jsonl'), join(folder, 'deep.out.jsonl')]
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
    const lines = [
      `{"custom_id":"a","method":${deep},"url":"/v1/completions","body":{}}`,
      `{"custom_id":"b","method":"POST","url":"/v1/completions","body":{"prompt":${deep}}}`,
      chat('good'),
    ]
    writeFileSync(input, lines.join('\n'))
    const { code, text } = await run([input, '-o', output, ...url()])
    assert.equal(code, 0, text)
    assert.match(text, /3 lines: 1 completed, 2 failed/)
    assert.deepEqual(
      read(output).map(({ error, response }) => error?.code ?? response.status_code),
      ['invalid_request', 400, 200],
    )
  })

  it('goes on after a kill, and asks nothing again', async () => {
    const [input, output] = [join(folder, 'many.jsonl'), join(folder, 'done.jsonl')]
    const ids = Array.from({ length: 200 }, (_, i) => `k${i}`)
    writeFileSync(input, ids.map((id) => chat(id)).join('\n'))
    const args = [input, '-o', output, '--concurrency', '2', ...url()]
    const first = startCommand(['batch', ...args])
    const state = () =>
      existsSync(`${output}.state`) ? JSON.parse(readFileSync(`${output}.state`, 'utf8')) : {}
    while ((state().lines ?? 0) < 5 && first.child.exitCode === null) await sleep(20)
    first.child.kill('SIGKILL')
    await first.ended
    const { lines, bytes } = state()
    assert.ok(lines < 200)
    const kept = readFileSync(output).subarray(0, bytes)
    const { code, text } = await run(args)
    assert.equal(code, 0, text)
    assert.match(text, new RegExp(`went on after ${lines} lines`))
    assert.match(text, /200 lines: 200 completed, 0 failed/)
    assert.deepEqual(
      read(output).map((one) => one.custom_id),
      ids,
    )
    assert.ok(readFileSync(output).subarray(0, bytes).equals(kept))
  })

  it('writes what a proxy says of one line, and what took too long', async () => {
    const [input, output] = [join(folder, 'proxied.jsonl'), join(folder, 'proxied.out.jsonl')]
    const page = '<html>Request Entity Too Large</html>'
    const late = { error: { message: 'took too long', code: 'request_timeout' } }
    const slow = { type: 'error', error: { type: 'timeout_error', message: 'took too long' } }
    const told: Readonly<Record<string, readonly [status: number, text: string]>> = {
      large: [413, page],
      late: [503, JSON.stringify(late)],
      slow: [503, JSON.stringify(slow)],
      gateway: [504, page],
      good: [200, '{}'],
    }
    const names = Object.keys(told)
    const asked: string[] = []
    const proxy = await startTelling((body) => {
      const name = JSON.parse(body).messages[0].content
      asked.push(name)
      return told[name] ?? [500, '']
    })
    try {
      writeFileSync(input, names.map((name) => chat(name)).join('\n'))
      const { code, text } = await run([input, '-o', output, '--url', proxy.url])
      assert.equal(code, 0, text)
      assert.match(text, /5 lines: 1 completed, 4 failed/)
      assert.deepEqual(
        read(output).map(({ response }) => [response.status_code, response.body]),
        [
          [413, page],
          [503, late],
          [503, slow],
          [504, page],
          [200, {}],
        ],
      )
      assert.deepEqual(asked.sort(), names.sort())
    } finally {
      await proxy.close()
    }
  })

  it('says of a line that is no request why, also of an earlier run', async () => {
    const [input, output] = [join(folder, 'broken.jsonl'), join(folder, 'broken.out.jsonl')]
    writeFileSync(input, ['no JSON', chat('good'), chat('odd')].join('\n'))
    let isBroken = true
    const odd = await startTelling((body) =>
      isBroken && JSON.parse(body).messages[0].content === 'odd' ? [401, '{}'] : [200, '{}'],
    )
    try {
      const args = [input, '-o', output, '--concurrency', '1', '--url', odd.url]
      const stopped = await run(args)
      assert.equal(stopped.code, 1, stopped.text)
      isBroken = false
      const { code, text } = await run(args)
      assert.equal(code, 0, text)
      assert.match(text, /went on after 2 lines/)
      assert.match(text, /3 lines: 2 completed, 1 failed\none of them: it must be one JSON object/)
    } finally {
      await odd.close()
    }
  })

  it('stops at what is at fault of all lines', async () => {
    const input = join(folder, 'one.jsonl')
    writeFileSync(input, chat('a'))
    const closed = ['--url', 'http://127.0.0.1:9/v1']
    const { code, text } = await run([input, '-o', join(folder, 'none.jsonl'), ...closed])
    assert.equal(code, 1)
    assert.match(text, /cannot be reached/)
    // A page of another server, at a wrong address.
    const other = await startTelling(() => [404, '<html>Not Found</html>'])
    try {
      const page = await run([input, '-o', join(folder, 'no.jsonl'), '--url', other.url])
      assert.equal(page.code, 1)
      assert.match(page.text, /chat\/completions: 404 Not Found/)
    } finally {
      await other.close()
    }
  })
})
