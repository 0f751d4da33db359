// Our server: in a process of its own, as people start it, or in this one.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { type Serving, startServer } from '../server/server.js'
import { readSettings } from '../server/settings/read.js'
import { createProgress } from '../server/terminal.js'
import { packagePath } from '../server/version.js'
import { UsageError } from './flags.js'
import { nodeArgs } from './source.js'

type ServerProcess = {
  /** Ends in /v1. */
  readonly url: string
  /** Milliseconds that its main thread has run; NaN where the system does not tell. */
  readonly mainThreadMs: () => number
  readonly stop: () => Promise<void>
}

const mainThreadMs = (pid: number | undefined): number => {
  try {
    const [ran] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ')
    return Number(ran) / 1e6
  } catch {
    return Number.NaN
  }
}

/** Resolves when it says at which address it serves. */
export const startServerProcess = async (
  file: string,
  args: readonly string[],
): Promise<ServerProcess> => {
  const server = spawn(file, args, { cwd: packagePath('.'), stdio: ['ignore', 'ignore', 'pipe'] })
  const url = await new Promise<string>((resolve, reject) => {
    let text = ''
    server.stderr.on('data', (chunk) => {
      text += chunk
      const found = /^at (\S+\/v1)/m.exec(text)?.[1]
      if (found !== undefined) resolve(found)
    })
    server.once('error', reject)
    server.once('close', () => reject(new UsageError(`the server did not start: ${text.trim()}`)))
  })
  const stop = async (): Promise<void> => {
    server.kill('SIGTERM')
    await once(server, 'close')
  }
  return { url, mainThreadMs: () => mainThreadMs(server.pid), stop }
}

/** `model`: a folder; undefined: the embedded reasoner, by whose name it is served. `places`: sequences that
 * run, and as many wait. `threads`: undefined: as many as the server takes by itself. */
export const startSmallServer = (
  model: string | undefined,
  places: number,
  threads?: number,
): Promise<ServerProcess> =>
  startServerProcess(process.execPath, [
    ...[...nodeArgs('server/cli.ts'), 'serve', '--port', '0', '--device', 'cpu'],
    ...['--max-num-seqs', String(places), '--max-waiting', String(places)],
    ...(threads === undefined ? [] : ['--threads', String(threads)]),
    ...(model === undefined ? [] : ['--model', model, '--served-model-name', 'tiny-reasoner']),
  ])

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
