// The bytes of files, each under its id in one folder. A file is there whole or not at all: it is written
// under another name first.

import { randomBytes } from 'node:crypto'
import { createWriteStream, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileError } from '../failure.js'
import { onOneLine } from '../http/one-line.js'

const PART = '.part'
/** Characters that are written together. */
const PIECE = 1 << 16
/** Files of ours: whatever else is in the folder is left alone. */
const OURS = /^file-[0-9a-f]{32}(\.part)?$/

export const newId = (prefix: string): string => prefix + randomBytes(16).toString('hex')

/** Seconds since 1970. */
export const now = (): number => Math.floor(Date.now() / 1000)

export type Files = ReturnType<typeof openFiles>

/** A file of the ledger that is not there, or not whole: somebody took it away. */
export class LostFile extends Error {
  override readonly name = 'LostFile'
}

const isMissing = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === 'ENOENT'

/** What was renamed is under its new name after a loss of power too. */
const syncFolder = async (folder: string): Promise<void> => {
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Throws LostFile where it is gone or ends before. */
const readPart = async (path: string, at: number, size: number): Promise<Buffer> => {
  const file: FileHandle = await open(path, 'r').catch((error) => {
    throw isMissing(error) ? new LostFile(`${path} is gone`) : error
  })
  try {
    const data = Buffer.alloc(size)
    const { bytesRead } = await file.read(data, 0, size, at)
    if (bytesRead < size) throw new LostFile(`${path} is shorter than it was`)
    return data
  } finally {
    await file.close()
  }
}

/** Not mkdir's own recursion: where a folder that is there takes none, as /proc, Node tries for ever. */
const makeFolders = (path: string): void => {
  try {
    mkdirSync(path, { mode: 0o700 })
  } catch (error) {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return
    const parent = dirname(path)
    if (existsSync(parent)) throw error
    makeFolders(parent)
    makeFolders(path)
  }
}

export const makeFolder = (path: string): void => {
  try {
    makeFolders(path)
  } catch (error) {
    throw fileError(error, path, 'written')
  }
}

export const openFiles = (folder: string) => {
  makeFolder(folder)
  const pathOf = (id: string): string => join(folder, id)
  const remove = (id: string): Promise<void> => rm(pathOf(id), { force: true })

  /** Keeps what `fill` writes; its result. */
  const write = async <T>(id: string, fill: (path: string) => Promise<T>): Promise<T> => {
    const part = pathOf(id) + PART
    try {
      const result = await fill(part)
      const file = await open(part, 'r+')
      try {
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(part, pathOf(id))
      await syncFolder(folder)
      return result
    } catch (error) {
      await rm(part, { force: true })
      throw error
    }
  }

  return {
    pathOf,
    isThere: (id: string): boolean => existsSync(pathOf(id)),
    remove,
    /** Keeps all that comes; how many bytes it is. */
    receive: (id: string, from: Readable): Promise<number> =>
      write(id, async (part) => {
        const out = createWriteStream(part, { mode: 0o600 })
        await pipeline(from, out)
        return out.bytesWritten
      }),
    /** Keeps the lines that come; how many bytes they are. */
    writeLines: (id: string, lines: AsyncIterable<string>): Promise<number> =>
      write(id, async (part) => {
        const file = await open(part, 'w', 0o600)
        let bytes = 0
        let text = ''
        const flush = async (): Promise<void> => {
          const data = Buffer.from(text)
          text = ''
          await file.writeFile(data)
          bytes += data.length
        }
        try {
          for await (const line of lines) {
            text += `${onOneLine(line)}\n`
            if (text.length >= PIECE) await flush()
          }
          await flush()
        } finally {
          await file.close()
        }
        return bytes
      }),
    read: (id: string, at: number, size: number) => readPart(pathOf(id), at, size),
    /** What an interrupted write or removal left. */
    sweep: async (known: ReadonlySet<string>): Promise<void> => {
      for (const name of readdirSync(folder))
        if (OURS.test(name) && !known.has(name)) await rm(join(folder, name))
    },
  }
}
