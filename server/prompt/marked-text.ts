// Text that keeps who wrote it. Every character of a caller's text that a control token's name could be
// made of is swapped for a lone surrogate, one for one: no template can join, cut or change such
// text into a control token, lengths and positions stay, and well-formed text never has one of its own.
// Comparisons read through the marks; sealed characters look like nothing to them.

const MARKED = 0xdc00
const SEALED = 0xdc80
const ASCII = 0x80

/** Stands for a place in a text. No caller can write it. */
export const CUT = '\uDFFF'

const LONE = /\p{Surrogate}/gu
const MARKS = /[\u{DC00}-\u{DC7F}]/gu
const ALL_MARKS = /[\u{DC00}-\u{DCFF}]/gu

const toAscii = (mark: string): string => String.fromCharCode(mark.charCodeAt(0) % ASCII)

/** As a comparison sees it: marks are the characters that they stand for. */
export const readable = (text: string): string => text.replace(MARKS, toAscii)

/** As it was written. */
export const unmarked = (text: string): string => text.replace(ALL_MARKS, toAscii)

const escapeClass = (char: string): string => char.replace(/[\\\]^-]/g, '\\$&')

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
  const shift = (base: number) => (char: string) => String.fromCharCode(base + char.charCodeAt(0))
  const seal = (text: string): string => text.replace(/[!-~]/g, shift(SEALED))
  return {
    mark: (text, tags = []) => {
      const formed = text.replace(LONE, '\uFFFD')
      const sealed = tags.reduce((all, tag) => all.replaceAll(tag, seal), formed)
      return sealed.replace(pattern, shift(MARKED))
    },
  }
}
