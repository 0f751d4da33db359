// Where a job's records go. A file can be gone on with after a kill: beside it lies OUTPUT.state with how
// far it got (lines done, a hash of them, bytes written), and what is in the output beyond that is cut
// off. Both are written a few times a second, the output first, and on the disk before the state says so: after a
// power cut, too, the output has what its state says. A pipe gets its records as they come.

import { createWriteStream, existsSync } from 'node:fs'
import { type FileHandle, open, readFile, rename, rm, stat } from 'node:fs/promises'
import type { Writable } from 'node:stream'
import { z } from 'zod'
import { fileError } from '../failure.js'
import { lockOutput } from '../lock.js'
import type { Host } from './host.js'

const State = z.object({
  lines: z.int().min(0),
  bytes: z.int().min(0),
  sha256: z.string(),
  /** What made the records. */
  by: z.string().optional(),
  /** And by which flags. */
  flags: z.record(z.string(), z.string()).optional(),
  /** What is counted beside the records, for the end of the job. */
  counts: z.record(z.string(), z.int()).default({}),
})
type State = z.output<typeof State>
type Progress = Omit<State, 'bytes'>

export type Output = {
  /** What an earlier run had done. */
  readonly begun: State
  /** The records of the next line. `progress` is with that line done. */
  readonly put: (records: string, progress: () => Progress) => Promise<void>
  /** `isDone`: there is nothing left to go on with. */
  readonly close: (isDone: boolean) => Promise<void>
}

const FLUSH_BYTES = 1 << 20
const FLUSH_MS = 200

const isStandardOutput = (path: string): boolean =>
  ['-', '/dev/stdout', '/dev/fd/1', '/proc/self/fd/1'].includes(path)

/** How messages call it. */
export const outputName = (path: string): string => (path === '-' ? 'standard output' : path)

/** A pipe or a device: an interrupted run starts anew. Opening a folder says what is wrong with it. */
export const isPipe = async (path: string): Promise<boolean> => {
  if (isStandardOutput(path)) return true
  if (!existsSync(path)) return false
  const found = await stat(path)
  return !found.isFile() && !found.isDirectory()
}

const openPipe = (path: string, { stdout }: Host): Output => {
  const stream: Writable = isStandardOutput(path) ? stdout : createWriteStream(path)
  /** That it could not be opened; a write that fails says so itself. */
  let failure: Error | undefined
  stream.on('error', (error) => {
    failure ??= error
  })
  const write = (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      stream.write(text, (error) => {
        if (!error) resolve()
        else if ('code' in error && error.code === 'EPIPE')
          reject(new Error(`the reader of ${outputName(path)} is gone: the rest was not written`))
        else reject(fileError(failure ?? error, outputName(path), 'written'))
      })
    })
  return {
    begun: { lines: 0, bytes: 0, sha256: '', counts: {} },
    put: (records) => (records === '' ? Promise.resolve() : write(records)),
    close: async () => {
      if (stream === stdout || failure !== undefined) return
      await new Promise<void>((done) => stream.end(done))
    },
  }
}

/** How far an earlier run got. Throws where the output is none to go on with. */
const readState = async (output: string): Promise<State> => {
  if (existsSync(output) && (await stat(output)).isDirectory())
    throw new Error(`${output} is a folder: name a file in it`)
  const path = `${output}.state`
  if (existsSync(path)) {
    const text = await readFile(path, 'utf8')
    try {
      return State.parse(JSON.parse(text))
    } catch {
      throw new Error(
        `${path} is no state of a job: remove it and ${output}, or name another output`,
      )
    }
  }
  if (existsSync(output) && (await stat(output)).size > 0)
    throw new Error(`${output} exists and is no unfinished job: name another output.`)
  return { lines: 0, bytes: 0, sha256: '', counts: {} }
}

const writeAll = async (file: FileHandle, data: Buffer, position: number): Promise<void> => {
  for (let at = 0; at < data.length; ) {
    const { bytesWritten } = await file.write(data, at, data.length - at, position + at)
    at += bytesWritten
  }
}

/** In one step: a reader finds the state before or this one, whatever ends us. */
const writeState = async (path: string, state: State): Promise<void> => {
  const file = await open(`${path}.new`, 'w')
  try {
    await file.writeFile(JSON.stringify(state))
    await file.datasync()
  } finally {
    await file.close()
  }
  await rename(`${path}.new`, path)
}

/** Whether the path still leads to the file that is written. */
const isStillThere = async (path: string, file: FileHandle): Promise<boolean> => {
  const own = await file.stat({ bigint: true })
  try {
    const found = await stat(path, { bigint: true })
    return found.ino === own.ino && found.dev === own.dev
  } catch {
    return false
  }
}

const openFile = async (path: string): Promise<Output> => {
  const statePath = `${path}.state`
  const begun = await readState(path)
  const file = await open(path, existsSync(path) ? 'r+' : 'w')
  if ((await file.stat()).size < begun.bytes) {
    await file.close()
    throw new Error(
      `${path} is shorter than ${statePath} says: it was changed. Remove both, or name another output.`,
    )
  }
  await file.truncate(begun.bytes)
  // Records without a state would be taken for a finished output.
  if (begun.lines === 0) await writeState(statePath, begun)
  let { lines, bytes } = begun
  let waiting: string[] = []
  let size = 0
  let progress: (() => Progress) | undefined
  let timer: NodeJS.Timeout | undefined

  const writeOut = async (): Promise<void> => {
    if (progress === undefined) return
    const data = Buffer.from(waiting.join(''))
    const done = progress()
    waiting = []
    size = 0
    progress = undefined
    if (!(await isStillThere(path, file)))
      throw new Error(
        `${path} was removed or replaced while it was written, and its records with it. Remove ${statePath} and run the same command again.`,
      )
    await writeAll(file, data, bytes)
    bytes += data.length
    await file.datasync()
    await writeState(statePath, { ...done, bytes })
    lines = done.lines
  }
  /** One after another; after a failure none any more. */
  let writing: Promise<void> = Promise.resolve()
  const flush = (): Promise<void> => {
    clearTimeout(timer)
    timer = undefined
    writing = writing.then(writeOut).catch((error) => {
      throw fileError(error, path, 'written')
    })
    writing.catch(() => {}) // put and close throw it
    return writing
  }

  return {
    begun,
    put: async (records, now) => {
      waiting.push(records)
      size += records.length
      progress = now
      timer ??= setTimeout(flush, FLUSH_MS)
      await (size >= FLUSH_BYTES ? flush() : writing)
    },
    close: async (isDone) => {
      let isUnused = false
      try {
        await flush()
        isUnused = lines === 0 && (await file.stat()).size === 0
      } finally {
        await file.close()
      }
      // The state of a run that began nothing would have the next one cut off what others wrote there.
      if (isDone || isUnused) await rm(statePath, { force: true })
    },
  }
}

/** Throws where the output is another run's, is finished, or cannot be written. */
export const openOutput = async (path: string, host: Host): Promise<Output> => {
  if (await isPipe(path)) return openPipe(path, host)
  const unlock = await lockOutput(path)
  try {
    const output = await openFile(path)
    return {
      ...output,
      close: async (isDone) => {
        try {
          await output.close(isDone)
        } finally {
          await unlock()
        }
      },
    }
  } catch (error) {
    await unlock()
    throw fileError(error, path, 'written')
  }
}
