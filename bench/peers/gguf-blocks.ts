// Tensors of GGUF's packed types with random blocks: every code and every small scale is drawn, and the scales of a
// whole block are such that the values have the mean and the deviation of the bench model's (random-model.ts).

import { distribution, elements, randomWords, type Tensor } from '../random-model.js'

/** A block: its half floats, each at a byte with what it is for values of deviation 1 and mean 0, and random bytes. */
export type BlockType = {
  readonly number: number
  readonly elements: number
  readonly bytes: number
  readonly halves: readonly (readonly [at: number, value: number])[]
}

// A value is a code times the block's scale, times a small scale where there are some: the divisors are the root of
// the mean square of that product for uniform bytes. A least value's factor is the mean of the codes.
export const blockTypes = {
  Q8_0: { number: 8, elements: 32, bytes: 34, halves: [[0, 1 / 73.9]] },
  Q4_K: {
    ...{ number: 12, elements: 256, bytes: 144 },
    halves: [
      [0, 1 / 258],
      [2, 7.5 / 258],
    ],
  },
  Q5_K: {
    ...{ number: 13, elements: 256, bytes: 176 },
    halves: [
      [0, 1 / 527],
      [2, 15.5 / 527],
    ],
  },
  Q6_K: { number: 14, elements: 256, bytes: 210, halves: [[208, 1 / 1366]] },
  IQ3_S: { number: 21, elements: 256, bytes: 110, halves: [[0, 1 / 170]] },
  IQ4_XS: { number: 23, elements: 256, bytes: 136, halves: [[0, 1 / 1246]] },
} as const satisfies Readonly<Record<string, BlockType>>

export const packedBytes = (type: BlockType, tensor: Tensor): number =>
  (elements(tensor) / type.elements) * type.bytes

/** Of a positive normal number, rounded down. */
const halfFloat = (value: number): number => {
  const exponent = Math.floor(Math.log2(value))
  if (exponent >= -14)
    return ((exponent + 15) << 10) | Math.floor((value / 2 ** exponent - 1) * 1024)
  return Math.floor(value * 2 ** 24)
}

const pieceBlocks = 1 << 15

/** The bytes of a tensor piece by piece, the same ones each time; the pieces share one buffer. */
export function* randomBlocks(type: BlockType, tensor: Tensor): Iterable<Uint8Array> {
  const [, deviation] = distribution(tensor)
  const halves = type.halves.map(([at, value]) => [at, halfFloat(value * deviation)] as const)
  const next = randomWords(1234, tensor.name)
  const words = new Int32Array(Math.ceil((pieceBlocks * type.bytes) / 4))
  const piece = Buffer.from(words.buffer)
  for (let left = elements(tensor) / type.elements; left > 0; left -= pieceBlocks) {
    const bytes = Math.min(left, pieceBlocks) * type.bytes
    for (let i = 0; i < bytes / 4; i++) words[i] = next()
    for (let block = 0; block < bytes; block += type.bytes) {
      for (const [at, half] of halves) piece.writeUInt16LE(half, block + at)
    }
    yield piece.subarray(0, bytes)
  }
}
