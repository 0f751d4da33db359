// The tests of a template (`is defined`), as Jinja's.

import { isLower, isUpper } from './python-text.js'
import {
  Callable,
  Float,
  isDict,
  isEqual,
  isList,
  isNumber,
  text,
  typeName,
  Undefined,
  type Value,
} from './value.js'

export const integerOf = (value: Value, what: string): bigint => {
  if (typeof value === 'bigint') return value
  if (typeof value === 'boolean') return BigInt(value)
  throw new Error(`${what} of a ${typeName(value)}`)
}

/** The items that a loop goes over. */
export const itemsOf = (value: Value): readonly Value[] => {
  if (isList(value)) return value
  if (isDict(value)) return [...value.keys()]
  if (typeof value === 'string') return [...value]
  if (value instanceof Undefined) return []
  throw new Error(`a ${typeName(value)} cannot be gone over`)
}

type Test = (value: Value, wanted: Value) => boolean

const equal: Test = (value, wanted) => isEqual(value, wanted)
const different: Test = (value, wanted) => !isEqual(value, wanted)

const isSequence = (value: Value): boolean =>
  typeof value === 'string' || isList(value) || isDict(value) || value instanceof Undefined

/** Of a division by 2. */
const rest = (value: Value): number => {
  if (value instanceof Float) return Math.abs(value.value % 2)
  return integerOf(value, "'odd' or 'even'") % 2n === 0n ? 0 : 1
}

const TABLE = {
  defined: (value) => !(value instanceof Undefined),
  undefined: (value) => value instanceof Undefined,
  none: (value) => value === null,
  boolean: (value) => typeof value === 'boolean',
  true: (value) => value === true,
  false: (value) => value === false,
  integer: (value) => typeof value === 'bigint',
  float: (value) => value instanceof Float,
  number: isNumber,
  string: (value) => typeof value === 'string',
  mapping: isDict,
  iterable: isSequence,
  sequence: isSequence,
  callable: (value) => value instanceof Callable,
  odd: (value) => rest(value) === 1,
  even: (value) => rest(value) === 0,
  lower: (value) => isLower(text(value)),
  upper: (value) => isUpper(text(value)),
  eq: equal,
  equalto: equal,
  '==': equal,
  ne: different,
  '!=': different,
  in: (value, wanted) => itemsOf(wanted).some((one) => isEqual(one, value)),
} satisfies Record<string, Test>

export const TESTS: Readonly<Record<keyof typeof TABLE, Test>> = TABLE

export const hasTest = (name: string): name is keyof typeof TABLE => Object.hasOwn(TABLE, name)
