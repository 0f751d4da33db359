// What a GGUF file says of its model: the head of the file, no weights. Versions 2 and 3, little-endian
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { type EngineErrorCode, EngineFailure } from '../failure.js'

type Value = string | number | boolean | bigint
/** Of a list its numbers are kept where there are not many, or where they were asked for, as its texts
 * are; of any other its length alone. */
type List = {
  readonly length: number
  readonly numbers?: readonly number[]
  readonly texts?: readonly string[]
}

type GgufTensor = {
  readonly name: string
  readonly shape: readonly number[]
  readonly type: string
}

export type Gguf = {
  readonly version: number
  readonly metadata: ReadonlyMap<string, Value | List>
  readonly tensors: readonly GgufTensor[]
  /** Of the whole file. */
  readonly bytes: number
}

/** The message names the file and what is wrong. */
export class GgufError extends EngineFailure {
  constructor(message: string, code: EngineErrorCode = 'invalid_argument') {
    super({ code, message })
  }
}

/** Whether a model's path is that of a GGUF file: by its name, as models/checkpoint/gguf.h has it. */
export const isGguf = (path: string): boolean => path.endsWith('.gguf')

/** The paths of all parts of a split model, by the name of its first; of any other file itself. */
export const ggufParts = (path: string): readonly string[] => {
  const [, stem, of] = /^(.*)-00001-of-(\d{5})\.gguf$/s.exec(path) ?? []
  if (stem === undefined) return [path]
  return Array.from(
    { length: Number(of) },
    (_, i) => `${stem}-${String(i + 1).padStart(5, '0')}-of-${of}.gguf`,
  )
}

/** Name, elements of a block, bytes of a block, by ggml's number. */
const TYPES: Readonly<Record<number, readonly [name: string, elements: number, bytes: number]>> = {
  0: ['F32', 1, 4],
  1: ['F16', 1, 2],
  2: ['Q4_0', 32, 18],
  3: ['Q4_1', 32, 20],
  6: ['Q5_0', 32, 22],
  7: ['Q5_1', 32, 24],
  8: ['Q8_0', 32, 34],
  9: ['Q8_1', 32, 36],
  10: ['Q2_K', 256, 84],
  11: ['Q3_K', 256, 110],
  12: ['Q4_K', 256, 144],
  13: ['Q5_K', 256, 176],
  14: ['Q6_K', 256, 210],
  15: ['Q8_K', 256, 292],
  16: ['IQ2_XXS', 256, 66],
  17: ['IQ2_XS', 256, 74],
  18: ['IQ3_XXS', 256, 98],
  19: ['IQ1_S', 256, 50],
  20: ['IQ4_NL', 32, 18],
  21: ['IQ3_S', 256, 110],
  22: ['IQ2_S', 256, 82],
  23: ['IQ4_XS', 256, 136],
  24: ['I8', 1, 1],
  25: ['I16', 1, 2],
  26: ['I32', 1, 4],
  27: ['I64', 1, 8],
  28: ['F64', 1, 8],
  29: ['IQ1_M', 256, 56],
  30: ['BF16', 1, 2],
  31: ['Q4_0_4_4', 32, 18],
  32: ['Q4_0_4_8', 32, 18],
  33: ['Q4_0_8_8', 32, 18],
  34: ['TQ1_0', 256, 54],
  35: ['TQ2_0', 256, 66],
  36: ['IQ4_NL_4_4', 32, 18],
  37: ['IQ4_NL_4_8', 32, 18],
  38: ['IQ4_NL_8_8', 32, 18],
  39: ['MXFP4', 32, 17],
  40: ['NVFP4', 64, 36],
  41: ['Q1_0', 128, 18],
  42: ['Q2_0', 0, 0],
}

const WINDOW = 1 << 16
const MAX_TEXT = 1 << 24
const MAX_NUMBERS = 4096
const MAX_DEPTH = 4
const MAX_DIMS = 8

/** Reads on from the start; every read is checked against the size of the file. */
const createReader = (fd: number, size: number, fail: (what: string) => never) => {
  const window = Buffer.alloc(WINDOW)
  let from = 0
  let have = 0
  let at = 0
  const need = (bytes: number, what: string): void => {
    if (bytes > size - at)
      fail(`${what} at byte ${at} has ${bytes} bytes, and the file ends at ${size}`)
  }
  /** The next bytes, valid until the next call. */
  const take = (bytes: number, what: string): Buffer => {
    need(bytes, what)
    const start = at
    at += bytes
    if (start < from || start + bytes > from + have) {
      const target = bytes > WINDOW ? Buffer.alloc(bytes) : window
      const got = readSync(fd, target, 0, target.length, start)
      if (got < bytes) fail(`it became shorter while it was read`)
      if (target !== window) return target
      from = start
      have = got
    }
    return window.subarray(start - from, start - from + bytes)
  }
  const u32 = (what: string): number => take(4, what).readUInt32LE()
  const u64 = (what: string): number => {
    const value = take(8, what).readBigUInt64LE()
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) fail(`${what} at byte ${at - 8} is ${value}`)
    return Number(value)
  }
  return {
    need,
    take,
    u32,
    u64,
    skip: (bytes: number, what: string): void => {
      need(bytes, what)
      at += bytes
    },
    text: (what: string): string => {
      const length = u64(`the length of ${what}`)
      if (length > MAX_TEXT) fail(`${what} at byte ${at} is a text of ${length} bytes`)
      return take(length, what).toString()
    },
    skipText: (what: string): void => {
      const length = u64(`the length of ${what}`)
      need(length, what)
      at += length
    },
    at: () => at,
  }
}
type Reader = ReturnType<typeof createReader>

/** Size and reader of the values of one size, by GGUF's number. */
const SCALARS: Readonly<Record<number, readonly [bytes: number, (b: Buffer) => Value]>> = {
  0: [1, (b) => b.readUInt8()],
  1: [1, (b) => b.readInt8()],
  2: [2, (b) => b.readUInt16LE()],
  3: [2, (b) => b.readInt16LE()],
  4: [4, (b) => b.readUInt32LE()],
  5: [4, (b) => b.readInt32LE()],
  6: [4, (b) => b.readFloatLE()],
  7: [1, (b) => b.readUInt8() !== 0],
  10: [8, (b) => b.readBigUInt64LE()],
  11: [8, (b) => b.readBigInt64LE()],
  12: [8, (b) => b.readDoubleLE()],
}
const TEXT = 8
const LIST = 9

type Fail = (what: string) => never

const readTexts = (reader: Reader, key: string, length: number, isWanted: boolean): List => {
  const texts: string[] = []
  for (let i = 0; i < length; i++) {
    if (isWanted) texts.push(reader.text(key))
    else reader.skipText(key)
  }
  return isWanted ? { length, texts } : { length }
}

const readList = (
  reader: Reader,
  key: string,
  isWanted: boolean,
  depth: number,
  fail: Fail,
): List => {
  if (depth > MAX_DEPTH) fail(`${key} has lists in lists, more than ${MAX_DEPTH} deep`)
  const type = reader.u32(`the type of ${key}`)
  const length = reader.u64(`the length of ${key}`)
  const scalar = SCALARS[type]
  if (scalar !== undefined) {
    const [bytes, read] = scalar
    if ((length > MAX_NUMBERS && !isWanted) || type === 7) {
      reader.skip(bytes * length, key)
      return { length }
    }
    reader.need(bytes * length, key) // before a list of that length is made
    return {
      length,
      numbers: Array.from({ length }, () => Number(read(reader.take(bytes, key)))),
    }
  }
  if (type === TEXT) return readTexts(reader, key, length, isWanted)
  for (let i = 0; i < length; i++) {
    if (type === LIST) readList(reader, key, false, depth + 1, fail)
    else fail(`${key} is a list of the unknown type ${type}`)
  }
  return { length }
}

const readValue = (reader: Reader, key: string, isWanted: boolean, fail: Fail): Value | List => {
  const type = reader.u32(`the type of ${key}`)
  const scalar = SCALARS[type]
  if (scalar !== undefined) return scalar[1](reader.take(scalar[0], key))
  if (type === TEXT) return reader.text(key)
  if (type === LIST) return readList(reader, key, isWanted, 1, fail)
  return fail(`${key} has the unknown type ${type}`)
}

type Placed = GgufTensor & { readonly offset: number; readonly size: number | undefined }

const readTensor = (reader: Reader, fail: Fail): Placed => {
  const name = reader.text('the name of a tensor')
  const count = reader.u32(`the dimensions of ${name}`)
  if (count > MAX_DIMS) fail(`${name} has ${count} dimensions`)
  const shape = Array.from({ length: count }, () => reader.u64(`the shape of ${name}`))
  const number = reader.u32(`the type of ${name}`)
  const offset = reader.u64(`the offset of ${name}`)
  const [type, elements, bytes] = TYPES[number] ?? [`type ${number}`, 0, 0]
  const all = shape.reduce((product, one) => product * one, 1)
  return { name, shape, type, offset, size: elements > 0 ? (all / elements) * bytes : undefined }
}

const DEFAULT_ALIGNMENT = 32

const checkEnd = (tensors: readonly Placed[], begin: number, bytes: number, fail: Fail): void => {
  for (const { name, offset, size = 0 } of tensors) {
    if (begin + offset + size > bytes)
      fail(
        `it is truncated: the tensor ${name} ends at byte ${begin + offset + size}, and the file at ${bytes}`,
      )
  }
}

const read = (path: string, fd: number, lists: readonly string[]): Gguf => {
  const { size } = fstatSync(fd)
  const fail = (what: string): never => {
    throw new GgufError(`${path}: ${what}`)
  }
  const reader = createReader(fd, size, fail)
  if (size < 4 || reader.take(4, 'its magic').toString('latin1') !== 'GGUF')
    fail('this is a file, and no GGUF file: name the folder of a model')
  const version = reader.u32('its version')
  if (version !== 2 && version !== 3) {
    const what =
      version % 65536 === 0
        ? 'it is a big-endian GGUF file'
        : `GGUF version ${version} is not read; versions 2 and 3 are`
    throw new GgufError(`${path}: ${what}`, 'unsupported')
  }
  const tensorCount = reader.u64('the number of tensors')
  const keys = reader.u64('the number of metadata')
  const metadata = new Map<string, Value | List>()
  for (let i = 0; i < keys; i++) {
    const key = reader.text('a key')
    metadata.set(key, readValue(reader, key, lists.includes(key), fail))
  }
  const tensors: Placed[] = []
  for (let i = 0; i < tensorCount; i++) tensors.push(readTensor(reader, fail))
  const given = metadata.get('general.alignment')
  const alignment = typeof given === 'number' && given > 0 ? given : DEFAULT_ALIGNMENT
  checkEnd(tensors, Math.ceil(reader.at() / alignment) * alignment, size, fail)
  return { version, metadata, tensors, bytes: size }
}

/** Throws a GgufError when it is none, or broken. `lists`: names of those that are kept whole. */
export const readGguf = (path: string, lists: readonly string[] = []): Gguf => {
  const fd = openSync(path, 'r')
  try {
    return read(path, fd, lists)
  } finally {
    closeSync(fd)
  }
}
