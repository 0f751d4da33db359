// A text file of a checkpoint or of the user's. Only regular files are read: a pipe would never end.

import { lstat, readFile, stat } from 'node:fs/promises'
import { fileError } from '../failure.js'

/** The largest tokenizer.json of a 128K vocabulary has 17 MB. */
const MAX_BYTES = 256 << 20

/** undefined: there is no such file. Anything else that keeps it from being read is an error that names it. */
export const readBytesIfThere = async (path: string): Promise<Buffer | undefined> => {
  const found = await stat(path).catch(async (error: NodeJS.ErrnoException) => {
    const isAbsent = error.code === 'ENOENT' || error.code === 'ENOTDIR'
    // A cache that lost a file would otherwise be a model without a template.
    const link = isAbsent ? await lstat(path).catch(() => undefined) : undefined
    if (link !== undefined) throw new Error(`${path} cannot be read: it links to nothing`)
    if (isAbsent) return undefined
    throw fileError(error, path, 'read')
  })
  if (found === undefined) return undefined
  if (!found.isFile()) throw new Error(`${path} cannot be read: it is not a regular file`)
  if (found.size > MAX_BYTES)
    throw new Error(`${path} cannot be read: it has ${found.size} bytes, more than ${MAX_BYTES}`)
  try {
    return await readFile(path)
  } catch (error) {
    throw fileError(error, path, 'read')
  }
}

export const readTextIfThere = async (path: string): Promise<string | undefined> =>
  (await readBytesIfThere(path))?.toString('utf8')

export const readText = async (path: string): Promise<string> => {
  const text = await readTextIfThere(path)
  if (text === undefined) throw new Error(`${path} cannot be read: there is no such file`)
  return text
}
