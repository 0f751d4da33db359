// The safetensors container: a streaming writer for the bench models, and a reader of tensors by name
// for the GGUF converter. The engine's own reader is models/safetensors.cc; this one trusts its input.

import { closeSync, openSync, readSync, writeSync } from 'node:fs'

export type TensorSpec = {
  readonly name: string
  readonly dtype: 'BF16' | 'F32'
  readonly shape: readonly number[]
}

export type StoredTensor = TensorSpec & { readonly offset: number; readonly bytes: number }

const elementBytes = { BF16: 2, F32: 4 } as const

export const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

export const tensorBytes = (tensor: TensorSpec): number =>
  elements(tensor.shape) * elementBytes[tensor.dtype]

const writeAll = (fd: number, bytes: Uint8Array): void => {
  let done = 0
  while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done)
}

/**
 * Writes one file. `fill` makes the data of a tensor piece by piece: it is called with the tensor
 * until it has given all of its bytes, and may reuse one buffer.
 */
export const writeSafetensors = (
  path: string,
  tensors: readonly TensorSpec[],
  fill: (tensor: TensorSpec) => Iterable<Uint8Array>,
  onProgress: (bytesDone: number, bytesTotal: number) => void,
): void => {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let total = 0
  for (const tensor of tensors) {
    const end = total + tensorBytes(tensor)
    header[tensor.name] = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [total, end] }
    total = end
  }
  const json = Buffer.from(JSON.stringify(header))
  const padded = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ')
  padded.writeBigUInt64LE(BigInt(padded.length - 8))
  json.copy(padded, 8)

  const fd = openSync(path, 'w')
  try {
    writeAll(fd, padded)
    let done = 0
    for (const tensor of tensors) {
      for (const piece of fill(tensor)) {
        writeAll(fd, piece)
        done += piece.length
        onProgress(done, total)
      }
    }
    if (done !== total) throw new Error(`${path}: wrote ${done} bytes of ${total}`)
  } finally {
    closeSync(fd)
  }
}

/** An open file; `read` copies part of a tensor's bytes. */
export type SafetensorsFile = {
  readonly tensors: ReadonlyMap<string, StoredTensor>
  readonly read: (tensor: StoredTensor, offset: number, into: Uint8Array) => void
  readonly close: () => void
}

export const openSafetensors = (path: string): SafetensorsFile => {
  const fd = openSync(path, 'r')
  const readAll = (into: Uint8Array, position: number): void => {
    let done = 0
    while (done < into.length) {
      const count = readSync(fd, into, done, into.length - done, position + done)
      if (count === 0) throw new Error(`${path}: ends at byte ${position + done}`)
      done += count
    }
  }
  const size = Buffer.alloc(8)
  readAll(size, 0)
  const json = Buffer.alloc(Number(size.readBigUInt64LE()))
  readAll(json, 8)
  const header: Record<
    string,
    { dtype: 'BF16' | 'F32'; shape: number[]; data_offsets: [number, number] }
  > = JSON.parse(json.toString())
  const start = 8 + json.length
  const tensors = new Map<string, StoredTensor>()
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const [begin, end] = data_offsets
    tensors.set(name, { name, dtype, shape, offset: start + begin, bytes: end - begin })
  }
  return {
    tensors,
    read: (tensor, offset, into) => readAll(into, tensor.offset + offset),
    close: () => closeSync(fd),
  }
}
