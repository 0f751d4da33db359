import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

// A module of its own: suites that share this process may have loaded the addon with the other.
const UNLOADED = '../../server/engine/addon.js?unloaded'

test('a native engine that is not there, or none, is named with what to do', async (t) => {
  const { loadAddon }: typeof import('../../server/engine/addon.js') = await import(UNLOADED)
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-addon-'))
  const { NEMOTRON_ADDON: before } = process.env
  t.after(() => {
    rmSync(folder, { recursive: true })
    if (before === undefined) delete process.env.NEMOTRON_ADDON
    else process.env.NEMOTRON_ADDON = before
  })
  const path = join(folder, 'nemotron.node')
  process.env.NEMOTRON_ADDON = path
  const fails = (message: RegExp) =>
    assert.throws(loadAddon, (error: Error & { code: string }) => {
      assert.equal(error.code, 'unavailable')
      assert.match(error.message, message)
      assert.ok(error.message.includes(path))
      assert.match(error.message, /run `node .*scripts\/install\.mjs`/)
      return true
    })
  fails(/is not there \(an install without scripts\?\)/)
  writeFileSync(path, 'no library')
  fails(/cannot be loaded: .*\. Build it here: /s)
})
