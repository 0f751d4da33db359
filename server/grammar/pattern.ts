// What a regular expression, a format and a range of numbers all come to: a regular language over
// characters, as a tree.

import type { CodePoints } from './code-points.js'
import { characterClass, EMPTY, either, times } from './grammar-text.js'

export type Pattern =
  /** One character of the set. */
  | { readonly kind: 'character'; readonly set: CodePoints }
  | { readonly kind: 'sequence'; readonly parts: readonly Pattern[] }
  | { readonly kind: 'choice'; readonly branches: readonly Pattern[] }
  | {
      readonly kind: 'repeat'
      readonly part: Pattern
      readonly min: number
      /** Infinity: no limit. */
      readonly max: number
    }
  /** The text begins or ends here. */
  | { readonly kind: 'begin' }
  | { readonly kind: 'end' }

export const character = (set: CodePoints): Pattern => ({ kind: 'character', set })
export const sequence = (...parts: readonly Pattern[]): Pattern =>
  parts.length === 1 && parts[0] ? parts[0] : { kind: 'sequence', parts }
export const choice = (...branches: readonly Pattern[]): Pattern =>
  branches.length === 1 && branches[0] ? branches[0] : { kind: 'choice', branches }
export const repeat = (part: Pattern, min: number, max: number): Pattern =>
  min === 1 && max === 1 ? part : { kind: 'repeat', part, min, max }
export const exactly = (text: string): Pattern =>
  sequence(
    ...Array.from(text, (one): Pattern => {
      const point = one.codePointAt(0) ?? 0
      return character([point, point])
    }),
  )

const hasAnchor = (pattern: Pattern): boolean => {
  switch (pattern.kind) {
    case 'begin':
    case 'end':
      return true
    case 'sequence':
      return pattern.parts.some(hasAnchor)
    case 'choice':
      return pattern.branches.some(hasAnchor)
    case 'repeat':
      return hasAnchor(pattern.part)
    default:
      return false
  }
}

/**
 * The same language without anchors, where every anchor stands at the very end of a branch; null where
 * one stands elsewhere. `around`: what may stand before and behind a branch that is not anchored.
 */
export const unanchored = (pattern: Pattern, around: Pattern): Pattern | null => {
  const branches = pattern.kind === 'choice' ? pattern.branches : [pattern]
  const out: Pattern[] = []
  for (const branch of branches) {
    const parts = branch.kind === 'sequence' ? [...branch.parts] : [branch]
    const begins = parts[0]?.kind === 'begin'
    if (begins) parts.shift()
    const ends = parts.at(-1)?.kind === 'end'
    if (ends) parts.pop()
    const inner = parts.length === 1 && parts[0]?.kind === 'choice' ? parts[0] : undefined
    if (inner !== undefined && !begins && !ends) {
      const rest = unanchored(inner, around)
      if (rest === null) return null
      out.push(rest)
      continue
    }
    if (parts.some(hasAnchor)) return null
    out.push(sequence(...(begins ? [] : [around]), ...parts, ...(ends ? [] : [around])))
  }
  return choice(...out)
}

/** A pattern without anchors as an expression; `write` says how one character of a set is written. */
export const patternExpression = (
  pattern: Pattern,
  write: (set: CodePoints) => string = characterClass,
): string => {
  switch (pattern.kind) {
    case 'character':
      return write(pattern.set)
    case 'sequence': {
      const parts = pattern.parts.map((part) => patternExpression(part, write))
      if (parts.length === 0) return EMPTY
      return parts.length === 1 ? (parts[0] ?? EMPTY) : `(${parts.join(' ')})`
    }
    case 'choice':
      return either(pattern.branches.map((branch) => patternExpression(branch, write)))
    case 'repeat': {
      if (pattern.max === 0) return EMPTY
      const part = patternExpression(pattern.part, write)
      const count = times(pattern.min, pattern.max)
      return pattern.part.kind === 'repeat' ? `(${part})${count}` : `${part}${count}`
    }
    default:
      throw new Error('a pattern with anchors has no expression')
  }
}

/** How many characters its texts have: the fewest and the most. */
export const lengthsOf = (pattern: Pattern): { readonly min: number; readonly max: number } => {
  switch (pattern.kind) {
    case 'character':
      return { min: 1, max: 1 }
    case 'sequence': {
      const parts = pattern.parts.map(lengthsOf)
      return {
        min: parts.reduce((sum, part) => sum + part.min, 0),
        max: parts.reduce((sum, part) => sum + part.max, 0),
      }
    }
    case 'choice': {
      const branches = pattern.branches.map(lengthsOf)
      return {
        min: Math.min(...branches.map(({ min }) => min)),
        max: Math.max(...branches.map(({ max }) => max)),
      }
    }
    case 'repeat': {
      const part = lengthsOf(pattern.part)
      const times = part.max === 0 ? 0 : pattern.max
      return { min: part.min * pattern.min, max: times === 0 ? 0 : part.max * times }
    }
    default:
      return { min: 0, max: 0 }
  }
}
