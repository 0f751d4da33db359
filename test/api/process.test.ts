import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { describe, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { nodeArgs } from '../../bench/source.js'
import { openEngine } from '../../server/engine/engine.js'
import { generate, idsOf, smallEngine, until } from './support.js'
import { tinyCheckpoint } from './tiny_checkpoint.js'

const folder = tinyCheckpoint()

const runChild = (mode: string, ...more: string[]) =>
  new Promise<{ code: number | null; signal: string | null; lines: string[] }>((resolve) => {
    const args = ['--expose-gc', ...nodeArgs('test/api/child.ts'), mode, folder, ...more]
    const process_ = spawn(process.execPath, args, { timeout: 60_000 })
    let output = ''
    for (const stream of [process_.stdout, process_.stderr]) {
      stream.on('data', (data) => {
        output += data
      })
    }
    process_.on('close', (code, signal) =>
      resolve({ code, signal, lines: output.split('\n').filter(Boolean) }),
    )
  })

const ended = (code: number, lines: string[]) => ({ code, signal: null, lines })

describe('the end of a process', () => {
  test('an idle engine does not keep it', async () => {
    assert.deepEqual(await runChild('idle'), ended(0, ['5']))
  })

  test('a live request and a load do', async () => {
    assert.deepEqual(await runChild('busy'), ended(0, ['length']))
    assert.deepEqual(await runChild('loading'), ended(0, ['loaded']))
  })

  test('process.exit with live requests is clean', async () => {
    assert.deepEqual(await runChild('exit'), ended(7, []))
    assert.deepEqual(await runChild('exit-closing'), ended(7, []))
  })

  test('process.exit at any moment of a load is clean', async () => {
    for (const delay of ['0', '1', '3', '8', '20', '50']) {
      assert.deepEqual(await runChild('exit-loading', delay), ended(7, []))
    }
  })

  test('a listener that throws hurts nobody else', async () => {
    const { code, lines } = await runChild('throws')
    assert.equal(code, 0)
    assert.deepEqual(lines.sort(), ['5', 'mine', 'plan'])
  })

  const noProc = existsSync('/proc/self/task') ? false : 'needs /proc to count threads'
  test('an engine that nobody holds is collected with its threads', { skip: noProc }, async () => {
    assert.deepEqual(await runChild('dropped'), ended(0, ['held', 'collected']))
  })

  test('an idle engine uses no processor', async () => {
    const { code, lines } = await runChild('rest')
    assert.equal(code, 0)
    assert.ok(Number(lines[0]) < 50, `${lines[0]} ms of a second`)
  })
})

describe('worker threads', () => {
  const file = JSON.stringify(new URL('worker.ts', import.meta.url).href)
  // Node 20 does not hand --import on to a worker.
  const start = () =>
    new Worker(`import('tsx/esm/api').then(({ tsImport }) => tsImport(${file}, ${file}))`, {
      eval: true,
      workerData: folder,
    })
  const answer = (worker: Worker) =>
    new Promise<readonly number[]>((resolve, reject) => {
      worker.once('message', resolve)
      worker.once('error', reject)
    })

  test('each has engines of its own and may be ended while they work', async () => {
    const engine = await openEngine(smallEngine(folder))
    const sampling = { temperature: 0, maxTokens: 24, ignoreEos: true }
    const expected = idsOf(await generate(engine, sampling))
    const workers = [start(), start()]
    for (const ids of await Promise.all(workers.map(answer))) assert.deepEqual(ids, expected)
    assert.deepEqual(idsOf(await generate(engine, sampling)), expected)
    const threads = () => readdirSync('/proc/self/task').length
    const before = existsSync('/proc/self/task') ? threads() : 0
    await Promise.all(workers.map((worker) => worker.terminate()))
    assert.deepEqual(idsOf(await generate(engine, sampling)), expected)
    if (before > 0) await until('the threads of the workers end', () => threads() < before - 3)
    await engine.close()
  })
})
