// The values of a template, with Python's ways: what is true, equal, printed, written as JSON.

import { sourceOf } from '../json-source.js'
import { readable } from './marked-text.js'

/** A number with a point, as it was written: 1.0 stays 1.0. */
export class Float {
  readonly value: number
  readonly text: string
  constructor(value: number, text: string = floatText(value)) {
    this.value = value
    this.text = text
  }
}

/** What is not there; `what` names it in errors. */
export class Undefined {
  readonly what: string
  constructor(what: string) {
    this.what = what
  }
}

/** The one thing that a template may change. */
export class Namespace {
  readonly values = new Map<string, Value>()
}

export type Arguments = {
  readonly given: readonly Value[]
  readonly named: ReadonlyMap<string, Value>
}

export class Callable {
  readonly call: (args: Arguments) => Value
  constructor(call: (args: Arguments) => Value) {
    this.call = call
  }
}

/** Written with round brackets; else a list. */
export class Tuple extends Array<Value> {
  static override get [Symbol.species]() {
    return Array
  }
}

export type List = readonly Value[]
export type Dict = ReadonlyMap<Value, Value>
export type Value =
  | null
  | boolean
  | bigint
  | string
  | Float
  | Undefined
  | Namespace
  | Callable
  | List
  | Dict

/** None is a value: `??` would lose it. */
export const orElse = <T>(value: T | undefined, otherwise: T): T =>
  value === undefined ? otherwise : value

export const isList = (value: Value): value is List => Array.isArray(value)
export const isTuple = (value: Value): value is Tuple => value instanceof Tuple
/** A tuple where `one` is one. */
export const listLike = (one: List, items: readonly Value[]): List =>
  isTuple(one) ? Tuple.of(...items) : items
export const isDict = (value: Value): value is Dict => value instanceof Map
export const isNumber = (value: Value): value is bigint | Float | boolean =>
  typeof value === 'bigint' || typeof value === 'boolean' || value instanceof Float

export const numberOf = (value: bigint | Float | boolean): number =>
  value instanceof Float ? value.value : Number(value)

/** Python's repr of a float. */
function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan'
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf'
  const [digits = '', power = '0'] = value.toExponential().split('e')
  const exponent = Number(power)
  if (value !== 0 && (exponent < -4 || exponent >= 16))
    return `${digits}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`
  const text = Object.is(value, -0) ? '-0' : String(value)
  return text.includes('.') ? text : `${text}.0`
}

export const typeName = (value: Value): string => {
  if (value === null) return 'NoneType'
  if (typeof value === 'boolean') return 'bool'
  if (typeof value === 'bigint') return 'int'
  if (typeof value === 'string') return 'str'
  if (value instanceof Float) return 'float'
  if (value instanceof Undefined) return 'Undefined'
  if (isList(value)) return 'list'
  if (isDict(value)) return 'dict'
  return value instanceof Namespace ? 'Namespace' : 'function'
}

export const isTrue = (value: Value): boolean => {
  if (value === null || value instanceof Undefined) return false
  if (typeof value === 'boolean') return value
  if (typeof value === 'bigint') return value !== 0n
  if (typeof value === 'string') return value !== ''
  if (value instanceof Float) return value.value !== 0
  if (isList(value)) return value.length > 0
  if (isDict(value)) return value.size > 0
  return true
}

export const isEqual = (a: Value, b: Value): boolean => {
  if (typeof a === 'string' && typeof b === 'string') return a === b || readable(a) === readable(b)
  if (isNumber(a) && isNumber(b))
    return typeof a === 'bigint' && typeof b === 'bigint' ? a === b : numberOf(a) === numberOf(b)
  if (isList(a) && isList(b))
    return (
      isTuple(a) === isTuple(b) &&
      a.length === b.length &&
      a.every((one, i) => isEqual(one, b[i] ?? null))
    )
  if (isDict(a) && isDict(b))
    return (
      a.size === b.size &&
      [...a].every(([key, one]) => {
        const other = lookUp(b, key)
        return other !== undefined && isEqual(one, other)
      })
    )
  if (a instanceof Undefined && b instanceof Undefined) return true
  return a === b
}

const sizes = new WeakMap<object, number>()

/** How many values one goes through to read it all, shared ones each time; of a text its length over 128. Lists
 * and dicts never change, so each is counted once. */
export const sizeOf = (value: Value): number => {
  if (typeof value === 'string') return 1 + (value.length >> 7)
  if (!isList(value) && !isDict(value)) return 1
  const known = sizes.get(value)
  if (known !== undefined) return known
  let size = 1
  if (isList(value)) for (const one of value) size += sizeOf(one)
  else for (const [key, one] of value) size += sizeOf(key) + sizeOf(one)
  sizes.set(value, size)
  return size
}

/** A value that may be a key. */
export const asKey = (value: Value): Value => {
  if (isDict(value) || (isList(value) && !isTuple(value)))
    throw new Error(`a ${typeName(value)} cannot be a key`)
  return value
}

const readableKeys = new WeakMap<Dict, ReadonlyMap<string, Value>>()

/** The value of a key; a caller's key is found by what it reads as. */
export const lookUp = (dict: Dict, key: Value): Value | undefined => {
  const found = dict.get(key)
  if (found !== undefined || typeof key !== 'string') return found
  let index = readableKeys.get(dict)
  if (index === undefined) {
    const all = new Map<string, Value>()
    for (const [name, value] of dict) if (typeof name === 'string') all.set(readable(name), value)
    index = all
    readableKeys.set(dict, index)
  }
  return index.get(readable(key))
}

const byCodePoint = (a: string, b: string): number =>
  Buffer.compare(Buffer.from(readable(a)), Buffer.from(readable(b)))

/** Below 0: `a` comes first. */
export const compare = (a: Value, b: Value): number => {
  if (typeof a === 'string' && typeof b === 'string') return byCodePoint(a, b)
  if (typeof a === 'bigint' && typeof b === 'bigint') return a < b ? -1 : a > b ? 1 : 0
  if (isNumber(a) && isNumber(b)) return numberOf(a) - numberOf(b)
  if (isList(a) && isList(b) && isTuple(a) === isTuple(b)) {
    const at = a.findIndex((one, i) => i >= b.length || !isEqual(one, b[i] ?? null))
    if (at < 0) return a.length - b.length
    const [left, right] = [a[at], b[at]]
    if (left === undefined || right === undefined) return 1
    return compare(left, right)
  }
  throw new Error(`'${typeName(a)}' and '${typeName(b)}' cannot be ordered`)
}

const reprText = (text: string): string => {
  const seen = readable(text)
  const quote = seen.includes("'") && !seen.includes('"') ? '"' : "'"
  let out = ''
  for (const char of text) {
    const plain = readable(char)
    const code = plain.charCodeAt(0)
    if (plain === '\\' || plain === quote) out += `\\${plain}`
    else if (plain === '\n') out += '\\n'
    else if (plain === '\r') out += '\\r'
    else if (plain === '\t') out += '\\t'
    else if (code < 0x20 || (code >= 0x7f && code < 0xa1))
      out += `\\x${code.toString(16).padStart(2, '0')}`
    else out += char
  }
  return quote + out + quote
}

const repr = (value: Value): string => {
  if (typeof value === 'string') return reprText(value)
  return value instanceof Undefined ? 'Undefined' : text(value)
}

/** Python's str(). */
export const text = (value: Value): string => {
  if (value === null) return 'None'
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'string') return value
  if (value instanceof Float) return value.text
  if (value instanceof Undefined) return ''
  if (isTuple(value)) return `(${[...value].map(repr).join(', ')}${value.length === 1 ? ',' : ''})`
  if (isList(value)) return `[${value.map(repr).join(', ')}]`
  if (isDict(value))
    return `{${[...value].map(([key, one]) => `${repr(key)}: ${repr(one)}`).join(', ')}}`
  throw new Error(`a ${typeName(value)} has no text`)
}

type JsonForm = {
  readonly indent: string | undefined
  readonly separators: readonly [item: string, key: string]
  readonly ascii: boolean
  readonly sortKeys: boolean
}

const ESCAPES: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
  '\b': '\\b',
  '\f': '\\f',
}

// A mark of " or \ has to be escaped as the character itself.
const UNSAFE = /["\\\u{DC22}\u{DC5C}]|(?![\u{7F}-\u{9F}])\p{Cc}/gu

const unicodeEscape = (code: number): string => `\\u${code.toString(16).padStart(4, '0')}`

const jsonText = (given: string, ascii: boolean): string => {
  const safe = given.replace(
    UNSAFE,
    (char) => ESCAPES[readable(char)] ?? `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
  const shown = ascii
    ? safe.replace(/[^\0-\u{7E}\u{DC00}-\u{DCFF}]/gu, (char) =>
        [...Array(char.length).keys()].map((i) => unicodeEscape(char.charCodeAt(i))).join(''),
      )
    : safe
  return `"${shown}"`
}

const JSON_NAMES: Readonly<Record<string, string>> = {
  nan: 'NaN',
  inf: 'Infinity',
  '-inf': '-Infinity',
}

/** Python's json.dumps. */
export const json = (value: Value, form: JsonForm, margin = '\n'): string => {
  if (value === null) return 'null'
  if (typeof value === 'boolean') return String(value)
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'string') return jsonText(value, form.ascii)
  if (value instanceof Float) return JSON_NAMES[value.text] ?? value.text
  const deeper = form.indent === undefined ? '' : margin + form.indent
  const end = form.indent === undefined ? '' : margin
  const [item, colon] = form.separators
  const inside = (parts: readonly string[], open: string, close: string): string =>
    parts.length === 0 ? open + close : `${open}${deeper}${parts.join(item + deeper)}${end}${close}`
  if (isList(value))
    return inside(
      value.map((one) => json(one, form, deeper)),
      '[',
      ']',
    )
  if (isDict(value)) {
    const entries = [...value]
    if (form.sortKeys) entries.sort(([a], [b]) => compare(a, b))
    const key = (one: Value) =>
      jsonText(typeof one === 'string' ? one : json(one, form), form.ascii)
    return inside(
      entries.map(([name, one]) => key(name) + colon + json(one, form, deeper)),
      '{',
      '}',
    )
  }
  throw new Error(
    value instanceof Undefined
      ? `${value.what} is undefined and cannot be written as JSON`
      : `a ${typeName(value)} cannot be written as JSON`,
  )
}

/** From JavaScript, objects of a request as they are written there; `change` is applied to every string, keys too. */
export const fromJs = (
  value: unknown,
  change: (text: string) => string,
  bounds: Bounds,
  depth = bounds.depth,
): Value => {
  count(bounds)
  if (value === null || typeof value === 'boolean') return value
  if (value === undefined) return new Undefined('a value')
  if (typeof value === 'string') return change(value)
  if (typeof value === 'number')
    return Number.isSafeInteger(value) ? BigInt(value) : new Float(value)
  if (depth === 0) throw tooDeep()
  const source = sourceOf(value)
  if (source !== undefined) return fromJson(source, change, bounds)
  if (Array.isArray(value)) return value.map((one) => fromJs(one, change, bounds, depth - 1))
  return new Map(
    Object.entries(value).map(([key, one]) => [
      change(key),
      fromJs(one, change, bounds, depth - 1),
    ]),
  )
}

/** What values of a caller's may come to. `values` is what is left of them. */
export type Bounds = { readonly depth: number; values: number }

export class TooMuch extends Error {}

const tooDeep = (): Error => new TooMuch('it is nested too deep')

const count = (bounds: Bounds): void => {
  if (--bounds.values < 0) throw new TooMuch('it has too many values')
}

/** Python reads no longer integers; a longer one takes long to read. */
const MAX_DIGITS = 4300

/** JSON.parse() takes long over what is nested without end. */
const isDeeper = (source: string, most: number): boolean => {
  let depth = 0
  let isInText = false
  for (let i = 0; i < source.length; i++) {
    const char = source.charCodeAt(i)
    if (isInText) {
      if (char === 0x5c) i++
      else if (char === 0x22) isInText = false
    } else if (char === 0x22) isInText = true
    else if (char === 0x5b || char === 0x7b) {
      if (++depth > most) return true
    } else if (char === 0x5d || char === 0x7d) depth--
  }
  return false
}

const TOKEN =
  /\s*(?:([{}[\],:])|("[^"\\]*(?:\\.[^"\\]*)*")|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(true|false|null))/gy

/** JSON text, with the digits of its numbers and the order of its keys kept. A SyntaxError if it is none. */
export const fromJson = (
  source: string,
  change: (text: string) => string,
  bounds: Bounds,
): Value => {
  if (isDeeper(source, bounds.depth)) throw tooDeep()
  JSON.parse(source) // it is JSON: what follows need not look
  const tokens = source.matchAll(TOKEN)
  const next = (): RegExpMatchArray => {
    const { value } = tokens.next()
    if (value === undefined) throw new SyntaxError('not JSON')
    return value
  }
  const read = ([, sign, quoted, digits, word]: RegExpMatchArray, left: number): Value => {
    count(bounds)
    if (quoted !== undefined) return change(JSON.parse(quoted))
    if (digits !== undefined)
      return /[.eE]/.test(digits) || digits.length > MAX_DIGITS
        ? new Float(Number(digits), digits)
        : BigInt(digits)
    if (word !== undefined) return word === 'null' ? null : word === 'true'
    if (left === 0) throw tooDeep()
    const list: Value[] = []
    const dict = new Map<Value, Value>()
    for (let token = next(); token[1] !== ']' && token[1] !== '}'; ) {
      if (sign === '[') list.push(read(token, left - 1))
      else {
        const key = change(JSON.parse(token[2] ?? '""'))
        next() // the colon
        dict.set(key, read(next(), left - 1))
      }
      token = next()
      if (token[1] === ',') token = next()
    }
    return sign === '[' ? list : dict
  }
  return read(next(), bounds.depth)
}
