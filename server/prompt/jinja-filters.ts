// The filters of a template, as Jinja's; `tojson` as transformers has it.

import { countCharacters } from './characters.js'
import { hasTest, TESTS } from './jinja-tests.js'
import { readable } from './marked-text.js'
import { Call, capitalize, replaceText, strip } from './python-text.js'
import {
  type Arguments,
  asKey,
  compare,
  Float,
  isDict,
  isEqual,
  isList,
  isNumber,
  isTrue,
  json,
  lookUp,
  Namespace,
  numberOf,
  orElse,
  Tuple,
  text,
  typeName,
  Undefined,
  type Value,
} from './value.js'

type Filter = (value: Value, args: Arguments) => Value

const filter =
  (name: string, names: readonly string[], run: (value: Value, call: Call) => Value): Filter =>
  (value, args) =>
    run(value, new Call(name, names, args))

const listOf = (value: Value, what: string): readonly Value[] => {
  if (isList(value)) return value
  if (isDict(value)) return [...value.keys()]
  if (typeof value === 'string') return [...value]
  if (value instanceof Undefined) return []
  throw new Error(`'${what}' of a ${typeName(value)}`)
}

/** `a.b.0` within a value. */
const attributeOf = (value: Value, path: string): Value => {
  let at = value
  for (const part of path.split('.')) {
    const next: Value | undefined = isDict(at)
      ? lookUp(at, part)
      : at instanceof Namespace
        ? at.values.get(part)
        : isList(at) && /^\d+$/.test(part)
          ? at[Number(part)]
          : undefined
    if (next === undefined) return new Undefined(`'${part}'`)
    at = next
  }
  return at
}

const sizeOf = (value: Value): Value => {
  if (typeof value === 'string') return BigInt(countCharacters(value))
  if (isList(value)) return BigInt(value.length)
  if (isDict(value)) return BigInt(value.size)
  if (value instanceof Undefined) return 0n
  throw new Error(`'length' of a ${typeName(value)}`)
}

const sortKey = (value: Value, isExact: boolean): Value =>
  typeof value === 'string' && !isExact ? readable(value).toLowerCase() : value

const sorted = (
  items: readonly Value[],
  key: (item: Value) => Value,
  isReverse: boolean,
): readonly Value[] => {
  const keyed = items.map((item) => ({ item, key: key(item) }))
  // A reversed sort keeps equal items in their order, as Python's.
  keyed.sort((a, b) => (isReverse ? compare(b.key, a.key) : compare(a.key, b.key)))
  return keyed.map(({ item }) => item)
}

const DECIMAL = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i

const integer = (value: Value, otherwise: Value): Value => {
  if (value instanceof Undefined) throw new Error(`${value.what} is undefined`)
  if (value instanceof Float)
    return Number.isFinite(value.value) ? BigInt(Math.trunc(value.value)) : otherwise
  if (isNumber(value)) return BigInt(value)
  if (typeof value !== 'string') return otherwise
  const digits = strip(readable(value))
  if (/^[+-]?\d+$/.test(digits)) return BigInt(digits.replace('+', ''))
  return DECIMAL.test(digits) ? BigInt(Math.trunc(Number(digits))) : otherwise
}

const float = (value: Value, otherwise: Value): Value => {
  if (value instanceof Undefined) throw new Error(`${value.what} is undefined`)
  if (isNumber(value)) return new Float(numberOf(value))
  const digits = typeof value === 'string' ? strip(readable(value)) : ''
  return DECIMAL.test(digits) ? new Float(Number(digits)) : otherwise
}

const indented = (value: Value, call: Call): Value => {
  if (typeof value !== 'string') throw new Error(`'indent' of a ${typeName(value)}`)
  const width = orElse(call.at('width'), 4n)
  const margin = typeof width === 'string' ? width : ' '.repeat(call.integer('width', 4))
  const isBlankToo = isTrue(orElse(call.at('blank'), false))
  const lines = value.split('\n')
  return lines
    .map((line, i) =>
      i === 0
        ? isTrue(orElse(call.at('first'), false))
          ? margin + line
          : line
        : line !== '' || isBlankToo
          ? margin + line
          : line,
    )
    .join('\n')
}

const toJson = filter(
  'tojson',
  ['ensure_ascii', 'indent', 'separators', 'sort_keys'],
  (value, call) => {
    const indent = orElse(call.at('indent'), null)
    const given = orElse(call.at('separators'), null)
    const [item = null, key = null] = given === null ? [] : listOf(given, 'separators')
    return json(value, {
      indent:
        indent === null
          ? undefined
          : typeof indent === 'string'
            ? indent
            : ' '.repeat(call.integer('indent', 0)),
      separators:
        typeof item === 'string' && typeof key === 'string'
          ? [item, key]
          : [indent === null ? ', ' : ',', ': '],
      ascii: isTrue(orElse(call.at('ensure_ascii'), false)),
      sortKeys: isTrue(orElse(call.at('sort_keys'), false)),
    })
  },
)

const picker = (name: string, isBy: boolean, isKept: boolean): Filter =>
  filter(name, isBy ? ['attribute', 'test', 'value'] : ['test', 'value'], (value, call) => {
    const attribute = isBy ? call.needText('attribute') : undefined
    const test = call.text('test')
    if (test !== undefined && !hasTest(test))
      throw new Error(`'${name}' has no test named '${test}' here`)
    const pick = test === undefined ? isTrue : TESTS[test]
    // As Jinja: nothing is picked of what is not true, None too.
    return (isTrue(value) ? listOf(value, name) : []).filter(
      (item) =>
        pick(
          attribute === undefined ? item : attributeOf(item, attribute),
          orElse(call.at('value'), null),
        ) === isKept,
    )
  })

const map: Filter = (value, args) => {
  const items = isTrue(value) ? listOf(value, 'map') : []
  const attribute = args.named.get('attribute')
  if (attribute !== undefined) {
    const otherwise = args.named.get('default')
    return items.map((item) => {
      const found = attributeOf(item, text(attribute))
      return found instanceof Undefined ? orElse(otherwise, found) : found
    })
  }
  const [name, ...given] = args.given
  if (typeof name !== 'string' || !hasFilter(name))
    throw new Error(`'map' needs the name of a filter or attribute=`)
  return items.map((item) => FILTERS[name](item, { given, named: args.named }))
}

const extreme = (name: 'min' | 'max'): Filter =>
  filter(name, ['case_sensitive', 'attribute'], (value, call) => {
    const attribute = call.text('attribute')
    const isExact = isTrue(orElse(call.at('case_sensitive'), false))
    const key = (item: Value) =>
      sortKey(attribute === undefined ? item : attributeOf(item, attribute), isExact)
    const items = listOf(value, name)
    const [first] = sorted(items, key, name === 'max')
    return orElse(first, new Undefined(`'${name}' of an empty list`))
  })

const TABLE = {
  abs: filter('abs', [], (value) => {
    if (!isNumber(value)) throw new Error(`'abs' of a ${typeName(value)}`)
    if (value instanceof Float) return new Float(Math.abs(value.value))
    const whole = BigInt(value)
    return whole < 0n ? -whole : whole
  }),
  capitalize: filter('capitalize', [], (value) => capitalize(text(value))),
  count: filter('count', [], sizeOf),
  default: filter('default', ['default_value', 'boolean'], (value, call) =>
    value instanceof Undefined || (isTrue(orElse(call.at('boolean'), false)) && !isTrue(value))
      ? orElse(call.at('default_value'), '')
      : value,
  ),
  dictsort: filter('dictsort', ['case_sensitive', 'by', 'reverse'], (value, call) => {
    if (!isDict(value)) throw new Error(`'dictsort' of a ${typeName(value)}`)
    const place = (call.text('by') ?? 'key') === 'key' ? 0 : 1
    const isExact = isTrue(orElse(call.at('case_sensitive'), false))
    return sorted(
      [...value].map(([key, one]) => Tuple.of(key, one)),
      (pair) => sortKey(isList(pair) ? orElse(pair[place], null) : pair, isExact),
      isTrue(orElse(call.at('reverse'), false)),
    )
  }),
  first: filter('first', [], (value) =>
    orElse(listOf(value, 'first')[0], new Undefined('the first item')),
  ),
  float: filter('float', ['default'], (value, call) =>
    float(value, orElse(call.at('default'), new Float(0))),
  ),
  indent: filter('indent', ['width', 'first', 'blank'], indented),
  int: filter('int', ['default'], (value, call) => integer(value, orElse(call.at('default'), 0n))),
  items: filter('items', [], (value) => {
    if (value instanceof Undefined) return []
    if (!isDict(value)) throw new Error(`'items' of a ${typeName(value)}`)
    return [...value].map(([key, one]) => Tuple.of(key, one))
  }),
  join: filter('join', ['d', 'attribute'], (value, call) => {
    const attribute = call.text('attribute')
    return listOf(value, 'join')
      .map((one) => text(attribute === undefined ? one : attributeOf(one, attribute)))
      .join(text(orElse(call.at('d'), '')))
  }),
  last: filter('last', [], (value) =>
    orElse(listOf(value, 'last').at(-1), new Undefined('the last item')),
  ),
  length: filter('length', [], sizeOf),
  list: filter('list', [], (value) => [...listOf(value, 'list')]),
  lower: filter('lower', [], (value) => text(value).toLowerCase()),
  map,
  max: extreme('max'),
  min: extreme('min'),
  reject: picker('reject', false, false),
  rejectattr: picker('rejectattr', true, false),
  replace: filter('replace', ['old', 'new', 'count'], (value, call) => {
    const count = orElse(call.at('count'), null)
    const limit = count === null ? -1 : call.integer('count', -1)
    return replaceText(
      text(value),
      call.needText('old'),
      call.needText('new'),
      limit < 0 ? Number.POSITIVE_INFINITY : limit,
    )
  }),
  reverse: filter('reverse', [], (value) =>
    typeof value === 'string'
      ? [...value].reverse().join('')
      : [...listOf(value, 'reverse')].reverse(),
  ),
  safe: filter('safe', [], (value) => value),
  select: picker('select', false, true),
  selectattr: picker('selectattr', true, true),
  sort: filter('sort', ['reverse', 'case_sensitive', 'attribute'], (value, call) => {
    const attribute = call.text('attribute')
    const isExact = isTrue(orElse(call.at('case_sensitive'), false))
    return sorted(
      listOf(value, 'sort'),
      (item) => sortKey(attribute === undefined ? item : attributeOf(item, attribute), isExact),
      isTrue(orElse(call.at('reverse'), false)),
    )
  }),
  string: filter('string', [], (value) => text(value)),
  title: filter('title', [], (value) =>
    text(value)
      .split(/([-\s({[<]+)/)
      .map(capitalize)
      .join(''),
  ),
  tojson: toJson,
  trim: filter('trim', ['chars'], (value, call) => {
    const chars = call.text('chars')
    return strip(text(value), chars === undefined ? undefined : readable(chars))
  }),
  unique: filter('unique', ['case_sensitive'], (value, call) => {
    const isExact = isTrue(orElse(call.at('case_sensitive'), false))
    const kept: Value[] = []
    const seen: Value[] = []
    for (const item of listOf(value, 'unique')) {
      const key = asKey(sortKey(item, isExact))
      if (seen.some((one) => isEqual(one, key))) continue
      seen.push(key)
      kept.push(item)
    }
    return kept
  }),
  upper: filter('upper', [], (value) => text(value).toUpperCase()),
} satisfies Record<string, Filter>

export const FILTERS: Readonly<Record<keyof typeof TABLE | 'd' | 'count', Filter>> = {
  ...TABLE,
  d: TABLE.default,
}

export const hasFilter = (name: string): name is keyof typeof FILTERS =>
  Object.hasOwn(FILTERS, name)
