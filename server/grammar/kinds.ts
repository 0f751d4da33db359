// What a schema admits, by kind of value: a list of kinds, each a set of values, all together their
// union. Two lists can be cut with each other: allOf, $ref beside other keywords, and anyOf beside them
// come to that.

import type { Bound } from './number-pattern.js'

/** Schemas that must hold at once: their numbers, in order. None: anything goes. */
export type All = readonly number[]

export type Literal = { readonly type: 'literal'; readonly value: unknown; readonly key: string }
/** Of kinds that a schema admits only because it does not speak of them. */
type Asked = { readonly isUnasked?: boolean }
export type NumberKind = Asked & {
  readonly type: 'number'
  readonly isInteger: boolean
  readonly min?: Bound | undefined
  readonly max?: Bound | undefined
  readonly multiples: readonly number[]
}
/** `source` is a regular expression, found anywhere in the text. */
export type TextPattern = { readonly source: string; readonly pointer: string }
export type StringKind = Asked & {
  readonly type: 'string'
  readonly min: number
  readonly max: number
  readonly patterns: readonly TextPattern[]
  readonly formats: readonly string[]
  /** None of these is found in it, and it is none of these texts. */
  readonly without: readonly TextPattern[]
  readonly texts: readonly string[]
}
export type ArrayKind = Asked & {
  readonly type: 'array'
  readonly min: number
  readonly max: number
  /** Each says of every place what stands there; all must hold. */
  readonly parts: readonly {
    readonly first: readonly All[]
    readonly rest: All
    /** What `rest` says is not said in the schema. */
    readonly isRestSilent: boolean
    readonly isMade: boolean
  }[]
}
type ObjectPart = {
  readonly properties: ReadonlyMap<string, All>
  readonly patterns: readonly { readonly pattern: TextPattern; readonly all: All }[]
  /** For the names that neither of them has. */
  readonly rest: All
  /** What `rest` says is not said in the schema. */
  readonly isRestSilent: boolean
  /** No caller wrote it: it names members that it is about, not those that there are. */
  readonly isMade: boolean
}
export type ObjectKind = Asked & {
  readonly type: 'object'
  readonly min: number
  readonly max: number
  readonly required: ReadonlySet<string>
  /** What holds for every name. */
  readonly names: All
  readonly parts: readonly ObjectPart[]
}
export type Kind =
  | (Asked & { readonly type: 'null' | 'boolean' })
  | NumberKind
  | StringKind
  | ArrayKind
  | ObjectKind
  | Literal

export const both = (a: All, b: All): All =>
  a.length === 0
    ? b
    : b.length === 0
      ? a
      : [...new Set([...a, ...b])].sort((left, right) => left - right)

/** Equal for equal values, whatever the order of their members. */
export const valueKey = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(valueKey).join(',')}]`
  if (typeof value === 'object' && value !== null)
    return `{${Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => `${JSON.stringify(name)}:${valueKey(member)}`)
      .join(',')}}`
  return JSON.stringify(value)
}

export const NUMBER: NumberKind = { type: 'number', isInteger: false, multiples: [] }
export const STRING: StringKind = {
  type: 'string',
  min: 0,
  max: Number.POSITIVE_INFINITY,
  patterns: [],
  formats: [],
  without: [],
  texts: [],
}
export const ARRAY: ArrayKind = { type: 'array', min: 0, max: Number.POSITIVE_INFINITY, parts: [] }
export const OBJECT: ObjectKind = {
  type: 'object',
  min: 0,
  max: Number.POSITIVE_INFINITY,
  required: new Set(),
  names: [],
  parts: [],
}
/** Every value. */
export const ANYTHING: readonly Kind[] = [
  OBJECT,
  ARRAY,
  STRING,
  NUMBER,
  { type: 'boolean' },
  { type: 'null' },
]

const tighter = (a: Bound | undefined, b: Bound | undefined, sign: 1 | -1): Bound | undefined => {
  if (a === undefined || b === undefined) return a ?? b
  if (a.value === b.value) return a.isExclusive ? a : b
  return sign * (a.value - b.value) > 0 ? a : b
}

const distinct = <T>(items: readonly T[], key: (item: T) => unknown): T[] => [
  ...new Map(items.map((item) => [key(item), item])).values(),
]

/** Those that a schema speaks of; all where it speaks of none. */
export const asked = (kinds: readonly Kind[]): readonly Kind[] => {
  const some = kinds.filter((kind) => kind.type === 'literal' || kind.isUnasked !== true)
  return some.length > 0 ? some : kinds
}

/** Whether lists or objects have members of which no schema speaks. One that names the members and stops
 * there means these alone. */
export const isClosed = (
  parts: readonly { readonly isRestSilent: boolean; readonly isMade: boolean }[],
): boolean => parts.some(({ isMade }) => !isMade) && parts.every(({ isRestSilent }) => isRestSilent)

/** A text of which nothing is said but how long it is. */
export const isPlainText = ({ patterns, formats, without, texts }: StringKind): boolean =>
  patterns.length + formats.length + without.length + texts.length === 0

/** Values that are in both; null: kinds that have none in common. Of literals the caller knows. */
export const common = (a: Kind, b: Kind): Kind | null => {
  const cut = commonOf(a, b)
  if (cut === null || a.type === 'literal' || b.type === 'literal') return cut
  return { ...cut, isUnasked: a.isUnasked === true && b.isUnasked === true }
}

const commonOf = (a: Kind, b: Kind): Exclude<Kind, Literal> | null => {
  if (a.type === 'number' && b.type === 'number')
    return {
      type: 'number',
      isInteger: a.isInteger || b.isInteger,
      min: tighter(a.min, b.min, 1),
      max: tighter(a.max, b.max, -1),
      multiples: [...new Set([...a.multiples, ...b.multiples])],
    }
  if (a.type === 'string' && b.type === 'string')
    return {
      type: 'string',
      min: Math.max(a.min, b.min),
      max: Math.min(a.max, b.max),
      patterns: distinct([...a.patterns, ...b.patterns], ({ source }) => source),
      formats: [...new Set([...a.formats, ...b.formats])],
      without: distinct([...a.without, ...b.without], ({ source }) => source),
      texts: [...new Set([...a.texts, ...b.texts])],
    }
  if (a.type === 'array' && b.type === 'array')
    return {
      type: 'array',
      min: Math.max(a.min, b.min),
      max: Math.min(a.max, b.max),
      parts: [...new Set([...a.parts, ...b.parts])],
    }
  if (a.type === 'object' && b.type === 'object')
    return {
      type: 'object',
      min: Math.max(a.min, b.min),
      max: Math.min(a.max, b.max),
      required: new Set([...a.required, ...b.required]),
      names: both(a.names, b.names),
      parts: [...new Set([...a.parts, ...b.parts])],
    }
  return a.type === b.type && (a.type === 'null' || a.type === 'boolean') ? a : null
}
