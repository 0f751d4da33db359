// What JSON.parse would make of a body, counted before it is parsed: parsing, checking and dropping a
// million small values would keep everybody waiting, and the depth of a value is a stack's depth later.

import { badRequest } from '../request-error.js'
import { createTurn } from '../slices.js'

export const MAX_DEPTH = 64
/** Keys, texts, objects, lists, true, false, null, and numbers that are no token ids. */
export const MAX_VALUES = 1 << 16
/** Token ids, that is: eight prompts of 128K of them. */
export const MAX_NUMBERS = 1 << 20
/** A longer number is no token id: such are read a tenth as fast. */
const ID_LENGTH = 9
/** The longest that a program writes has 24 characters. */
const MAX_NUMBER_LENGTH = 64

/** Bytes between looks at the clock. */
const STRIDE = 1 << 16

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN_OBJECT = 0x7b
const OPEN_LIST = 0x5b
const CLOSE_OBJECT = 0x7d
const CLOSE_LIST = 0x5d

const isNumberStart = (byte: number): boolean => byte === 0x2d || (byte >= 0x30 && byte <= 0x39)
const isWordStart = (byte: number): boolean => byte === 0x74 || byte === 0x66 || byte === 0x6e
/** Goes on with a number or a word: digits, letters, `+`, `-`, `.`. */
const isInside = (byte: number): boolean =>
  isNumberStart(byte) ||
  (byte >= 0x41 && byte <= 0x5a) ||
  (byte >= 0x61 && byte <= 0x7a) ||
  byte === 0x2b ||
  byte === 0x2e

/** Where a number or a word ends that begins at `from`; no further than is of interest. */
const endOf = (bytes: Buffer, from: number): number => {
  const stop = Math.min(bytes.length, from + MAX_NUMBER_LENGTH + 1)
  let i = from + 1
  while (i < stop && isInside(bytes[i] ?? 0)) i++
  return i
}

const tooMuch = (what: string, limit: number): never => {
  throw badRequest(`The JSON body has more than ${limit} ${what}: send it in several requests.`)
}

/** Throws for a body whose JSON is too deep or has too many parts. Broken JSON passes: the parser says
 * what is wrong with it. A long body is read in slices. */
export const scanJson = async (bytes: Buffer): Promise<void> => {
  let depth = 0
  let values = 0
  let numbers = 0
  let isInText = false
  let lookAt = STRIDE
  const turn = createTurn()
  for (let i = 0; i < bytes.length; ) {
    const byte = bytes[i] ?? 0
    if (isInText) {
      const stop = Math.min(bytes.length, lookAt)
      while (i < stop && bytes[i] !== QUOTE) i += bytes[i] === BACKSLASH ? 2 : 1
      if (i < stop) {
        isInText = false
        i++
      }
    } else if (byte === QUOTE) {
      values++
      isInText = true
      i++
    } else if (byte === OPEN_OBJECT || byte === OPEN_LIST) {
      values++
      depth++
      i++
      if (depth > MAX_DEPTH)
        throw badRequest(`The JSON body is nested deeper than ${MAX_DEPTH} levels.`)
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_LIST) {
      depth--
      i++
    } else if (isNumberStart(byte) || isWordStart(byte)) {
      const end = endOf(bytes, i)
      if (end - i > MAX_NUMBER_LENGTH) {
        if (!isNumberStart(byte)) return // the parser comes no further either
        throw badRequest(`The JSON body has a number of more than ${MAX_NUMBER_LENGTH} characters.`)
      }
      if (isNumberStart(byte) && end - i <= ID_LENGTH) numbers++
      else values++
      i = end
    } else i++
    if (values > MAX_VALUES) tooMuch('keys, texts, lists, objects and long numbers', MAX_VALUES)
    if (numbers > MAX_NUMBERS) tooMuch('numbers', MAX_NUMBERS)
    if (i < lookAt) continue
    lookAt = i + STRIDE
    await turn()
  }
}
