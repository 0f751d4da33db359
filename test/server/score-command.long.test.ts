// 100,000 lines through `score`: memory stays flat, and every line comes out in order. And one that takes longer
// than HTTP clients like to wait.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { it } from 'node:test'
import { nodeArgs } from '../../bench/source.js'
import { readLines } from '../../server/commands/lines.js'
import { startHarness } from './harness.js'

const LINES = 100_000
const MIB = 1 << 20

/** Bytes of memory of a process; undefined where the system does not say, or when it is gone. */
const memoryOf = (pid: number): number | undefined => {
  try {
    const kilobytes = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    return kilobytes === undefined ? undefined : Number(kilobytes) * 1024
  } catch {
    return undefined
  }
}

it('scores 100,000 lines in memory that does not grow', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-score-long-'))
  const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')]
  const h = await startHarness({
    stepMs: 0,
    reward: { score: (prompt) => [(prompt.split('assistant\n\n').at(-1) ?? '').length] },
  })
  try {
    const file = openSync(input, 'w')
    for (let i = 0; i < LINES; i++)
      writeSync(file, `{"i":${i},"prompt":"p","response":"${'x'.repeat(1 + (i % 97))}"}\n`)
    closeSync(file)
    const command = ['score', input, '-o', output, '--url', `${h.url}/v1`, '--summary', 'json']
    const child = spawn(process.execPath, [...nodeArgs('server/cli.ts'), ...command], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    let text = ''
    child.stdout.on('data', (data) => {
      text += data
    })
    const seen: number[] = []
    const timer = setInterval(() => {
      const bytes = memoryOf(child.pid ?? 0)
      if (bytes !== undefined) seen.push(bytes)
      h.lines.length = 0 // of the harness' log
      h.engine.requests.length = 0
    }, 200)
    const began = performance.now()
    const code = await new Promise((done) => child.on('close', done))
    clearInterval(timer)
    assert.equal(code, 0)
    const rate = LINES / ((performance.now() - began) / 1000)
    const third = Math.floor(seen.length / 3)
    const most = (values: readonly number[]) => Math.max(...values) / MIB
    const [middle, last] = [most(seen.slice(third, 2 * third)), most(seen.slice(2 * third))]
    t.diagnostic(
      `${rate.toFixed(0)} lines/s; at most ${middle.toFixed(0)} MiB in the middle third, ${last.toFixed(0)} in the last`,
    )
    assert.ok(last < middle + 32, `${middle} MiB, then ${last} MiB`)
    assert.equal(JSON.parse(text).rewards.reward.count, LINES)
    let i = 0
    for await (const { content } of readLines(output, process)) {
      assert.ok('value' in content)
      assert.deepEqual([content.value.i, content.value.reward], [i, 1 + (i % 97)])
      i++
    }
    assert.equal(i, LINES)
  } finally {
    await h.close()
    rmSync(folder, { recursive: true })
  }
})

it('waits for an answer that takes more than five minutes, and asks once', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-score-long-'))
  const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')]
  let asked = 0
  const server = createServer(async (request, response) => {
    request.resume()
    const answer = (body: object) => response.end(JSON.stringify(body))
    if (request.method === 'GET') return answer({ data: [{ id: 'slow' }] })
    const isFirst = asked++ === 0 // whether it gives rewards
    setTimeout(() => answer({ data: [{ reward: 1, scores: [1] }] }), isFirst ? 0 : 310_000)
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  try {
    writeFileSync(input, '{"prompt":"p","response":"r"}\n')
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
    const command = ['score', input, '-o', output, '--url', url]
    const child = spawn(process.execPath, [...nodeArgs('server/cli.ts'), ...command], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    assert.equal(await new Promise((done) => child.on('close', done)), 0)
    assert.equal(JSON.parse(readFileSync(output, 'utf8')).reward, 1)
    assert.equal(asked, 2)
  } finally {
    server.closeAllConnections()
    server.close()
    rmSync(folder, { recursive: true })
  }
})
