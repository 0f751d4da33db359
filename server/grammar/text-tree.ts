// Many texts to choose from: what they begin with in common is written once.

import { EMPTY, either, literal } from './grammar-text.js'

/** Alternatives for these texts, as a tree by first characters where they are many. */
export const textTree = (texts: readonly string[]): readonly string[] => {
  if (texts.length <= 8) return texts.map(literal)
  const sorted = [...new Set(texts)].sort()
  const branches: string[] = []
  for (let i = 0; i < sorted.length; ) {
    const point = sorted[i]?.codePointAt(0)
    if (point === undefined) {
      branches.push(EMPTY)
      i++
      continue
    }
    const first = String.fromCodePoint(point)
    let end = i + 1
    while (end < sorted.length && sorted[end]?.startsWith(first)) end++
    const group = sorted.slice(i, end)
    const prefix = commonPrefix(group[0] ?? '', group.at(-1) ?? '')
    const rests = group.map((text) => text.slice(prefix.length))
    branches.push(
      rests.length === 1 ? literal(prefix) : `${literal(prefix)} ${either(textTree(rests))}`,
    )
    i = end
  }
  return branches
}

/** Of sorted texts the first and the last tell it. Whole characters. */
const commonPrefix = (a: string, b: string): string => {
  let length = 0
  while (length < a.length && a[length] === b[length]) length++
  const isHalf = a.charCodeAt(length - 1) >> 10 === 0xd800 >> 10
  return a.slice(0, isHalf ? length - 1 : length)
}
