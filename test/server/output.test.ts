// The file that a command writes its records to, and the state beside it.

import assert from 'node:assert/strict'
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import files, { type FileHandle } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it, mock } from 'node:test'
import { openOutput } from '../../server/commands/output.js'

const folder = mkdtempSync(join(tmpdir(), 'nemotron-output-'))
after(() => rmSync(folder, { recursive: true }))

const progress = (lines: number) => () => ({ lines, sha256: `${lines}`, counts: {} })

/** As a process that is killed leaves it. */
const abandon = (output: string): void => rmSync(`${output}.lock`)

describe('an output', () => {
  it('can be gone on with from its first byte', async () => {
    const output = join(folder, 'first.jsonl')
    await openOutput(output, process)
    appendFileSync(output, '{"torn":')
    abandon(output)
    const again = await openOutput(output, process)
    assert.equal(again.begun.lines, 0)
    await again.put('{}\n', progress(1))
    await again.close(true)
    assert.equal(readFileSync(output, 'utf8'), '{}\n')
    assert.ok(!existsSync(`${output}.state`))
    await assert.rejects(openOutput(output, process), /exists and is no unfinished job/)
  })

  it('of a run that began nothing is not taken for one to go on with', async () => {
    const output = join(folder, 'unused.jsonl')
    await (await openOutput(output, process)).close(false)
    writeFileSync(output, 'of somebody else')
    await assert.rejects(openOutput(output, process), /exists and is no unfinished job/)
    assert.equal(readFileSync(output, 'utf8'), 'of somebody else')
  })

  it('is on the disk before its state says so', async () => {
    const path = join(folder, 'order.jsonl')
    const output = await openOutput(path, process)
    const probe = await files.open(join(folder, 'probe'), 'w')
    const handle: FileHandle = Object.getPrototypeOf(probe)
    await probe.close()
    const steps: string[] = []
    const noted = (name: 'write' | 'writeFile' | 'datasync') => {
      const work = handle[name] as (...args: unknown[]) => Promise<unknown>
      return mock.method(handle, name, function (this: FileHandle, ...args: unknown[]) {
        steps.push(name)
        return work.apply(this, args)
      })
    }
    const { rename } = files
    const mocks = [
      ...(['write', 'writeFile', 'datasync'] as const).map(noted),
      mock.method(files, 'rename', (from: string, to: string) => {
        steps.push('rename')
        return rename(from, to)
      }),
    ]
    syncBuiltinESMExports()
    try {
      await output.put('{}\n', progress(1))
      await output.close(false)
    } finally {
      for (const one of mocks) one.mock.restore()
      syncBuiltinESMExports()
    }
    assert.deepEqual(steps, ['write', 'datasync', 'writeFile', 'datasync', 'rename'])
  })
})
