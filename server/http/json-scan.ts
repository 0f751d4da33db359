// What JSON.parse would make of a body, counted before it is parsed: parsing, checking and dropping a
// million small values would keep everybody waiting, and the depth of a value is a stack's depth later.

import { setImmediate as nextTurn } from 'node:timers/promises'
import { badRequest } from '../request-error.js'

export const MAX_DEPTH = 64
/** Keys, texts, objects, lists, true, false and null. */
export const MAX_VALUES = 1 << 16
/** Token ids, that is: eight prompts of 128K of them. */
export const MAX_NUMBERS = 1 << 20

const SLICE_MS = 5
/** Bytes between looks at the clock. */
const STRIDE = 1 << 16

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN_OBJECT = 0x7b
const OPEN_LIST = 0x5b
const CLOSE_OBJECT = 0x7d
const CLOSE_LIST = 0x5d

/** The end of the text that begins before `from`: behind its closing quote. */
const endOfText = (bytes: Buffer, from: number): number => {
  let at = bytes.indexOf(QUOTE, from)
  while (at >= 0) {
    let backslashes = 0
    while (bytes[at - 1 - backslashes] === BACKSLASH) backslashes++
    if (backslashes % 2 === 0) return at + 1
    at = bytes.indexOf(QUOTE, at + 1)
  }
  return bytes.length
}

const isNumberStart = (byte: number): boolean => byte === 0x2d || (byte >= 0x30 && byte <= 0x39)
const isWordStart = (byte: number): boolean => byte === 0x74 || byte === 0x66 || byte === 0x6e
/** Goes on with a number or a word: digits, letters, `+`, `-`, `.`. */
const isInside = (byte: number): boolean =>
  isNumberStart(byte) ||
  (byte >= 0x41 && byte <= 0x5a) ||
  (byte >= 0x61 && byte <= 0x7a) ||
  byte === 0x2b ||
  byte === 0x2e

const tooMuch = (what: string, limit: number): never => {
  throw badRequest(`The JSON body has more than ${limit} ${what}: send it in several requests.`)
}

/** Throws for a body whose JSON is too deep or has too many parts. Broken JSON passes: the parser says
 * what is wrong with it. A long body is read in slices. */
export const scanJson = async (bytes: Buffer): Promise<void> => {
  let depth = 0
  let values = 0
  let numbers = 0
  let lookAt = STRIDE
  let since = performance.now()
  for (let i = 0; i < bytes.length; ) {
    const byte = bytes[i] ?? 0
    if (byte === QUOTE) {
      values++
      i = endOfText(bytes, i + 1)
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
      if (isNumberStart(byte)) numbers++
      else values++
      i++
      while (i < bytes.length && isInside(bytes[i] ?? 0)) i++
    } else i++
    if (values > MAX_VALUES) tooMuch('keys, texts, lists and objects', MAX_VALUES)
    if (numbers > MAX_NUMBERS) tooMuch('numbers', MAX_NUMBERS)
    if (i < lookAt) continue
    lookAt = i + STRIDE
    if (performance.now() - since < SLICE_MS) continue
    await nextTurn()
    since = performance.now()
  }
}
