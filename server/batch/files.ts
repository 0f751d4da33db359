// The bytes of files, each under its id in one folder. A file is there whole or not at all: it is written
// under another name first.

import { randomBytes } from 'node:crypto'
import { createWriteStream, mkdirSync, readdirSync } from 'node:fs'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

const PART = '.part'

export const newId = (prefix: string): string => prefix + randomBytes(16).toString('hex')

/** Seconds since 1970. */
export const now = (): number => Math.floor(Date.now() / 1000)

export type Files = ReturnType<typeof openFiles>

export const openFiles = (folder: string) => {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
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
      return result
    } catch (error) {
      await rm(part, { force: true })
      throw error
    }
  }

  return {
    pathOf,
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
        try {
          for await (const line of lines) {
            const data = Buffer.from(`${line}\n`)
            await file.writeFile(data)
            bytes += data.length
          }
        } finally {
          await file.close()
        }
        return bytes
      }),
    read: async (id: string, at: number, size: number): Promise<Buffer> => {
      const file: FileHandle = await open(pathOf(id), 'r')
      try {
        const data = Buffer.alloc(size)
        const { bytesRead } = await file.read(data, 0, size, at)
        if (bytesRead < size) throw new Error(`${pathOf(id)} is shorter than it was`)
        return data
      } finally {
        await file.close()
      }
    },
    /** What an interrupted write or removal left. */
    sweep: async (known: ReadonlySet<string>): Promise<void> => {
      for (const name of readdirSync(folder)) if (!known.has(name)) await rm(join(folder, name))
    },
  }
}
