// JSON as grammar: white space, texts, numbers, any value. White space is bounded, so that no model can
// write blanks for ever; numbers are those that every reader takes for finite.

import { type CodePoints, complement, has, intersection, range, union } from './code-points.js'
import { characterClass, either, type GrammarText, literal } from './grammar-text.js'

export type JsonText = {
  /** Between two parts of a value. '' where none may stand. */
  readonly space: string
  /** Between two parts of a list or an object. */
  readonly comma: string
  readonly colon: string
  /** One character of a text, of those in the set. */
  readonly character: (set: CodePoints) => string
  /** One character of a text, whichever, in any way of writing it. */
  readonly anyCharacter: () => string
  readonly anyString: () => string
  readonly anyNumber: () => string
  readonly anyInteger: () => string
  readonly anyObject: () => string
  readonly anyArray: () => string
  readonly anyValue: () => string
  /** A constant. */
  readonly constant: (value: unknown) => string
}

/** Digits of an integer that has no bounds. */
export const INTEGER_DIGITS = 19
/** Digits behind the point. */
export const FRACTION_DIGITS = 15

/** Blanks behind a line feed. */
const MAX_INDENT = 32

const SHORT: ReadonlyMap<number, string> = new Map(
  [
    ['"', '"'],
    ['\\', '\\'],
    ['\b', 'b'],
    ['\f', 'f'],
    ['\n', 'n'],
    ['\r', 'r'],
    ['\t', 't'],
  ].map(([text = '', letter = '']) => [text.charCodeAt(0), letter]),
)
/** Characters that are never themselves in a JSON text. */
const ESCAPED: CodePoints = union(range(0, 0x1f), [0x22, 0x22], [0x5c, 0x5c])
const PLAIN = complement(ESCAPED)
const ESCAPES = Array.from({ length: 0x5d }, (_, point) => point)
  .filter((point) => has(ESCAPED, point))
  .map((point) => {
    const short = SHORT.get(point)
    const text =
      short === undefined
        ? `"\\\\u00${point.toString(16).padStart(2, '0')}"`
        : literal(`\\${short}`)
    return { point, text }
  })

// long: a list of rules that refer to each other
export const createJsonText = (
  text: GrammarText,
  { isCompact = false }: { readonly isCompact?: boolean } = {},
): JsonText => {
  const space = isCompact
    ? ''
    : text.shared('ws', () => `(" " | "\\n" [\\x20\\x09]{0,${MAX_INDENT}})?`)
  // In front of them white space is of no use to anybody, and each place for it costs a choice.
  const comma = `"," ${space}`
  const colon = `":" ${space}`

  const escapes = (set: CodePoints): string[] =>
    ESCAPES.filter(({ point }) => has(set, point)).map((one) => one.text)
  const character = (set: CodePoints): string => {
    const plain = intersection(set, PLAIN)
    const special = intersection(set, ESCAPED)
    const branches = plain.length > 0 ? [characterClass(plain)] : []
    if (special.length === ESCAPED.length && special.every((point, i) => point === ESCAPED[i]))
      branches.push(text.shared('escaped', () => escapes(ESCAPED).join(' | ')))
    else branches.push(...escapes(special))
    return either(branches)
  }

  const anyCharacter = (): string =>
    text.shared('char', () => {
      const hex = '[0-9a-fA-F]'
      const unit = `([0-9a-cA-CefEF] ${hex}{3} | [dD] [0-7] ${hex}{2})`
      const pair = `[dD] [89abAB] ${hex}{2} "\\\\u" [dD] [c-fC-F] ${hex}{2}`
      return `${characterClass(PLAIN)} | "\\\\" (["\\\\/bfnrt] | "u" (${unit} | ${pair}))`
    })
  const anyString = (): string => text.shared('string', () => `"\\"" ${anyCharacter()}* "\\""`)
  const anyInteger = (): string =>
    text.shared('integer', () => `"0" | "-"? [1-9] [0-9]{0,${INTEGER_DIGITS - 1}}`)
  const anyNumber = (): string =>
    text.shared(
      'number',
      () =>
        `"-"? ("0" | [1-9] [0-9]{0,${INTEGER_DIGITS - 1}}) ("." [0-9]{1,${FRACTION_DIGITS}})? ([eE] [+\\x2D]? [0-9]{1,2})?`,
    )
  const anyObject = (): string => {
    const pair = `${anyString()} ${colon} ${anyValue()}`
    return text.shared('object', () => `"{" ${space} (${pair} (${comma} ${pair})* ${space})? "}"`)
  }
  const anyArray = (): string => {
    const item = anyValue()
    return text.shared('array', () => `"[" ${space} (${item} (${comma} ${item})* ${space})? "]"`)
  }
  let value: string | undefined
  const anyValue = (): string => {
    if (value !== undefined) return value
    value = text.reserve('value')
    text.define(
      value,
      `${anyObject()} | ${anyArray()} | ${anyString()} | ${anyNumber()} | "true" | "false" | "null"`,
    )
    return value
  }
  const constant = (given: unknown): string => {
    if (Array.isArray(given)) {
      if (given.length === 0) return `"[" ${space} "]"`
      return `"[" ${space} ${given.map(constant).join(` ${comma} `)} ${space} "]"`
    }
    if (typeof given === 'object' && given !== null) {
      const pairs = Object.entries(given).map(
        ([key, member]) => `${literal(JSON.stringify(key))} ${colon} ${constant(member)}`,
      )
      if (pairs.length === 0) return `"{" ${space} "}"`
      return `"{" ${space} ${pairs.join(` ${comma} `)} ${space} "}"`
    }
    return literal(JSON.stringify(given))
  }
  return {
    space,
    comma,
    colon,
    character,
    anyCharacter,
    anyString,
    anyNumber,
    anyInteger,
    anyObject,
    anyArray,
    anyValue,
    constant,
  }
}
