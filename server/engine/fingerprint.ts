// system_fingerprint: which weights, in which form, under which version of this program.

import { createHash } from 'node:crypto'
import { open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { VERSION } from '../version.js'

const single = 'model.safetensors'

const weightFiles = async (folder: string): Promise<readonly string[]> => {
  try {
    const index = JSON.parse(await readFile(join(folder, `${single}.index.json`), 'utf8'))
    return [...new Set(Object.values(index.weight_map as Record<string, string>))].sort()
  } catch {
    return [single]
  }
}

/** The header of a safetensors file: names, shapes, types and places of its tensors. */
const readHeader = async (path: string): Promise<Uint8Array> => {
  const file = await open(path)
  try {
    const { buffer: length } = await file.read(Buffer.alloc(8), 0, 8, 0)
    const header = Buffer.alloc(Number(length.readBigUInt64LE()))
    await file.read(header, 0, header.length, 8)
    return header
  } finally {
    await file.close()
  }
}

/** Of a folder that the engine has already checked. */
export const fingerprint = async (folder: string, dtype: string): Promise<string> => {
  const hash = createHash('sha256').update(`${VERSION}\n${dtype}\n`)
  for (const name of await weightFiles(folder)) hash.update(await readHeader(join(folder, name)))
  return `fp_${hash.digest('hex').slice(0, 10)}`
}
