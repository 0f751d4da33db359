// Our server in this process: apart from that of a process of its own, since all of it is imported.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { type Serving, startServer } from '../server/server.js'
import { readSettings } from '../server/settings/read.js'
import { createProgress } from '../server/terminal.js'

/** The model of a folder as `m`, on a free port; resolves when it is loaded. `more`: as in the file of --config. */
export const serveHere = async (model: string, more: object): Promise<Serving> => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-bench-'))
  const file = join(folder, 'config.json')
  const models = [{ model, served_model_name: 'm' }]
  writeFileSync(file, JSON.stringify({ device: 'cpu', port: 0, models, ...more }))
  const settings = readSettings({}, {}, file)
  rmSync(folder, { recursive: true })
  const serving = await startServer({
    ...{ settings, log: pino({ level: 'silent' }), tell: () => {} },
    progress: createProgress({ write: () => true }),
  })
  await serving.ready
  return serving
}
