// Text that keeps who wrote it. Every character of a caller's text that a control token's name could be
// made of is swapped for a lone surrogate, one for one: no template can join, cut or change such
// text into a control token, lengths and positions stay, and well-formed text never has one of its own.
// Comparisons read through the marks; sealed characters look like nothing to them.

const MARKED = 0xdc00
const SEALED = 0xdc80
const ASCII = 0x80

/** Stands for a place in a text. No caller can write it. */
export const CUT = '\uDFFF'

const MARKS = /[\uDC00-\uDC7F]/g
const ALL_MARKS = /[\uDC00-\uDCFF]/g

/** Code unit -> code unit. */
type Table = Uint16Array

const tableOf = (entries: Iterable<readonly [from: number, to: number]>): Table => {
  const table = Uint16Array.from({ length: 1 << 16 }, (_, code) => code)
  for (const [from, to] of entries) table[from] = to
  return table
}

/** Up to here a call for each match costs less than a copy of the text. */
const SHORT = 256

/** Every match of the pattern, which is one code unit, by the table. A loop over the units of a long text
 * takes a twentieth of the time of a call for each match. */
const swap = (text: string, pattern: RegExp, table: Table): string => {
  pattern.lastIndex = 0
  if (!pattern.test(text)) return text
  if (text.length <= SHORT)
    return text.replace(pattern, (char) => String.fromCharCode(table[char.charCodeAt(0)] ?? 0))
  const bytes = Buffer.from(text, 'utf16le')
  const codes = new Uint16Array(bytes.buffer, bytes.byteOffset, text.length)
  for (let i = 0; i < codes.length; i++) codes[i] = table[codes[i] ?? 0] ?? 0
  return bytes.toString('utf16le')
}

const range = (base: number): (readonly [number, number])[] =>
  Array.from({ length: ASCII }, (_, code) => [base + code, code])
const FROM_MARKS = tableOf(range(MARKED))
const FROM_ALL_MARKS = tableOf([...range(MARKED), ...range(SEALED)])

/** As a comparison sees it: marks are the characters that they stand for. */
export const readable = (text: string): string => swap(text, MARKS, FROM_MARKS)

/** As it was written. */
export const unmarked = (text: string): string => swap(text, ALL_MARKS, FROM_ALL_MARKS)

const escapeClass = (char: string): string => char.replace(/[\\\]^-]/g, '\\$&')

const seal = (tag: string): string =>
  tag.replace(/[!-~]/g, (char) => String.fromCharCode(SEALED + char.charCodeAt(0)))

type Marker = {
  /** A caller's text; `tags` in it are sealed: a template cannot find them. */
  readonly mark: (text: string, tags?: readonly string[]) => string
}

/** `names`: of the control tokens. */
export const createMarker = (names: readonly string[]): Marker => {
  const chars = new Set<string>()
  for (const name of names) {
    const ascii = [...name].filter((char) => char.charCodeAt(0) < ASCII)
    const signs = ascii.filter((char) => !/[A-Za-z0-9\s]/.test(char))
    for (const char of signs.length > 0 ? signs : ascii) chars.add(char)
  }
  const pattern =
    chars.size === 0 ? /(?!)/g : new RegExp(`[${[...chars].map(escapeClass).join('')}]`, 'g')
  const table = tableOf(
    Array.from(chars, (char) => [char.charCodeAt(0), MARKED + char.charCodeAt(0)]),
  )
  return {
    mark: (text, tags = []) => {
      const sealed = tags.reduce((all, tag) => all.replaceAll(tag, seal(tag)), text.toWellFormed())
      return swap(sealed, pattern, table)
    },
  }
}
