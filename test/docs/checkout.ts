// A clean checkout: what git has of this one, and no more, in a folder of its own.

import { execFileSync, spawn } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { packagePath } from '../../server/version.js'
import { isServer } from './documented.js'

type Ended = { readonly code: number | null; readonly out: string; readonly all: string }

export type Checkout = {
  /** Runs a command to its end, by a shell, with `nemotron-server` on the PATH. A server is stopped when it
   * serves. */
  readonly run: (command: string, timeoutMs: number) => Promise<Ended>
  /** A server that stays; resolves to its address, without /v1. */
  readonly start: (command: string) => Promise<string>
  readonly close: () => Promise<void>
}

const SERVING = /^at (http:\S+)\/v1/m

const copyTracked = (folder: string): void => {
  const root = packagePath('.')
  const list = ['ls-files', '-z', '--cached', '--others', '--exclude-standard']
  const files = execFileSync('git', list, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26 })
  for (const file of files.split('\0')) {
    // A file that was deleted and is still in the index.
    if (file === '' || !existsSync(join(root, file))) continue
    mkdirSync(dirname(join(folder, file)), { recursive: true })
    copyFileSync(join(root, file), join(folder, file))
  }
}

/** So that git lists its files there too, as lint asks it to. */
const addToGit = (folder: string): void => {
  for (const args of [
    ['init', '-q'],
    ['add', '-A'],
  ])
    execFileSync('git', args, { cwd: folder })
}

/** What the names in the documents stand for. */
const addExamples = (folder: string): void => {
  symlinkSync(join(folder, 'models/tiny/tiny-reasoner'), join(folder, 'MODEL'))
  const lines = ['Thanks!', 'Hello!'].map((prompt) =>
    JSON.stringify({ prompt, response: 'You are welcome!' }),
  )
  writeFileSync(join(folder, 'IN.jsonl'), `${lines.join('\n')}\n`)
  const request = {
    custom_id: 'one',
    method: 'POST',
    url: '/v1/chat/completions',
    body: { model: 'tiny-reasoner', messages: [{ role: 'user', content: 'Hello!' }] },
  }
  writeFileSync(join(folder, 'IN'), `${JSON.stringify(request)}\n`)
  const question = { question: 'What is 2 + 3?', answer: '5' }
  writeFileSync(join(folder, 'FILES...'), `${JSON.stringify(question)}\n`)
}

type Place = { readonly folder: string; readonly env: NodeJS.ProcessEnv }

const launch = ({ folder, env }: Place, command: string) => {
  // Of this command alone: another one may be writing its own.
  const output = / -o (\w[\w.]*)/.exec(command)?.[1]
  if (output !== undefined) rmSync(join(folder, output), { force: true })
  // A group of its own: what npm starts ends with it.
  const child = spawn('sh', ['-c', command], { cwd: folder, env, detached: true })
  let [out, all] = ['', '']
  let serves: (url: string) => void = () => {}
  const serving = new Promise<string>((resolve) => {
    serves = resolve
  })
  child.stdout.on('data', (data) => {
    out += data
    all += data
  })
  child.stderr.on('data', (data) => {
    all += data
    const url = SERVING.exec(all)?.[1]
    if (url !== undefined) serves(url)
  })
  const ended = new Promise<Ended>((resolve) =>
    child.on('close', (code) => resolve({ code, out, all })),
  )
  const kill = (signal: NodeJS.Signals) => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, signal)
    } catch {
      // It has ended.
    }
  }
  return { serving, ended, kill }
}

const runToEnd = async (place: Place, command: string, timeoutMs: number): Promise<Ended> => {
  const { serving, ended, kill } = launch(place, command)
  const timer = setTimeout(() => kill('SIGKILL'), timeoutMs)
  try {
    if (!isServer(command)) return await ended
    const failed = await Promise.race([ended, serving.then(() => undefined)])
    kill('SIGTERM')
    const last = await ended
    // Stopped by us: that it served is what counts.
    return failed ?? { ...last, code: 0 }
  } finally {
    clearTimeout(timer)
  }
}

/** With the packages and the builds of this checkout, as `npm ci` leaves one. */
const linkBuilds = (folder: string): void => {
  for (const name of ['node_modules', 'dist']) symlinkSync(packagePath(name), join(folder, name))
  mkdirSync(join(folder, 'build/Release'), { recursive: true })
  const addon = 'build/Release/nemotron.node'
  symlinkSync(packagePath(addon), join(folder, addon))
}

/** `built`: as `npm ci` leaves it. */
export const makeCheckout = ({ built }: { readonly built: boolean }): Checkout => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-checkout-'))
  copyTracked(folder)
  if (built) linkBuilds(folder)
  else addToGit(folder)
  addExamples(folder)
  const bin = mkdtempSync(join(tmpdir(), 'nemotron-bin-'))
  symlinkSync(join(folder, 'dist/server/cli.js'), join(bin, 'nemotron-server'))
  const env = {
    ...process.env,
    PATH: `${bin}:${process.env.PATH}`,
    // Any free port: 8000 may be another server's.
    NEMOTRON_PORT: '0',
    HF_HUB_OFFLINE: '1',
    NODE_TEST_CONTEXT: undefined,
    // npx keeps what it links.
    ...(built && { npm_config_cache: join(bin, 'npm') }),
  }
  const place = { folder, env }
  const stops: (() => Promise<unknown>)[] = []
  return {
    run: (command, timeoutMs) => runToEnd(place, command, timeoutMs),
    start: async (command) => {
      const { serving, ended, kill } = launch(place, command)
      stops.push(() => {
        kill('SIGTERM')
        return ended
      })
      const failed = ended.then(({ all }) => {
        throw new Error(`${command} ended: ${all}`)
      })
      return Promise.race([serving, failed])
    },
    close: async () => {
      await Promise.all(stops.map((stop) => stop()))
      for (const one of [folder, bin]) rmSync(one, { recursive: true, force: true })
    },
  }
}
