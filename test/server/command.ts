// Commands as tests run them: in this process, since to start one takes longer than most commands do, or, where it is
// about the process (signals, kills, what it is started with), in one of their own.

import { spawn } from 'node:child_process'
import { EventEmitter } from 'node:events'
import { Readable, Writable } from 'node:stream'
import { nodeArgs } from '../../bench/source.js'
import type { Host } from '../../server/commands/host.js'
import { runCommand } from '../../server/commands/program.js'

type Ended = {
  readonly code: number | null
  /** Of both outputs, as they came. */
  readonly text: string
  readonly out: string
  readonly err: string
}

/** What a command said: `add` gets it piece by piece. */
const createSaid = () => {
  const said = { text: '', out: '', err: '' }
  const add = (name: 'out' | 'err', piece: string | Buffer): void => {
    said[name] += piece
    said.text += piece
  }
  return { said, add }
}

/** Thrown where a process would end. */
class Exit extends Error {
  readonly code: number

  constructor(code: number) {
    super(`exit ${code}`)
    this.code = code
  }
}

const createHost = (
  stdin: Readable,
  env: NodeJS.ProcessEnv,
  add: (name: 'out' | 'err', piece: Buffer) => void,
) => {
  const writing = (name: 'out' | 'err') =>
    new Writable({
      write: (piece, _, done) => {
        add(name, piece)
        done()
      },
    })
  const signals = new EventEmitter()
  const exit = (code: number): never => {
    throw new Exit(code)
  }
  const host: Host = {
    ...{ stdin, stdout: writing('out'), stderr: writing('err'), env, exit, exitCode: 0 },
    on: (signal, listener) => signals.on(signal, listener),
    off: (signal, listener) => signals.off(signal, listener),
    removeAllListeners: (signal) => signals.removeAllListeners(signal),
    pid: process.pid,
    kill: () => exit(128),
  }
  return host
}

type Given = { readonly input?: string | Buffer | Readable; readonly env?: NodeJS.ProcessEnv }

/** In this process. Of `env` what the command itself reads is seen, not what a server or a package does. */
export const runHere = async (
  words: readonly string[],
  { input = '', env = {} }: Given = {},
): Promise<Ended> => {
  const { said, add } = createSaid()
  const stdin =
    input instanceof Readable ? input : Readable.from(Buffer.from(input), { objectMode: false })
  const host = createHost(stdin, { ...process.env, ...env }, add)
  try {
    await runCommand(words, host)
  } catch (error) {
    if (!(error instanceof Exit)) throw error
    return { ...said, code: error.code }
  }
  return { ...said, code: Number(host.exitCode) }
}

/** In a process of its own. */
export const startCommand = (words: readonly string[], { input = '', env = {} }: Given = {}) => {
  const child = spawn(process.execPath, [...nodeArgs('server/cli.ts'), ...words], {
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: 120_000,
    env: { ...process.env, ...env },
  })
  const { said, add } = createSaid()
  child.stdin.on('error', () => {}) // a command that ends early does not read it
  if (input instanceof Readable) input.pipe(child.stdin)
  else child.stdin.end(input)
  child.stdout.on('data', (piece) => add('out', piece))
  child.stderr.on('data', (piece) => add('err', piece))
  const ended = new Promise<Ended>((done) => child.on('close', (code) => done({ ...said, code })))
  return { child, ended }
}
