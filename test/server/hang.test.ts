// A device or a rank that never comes back: who waits is told, /health is red, the log says what was running,
// and a signal ends the process all the same. The device is test/faults/faulty_backend.cc.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { nodeArgs } from '../../bench/source.js'
import { packagePath } from '../../server/version.js'
import { writeOtherWeights } from './other-weights.js'

const children = new Set<ChildProcess>()
after(() => {
  for (const child of children) child.kill('SIGKILL')
})

const library = packagePath('build/Release/libfaulty_backend.so')
const skip = existsSync(library) ? false : 'the C++ tests are not built: npm test builds them'

/** `fault`: as NEMOTRON_FAULT has it. */
const serve = async (fault: string, ...args: readonly string[]) => {
  const model = packagePath('models/tiny/tiny-reasoner')
  const small = ['--port', '0', '--kv-cache-memory', '32MiB', '--threads', '2']
  const child = spawn(
    process.execPath,
    [...nodeArgs('server/cli.ts'), 'serve', '--model', model, ...small]
      .concat(['--device', 'cuda'])
      .concat(args),
    {
      env: { ...process.env, NEMOTRON_CUDA_LIBRARY: library, NEMOTRON_FAULT: fault },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  children.add(child)
  let out = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (chunk) => {
      out += chunk
    })
  const exit = new Promise<number | null>((resolve) => child.once('close', resolve))
  const url = async () => {
    for (let i = 0; i < 600 && child.exitCode === null; i++) {
      const found = /"url":"([^"]+)"/.exec(out)?.[1]
      if (found !== undefined) return found
      await new Promise((done) => setTimeout(done, 50))
    }
    child.kill('SIGKILL')
    throw new Error(`it did not start: ${out}`)
  }
  return { child, out: () => out, exit, url: await url() }
}

const ask = (url: string, more: object = {}, signal?: AbortSignal) =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: 'tiny-reasoner',
      max_tokens: 400,
      messages: [{ role: 'user', content: 'Hi' }],
      ...more,
    }),
    ...(signal && { signal }),
  })

/** Exit code, or 'still there' after twenty seconds. */
const terminated = async ({ child, exit }: Awaited<ReturnType<typeof serve>>) => {
  child.kill('SIGTERM')
  const late = new Promise<'still there'>((done) => setTimeout(done, 20_000, 'still there').unref())
  const ended = await Promise.race([exit, late])
  child.kill('SIGKILL')
  return ended
}

/** Of several requests at once, answers and streams: what each came to. */
const askAll = (url: string) =>
  Promise.all(
    Array.from({ length: 8 }, async (_, i) => {
      const began = performance.now()
      const response = await ask(url, { stream: i % 2 === 1, ignore_eos: true })
      return {
        status: response.status,
        text: await response.text(),
        took: performance.now() - began,
      }
    }),
  )

describe('a rank under load', { skip }, () => {
  for (const [kind, ranks, why] of [
    ['fail', 2, /rank 1 of 2, last at .*: a fault was injected/],
    ['fail', 4, /rank 1 of 4, last at .*: a fault was injected/],
    ['stall', 2, /rank 1 of 2, last at .*: did nothing for 8 s while rank 0 waited at/],
    ['hang', 4, /rank 1 of 4, last at .*: did nothing for 8 s while rank \d waited at/],
  ] as const)
    test(`of ${ranks}, kind ${kind}: each request fails by its name`, async () => {
      const server = await serve(
        `1 2000 ${kind}`,
        '--threads',
        String(ranks),
        '--tensor-parallel-size',
        String(ranks),
      )
      const answers = await askAll(server.url)
      for (const { status, text, took } of answers) {
        // A stream that has begun ends with an event.
        assert.ok(status === 503 || (status === 200 && /"error"/.test(text)), `${status} ${text}`)
        assert.match(text, why)
        assert.ok(took < 20_000, `${took} ms`)
      }
      assert.ok(answers.some(({ status }) => status === 200))
      const health = await fetch(`${server.url}/health`)
      assert.equal(health.status, 503)
      assert.match(await health.text(), /"phase":"failed"/)
      for (let i = 0; i < 60 && !server.out().includes('has failed'); i++)
        await new Promise((done) => setTimeout(done, 50))
      assert.match(server.out(), new RegExp(`"msg":"tiny-reasoner has failed: .*${why.source}`))
      const late = await ask(server.url)
      assert.equal(late.status, 503)
      assert.match(await late.text(), why)
      assert.equal(await terminated(server), 0)
    })
})

describe('what hangs', { skip }, () => {
  test('a rank: its requests fail within ten seconds, by the name of the rank and where it stood', async () => {
    const server = await serve('1 200 hang', '--tensor-parallel-size', '2')
    const since = performance.now()
    const answer = await ask(server.url)
    const took = performance.now() - since
    assert.equal(answer.status, 503)
    assert.match(await answer.text(), /rank 1 of 2, last at .*: did nothing for 8 s/)
    assert.ok(took < 15_000, `${took} ms`)
    const health = await fetch(`${server.url}/health`)
    assert.equal(health.status, 503)
    assert.match(await health.text(), /"phase":"failed".*rank 1 of 2/)
    assert.equal(await terminated(server), 0)
  })

  test('the only device: /health is red, the log says what was running, and a signal ends it', async () => {
    const server = await serve('0 200 hang', '--stall-timeout', '1')
    const leave = new AbortController()
    const asked = ask(server.url, {}, leave.signal).catch(() => undefined)
    for (let i = 0; i < 600 && !server.out().includes('no progress for'); i++)
      await new Promise((done) => setTimeout(done, 50))
    const line =
      server
        .out()
        .split('\n')
        .find((text) => text.includes('no progress for')) ?? '{}'
    const said = JSON.parse(line)
    assert.equal(said.model, 'tiny-reasoner')
    assert.equal(said.running, 1)
    assert.equal(said.step_sequences, 1)
    assert.match(said.requests[0].request_id, /^req_/)
    const health = await fetch(`${server.url}/health`)
    assert.equal(health.status, 503)
    assert.match(await health.text(), /"phase":"stalled"/)
    leave.abort()
    await asked
    assert.equal(await terminated(server), 1)
    assert.match(server.out(), /tiny-reasoner could not be closed: its device or a rank hangs/)
  })

  test('the only device, while the server goes: it ends soon after the stall timeout', async () => {
    const server = await serve('0 200 hang', '--stall-timeout', '5', '--drain-timeout', '1')
    const asked = ask(server.url).catch(() => undefined)
    await new Promise((done) => setTimeout(done, 300))
    assert.equal(await terminated(server), 1)
    assert.match(server.out(), /tiny-reasoner could not be closed: its device or a rank hangs/)
    await asked
  })

  test('the only device, in a load of other weights: a signal ends the server all the same', async () => {
    const root = mkdtempSync(join(tmpdir(), 'nemotron-weights-'))
    writeOtherWeights(packagePath('models/tiny/tiny-reasoner'), join(root, 'one'), 1)
    // Its first load takes over 40 calls, and fewer than 60.
    const server = await serve('0 60 hang', '--reload-from', root, '--stall-timeout', '1')
    const update = () =>
      fetch(`${server.url}/update_weights_from_disk`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ model_path: 'one' }),
      }).catch(() => undefined)
    // Of two at once one is refused, and then the other one has begun.
    const asked = [update(), update()]
    const first = await Promise.race(asked)
    assert.equal(first?.status, 503)
    assert.match((await first?.text()) ?? '', /Other weights are being loaded/)
    assert.equal(await terminated(server), 1)
    assert.match(server.out(), /tiny-reasoner could not be closed: other weights are being loaded/)
    await Promise.all(asked)
  })
})
