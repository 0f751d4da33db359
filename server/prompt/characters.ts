// Characters of a text as Python counts them: a pair of surrogates is one. A list of a long text's characters takes
// time and memory that others wait for, so none is made of a text without surrogates.

/** Tried on a text of one byte a character, it looks at none of them. */
const SURROGATE = /[\ud800-\udfff]/

const isHigh = (unit: number): boolean => unit >= 0xd800 && unit < 0xdc00
const isLow = (unit: number): boolean => unit >= 0xdc00 && unit < 0xe000

/** Of its pairs of surrogates. */
const countPairs = (text: string): number => {
  let pairs = 0
  for (let at = 1; at < text.length; at++)
    if (isLow(text.charCodeAt(at)) && isHigh(text.charCodeAt(at - 1))) pairs++
  return pairs
}

export const countCharacters = (text: string): number =>
  SURROGATE.test(text) ? text.length - countPairs(text) : text.length

/** From the end where `index` is negative; undefined where there is none. */
export const characterAt = (text: string, index: number): string | undefined => {
  if (!SURROGATE.test(text)) return text.at(index)
  let left = index < 0 ? index + countCharacters(text) : index
  if (left < 0) return undefined
  for (const character of text) if (left-- === 0) return character
  return undefined
}

/** As `slice` of an array. */
export const sliceCharacters = (text: string, from?: number, to?: number): string =>
  SURROGATE.test(text) ? [...text].slice(from, to).join('') : text.slice(from, to)
