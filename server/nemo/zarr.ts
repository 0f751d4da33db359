// A zarr array as NeMo writes one: a folder with .zarray and a file for every chunk. Read band by band, so
// that no chunk need be in memory as a whole.

import {
  closeSync,
  createReadStream,
  createWriteStream,
  fstatSync,
  openSync,
  readSync,
} from 'node:fs'
import { readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { createInflate } from 'node:zlib'
import { z } from 'zod'
import { faultText } from '../check.js'
import { messageOf } from '../failure.js'

/** As zarr and TensorStore write them, and as safetensors calls them. */
const DTYPES: Readonly<Record<string, { readonly name: string; readonly bytes: number }>> = {
  bfloat16: { name: 'BF16', bytes: 2 },
  '<f2': { name: 'F16', bytes: 2 },
  '<f4': { name: 'F32', bytes: 4 },
}

const Compressor = z.looseObject({ id: z.string() })
const Header = z.looseObject({
  zarr_format: z.number(),
  shape: z.array(z.int().min(1)).min(1).max(8),
  chunks: z.array(z.int().min(1)).min(1).max(8),
  dtype: z.string(),
  order: z.string().default('C'),
  compressor: Compressor.nullish(),
  filters: z.array(z.unknown()).nullish(),
  dimension_separator: z.enum(['.', '/']).default('.'),
})

export type ZarrArray = {
  /** Its folder, for errors. */
  readonly path: string
  readonly shape: readonly number[]
  readonly chunks: readonly number[]
  /** As safetensors has it. */
  readonly dtype: string
  readonly itemBytes: number
  readonly isCompressed: boolean
  readonly separator: string
}

const product = (sizes: readonly number[]): number => sizes.reduce((all, one) => all * one, 1)

export const openZarr = async (path: string): Promise<ZarrArray> => {
  const file = join(path, '.zarray')
  const fail = (what: string): never => {
    throw new Error(`${file}: ${what}`)
  }
  let value: unknown
  try {
    value = JSON.parse(await readFile(file, 'utf8'))
  } catch (error) {
    fail(messageOf(error))
  }
  const read = Header.safeParse(value)
  if (!read.success) return fail(faultText(read.error, value))
  const { shape, chunks, dtype: given, compressor, filters, order, zarr_format } = read.data
  if (zarr_format !== 2) fail(`zarr_format is ${zarr_format}; read: 2`)
  if (chunks.length !== shape.length)
    fail(`chunks has ${chunks.length} sizes; shape has ${shape.length}`)
  if (order !== 'C') fail(`order is "${order}"; read: "C"`)
  if (compressor != null && compressor.id !== 'zlib')
    fail(`compressor is "${compressor.id}"; read: none and "zlib"`)
  if (filters != null && filters.length > 0) fail('it has filters; read: none')
  const dtype =
    DTYPES[given] ?? fail(`dtype is "${given}"; read: ${Object.keys(DTYPES).join(', ')}`)
  return {
    path,
    shape,
    chunks,
    dtype: dtype.name,
    itemBytes: dtype.bytes,
    isCompressed: compressor != null,
    separator: read.data.dimension_separator,
  }
}

const chunkFile = ({ path, separator }: ZarrArray, at: readonly number[]): string =>
  join(path, at.join(separator))

/** Chunks have their full size at the edges, too. */
const chunkBytes = ({ chunks, itemBytes }: ZarrArray): number => product(chunks) * itemBytes

const checkSize = (file: string, found: number, expected: number, what: string): void => {
  if (found !== expected)
    throw new Error(`${file}: this chunk has ${found} bytes${what}; expected ${expected}`)
}

type OpenChunk = { readonly fd: number; readonly close: () => Promise<void> }

/** A compressed one is inflated into `scratch` first. */
const openChunk = async (
  array: ZarrArray,
  at: readonly number[],
  scratch: string,
): Promise<OpenChunk> => {
  const file = chunkFile(array, at)
  const expected = chunkBytes(array)
  const found = await stat(file).catch(() => undefined)
  if (found === undefined || !found.isFile())
    throw new Error(
      `${file}: this chunk is missing; the array has ${array.shape.join(' x ')} in chunks of ${array.chunks.join(' x ')}`,
    )
  if (!array.isCompressed) {
    checkSize(file, found.size, expected, '')
    const fd = openSync(file, 'r')
    return { fd, close: async () => closeSync(fd) }
  }
  const target = `${scratch}.${at.join('.')}`
  try {
    await pipeline(createReadStream(file), createInflate(), createWriteStream(target))
    const fd = openSync(target, 'r')
    checkSize(file, fstatSync(fd).size, expected, ' when it is inflated')
    return {
      fd,
      close: async () => {
        closeSync(fd)
        await rm(target, { force: true })
      },
    }
  } catch (error) {
    await rm(target, { force: true })
    if (error instanceof Error && error.message.startsWith(file)) throw error
    throw new Error(`${file}: cannot be inflated: ${messageOf(error)}`)
  }
}

const readAll = (fd: number, into: Buffer, from: number, size: number, position: number): void => {
  for (let done = 0; done < size; ) {
    const count = readSync(fd, into, from + done, size - done, position + done)
    if (count === 0) throw new Error('a chunk became shorter while it was read')
    done += count
  }
}

/** Rows of a matrix, whole, as they stand one after another in `bytes`, which the next band overwrites. */
type Band = { readonly firstRow: number; readonly rows: number; readonly bytes: Buffer }

/** Of one band, where a row is no longer. */
const BAND_BYTES = 1 << 21

/** Memory that is used again and again: fresh pages cost more than what is copied into them. */
const createMemory = () => {
  let memory = Buffer.alloc(0)
  return (size: number): Buffer => {
    if (memory.length < size) memory = Buffer.allocUnsafeSlow(size)
    return memory.subarray(0, size)
  }
}

/** What one import reads with; of one array at a time. */
export const createReading = (scratch: string) => ({
  /** A path for what is inflated. */
  scratch,
  band: createMemory(),
  part: createMemory(),
})
export type Reading = ReturnType<typeof createReading>

/** The matrix (or vector, a matrix of one row) at an index of the first axis; undefined: the array is it. */
export const matrixOf = ({ shape }: ZarrArray, isStacked: boolean) => {
  const sizes = isStacked ? shape.slice(1) : shape
  const columns = sizes.at(-1) ?? 1
  return { rows: product(sizes.slice(0, -1)), columns }
}

/** Every band of a matrix, in order. `layer`: of a stacked array. */
export async function* bandsOf(
  array: ZarrArray,
  layer: number | undefined,
  reading: Reading,
): AsyncGenerator<Band> {
  const { shape, chunks, itemBytes } = array
  const axes = layer === undefined ? 0 : 1
  if (shape.length - axes > 2)
    throw new Error(`${array.path}/.zarray: shape is ${shape.join(' x ')}; expected a matrix`)
  const { rows, columns } = matrixOf(array, layer !== undefined)
  const isVector = shape.length - axes === 1
  const tall = isVector ? 1 : (chunks[axes] ?? 1)
  const wide = chunks.at(-1) ?? 1
  const across = Math.ceil(columns / wide)
  const most = Math.max(1, Math.floor(BAND_BYTES / (columns * itemBytes)))
  const stackChunk = chunks[0] ?? 1
  /** Where the layer begins in its chunk. */
  const before = layer === undefined ? 0 : (layer % stackChunk) * tall * wide * itemBytes
  for (let top = 0, down = 0; top < rows; top += tall, down++) {
    const opened: OpenChunk[] = []
    try {
      for (let over = 0; over < across; over++)
        opened.push(
          await openChunk(
            array,
            [
              ...(layer === undefined ? [] : [Math.floor(layer / stackChunk)]),
              ...(isVector ? [] : [down]),
              over,
            ],
            reading.scratch,
          ),
        )
      const inChunk = Math.min(tall, rows - top)
      for (let row = 0; row < inChunk; row += most) {
        const count = Math.min(most, inChunk - row)
        const bytes = reading.band(count * columns * itemBytes)
        const part =
          across === 1 && wide === columns ? bytes : reading.part(count * wide * itemBytes)
        for (const [over, { fd }] of opened.entries()) {
          readAll(fd, part, 0, count * wide * itemBytes, before + row * wide * itemBytes)
          if (part === bytes) continue
          const used = Math.min(wide, columns - over * wide) * itemBytes
          for (let i = 0; i < count; i++)
            part.copy(
              bytes,
              (i * columns + over * wide) * itemBytes,
              i * wide * itemBytes,
              i * wide * itemBytes + used,
            )
        }
        yield { firstRow: top + row, rows: count, bytes }
      }
    } finally {
      for (const one of opened) await one.close()
    }
  }
}
