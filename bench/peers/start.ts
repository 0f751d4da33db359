// Competitors seen from the bench: installed, started, asked one task at a time, and stopped (SIGSTOP)
// between their turns so that they take no CPU from the others.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { cacheFolder } from '../machine.js'
import { nodeArgs } from '../source.js'
import type { Answer, ChildOptions, Ready, Task } from './protocol.js'

/** Bytes; `huge`: the part of `anonymous` that lies in huge pages. */
export type MemoryUse = Readonly<Record<'total' | 'anonymous' | 'huge' | 'peak', number>>

export type Running = {
  readonly name: string
  readonly ready: Ready
  readonly run: (task: Task) => Promise<Answer>
  readonly memory: () => MemoryUse
  /** CPU seconds per second while nothing is asked. */
  readonly idleCpu: (seconds: number) => Promise<number>
  readonly close: () => Promise<void>
}

const alive = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of alive) child.kill('SIGKILL')
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))

/** NaN when the process is gone. */
const kernelBytes = (file: string, field: string): number => {
  try {
    const found = readFileSync(file, 'utf8').match(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm'))
    return Number(found?.[1]) * 1024
  } catch {
    return Number.NaN
  }
}

/** In clock ticks of 10 ms: user and system time of all threads. */
const cpuTicks = (pid: number): number => {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return Number(fields[11]) + Number(fields[12])
}

const start = async (
  name: string,
  command: readonly [file: string, ...args: string[]],
  env: Readonly<Record<string, string>> = {},
): Promise<Running> => {
  const [file, ...args] = command
  const child = spawn(file, args, {
    env: { ...process.env, ...env },
    stdio: ['pipe', 2, 2, 'pipe'],
  })
  alive.add(child)
  const pid = child.pid ?? 0
  const exited = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => resolve(`ended with ${signal ?? `code ${code}`}`))
  }).finally(() => alive.delete(child))

  const lines = createInterface({ input: child.stdio[3] as Readable })[Symbol.asyncIterator]()
  const nextLine = async <T>(): Promise<T | { readonly error: string }> => {
    const ended = exited.then((why) => sleep(100, { done: true as const, value: why }))
    const line = await Promise.race([lines.next(), ended])
    if (line.done !== true) return JSON.parse(line.value)
    return { error: `${name} ${await exited}` }
  }

  const ready = await nextLine<Ready>()
  if (!('version' in ready) || ready.error !== undefined) {
    child.kill('SIGKILL')
    throw new Error(ready.error)
  }
  child.kill('SIGSTOP')
  return {
    name,
    ready,
    run: async (task) => {
      child.kill('SIGCONT')
      child.stdin?.write(`${JSON.stringify(task)}\n`)
      const answer = await nextLine<Answer>()
      child.kill('SIGSTOP')
      return answer
    },
    memory: () => ({
      total: kernelBytes(`/proc/${pid}/status`, 'VmRSS'),
      anonymous: kernelBytes(`/proc/${pid}/status`, 'RssAnon'),
      huge: kernelBytes(`/proc/${pid}/smaps_rollup`, 'AnonHugePages'),
      peak: kernelBytes(`/proc/${pid}/status`, 'VmHWM'),
    }),
    idleCpu: async (seconds) => {
      child.kill('SIGCONT')
      await sleep(500)
      const before = cpuTicks(pid)
      await sleep(1000 * seconds)
      const used = cpuTicks(pid) - before
      child.kill('SIGSTOP')
      return used / 100 / seconds
    },
    close: async () => {
      child.kill('SIGCONT')
      child.stdin?.end()
      const late = setTimeout(() => child.kill('SIGKILL'), 5000)
      await exited
      clearTimeout(late)
    },
  }
}

const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

const typescript = (source: string, options: ChildOptions): readonly [string, ...string[]] => [
  process.execPath,
  ...nodeArgs(source),
  JSON.stringify(options),
]

// malloc asks for huge pages: 1.3 to 1.6 times the read rate where the kernel's setting is "madvise".
const hugePages = { GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1' }

export const startOurs = (name: string, options: ChildOptions): Promise<Running> =>
  start(name, typescript('bench/peers/ours.ts', options))

const llamaVersion = '3.22.1'

/** node-llama-cpp from npm, where it is not there yet; the folder that it is in. */
export const installLlama = (): string => {
  const folder = join(cacheFolder, 'node-llama-cpp')
  if (existsSync(join(folder, 'node_modules/node-llama-cpp'))) return folder
  if (process.platform !== 'linux') throw new Error('the llama.cpp peer is set up for Linux only')
  console.error(`installing node-llama-cpp ${llamaVersion} into ${folder}`)
  const flags = ['--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund']
  const binaries = `@node-llama-cpp/linux-${process.arch}@${llamaVersion}`
  const packages = [`node-llama-cpp@${llamaVersion}`, binaries]
  const { status } = spawnSync('npm', ['install', ...flags, '--omit=optional', ...packages], {
    stdio: ['ignore', 2, 2],
  })
  if (status !== 0) throw new Error('llama.cpp: npm could not install node-llama-cpp')
  return folder
}

/** `options.model` is the GGUF file. */
export const startLlama = async (options: ChildOptions): Promise<Running> => {
  installLlama()
  return start('llama.cpp', typescript('bench/peers/llama.ts', options), hugePages)
}

/** torch and transformers of bench/.cache/venv, else of python3. */
export const startTorch = async (options: ChildOptions): Promise<Running> => {
  const venv = join(cacheFolder, 'venv/bin/python')
  const python = existsSync(venv) ? venv : 'python3'
  if (spawnSync(python, ['--version']).status !== 0) throw new Error('torch: there is no python3')
  const env = { ...hugePages, THP_MEM_ALLOC_ENABLE: '1' }
  return start('torch', [python, script('pytorch.py'), JSON.stringify(options)], env)
}
