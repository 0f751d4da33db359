// Methods that a template may call on texts, dicts and lists, as Python's. One that is not here is
// refused when the template is read.

import { countCharacters, sliceCharacters } from './characters.js'
import { readable } from './marked-text.js'
import {
  type Arguments,
  Callable,
  type Dict,
  isDict,
  isEqual,
  isList,
  type List,
  lookUp,
  orElse,
  Tuple,
  text,
  typeName,
  type Value,
} from './value.js'

// What Python counts as blank; JavaScript's trim() knows U+FEFF and not these four.
const BLANK = '\\s\\x1c-\\x1f\\x85'
const BEFORE = new RegExp(`^(?:(?!\\uFEFF)[${BLANK}])+`, 'u')
const BLANKS = new RegExp(`(?:(?!\\uFEFF)[${BLANK}])+`, 'gu')
const LINE_END = new RegExp(`\\r\\n|[\\n\\r\\v\\f\\x85\\u2028\\u2029${'\\x1c-\\x1e'}]`, 'u')
const isBlank = (char: string): boolean => BEFORE.test(char)

const stripStart = (given: string, chars: string | undefined): string => {
  if (chars === undefined) return given.replace(BEFORE, '')
  let start = 0
  for (const char of given) {
    if (!chars.includes(readable(char))) break
    start += char.length
  }
  return given.slice(start)
}

const stripEnd = (given: string, chars: string | undefined): string => {
  let end = given.length
  while (end > 0) {
    const low = given.charCodeAt(end - 1)
    const high = given.charCodeAt(end - 2)
    const isPair = low >= 0xdc00 && low < 0xe000 && high >= 0xd800 && high < 0xdc00
    const char = given.slice(isPair ? end - 2 : end - 1, end)
    if (chars === undefined ? !isBlank(char) : !chars.includes(readable(char))) break
    end -= char.length
  }
  return given.slice(0, end)
}

export const strip = (given: string, chars?: string): string =>
  stripEnd(stripStart(given, chars), chars)

const splitAt = (given: string, by: string, limit: number): string[] => {
  if (by === '') throw new Error('split() by an empty text')
  const [seen, mark] = [readable(given), readable(by)]
  const parts: string[] = []
  let from = 0
  for (
    let at = seen.indexOf(mark);
    at >= 0 && parts.length < limit;
    at = seen.indexOf(mark, from)
  ) {
    parts.push(given.slice(from, at))
    from = at + mark.length
  }
  parts.push(given.slice(from))
  return parts
}

const splitAtEnd = (given: string, by: string, limit: number): string[] => {
  const parts = splitAt(given, by, Number.POSITIVE_INFINITY)
  const first = parts.length - 1 - Math.min(limit, parts.length - 1)
  return [parts.slice(0, first + 1).join(by), ...parts.slice(first + 1)]
}

const splitBlank = (given: string, limit: number): string[] => {
  const parts: string[] = []
  let rest = stripStart(given, undefined)
  while (rest !== '' && parts.length < limit) {
    BLANKS.lastIndex = 0
    const found = BLANKS.exec(rest)
    if (found === null) break
    parts.push(rest.slice(0, found.index))
    rest = rest.slice(found.index + found[0].length)
  }
  return rest === '' ? parts : [...parts, rest]
}

export const replaceText = (given: string, old: string, by: string, limit: number): string => {
  if (readable(old) !== '') return splitAt(given, old, limit).join(by)
  const chars = [...given]
  const all = Math.min(limit, chars.length + 1)
  return (
    chars.map((char, i) => (i < all ? by + char : char)).join('') + (all > chars.length ? by : '')
  )
}

export const capitalize = (given: string): string => {
  const [first = '', ...rest] = [...given]
  return first.toUpperCase() + rest.join('').toLowerCase()
}

const title = (given: string): string => given.replace(/\p{L}+/gu, (word) => capitalize(word))

/** The arguments of one call, by place or name. */
export class Call {
  readonly #args: Arguments
  readonly #names: readonly string[]
  readonly #what: string

  constructor(what: string, names: readonly string[], args: Arguments) {
    this.#args = args
    this.#names = names
    this.#what = what
    if (args.given.length > names.length)
      throw new Error(`${what}() takes at most ${names.length} arguments`)
    for (const name of args.named.keys())
      if (!names.includes(name)) throw new Error(`${what}() has no argument '${name}'`)
  }

  at(name: string): Value | undefined {
    const named = this.#args.named.get(name)
    return named === undefined ? this.#args.given[this.#names.indexOf(name)] : named
  }

  value(name: string): Value {
    const value = this.at(name)
    if (value === undefined) throw new Error(`${this.#what}() needs '${name}'`)
    return value
  }

  /** undefined: absent or None. */
  text(name: string): string | undefined {
    const value = orElse(this.at(name), null)
    if (value === null) return undefined
    if (typeof value !== 'string') throw this.#wrong(name, 'a text', value)
    return value
  }

  needText(name: string): string {
    const value = this.value(name)
    if (typeof value !== 'string') throw this.#wrong(name, 'a text', value)
    return value
  }

  integer(name: string, otherwise: number): number {
    const value = this.at(name)
    if (value === undefined) return otherwise
    if (typeof value !== 'bigint' && typeof value !== 'boolean')
      throw this.#wrong(name, 'an integer', value)
    return Number(value)
  }

  #wrong(name: string, wanted: string, value: Value): Error {
    return new Error(`${this.#what}(): '${name}' must be ${wanted}, not ${typeName(value)}`)
  }
}

type Method<T> = { readonly names: readonly string[]; readonly run: (self: T, call: Call) => Value }

const limitOf = (call: Call, name: string): number => {
  const limit = call.integer(name, -1)
  return limit < 0 ? Number.POSITIVE_INFINITY : limit
}

const bounds = (self: string, call: Call): string => {
  const chars =
    call.at('start') === undefined
      ? self
      : sliceCharacters(
          self,
          call.integer('start', 0),
          call.at('end') === undefined ? undefined : call.integer('end', 0),
        )
  return readable(chars)
}

const hasEdge = (name: 'startswith' | 'endswith'): Method<string> => ({
  names: ['edge', 'start', 'end'],
  run: (self, call) => {
    const edge = call.value('edge')
    // Python finds not even nothing behind the end.
    if (call.integer('start', 0) > countCharacters(self)) return false
    const seen = bounds(self, call)
    const test = (one: Value): boolean => {
      if (typeof one !== 'string') throw new Error(`${name}() of a ${typeName(one)}`)
      return name === 'startswith' ? seen.startsWith(readable(one)) : seen.endsWith(readable(one))
    }
    return isList(edge) ? edge.some(test) : test(edge)
  },
})

const stripper = (run: (self: string, chars: string | undefined) => string): Method<string> => ({
  names: ['chars'],
  run: (self, call) => {
    const chars = call.text('chars')
    return run(self, chars === undefined ? undefined : readable(chars))
  },
})

const plain = (run: (self: string) => Value): Method<string> => ({ names: [], run })

const codePoints = (units: string, at: number): bigint =>
  BigInt(at < 0 ? -1 : countCharacters(units.slice(0, at)))

/** One letter at least, and none of the other case. */
export const isUpper = (self: string): boolean =>
  self !== self.toLowerCase() && self === self.toUpperCase()
export const isLower = (self: string): boolean =>
  self !== self.toUpperCase() && self === self.toLowerCase()

const isAll = (pattern: RegExp): Method<string> => plain((self) => pattern.test(readable(self)))

const TEXT: Readonly<Record<string, Method<string>>> = {
  strip: stripper(strip),
  lstrip: stripper(stripStart),
  rstrip: stripper(stripEnd),
  split: {
    names: ['sep', 'maxsplit'],
    run: (self, call) => {
      const by = call.text('sep')
      const limit = limitOf(call, 'maxsplit')
      return by === undefined ? splitBlank(self, limit) : splitAt(self, by, limit)
    },
  },
  rsplit: {
    names: ['sep', 'maxsplit'],
    run: (self, call) => splitAtEnd(self, call.needText('sep'), limitOf(call, 'maxsplit')),
  },
  splitlines: plain((self) => {
    const lines = self.split(LINE_END)
    return lines.at(-1) === '' ? lines.slice(0, -1) : lines
  }),
  partition: {
    names: ['sep'],
    run: (self, call) => {
      const by = call.needText('sep')
      const [before = '', ...after] = splitAt(self, by, 1)
      return after.length === 0 ? Tuple.of(before, '', '') : Tuple.of(before, by, ...after)
    },
  },
  rpartition: {
    names: ['sep'],
    run: (self, call) => {
      const by = call.needText('sep')
      const parts = splitAtEnd(self, by, 1)
      return parts.length === 1
        ? Tuple.of('', '', self)
        : Tuple.of(parts[0] ?? '', by, parts[1] ?? '')
    },
  },
  replace: {
    names: ['old', 'new', 'count'],
    run: (self, call) =>
      replaceText(self, call.needText('old'), call.needText('new'), limitOf(call, 'count')),
  },
  startswith: hasEdge('startswith'),
  endswith: hasEdge('endswith'),
  removeprefix: {
    names: ['prefix'],
    run: (self, call) => {
      const edge = readable(call.needText('prefix'))
      return readable(self).startsWith(edge) ? self.slice(edge.length) : self
    },
  },
  removesuffix: {
    names: ['suffix'],
    run: (self, call) => {
      const edge = readable(call.needText('suffix'))
      return readable(self).endsWith(edge) ? self.slice(0, self.length - edge.length) : self
    },
  },
  find: {
    names: ['sub'],
    run: (self, call) => {
      const seen = readable(self)
      return codePoints(seen, seen.indexOf(readable(call.needText('sub'))))
    },
  },
  rfind: {
    names: ['sub'],
    run: (self, call) => {
      const seen = readable(self)
      return codePoints(seen, seen.lastIndexOf(readable(call.needText('sub'))))
    },
  },
  count: {
    names: ['sub'],
    run: (self, call) =>
      BigInt(splitAt(self, call.needText('sub'), Number.POSITIVE_INFINITY).length - 1),
  },
  join: {
    names: ['items'],
    run: (self, call) => {
      const given = call.value('items')
      const items = typeof given === 'string' ? [...given] : given
      if (!isList(items)) throw new Error(`join() of a ${typeName(items)}`)
      return items
        .map((one) => {
          if (typeof one !== 'string') throw new Error(`join(): an item is ${typeName(one)}`)
          return one
        })
        .join(self)
    },
  },
  upper: plain((self) => self.toUpperCase()),
  lower: plain((self) => self.toLowerCase()),
  capitalize: plain(capitalize),
  title: plain(title),
  isdigit: isAll(/^\p{Nd}+$/u),
  isalpha: isAll(/^\p{L}+$/u),
  isalnum: isAll(/^[\p{L}\p{N}]+$/u),
  isspace: plain((self) => self !== '' && strip(self) === ''),
  isupper: plain(isUpper),
  islower: plain(isLower),
}

const DICT: Readonly<Record<string, Method<Dict>>> = {
  get: {
    names: ['key', 'default'],
    run: (self, call) => orElse(lookUp(self, call.value('key')), orElse(call.at('default'), null)),
  },
  items: { names: [], run: (self) => [...self].map(([key, value]) => Tuple.of(key, value)) },
  keys: { names: [], run: (self) => [...self.keys()] },
  values: { names: [], run: (self) => [...self.values()] },
  copy: { names: [], run: (self) => new Map(self) },
}

const LIST: Readonly<Record<string, Method<List>>> = {
  index: {
    names: ['value'],
    run: (self, call) => {
      const at = self.findIndex((one) => isEqual(one, call.value('value')))
      if (at < 0) throw new Error(`${text(call.value('value'))} is not in the list`)
      return BigInt(at)
    },
  },
  count: {
    names: ['value'],
    run: (self, call) => BigInt(self.filter((one) => isEqual(one, call.value('value'))).length),
  },
  copy: { names: [], run: (self) => [...self] },
}

export const METHODS: ReadonlySet<string> = new Set([TEXT, DICT, LIST].flatMap(Object.keys))

const bind = <T>(table: Readonly<Record<string, Method<T>>>, self: T, name: string) => {
  const method = Object.hasOwn(table, name) ? table[name] : undefined
  return method && new Callable((args) => method.run(self, new Call(name, method.names, args)))
}

export const methodOf = (self: Value, name: string): Callable | undefined => {
  if (typeof self === 'string') return bind(TEXT, self, name)
  if (isDict(self)) return bind(DICT, self, name)
  return isList(self) ? bind(LIST, self, name) : undefined
}
