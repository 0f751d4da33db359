// What SentencePiece does with a text before it is cut into pieces: rules for characters, then for spaces. The
// rules are read here, because `tokenizers` applies them to whole graphemes: it would lose the accent behind
// a letter that a rule changes, and take "\r\n" for one space.

import { z } from 'zod'
import type { Parts } from './types.js'

/** Of a tokenizer.model (sentencepiece.ts), as a member of its tokenizer.json. */
export const PieceNormalizer = z.object({
  /** precompiled_charsmap in base64; '': none. */
  rules: z.string(),
  /** Several spaces are one, and a whole text has none at its ends. */
  collapsesSpaces: z.boolean(),
  /** ▁ comes once before a whole text. */
  addsPrefix: z.boolean(),
})
export type PieceNormalizer = z.output<typeof PieceNormalizer>

// A unit of the double array that the rules are found by (darts-clone).
const hasLeaf = (unit: number): boolean => ((unit >>> 8) & 1) === 1
const labelOf = (unit: number): number => (unit & 0x800000ff) >>> 0
const offsetOf = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6)
const resultOf = (unit: number): number => unit & 0x7fffffff

/** Bytes of a character by its first byte. */
const lengthOf = (first: number): number =>
  first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4

/** The longest rule that a text has at each place. Throws where the rules are cut off. */
const createRules = (map: Uint8Array): ((text: string) => string) => {
  const view = new DataView(map.buffer, map.byteOffset, map.byteLength)
  const size = map.length < 4 ? 0 : view.getUint32(0, true)
  if (size === 0 || size % 4 !== 0 || 4 + size >= map.length || map.at(-1) !== 0)
    throw new Error(
      `normalizer_spec.precompiled_charsmap has ${map.length} bytes, which are no table of rules`,
    )
  const units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true))
  const results = Buffer.from(map.subarray(4 + size))
  const resultAt = (at: number): Buffer => results.subarray(at, results.indexOf(0, at))
  const root = offsetOf(units[0] ?? 0)

  return (text) => {
    const bytes = Buffer.from(text)
    const made: Buffer[] = []
    let kept = 0
    for (let at = 0; at < bytes.length; ) {
      let [node, length, result] = [root, 0, 0]
      for (let i = at; i < bytes.length; i++) {
        const byte = bytes[i] ?? 0
        node ^= byte
        const unit = units[node] ?? 0
        if (byte === 0 || labelOf(unit) !== byte) break
        node ^= offsetOf(unit)
        if (hasLeaf(unit)) [length, result] = [i + 1 - at, resultOf(units[node] ?? 0)]
      }
      if (length === 0) {
        at += lengthOf(bytes[at] ?? 0)
        continue
      }
      made.push(bytes.subarray(kept, at), resultAt(result))
      at += length
      kept = at
    }
    return made.length === 0 ? text : Buffer.concat([...made, bytes.subarray(kept)]).toString()
  }
}

/** Not by a regular expression, which would look at every run of spaces once for each of them. */
const withoutEnd = (text: string): string => {
  let end = text.length
  while (text[end - 1] === ' ' || text[end - 1] === '▁') end--
  return text.slice(0, end)
}

const isText = (part: string | number | undefined): part is string => typeof part === 'string'

/** Of a whole text: its first and its last part have its ends. */
export const createNormalizer = (form: PieceNormalizer | undefined): ((parts: Parts) => Parts) => {
  if (form === undefined) return (parts) => parts
  const { rules, collapsesSpaces, addsPrefix } = form
  const apply = rules === '' ? (text: string) => text : createRules(Buffer.from(rules, 'base64'))
  const withoutEnds = (parts: Parts): Parts => {
    const last = parts.length - 1
    return parts.map((part, i) => {
      if (!isText(part)) return part
      const begun = i === 0 ? part.replace(/^ +/, '') : part
      return i === last ? withoutEnd(begun) : begun
    })
  }
  return (given) => {
    const ruled = given
      .filter((part) => part !== '')
      .map((part) => (isText(part) ? apply(part) : part))
    const parts = collapsesSpaces
      ? withoutEnds(ruled.map((part) => (isText(part) ? part.replace(/ {2,}/g, ' ') : part)))
      : ruled
    const at = parts.findIndex((part) => part !== '')
    const first = parts[at]
    if (!addsPrefix || first === undefined) return parts
    const rest = parts.slice(at + 1)
    return isText(first) ? [`▁${first}`, ...rest] : ['▁', first, ...rest]
  }
}
