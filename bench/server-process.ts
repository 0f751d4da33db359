// Our server in a process of its own, as people start it.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
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
