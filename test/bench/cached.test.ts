import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { cached } from '../../bench/cached.js'

const newPath = (): string => join(mkdtempSync(join(tmpdir(), 'nemotron-cached-')), 'models/one')

test('it is made once, in folders that are made too', () => {
  const path = newPath()
  const write = (partial: string): void => writeFileSync(partial, 'made')
  assert.equal(cached(path, write), path)
  assert.equal(readFileSync(path, 'utf8'), 'made')
  cached(path, () => assert.fail('made again'))
})

test('a failure leaves nothing behind, and the next one makes it', () => {
  const path = newPath()
  const fail = (partial: string): void => {
    writeFileSync(partial, 'half')
    throw new Error('the disk is full')
  }
  assert.throws(() => cached(path, fail), /the disk is full/)
  assert.deepEqual(readdirSync(join(path, '..')), [])
  cached(path, (partial) => writeFileSync(partial, 'whole'))
  assert.equal(readFileSync(path, 'utf8'), 'whole')
})

test('of two that make a folder at once, each finds a whole one', () => {
  const path = newPath()
  cached(path, (mine) => {
    mkdirSync(mine)
    // Another process, which is there first.
    mkdirSync(path)
    writeFileSync(join(path, 'file'), 'whole')
    assert.ok(existsSync(mine))
  })
  assert.deepEqual(readdirSync(join(path, '..')), ['one'])
  assert.equal(readFileSync(join(path, 'file'), 'utf8'), 'whole')
})

test('halves of processes that are gone are removed, those of living ones are not', async () => {
  const path = newPath()
  const gone = spawn(process.execPath, ['--version'], { stdio: 'ignore' })
  await once(gone, 'exit')
  const living = spawn('sleep', ['60'], { stdio: 'ignore' })
  try {
    for (const { pid } of [gone, living]) mkdirSync(`${path}.partial-${pid}`, { recursive: true })
    cached(path, (partial) => writeFileSync(partial, 'made'))
    assert.deepEqual(readdirSync(join(path, '..')).sort(), ['one', `one.partial-${living.pid}`])
  } finally {
    living.kill()
  }
})
