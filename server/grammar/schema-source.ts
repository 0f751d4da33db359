// A JSON Schema as it is read: every place in it gets a number when something first refers to it, and
// its keywords are read then. What is not served is refused with the place where it stands.

import { badRequest, type RequestError } from '../request-error.js'
import { hasLoneSurrogate } from './code-points.js'
import { FORMATS } from './formats.js'
import { INTEGER_DIGITS } from './json-text.js'
import {
  type All,
  ANYTHING,
  ARRAY,
  type ArrayKind,
  type Kind,
  type Literal,
  NUMBER,
  type NumberKind,
  OBJECT,
  type ObjectKind,
  STRING,
  type StringKind,
  type TextPattern,
  valueKey,
} from './kinds.js'
import { anyOf, type Negation, negated, type Schema } from './negation.js'
import { type Bound, multiplesOf } from './number-pattern.js'

/** Levels of a schema. */
const MAX_SCHEMA_DEPTH = 128
/** Keys, texts, numbers, lists and objects in a schema. */
const MAX_SCHEMA_PARTS = 50_000
/** Values of all `enum`s together. */
const MAX_ENUM = 10_000
/** Characters of all its names and texts. */
const MAX_SCHEMA_TEXT = 1 << 20
/** `maxLength`, `minItems` and their like. */
const MAX_BOUND = 100_000

export type OneOf = {
  readonly keyword: 'anyOf' | 'oneOf'
  readonly pointer: string
  readonly branches: readonly All[]
  /** Of `oneOf`: the branches, each without the values of the others; null: that is not served. */
  readonly apart: () => readonly All[] | null
}

/** What one schema object says itself. */
type Said = {
  /** Schemas that must hold too: `$ref`, `allOf`. */
  readonly too: All
  /** Of each list one must hold: `anyOf`, `oneOf`. */
  readonly oneOfEach: readonly OneOf[]
  /** These values are not admitted. */
  readonly without: readonly unknown[]
  readonly kinds: readonly Kind[]
  /** `enum`, `const`: these alone, as far as the kinds admit them. */
  readonly values: readonly Literal[] | null
}

export type SchemaSource = {
  readonly root: All
  readonly said: (number: number) => Said
  readonly pointer: (number: number) => string
  readonly refuse: (pointer: string, why: string) => RequestError
}

const ANNOTATIONS: ReadonlySet<string> = new Set([
  '$schema',
  '$comment',
  '$vocabulary',
  'title',
  'description',
  'default',
  'example',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  'contentEncoding',
  'contentMediaType',
  'contentSchema',
  // Of OpenAPI: which branch it is, for readers; the branches say it themselves.
  'discriminator',
  // Of no meaning where they stand alone.
  'then',
  'else',
  'minContains',
  'maxContains',
  // Read when something refers into them.
  '$defs',
  'definitions',
  '$anchor',
])
/** Keywords that say something of one kind of value: which. */
const KIND_OF: Readonly<Record<string, Kind['type']>> = {
  minimum: 'number',
  maximum: 'number',
  exclusiveMinimum: 'number',
  exclusiveMaximum: 'number',
  multipleOf: 'number',
  minLength: 'string',
  maxLength: 'string',
  pattern: 'string',
  format: 'string',
  items: 'array',
  prefixItems: 'array',
  additionalItems: 'array',
  minItems: 'array',
  maxItems: 'array',
  uniqueItems: 'array',
  properties: 'object',
  patternProperties: 'object',
  additionalProperties: 'object',
  propertyNames: 'object',
  required: 'object',
  minProperties: 'object',
  maxProperties: 'object',
}
const SERVED: ReadonlySet<string> = new Set([
  '$id',
  'id',
  '$ref',
  'type',
  'enum',
  'const',
  'allOf',
  'anyOf',
  'oneOf',
  'not',
  'if',
  'dependencies',
  'dependentRequired',
  'dependentSchemas',
  ...Object.keys(KIND_OF),
])
const INSTEAD: Readonly<Record<string, string>> = {
  nullable: 'add "null" to \'type\'',
  contains: "use 'items'",
  unevaluatedProperties: "use 'additionalProperties'",
  unevaluatedItems: "use 'items'",
  $dynamicRef: "use '$ref'",
  $recursiveRef: "use '$ref'",
  // Of draft 3.
  extends: "use 'allOf'",
  disallow: "use 'not'",
  divisibleBy: "use 'multipleOf'",
}
const TYPES = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'] as const

/** Above every number of INTEGER_DIGITS. */
const LARGEST = 10 ** INTEGER_DIGITS
/** Formats that zod names beside a pattern, which says all of them. */
const SAID_BY_PATTERN: ReadonlySet<string> = new Set([
  'base64',
  'base64url',
  'cidrv4',
  'cidrv6',
  'cuid',
  'cuid2',
  'e164',
  'emoji',
  'ends_with',
  'guid',
  'includes',
  'ksuid',
  'lowercase',
  'nanoid',
  'regex',
  'starts_with',
  'ulid',
  'uppercase',
  'xid',
])

/** Branches of a `oneOf` that overlap. */
const MAX_APART = 8

const CONSTRAINTS: readonly string[] = [...SERVED, ...Object.keys(INSTEAD)].filter(
  (name) => name.length > 3,
)
/** Whether one letter more, less, another or exchanged makes `b` of `a`. */
const isNear = (a: string, b: string): boolean => {
  let first = 0
  while (first < a.length && a[first] === b[first]) first++
  const [x, y] = [a.slice(first), b.slice(first)]
  return (
    x.slice(1) === y.slice(1) ||
    x.slice(1) === y ||
    x === y.slice(1) ||
    (x[0] === y[1] && x[1] === y[0] && x.slice(2) === y.slice(2))
  )
}
/** The keyword that a name which is none may have been meant for. */
const meantBy = (name: string): string | undefined =>
  /^[A-Za-z]+$/.test(name)
    ? CONSTRAINTS.find((one) => isNear(name.toLowerCase(), one.toLowerCase()))
    : undefined

/** Says nothing of values: an annotation, or a name that no draft of the standard gives a meaning. */
const isSilent = (keyword: string): boolean =>
  ANNOTATIONS.has(keyword) ||
  (!SERVED.has(keyword) && INSTEAD[keyword] === undefined && meantBy(keyword) === undefined)

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** `id` is draft 4's. As the name of a property it is a schema, not a text. */
const idOf = (schema: Readonly<Record<string, unknown>>): string | undefined =>
  [schema.$id, schema.id].find((id) => typeof id === 'string') as string | undefined
/** It is what references inside start from; one that is only a fragment is a name. */
const isBase = (id: string | undefined): boolean => id !== undefined && !id.startsWith('#')

/** The only keyword of a schema, and what it says. */
const soleMember = (schema: unknown): [string, unknown] | undefined => {
  const members = isObject(schema) ? Object.entries(schema).filter(([key]) => !isSilent(key)) : []
  return members.length === 1 ? members[0] : undefined
}

/** Where `name` is, what it needs is too. */
const needs = (name: string, needed: readonly string[] | Schema): Schema => ({
  anyOf: [
    { properties: { [name]: false } },
    Array.isArray(needed)
      ? { required: [...needed, name] }
      : { allOf: [{ required: [name] }, needed] },
  ],
})
const DEPENDENCY: Readonly<Record<string, string>> = {
  dependencies: 'a schema or a list of names for each name',
  dependentRequired: 'a list of names for each name',
  dependentSchemas: 'a schema for each name',
}

const nameOf = (part: string): string => part.replace(/~1/g, '/').replace(/~0/g, '~')
const token = (name: string): string => name.replace(/~/g, '~0').replace(/\//g, '~1')

/** Looks through all of it once, before anything else does: nothing later meets what is too deep. */
export const checkSize = (schema: unknown, param: string | null, what: string): void => {
  // Every question pays for this, known or not: two plain stacks and no object for each part.
  const pending: unknown[] = [schema]
  const depths = [1]
  let parts = 0
  let members = 0
  let left = MAX_SCHEMA_TEXT
  const read = (text: string, kind: string) => {
    left -= text.length
    if (left < 0)
      throw badRequest(
        `${what} has more than ${MAX_SCHEMA_TEXT} characters in its names and texts: ask for less.`,
        param,
      )
    if (hasLoneSurrogate(text))
      throw badRequest(`${what} has a ${kind} with half of a surrogate pair.`, param)
  }
  while (pending.length > 0) {
    const value = pending.pop()
    const depth = depths.pop() ?? 0
    if (++parts > MAX_SCHEMA_PARTS)
      throw badRequest(`${what} has more than ${MAX_SCHEMA_PARTS} parts: ask for less.`, param)
    if (typeof value === 'string') read(value, 'text')
    if (typeof value !== 'object' || value === null) continue
    if (depth > MAX_SCHEMA_DEPTH)
      throw badRequest(`${what} is nested deeper than ${MAX_SCHEMA_DEPTH} levels.`, param)
    const list = isObject(value) ? value.enum : undefined
    if (Array.isArray(list)) members += list.length
    if (members > MAX_ENUM)
      throw badRequest(`${what} has more than ${MAX_ENUM} values in its 'enum's.`, param)
    for (const key of Object.keys(value)) {
      if (!Array.isArray(value)) read(key, 'name')
      pending.push((value as Record<string, unknown>)[key])
      depths.push(depth + 1)
    }
  }
}

/** `what` names the schema in errors. */
// long: the readers of the keywords share the schema's places and how its faults are told
export const readSchema = (root: unknown, what: string, param: string | null): SchemaSource => {
  checkSize(root, param, what)
  const refuse = (pointer: string, why: string): RequestError =>
    badRequest(`${what} cannot be served: at '${pointer}': ${why}.`, param)

  const numbers = new Map<unknown, number>()
  const places: { readonly schema: unknown; readonly pointer: string }[] = []
  const origins = new Map<unknown, string>()
  const said: (Said | undefined)[] = []

  const number = (schema: unknown, pointer: string): All => {
    if (schema === true) return []
    const known = numbers.get(schema)
    if (known !== undefined) return [known]
    if (schema !== false && !isObject(schema))
      throw refuse(pointer, 'a schema is an object, true or false')
    numbers.set(schema, places.length)
    places.push({ schema, pointer: origins.get(schema) ?? pointer })
    return [places.length - 1]
  }
  /** One that no caller wrote, in place of what stands at the pointer. */
  const made = (schema: Schema, pointer: string): All => {
    const pending: unknown[] = [schema]
    for (let item = pending.pop(); item !== undefined; item = pending.pop())
      if (typeof item === 'object' && item !== null && !numbers.has(item) && !origins.has(item)) {
        origins.set(item, pointer)
        pending.push(...Object.values(item))
      }
    return number(schema, pointer)
  }

  const rootId = (isObject(root) && idOf(root)?.replace(/#$/, '')) || ''
  let anchors: Map<string, readonly [unknown, string]> | undefined
  const findAnchors = () => {
    const found = new Map<string, readonly [unknown, string]>()
    const pending: (readonly [unknown, string])[] = [[root, '#']]
    for (let item = pending.pop(); item !== undefined; item = pending.pop()) {
      const [value, pointer] = item
      if (typeof value !== 'object' || value === null) continue
      if (isObject(value)) {
        if (value !== root && isBase(idOf(value))) continue
        const name = idOf(value)?.startsWith('#') ? idOf(value)?.slice(1) : value.$anchor
        if (typeof name === 'string' && name !== '') found.set(name, item)
      }
      for (const [key, member] of Object.entries(value))
        if (key !== 'enum' && key !== 'const') pending.push([member, `${pointer}/${token(key)}`])
    }
    return found
  }
  /** Whether references at this place start from another schema than the root. */
  const hasOwnBase = (pointer: string): boolean => {
    let at: unknown = root
    return pointer
      .split('/')
      .slice(1)
      .some((part) => {
        at = (at as Record<string, unknown> | undefined)?.[nameOf(part)]
        return isObject(at) && isBase(idOf(at))
      })
  }
  /** The schema that a `$ref` names, and where it is. */
  const target = (ref: unknown, pointer: string): readonly [unknown, string] => {
    if (typeof ref !== 'string') throw refuse(pointer, "'$ref' is a text")
    if (hasOwnBase(pointer))
      throw refuse(pointer, "a reference inside a schema with an '$id' of its own is not supported")
    const local = rootId !== '' && ref.startsWith(rootId) ? ref.slice(rootId.length) : ref
    const outside = () =>
      refuse(
        pointer,
        `only references inside this schema are served, as '#/$defs/name': not ${JSON.stringify(ref)}`,
      )
    if (local !== '' && !local.startsWith('#')) throw outside()
    if (local === '' && ref !== rootId) throw outside()
    let fragment: string
    try {
      fragment = decodeURIComponent(local.slice(1))
    } catch {
      throw refuse(pointer, `${JSON.stringify(ref)} is not a reference`)
    }
    const missing = () => refuse(pointer, `there is no ${JSON.stringify(ref)} in the schema`)
    if (fragment !== '' && !fragment.startsWith('/')) {
      anchors ??= findAnchors()
      const named = anchors.get(fragment)
      if (named === undefined) throw missing()
      return named
    }
    let at: unknown = root
    for (const part of fragment.split('/').slice(1)) {
      const name = nameOf(part)
      if (typeof at !== 'object' || at === null || !Object.hasOwn(at, name)) throw missing()
      at = (at as Record<string, unknown>)[name]
    }
    return [at, `#${fragment}`]
  }

  const negation = (pointer: string): Negation => ({
    follow: (ref) => target(ref, pointer)[0],
    isSilent,
  })
  const condition = (
    schema: Readonly<Record<string, unknown>>,
    at: (keyword: string) => string,
  ): Schema => {
    const { if: asked } = schema
    const said = (keyword: string): Schema => {
      if (schema[keyword] === undefined) return true
      number(schema[keyword], at(keyword))
      return schema[keyword] as Schema
    }
    const holds = said('if')
    const others = negated(asked, negation(at('if')))
    if (others === null)
      throw refuse(
        at('if'),
        "this 'if' is not supported: use 'anyOf' with a 'const' in each branch",
      )
    return anyOf([{ allOf: [holds, said('then')] }, { allOf: [anyOf(others), said('else')] }])
  }
  /** The branches of a `oneOf`, each without the values of the others. */
  const apart = (branches: readonly Schema[], pointer: string): readonly All[] | null => {
    if (branches.length > MAX_APART) return null
    const others = branches.map((one) => negated(one, negation(pointer)))
    if (others.some((one) => one === null)) return null
    return branches.map((one, i) => {
      const rest = others.flatMap((some, j) => (j === i ? [] : [anyOf(some ?? [])]))
      return made({ allOf: [one, ...rest] }, pointer)
    })
  }

  // long: a list of keywords
  const read = (schema: unknown, pointer: string): Said => {
    if (!isObject(schema)) return { too: [], oneOfEach: [], kinds: [], values: null, without: [] }
    const at = (keyword: string): string => `${pointer}/${token(keyword)}`
    const fail = (keyword: string, why: string): RequestError => refuse(at(keyword), why)

    for (const keyword of Object.keys(schema)) {
      if (SERVED.has(keyword) || isSilent(keyword)) continue
      const instead = INSTEAD[keyword]
      const meant = instead === undefined ? meantBy(keyword) : undefined
      throw fail(
        keyword,
        meant === undefined
          ? `the keyword '${keyword}' is not supported: ${instead}`
          : `there is no keyword '${keyword}': '${meant}' may be meant`,
      )
    }

    const list = (keyword: string, min = 0): readonly unknown[] | undefined => {
      const value = schema[keyword]
      if (value === undefined) return undefined
      if (!Array.isArray(value)) throw fail(keyword, `'${keyword}' is a list`)
      if (value.length < min) throw fail(keyword, `'${keyword}' has no entries`)
      return value
    }
    const schemas = (keyword: string): readonly All[] | undefined =>
      list(keyword, 1)?.map((one, i) => number(one, `${at(keyword)}/${i}`))
    const schemaMap = (keyword: string): ReadonlyMap<string, All> => {
      const value = schema[keyword]
      if (value === undefined) return new Map()
      if (!isObject(value)) throw fail(keyword, `'${keyword}' is an object of schemas`)
      return new Map(
        Object.entries(value).map(([name, one]) => [
          name,
          number(one, `${at(keyword)}/${token(name)}`),
        ]),
      )
    }
    const count = (keyword: string): number | undefined => {
      const value = schema[keyword]
      if (value === undefined) return undefined
      if (typeof value !== 'number' || !Number.isInteger(value) || value < 0)
        throw fail(keyword, `'${keyword}' is an integer from 0 on`)
      if (value > MAX_BOUND && keyword.startsWith('min'))
        throw fail(keyword, `'${keyword}' is at most ${MAX_BOUND} here`)
      return value
    }
    /** An upper count; one that no answer reaches is none. */
    const limit = (keyword: string): number => {
      const value = count(keyword) ?? Number.POSITIVE_INFINITY
      if (value !== Number.POSITIVE_INFINITY && value > MAX_BOUND)
        throw fail(keyword, `'${keyword}' is at most ${MAX_BOUND} here: leave it out`)
      return value
    }
    const figure = (keyword: string): number | undefined => {
      const value = schema[keyword]
      if (value === undefined) return undefined
      if (typeof value !== 'number') throw fail(keyword, `'${keyword}' is a number`)
      return value
    }

    const given =
      schema.type === undefined
        ? undefined
        : Array.isArray(schema.type)
          ? schema.type
          : [schema.type]
    for (const type of given ?? [])
      if (!(TYPES as readonly unknown[]).includes(type))
        throw fail('type', `a type is one of ${TYPES.join(', ')}: not ${JSON.stringify(type)}`)
    const types = new Set<unknown>(given ?? TYPES)

    const bound = (keyword: 'minimum' | 'maximum'): Bound | undefined => {
      const exclusive = keyword === 'minimum' ? 'exclusiveMinimum' : 'exclusiveMaximum'
      const sign = keyword === 'minimum' ? 1 : -1
      const value = figure(keyword)
      // Draft 4 and OpenAPI 3.0 say with true that the other bound is meant.
      const isFlag = typeof schema[exclusive] === 'boolean'
      const own: Bound | undefined =
        value === undefined ? undefined : { value, isExclusive: schema[exclusive] === true }
      const other = isFlag ? undefined : figure(exclusive)
      const strict: Bound | undefined =
        other === undefined ? undefined : { value: other, isExclusive: true }
      const isStrict =
        own === undefined || (strict !== undefined && sign * (strict.value - own.value) >= 0)
      const chosen = isStrict ? strict : own
      if (chosen === undefined) return undefined
      // No number with a bound is written as large: it has no exponent. Its last ones are read as LARGEST.
      const isAtEnd = chosen.isExclusive && Math.abs(chosen.value) === LARGEST
      if (sign * chosen.value <= -LARGEST && !isAtEnd)
        return { value: -sign * LARGEST, isExclusive: false }
      if (sign * chosen.value >= LARGEST)
        throw fail(isStrict ? exclusive : keyword, `numbers beyond ${LARGEST} are not supported`)
      if (chosen.isExclusive && Math.abs(chosen.value) > Number.MAX_SAFE_INTEGER)
        throw fail(
          isStrict ? exclusive : keyword,
          `beyond ${Number.MAX_SAFE_INTEGER} neighbouring integers cannot be told apart: use '${keyword}'`,
        )
      return chosen
    }
    const numberKind = (isInteger: boolean): NumberKind => {
      const multiple = figure('multipleOf')
      if (multiple !== undefined && !(multiple > 0))
        throw fail('multipleOf', "'multipleOf' is a number above 0")
      if (multiple !== undefined && multiplesOf(multiple) === null)
        throw fail(
          'multipleOf',
          Number.isInteger(multiple)
            ? `multiples of ${multiple} are not supported: it is too large`
            : `multiples of ${multiple} are not supported: only of integers and of 0.5, 0.25 and 0.125, on which binary arithmetic agrees`,
        )
      return {
        ...NUMBER,
        isInteger,
        min: bound('minimum'),
        max: bound('maximum'),
        multiples: multiple === undefined ? [] : [multiple],
      }
    }
    const pattern = (source: string, place: string): TextPattern => ({ source, pointer: place })
    // These two are served as they stand; every other `not` is turned round.
    const isText = given?.length === 1 && given[0] === 'string'
    const sole = soleMember(schema.not)
    const excluded =
      isText && sole?.[0] === 'pattern' && typeof sole[1] === 'string' ? sole[1] : undefined
    const without = sole?.[0] === 'enum' && Array.isArray(sole[1]) ? sole[1] : undefined
    const stringKind = (): StringKind => {
      const { format, pattern: source } = schema
      if (source !== undefined && typeof source !== 'string')
        throw fail('pattern', "'pattern' is a text")
      const isSaid = source !== undefined && SAID_BY_PATTERN.has(format as string)
      if (format !== undefined && !isSaid && !FORMATS.has(format as string))
        throw fail(
          'format',
          `the format ${JSON.stringify(format)} is not supported: use 'pattern', or one of ${[...FORMATS.keys()].join(', ')}`,
        )
      return {
        ...STRING,
        min: count('minLength') ?? 0,
        max: limit('maxLength'),
        patterns: source === undefined ? [] : [pattern(source, at('pattern'))],
        without: excluded === undefined ? [] : [pattern(excluded, at('not'))],
        formats: format === undefined || isSaid ? [] : [format as string],
      }
    }
    const arrayKind = (): ArrayKind => {
      if (schema.uniqueItems !== undefined && schema.uniqueItems !== false)
        throw fail(
          'uniqueItems',
          "'uniqueItems' is not supported: leave it out, and check the answer",
        )
      const old = Array.isArray(schema.items)
      if (old && schema.prefixItems !== undefined)
        throw fail('items', "beside 'prefixItems', 'items' is one schema")
      const first = old
        ? (schema.items as unknown[]).map((one, i) => number(one, `${at('items')}/${i}`))
        : (schemas('prefixItems') ?? [])
      const restKeyword = old ? 'additionalItems' : 'items'
      const rest = schema[restKeyword]
      const all = rest === undefined ? [] : number(rest, at(restKeyword))
      return {
        ...ARRAY,
        min: count('minItems') ?? 0,
        max: limit('maxItems'),
        parts:
          first.length === 0 && all.length === 0
            ? []
            : [{ first, rest: all, isRestSilent: rest === undefined, isMade: false }],
      }
    }
    const objectKind = (): ObjectKind => {
      const required = list('required') ?? []
      for (const name of required)
        if (typeof name !== 'string') throw fail('required', "'required' is a list of names")
      const properties = schemaMap('properties')
      const patterns = [...schemaMap('patternProperties')].map(([source, all]) => ({
        pattern: pattern(source, `${at('patternProperties')}/${token(source)}`),
        all,
      }))
      const { additionalProperties: rest, propertyNames: names } = schema
      const all = rest === undefined ? [] : number(rest, at('additionalProperties'))
      return {
        ...OBJECT,
        min: count('minProperties') ?? 0,
        max: limit('maxProperties'),
        required: new Set(required as readonly string[]),
        names: names === undefined ? [] : number(names, at('propertyNames')),
        parts:
          // No properties are those that there are: so a tool without arguments is written.
          schema.properties === undefined && patterns.length === 0 && all.length === 0
            ? []
            : [
                {
                  ...{ properties, patterns, rest: all },
                  ...{ isRestSilent: rest === undefined, isMade: origins.has(schema) },
                },
              ],
      }
    }
    const byType = (type: string): Exclude<Kind, Literal>[] => {
      switch (type) {
        case 'object':
          return [objectKind()]
        case 'array':
          return [arrayKind()]
        case 'string':
          return [stringKind()]
        case 'number':
          return [numberKind(false)]
        case 'integer':
          return types.has('number') ? [] : [numberKind(true)]
        case 'boolean':
          return [{ type: 'boolean' }]
        default:
          return [{ type: 'null' }]
      }
    }
    const dependencies = (keyword: string): readonly (readonly [string, string[] | Schema])[] => {
      const value = schema[keyword]
      if (value === undefined) return []
      if (!isObject(value)) throw fail(keyword, `'${keyword}' is an object`)
      for (const [name, needed] of Object.entries(value)) {
        const isNames = Array.isArray(needed) && needed.every((one) => typeof one === 'string')
        const isSchema = isObject(needed) || typeof needed === 'boolean'
        if (keyword === 'dependentRequired' ? isNames : isSchema) continue
        if (keyword === 'dependencies' && isNames) continue
        throw refuse(`${at(keyword)}/${token(name)}`, `'${keyword}' has ${DEPENDENCY[keyword]}`)
      }
      for (const [name, needed] of Object.entries(value))
        if (isObject(needed)) number(needed, `${at(keyword)}/${token(name)}`)
      return Object.entries(value) as [string, string[] | Schema][]
    }
    const isBare = !Object.keys(schema).some(
      (keyword) => keyword === 'type' || KIND_OF[keyword] !== undefined,
    )
    const isAsked = (type: string): boolean =>
      given !== undefined || Object.keys(schema).some((keyword) => KIND_OF[keyword] === type)
    const kinds = isBare
      ? ANYTHING
      : TYPES.flatMap((type) => (types.has(type) ? byType(type) : [])).map(
          (kind): Kind => (isAsked(kind.type) ? kind : { ...kind, isUnasked: true }),
        )

    const ref = schema.$ref === undefined ? [] : number(...target(schema.$ref, at('$ref')))
    const allOf = schemas('allOf') ?? []
    const oneOfEach: Said['oneOfEach'][number][] = []
    for (const keyword of ['anyOf', 'oneOf'] as const) {
      const branches = schemas(keyword)
      if (branches)
        oneOfEach.push({
          ...{ keyword, pointer: at(keyword), branches },
          apart: () => apart(schema[keyword] as Schema[], at(keyword)),
        })
    }
    const too = [...ref, ...allOf.flat()]
    if (schema.not !== undefined && excluded === undefined && without === undefined) {
      number(schema.not, at('not'))
      const others = negated(schema.not, negation(at('not')))
      if (others === null)
        throw fail('not', "this 'not' is not supported: say what is allowed instead")
      too.push(...made(anyOf(others), at('not')))
    }
    if (schema.if !== undefined) too.push(...made(condition(schema, at), at('if')))
    for (const keyword of ['dependencies', 'dependentRequired', 'dependentSchemas'])
      for (const [name, needed] of dependencies(keyword))
        too.push(...made(needs(name, needed), at(keyword)))
    return {
      too: [...new Set(too)],
      oneOfEach,
      kinds,
      values: valuesOf(schema, fail),
      without: without ?? [],
    }
  }

  return {
    root: number(root, '#'),
    said: (index) => {
      const place = places[index]
      if (place === undefined) throw new Error(`there is no schema ${index}`)
      said[index] ??= read(place.schema, place.pointer)
      return said[index]
    },
    pointer: (index) => places[index]?.pointer ?? '#',
    refuse,
  }
}

const checkNumbers = (value: unknown): boolean => {
  if (typeof value === 'number') return !Number.isInteger(value) || Number.isSafeInteger(value)
  if (typeof value !== 'object' || value === null) return true
  return Object.values(value).every(checkNumbers)
}

/** `const` and `enum`, both at once; null: neither. */
const valuesOf = (
  schema: Readonly<Record<string, unknown>>,
  fail: (keyword: string, why: string) => RequestError,
): readonly Literal[] | null => {
  if (schema.enum !== undefined && !Array.isArray(schema.enum))
    throw fail('enum', "'enum' is a list")
  const lists: (readonly unknown[])[] = []
  for (const keyword of ['enum', 'const'] as const) {
    if (schema[keyword] === undefined) continue
    const values = keyword === 'enum' ? (schema.enum as unknown[]) : [schema.const]
    if (!values.every(checkNumbers))
      throw fail(
        keyword,
        `integers beyond ${Number.MAX_SAFE_INTEGER} are not read exactly: use texts`,
      )
    lists.push(values)
  }
  const [first, second] = lists
  if (first === undefined) return null
  const allowed = second && new Set(second.map(valueKey))
  const literals = new Map<string, Literal>()
  for (const value of first) {
    const key = valueKey(value)
    if (allowed === undefined || allowed.has(key))
      literals.set(key, { type: 'literal', value, key })
  }
  return [...literals.values()]
}
