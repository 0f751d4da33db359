// Sets of Unicode characters: sorted ranges that do not touch, as [first, last, first, last, ...]. No
// set has surrogates: they are no characters, and UTF-8 cannot say them.

export type CodePoints = readonly number[]

const LAST = 0x10ffff
const SURROGATES: CodePoints = [0xd800, 0xdfff]

const joined = (ranges: readonly (readonly [number, number])[]): number[] => {
  const sorted = [...ranges].sort((a, b) => a[0] - b[0])
  const out: number[] = []
  for (const [first, last] of sorted) {
    const before = out.at(-1)
    if (before !== undefined && first <= before + 1) out[out.length - 1] = Math.max(before, last)
    else out.push(first, last)
  }
  return out
}

const pairs = (set: CodePoints): [number, number][] =>
  Array.from({ length: set.length / 2 }, (_, i) => [set[2 * i] ?? 0, set[2 * i + 1] ?? 0])

/** All but those of a set that may hold surrogates. */
const inverted = (set: CodePoints): number[] => {
  const out: number[] = []
  let next = 0
  for (const [first, last] of pairs(set)) {
    if (first > next) out.push(next, first - 1)
    next = last + 1
  }
  if (next <= LAST) out.push(next, LAST)
  return out
}

export const union = (...sets: readonly CodePoints[]): CodePoints => joined(sets.flatMap(pairs))
export const complement = (set: CodePoints): CodePoints => inverted(union(set, SURROGATES))
export const intersection = (a: CodePoints, b: CodePoints): CodePoints => {
  const out: number[] = []
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const [endA = 0, endB = 0] = [a[i + 1], b[j + 1]]
    const first = Math.max(a[i] ?? 0, b[j] ?? 0)
    const last = Math.min(endA, endB)
    if (first <= last) out.push(first, last)
    if (endA <= endB) i += 2
    if (endB <= endA) j += 2
  }
  return out
}
export const without = (a: CodePoints, b: CodePoints): CodePoints => intersection(a, complement(b))

/** From first to last. */
export const range = (first: number, last: number): CodePoints =>
  complement(inverted([first, last]))
export const one = (text: string): CodePoints => {
  const point = text.codePointAt(0) ?? 0
  return [point, point]
}
/** Every character of a text. */
export const anyOf = (text: string): CodePoints => union(...Array.from(text, one))

export const ANY: CodePoints = complement([])

export const has = (set: CodePoints, point: number): boolean => {
  let [low, high] = [0, set.length / 2 - 1]
  while (low <= high) {
    const middle = (low + high) >> 1
    if (point < (set[2 * middle] ?? 0)) high = middle - 1
    else if (point > (set[2 * middle + 1] ?? 0)) low = middle + 1
    else return true
  }
  return false
}

export const isAny = (set: CodePoints): boolean =>
  set.length === ANY.length && set.every((point, i) => point === ANY[i])

/** A text that UTF-8 cannot say. */
export const hasLoneSurrogate = (text: string): boolean => !text.isWellFormed()
