// Folders with other weights of the same model, made from one that is there.

import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** A copy whose BF16 weights are those of `folder`, those of the same name turned within each matrix by `by` rows. */
export const writeOtherWeights = (folder: string, to: string, by: number): void => {
  cpSync(folder, to, { recursive: true })
  const file = join(to, 'model.safetensors')
  const bytes = readFileSync(file)
  const head = Number(bytes.readBigUInt64LE(0))
  const tensors = JSON.parse(bytes.subarray(8, 8 + head).toString())
  for (const [name, { shape, data_offsets: at }] of Object.entries<{
    shape: number[]
    data_offsets: [number, number]
  }>(tensors)) {
    if (name === '__metadata__' || shape.length !== 2) continue
    const data = bytes.subarray(8 + head + at[0], 8 + head + at[1])
    const row = data.length / (shape[0] ?? 1)
    const turned = Buffer.concat([data.subarray(by * row), data.subarray(0, by * row)])
    turned.copy(data)
  }
  writeFileSync(file, bytes)
}

/** The header of model.safetensors, changed. */
export const changeHeader = (
  folder: string,
  change: (tensors: Record<string, { shape: number[] }>) => void,
): void => {
  const file = join(folder, 'model.safetensors')
  const bytes = readFileSync(file)
  const head = Number(bytes.readBigUInt64LE(0))
  const tensors = JSON.parse(bytes.subarray(8, 8 + head).toString())
  change(tensors)
  const text = Buffer.from(JSON.stringify(tensors))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(text.length))
  writeFileSync(file, Buffer.concat([size, text, bytes.subarray(8 + head)]))
}

/** A number that is none in the model's last norm, which is read when all matrices are there. */
export const spoilLastNorm = (folder: string): void => {
  const file = join(folder, 'model.safetensors')
  const bytes = readFileSync(file)
  const head = Number(bytes.readBigUInt64LE(0))
  const { 'model.norm.weight': norm } = JSON.parse(bytes.subarray(8, 8 + head).toString())
  bytes.fill(0xff, 8 + head + norm.data_offsets[0], 8 + head + norm.data_offsets[0] + 2)
  writeFileSync(file, bytes)
}
