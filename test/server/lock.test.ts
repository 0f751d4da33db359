// One run at a time on one output, whoever locks it and whatever the file system says.

import assert from 'node:assert/strict'
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import files from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it, mock } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { lockOutput } from '../../server/lock.js'

/** Of a process that has our number, and began when no process does. */
const gone = { pid: process.pid, host: hostname(), started: '1' }
const alive = { ...gone, started: '' }

describe('a lock', () => {
  let folder: string
  let output: string
  let lock: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'nemotron-lock-'))
    output = join(folder, 'out')
    lock = `${output}.lock`
  })
  afterEach(() => {
    mock.restoreAll()
    syncBuiltinESMExports()
    rmSync(folder, { recursive: true })
  })

  /** A call of the file system, done another way. */
  const instead = (
    name: 'link' | 'readFile' | 'rename' | 'writeFile',
    act: (call: () => Promise<unknown>, args: readonly unknown[]) => Promise<unknown>,
  ) => {
    const own = files[name] as (...args: unknown[]) => Promise<unknown>
    mock.method(files, name, (...args: unknown[]) => act(() => own(...args), args))
    syncBuiltinESMExports()
  }
  const fail = (code: string) => Promise.reject(Object.assign(new Error(code), { code }))

  it('is taken from a process that is gone, and leaves nothing behind', async () => {
    writeFileSync(lock, JSON.stringify(gone))
    const unlock = await lockOutput(output)
    assert.equal(JSON.parse(readFileSync(lock, 'utf8')).pid, process.pid)
    await assert.rejects(lockOutput(output), /is being written by process \d+: wait for it/)
    await unlock()
    assert.deepEqual(readdirSync(folder), [])
  })

  it('of another container is as good as one of another machine', async () => {
    for (const [other, where] of [
      [{ namespace: 'pid:[1]' }, 'in another container'],
      [{ host: 'elsewhere' }, 'on elsewhere'],
    ] as const) {
      writeFileSync(lock, JSON.stringify({ ...gone, ...other }))
      await assert.rejects(
        lockOutput(output),
        new RegExp(`by process ${process.pid} ${where}: wait for it.* remove .*out\\.lock`),
      )
      assert.equal(JSON.parse(readFileSync(lock, 'utf8')).started, '1')
    }
  })

  it('is never there without its words', async () => {
    instead('writeFile', async (_, [path, text]) => {
      // In the two steps that it takes.
      const file = await files.open(String(path), 'wx')
      await sleep(50)
      await file.writeFile(String(text))
      await file.close()
    })
    const two = await Promise.allSettled([
      lockOutput(output),
      sleep(20).then(() => lockOutput(output)),
    ])
    assert.deepEqual(two.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  })

  it('works where files have one name only', async () => {
    instead('link', () => fail('EPERM'))
    const unlock = await lockOutput(output)
    await assert.rejects(lockOutput(output), /is being written by process/)
    await unlock()
    assert.deepEqual(readdirSync(folder), [])
  })

  it('that was cut off is gone when it is old, and waited for when it is new', async () => {
    writeFileSync(lock, '{"pid":')
    const written = sleep(300).then(() => writeFileSync(lock, JSON.stringify(alive)))
    await assert.rejects(lockOutput(output), /is being written by process/)
    await written
    writeFileSync(lock, '{"pid":')
    utimesSync(lock, new Date(0), new Date(0))
    await (await lockOutput(output))()
    assert.ok(!existsSync(lock))
  })

  it('that cannot be read is respected', async () => {
    writeFileSync(lock, JSON.stringify(gone))
    instead('readFile', () => fail('EACCES'))
    await assert.rejects(lockOutput(output), /out\.lock cannot be read \(EACCES\)/)
    assert.ok(existsSync(lock))
  })

  it('is put back where another run was faster, unless a third one has locked', async () => {
    const [second, third] = [{ ...alive, pid: process.ppid }, alive]
    for (const now of [undefined, third]) {
      writeFileSync(lock, JSON.stringify(gone))
      let isFirst = true
      instead('rename', async (move, [from]) => {
        if (from !== lock || !isFirst) return move()
        isFirst = false
        writeFileSync(lock, JSON.stringify(second))
        await move()
        if (now !== undefined) writeFileSync(lock, JSON.stringify(now))
      })
      await assert.rejects(lockOutput(output), /is being written by process/)
      assert.deepEqual(JSON.parse(readFileSync(lock, 'utf8')), now ?? second)
      assert.deepEqual(readdirSync(folder), ['out.lock'])
      mock.restoreAll()
    }
  })
})
