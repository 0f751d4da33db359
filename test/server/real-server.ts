// A server in this process over real checkpoints and the native engine, from a config file as serve
// reads it.

import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { startServer } from '../../server/server.js'
import { readSettings } from '../../server/settings/read.js'
import { createProgress } from '../../server/terminal.js'
import { packagePath } from '../../server/version.js'

/** For `describe`: why nothing native can run here, or false. */
export const noAddon: string | false = existsSync(packagePath('build/Release/nemotron.node'))
  ? false
  : 'the addon is not built: npm run build:addon'

export type RealServer = {
  readonly url: string
  readonly post: (path: string, body: object) => Promise<Response>
  /** The JSON of an answer that is to be 200. */
  readonly answer: (path: string, body: object) => Promise<ReturnType<typeof JSON.parse>>
  readonly close: () => Promise<void>
}

/** `config`: as in the file of --config. */
export const startReal = async (config: object): Promise<RealServer> => {
  const file = join(mkdtempSync(join(tmpdir(), 'nemotron-config-')), 'config.json')
  // Exact, so that answers are those of any processor.
  const small = {
    device: 'cpu',
    threads: 1,
    kv_cache_memory: '32MiB',
    port: 0,
    exact_activations: true,
  }
  writeFileSync(file, JSON.stringify({ ...small, ...config }))
  const serving = await startServer({
    settings: readSettings({}, {}, file),
    log: pino({ level: 'silent' }),
    progress: createProgress({ write: () => true }),
    tell: () => {},
  })
  await serving.ready.catch(async (error) => {
    await serving.drain()
    throw error
  })
  const post = (path: string, body: object) =>
    fetch(`${serving.url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
  return {
    url: serving.url,
    post,
    answer: async (path, body) => {
      const response = await post(path, body)
      const text = await response.text()
      assert.equal(response.status, 200, text)
      return JSON.parse(text)
    },
    close: serving.drain,
  }
}
