// What a bench makes once and finds again: a file or a folder in bench/.cache.

import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** What processes that are gone left half made. */
const removeHalves = (path: string): void => {
  const start = `${basename(path)}.partial-`
  for (const name of readdirSync(dirname(path))) {
    if (!name.startsWith(start) || isAlive(Number(name.slice(start.length)))) continue
    rmSync(join(dirname(path), name), { recursive: true, force: true })
  }
}

/** Puts it in its place. Another process may have done so meanwhile: both made the same. */
const publish = (partial: string, path: string): void => {
  try {
    renameSync(partial, path)
  } catch (error) {
    if (!existsSync(path)) throw error
    rmSync(partial, { recursive: true, force: true })
  }
}

/** The file or folder `path`, by `write` when it is not there yet: to a name of this process, so that it is never
 * found half made, and two processes that make it at once are not in each other's way. */
export const cached = (path: string, write: (partial: string) => void): string => {
  if (existsSync(path)) return path
  mkdirSync(dirname(path), { recursive: true })
  removeHalves(path)
  const partial = `${path}.partial-${process.pid}`
  rmSync(partial, { recursive: true, force: true })
  try {
    write(partial)
  } catch (error) {
    rmSync(partial, { recursive: true, force: true })
    throw error
  }
  publish(partial, path)
  return path
}
