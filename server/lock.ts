// One run at a time on one output: a lock (OUTPUT.lock) names the process that writes it. One whose process is
// gone is taken over.

import { randomUUID } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { link, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { fileError } from './failure.js'

const Holder = z.object({
  pid: z.int(),
  host: z.string(),
  started: z.string(),
  /** In which a process has that number: containers may share a host's name. '' where the system does not say. */
  namespace: z.string().default(''),
})
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

const ownNamespace = (): string => {
  try {
    return readlinkSync('/proc/self/ns/pid')
  } catch {
    return ''
  }
}

/** Where process numbers mean nothing to us. */
const elsewhere = ({ host, namespace }: Holder): string | undefined => {
  if (host !== hostname()) return ` on ${host}`
  const own = ownNamespace()
  return namespace === '' || own === '' || namespace === own ? undefined : ' in another container'
}

const isAlive = (holder: Holder): boolean => {
  if (elsewhere(holder) !== undefined) return true // as far as we know
  const { pid, started } = holder
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
  }
  const now = startOf(pid)
  return started === '' || now === '' || now === started
}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code

/** Longer than a process takes to write a lock that it has made. */
const TORN_MS = 5000

const parseHolder = (text: string): Holder | undefined => {
  try {
    return Holder.safeParse(JSON.parse(text)).data
  } catch {
    return undefined
  }
}

/** Undefined where the file is gone, or was cut off by a crash. Throws where it cannot be read: it may be anybody's. */
const readHolder = async (path: string): Promise<Holder | undefined> => {
  for (;;) {
    try {
      const holder = parseHolder(await readFile(path, 'utf8'))
      if (holder !== undefined) return holder
      // Clocks of a file system over the network may be ahead of ours.
      if (Math.abs(Date.now() - (await stat(path)).mtimeMs) > TORN_MS) return undefined
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined
      throw fileError(error, path, 'read')
    }
    await sleep(100)
  }
}

const refuse = (output: string, path: string, holder: Holder): never => {
  throw new Error(
    `${output} is being written by process ${holder.pid}${elsewhere(holder) ?? ''}: wait for it, or name another output. ` +
      `If that process is gone, remove ${path}.`,
  )
}

/** Gives a file a second name, which nobody has. Without such names on this file system: `otherwise`. */
const linkOr = async (
  from: string,
  path: string,
  otherwise: () => Promise<void>,
): Promise<void> => {
  try {
    await link(from, path)
  } catch (error) {
    if (codeOf(error) === 'EEXIST') throw error
    await otherwise()
  }
}

/** Moves the lock of a dead process away. It may be another run's by now: then it is put back, unless a third one has
 * locked meanwhile. */
const takeAway = async (output: string, path: string): Promise<void> => {
  const aside = `${path}.${randomUUID()}`
  try {
    await rename(path, aside)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return // somebody else was faster
    throw fileError(error, output, 'written')
  }
  const holder = await readHolder(aside)
  if (holder !== undefined && isAlive(holder)) {
    try {
      await linkOr(aside, path, () => rename(aside, path))
    } catch {
      // A third run's stays.
    }
    await rm(aside, { force: true })
    refuse(output, path, holder)
  }
  await rm(aside, { force: true })
}

/** Whole at once: nobody may find a lock that says nothing yet. Throws EEXIST. */
const create = async (path: string, text: string): Promise<void> => {
  const made = `${path}.${randomUUID()}`
  try {
    await writeFile(made, text, { flag: 'wx' })
    await linkOr(made, path, () => writeFile(path, text, { flag: 'wx' }))
  } finally {
    await rm(made, { force: true })
  }
}

/** Resolves with what gives it back. Throws while another run has it. `path`: of the lock. */
export const lockOutput = async (
  output: string,
  path = `${output}.lock`,
): Promise<() => Promise<void>> => {
  const { pid } = process
  const own: Holder = { pid, host: hostname(), started: startOf(pid), namespace: ownNamespace() }
  for (;;) {
    try {
      await create(path, JSON.stringify(own))
      return () => rm(path, { force: true })
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') throw fileError(error, output, 'written')
    }
    const holder = await readHolder(path)
    if (holder !== undefined && isAlive(holder)) refuse(output, path, holder)
    await takeAway(output, path)
  }
}
