import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { after, describe, test } from 'node:test'
import { EngineFailure } from '../../server/failure.js'
import { createThread } from '../../server/thread.js'
import { packagePath } from '../../server/version.js'

const folder = mkdtempSync(join(tmpdir(), 'nemotron-thread-'))
after(() => rmSync(folder, { recursive: true }))
const path = join(folder, 'worker.mjs')
writeFileSync(
  path,
  `import { threadId, workerData } from 'node:worker_threads'
import { answerQuestions } from ${JSON.stringify(packagePath('dist/server/thread.js'))}
let now = 0, most = 0
answerQuestions(async (question) => {
  if (question === 'thread') return threadId
  if (question === 'data') return workerData
  if (question === 'most') return most
  if (question === 'die') process.exit(3)
  if (question === 'throw') throw new Error('no answer')
  most = Math.max(most, ++now)
  await new Promise((done) => setTimeout(done, question))
  now--
  return question
})
`,
)
const file = relative(packagePath('.'), path)
const open = (idleMs?: number) =>
  createThread<unknown, unknown>({
    file,
    data: { a: 1 },
    failed: 'nothing was made',
    ...(idleMs !== undefined && { idleMs }),
  })

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

describe('a thread that answers questions', () => {
  test('gives each its own answer, whatever is ready first', async () => {
    const ask = open(10)
    const times = [40, 1, 20, 5, 3, 2]
    assert.deepEqual(await Promise.all(times.map(ask)), times)
    assert.deepEqual(await ask('data'), { a: 1 })
  })

  test('has four of them at once', async () => {
    const ask = open(10)
    await Promise.all(Array.from({ length: 12 }, () => ask(5)))
    assert.equal(await ask('most'), 4)
  })

  test('says what went wrong with one, and answers the others', async () => {
    const ask = open(10)
    const [wrong, right] = await Promise.allSettled([ask('throw'), ask(1)])
    assert.equal(wrong?.status, 'rejected')
    assert.ok(wrong.reason instanceof EngineFailure)
    assert.equal(wrong.reason.code, 'internal')
    assert.equal(wrong.reason.message, 'nothing was made: Error: no answer')
    assert.deepEqual(right, { status: 'fulfilled', value: 1 })
  })

  test('that dies fails all that wait, and the next one begins anew', async () => {
    const ask = open(10)
    const first = await ask('thread')
    const asked = [ask('die'), ...Array.from({ length: 6 }, () => ask(1000))]
    for (const one of await Promise.allSettled(asked)) {
      assert.equal(one.status, 'rejected')
      assert.match(String(one.reason), /nothing was made: its thread ended with 3/)
    }
    assert.notEqual(await ask('thread'), first)
    assert.equal(await ask(1), 1)
  })

  test('ends a while after the last question, and not before', async () => {
    const quick = open(20)
    const first = await quick('thread')
    await pause(200)
    assert.notEqual(await quick('thread'), first)
    const patient = open()
    const kept = await patient('thread')
    await pause(200)
    assert.equal(await patient('thread'), kept)
    // A question that takes longer than that is answered by the thread that has it.
    const busy = open(20)
    const [, slow, same] = await Promise.all([busy('thread'), busy(200), busy('thread')])
    assert.equal(slow, 200)
    assert.equal(typeof same, 'number')
  })
})
