// One run at a time on one output: a lock (OUTPUT.lock) names the process that writes it. One whose process is
// gone is taken over.

import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { z } from 'zod'
import { fileError } from './failure.js'

const Holder = z.object({ pid: z.int(), host: z.string(), started: z.string() })
type Holder = z.output<typeof Holder>

/** When a process began, which tells it from a later one with its number; '' where the system does not say. */
const startOf = (pid: number): string => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

const isAlive = ({ pid, started }: Holder): boolean => {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
  }
  const now = startOf(pid)
  return started === '' || now === '' || now === started
}

/** Undefined where the file is gone, or was cut off by a crash. */
const readHolder = async (path: string): Promise<Holder | undefined> => {
  try {
    return Holder.safeParse(JSON.parse(await readFile(path, 'utf8'))).data
  } catch {
    return undefined
  }
}

const refuse = (output: string, path: string, { pid, host }: Holder): never => {
  const where = host === hostname() ? '' : ` on ${host}`
  throw new Error(
    `${output} is being written by process ${pid}${where}: wait for it, or name another output. ` +
      `If that process is gone, remove ${path}.`,
  )
}

/** Moves the lock of a dead process away. It may be another run's by now: then it is put back. */
const takeAway = async (output: string, path: string): Promise<void> => {
  const aside = `${path}.${randomUUID()}`
  try {
    await rename(path, aside)
  } catch {
    return // somebody else was faster
  }
  const holder = await readHolder(aside)
  if (holder !== undefined && (holder.host !== hostname() || isAlive(holder))) {
    await rename(aside, path)
    refuse(output, path, holder)
  }
  await rm(aside, { force: true })
}

/** Resolves with what gives it back. Throws while another run has it. `path`: of the lock. */
export const lockOutput = async (
  output: string,
  path = `${output}.lock`,
): Promise<() => Promise<void>> => {
  const own: Holder = { pid: process.pid, host: hostname(), started: startOf(process.pid) }
  for (;;) {
    try {
      await writeFile(path, JSON.stringify(own), { flag: 'wx' })
      return () => rm(path, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
        throw fileError(error, output, 'written')
    }
    const holder = await readHolder(path)
    if (holder !== undefined && (holder.host !== hostname() || isAlive(holder)))
      refuse(output, path, holder)
    await takeAway(output, path)
  }
}
