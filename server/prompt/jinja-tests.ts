// The tests of a template (`is defined`), as Jinja's.

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
  iterable: (value) =>
    typeof value === 'string' || isList(value) || isDict(value) || value instanceof Undefined,
  sequence: (value) => typeof value === 'string' || isList(value) || isDict(value),
  callable: (value) => value instanceof Callable,
  odd: (value) => integerOf(value, 'odd') % 2n !== 0n,
  even: (value) => integerOf(value, 'even') % 2n === 0n,
  lower: (value) => text(value) === text(value).toLowerCase(),
  upper: (value) => text(value) === text(value).toUpperCase(),
  eq: equal,
  equalto: equal,
  '==': equal,
  ne: different,
  '!=': different,
  in: (value, wanted) => itemsOf(wanted).some((one) => isEqual(one, value)),
} satisfies Record<string, Test>

export const TESTS: Readonly<Record<keyof typeof TABLE, Test>> = TABLE

export const hasTest = (name: string): name is keyof typeof TABLE => Object.hasOwn(TABLE, name)
