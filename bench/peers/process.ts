// A competitor's process, seen from the bench: started, asked one task at a time, stopped (SIGSTOP)
// between its turns so that it takes no CPU from the others.

import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { Answer, Ready, Task } from './protocol.js'

export type Command = {
  readonly file: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
}

/** Bytes; `huge`: the part of `anonymous` that lies in huge pages. */
export type MemoryUse = {
  readonly total: number
  readonly anonymous: number
  readonly huge: number
  readonly peak: number
}

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

const sleep = (seconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, seconds * 1000))

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

export const startProcess = async (name: string, command: Command): Promise<Running> => {
  const child = spawn(command.file, command.args, {
    env: { ...process.env, ...command.env },
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
    const line = await Promise.race([
      lines.next(),
      exited.then((why) => sleep(0.1).then(() => ({ done: true, value: why }))),
    ])
    if (line.done !== true) return JSON.parse(line.value)
    return { error: `${name} ${await exited}` }
  }

  const ready = await nextLine<Ready>()
  if (!('version' in ready) || ready.error !== undefined) {
    child.kill('SIGKILL')
    return Promise.reject(new Error(ready.error))
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
      await sleep(0.5)
      const before = cpuTicks(pid)
      await sleep(seconds)
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
