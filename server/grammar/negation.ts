// What does not hold under a schema, as schemas of which one must hold. `if`, `not`, `dependencies` and
// a `oneOf` whose branches overlap come to that.

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

export type Schema = boolean | Readonly<Record<string, unknown>>

const TYPES = ['object', 'array', 'string', 'number', 'boolean', 'null'] as const

/** Levels of `not` in `not`, and of schemas in them. */
const MAX_DEPTH = 16
/** Schemas that one negation becomes. */
const MAX_BRANCHES = 64

export type Negation = {
  /** The schema at a `$ref`. */
  readonly follow: (ref: unknown) => unknown
  /** Whether a keyword says nothing of values. */
  readonly isSilent: (keyword: string) => boolean
}

const isText = (value: unknown): value is string => typeof value === 'string'
const isNumber = (value: unknown): value is number => typeof value === 'number'
const isCount = (value: unknown): value is number => isNumber(value) && Number.isInteger(value)

/** Upper bounds of a count become lower ones, and the other way round. */
const COUNTS: Readonly<Record<string, readonly [type: string, other: string, step: 1 | -1]>> = {
  minLength: ['string', 'maxLength', -1],
  maxLength: ['string', 'minLength', 1],
  minItems: ['array', 'maxItems', -1],
  maxItems: ['array', 'minItems', 1],
  minProperties: ['object', 'maxProperties', -1],
  maxProperties: ['object', 'minProperties', 1],
}
const BOUNDS: Readonly<Record<string, string>> = {
  minimum: 'exclusiveMaximum',
  maximum: 'exclusiveMinimum',
  exclusiveMinimum: 'maximum',
  exclusiveMaximum: 'minimum',
}

const otherTypes = (type: unknown): readonly Schema[] | null => {
  const given = new Set<unknown>(Array.isArray(type) ? type : [type])
  // Numbers that are no integers have no schema.
  if (given.has('integer') && !given.has('number')) return null
  const others = TYPES.filter((one) => !given.has(one))
  return others.length > 0 ? [{ type: others }] : []
}

const withoutEach = (names: unknown): readonly Schema[] | null =>
  Array.isArray(names) && names.every(isText)
    ? names.map((name) => ({ type: 'object', properties: { [name]: false } }))
    : null

/** null: not said by schemas that are served. An empty list: the schema always holds. `around`: the
 * schemas that it is part of, as far as they are negated too. */
export const negated = (
  schema: unknown,
  by: Negation,
  around: readonly unknown[] = [],
): readonly Schema[] | null => {
  if (schema === true) return []
  if (schema === false) return [true]
  if (!isObject(schema) || around.length >= MAX_DEPTH || around.includes(schema)) return null
  const out: Schema[] = []
  for (const [keyword, value] of Object.entries(schema)) {
    if (by.isSilent(keyword)) continue
    const some = negatedKeyword(keyword, value, by, [...around, schema])
    if (some === null || out.length + some.length > MAX_BRANCHES) return null
    out.push(...some)
  }
  return out
}

// long: a list of keywords
const negatedKeyword = (
  keyword: string,
  value: unknown,
  by: Negation,
  around: readonly unknown[],
): readonly Schema[] | null => {
  const inner = (one: unknown) => negated(one, by, around)
  const list = Array.isArray(value) ? value : null
  const count = COUNTS[keyword]
  if (count !== undefined) {
    const [type, other, step] = count
    if (!isCount(value)) return null
    return value + step < 0 ? [] : [{ type, [other]: value + step }]
  }
  const bound = BOUNDS[keyword]
  if (bound !== undefined) return isNumber(value) ? [{ type: 'number', [bound]: value }] : null
  switch (keyword) {
    case 'type':
      return otherTypes(value)
    case 'required':
      return withoutEach(value)
    case 'enum':
      return list && [{ not: { enum: list } }]
    case 'const':
      return [{ not: { enum: [value] } }]
    case 'pattern':
      return isText(value) ? [{ type: 'string', not: { pattern: value } }] : null
    case 'not':
      if (typeof value === 'boolean') return [value]
      return isObject(value) && !around.includes(value) ? [value] : null
    case '$ref':
      return inner(by.follow(value))
    case 'allOf': {
      const each = list?.map(inner) ?? [null]
      return each.some((one) => one === null) ? null : each.flatMap((one) => one ?? [])
    }
    case 'anyOf': {
      const each = list?.map(inner) ?? [null]
      if (each.some((one) => one === null)) return null
      return [{ allOf: each.map((one) => anyOf(one ?? [])) }]
    }
    case 'properties': {
      if (!isObject(value)) return null
      const out: Schema[] = []
      for (const [name, member] of Object.entries(value)) {
        const others = inner(member)
        if (others === null) return null
        if (others.length > 0)
          out.push({ type: 'object', properties: { [name]: anyOf(others) }, required: [name] })
      }
      return out
    }
    default:
      return null
  }
}

/** One of these must hold; none: nothing does. */
export const anyOf = (schemas: readonly Schema[]): Schema =>
  schemas.length === 0 ? false : schemas.length === 1 ? (schemas[0] ?? false) : { anyOf: schemas }
