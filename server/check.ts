// A body against its schema: what is wrong is named by its field, whichever library found it.

import { z } from 'zod'
import { describe, foundNumber } from './list.js'
import { badRequest, RequestError, unsupportedParameter } from './request-error.js'

/** `messages.0.content`. */
const dottedPath = (path: readonly PropertyKey[]): string => path.map(String).join('.')

type Issue = z.core.$ZodIssue

const valueAt = (root: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (value, key) =>
      typeof value === 'object' && value !== null
        ? (value as Record<PropertyKey, unknown>)[key]
        : undefined,
    root,
  )

/** A value as an error shows it. Of objects and lists, which may be too deep for JSON.stringify, what it is. */
const shown = (value: unknown): string => {
  if (typeof value === 'object' && value !== null) return describe(value)
  return typeof value === 'string' && value.length > 100
    ? `${JSON.stringify(value.slice(0, 100))}...`
    : JSON.stringify(value)
}

/** Of the right type and still wrong. */
const hasType = ({ code, message }: Issue): boolean =>
  code !== 'invalid_type' && !message.startsWith('expected')

/** Of a union: its schema says what would be right. */
const hasOwnWords = ({ message }: Issue): boolean => !message.startsWith('Invalid')

/** Deeper, further along a list, or at the same place of the right type. */
const isFurther = (a: Issue, b: Issue): boolean => {
  if (a.path.length !== b.path.length) return a.path.length > b.path.length
  const at = a.path.findIndex((key, i) => key !== b.path[i])
  if (at < 0) return hasType(a) && !hasType(b)
  return Number(a.path[at]) > Number(b.path[at])
}

const article = (type: string): string => (/^[aeio]/.test(type) ? `an ${type}` : `a ${type}`)
const nameOfType = (type: string): string =>
  type === 'int' ? 'an integer' : type === 'record' ? 'an object' : article(type)

/** Of the wrong type, for whatever branch of a union. */
const isTypeOnly = (issue: Issue): boolean =>
  issue.code === 'invalid_union' && !hasOwnWords(issue)
    ? issue.errors.every((errors) =>
        errors.every((one) => one.path.length === 0 && isTypeOnly(one)),
      )
    : issue.code === 'invalid_type'

/** What a union would take, those within it as well. */
const typesOf = (issue: Issue): readonly string[] => {
  if (issue.code === 'invalid_type') return [nameOfType(issue.expected)]
  return issue.code === 'invalid_union' ? issue.errors.flat().flatMap(typesOf) : []
}

/** In a union, the branch that got furthest is the one the caller meant. */
const deepest = (issue: Issue, prefix: readonly PropertyKey[] = []): Issue => {
  const path = [...prefix, ...issue.path]
  if (issue.code !== 'invalid_union' || issue.errors.length === 0) return { ...issue, path }
  const branches = issue.errors.map((errors) => errors[0]).filter((first) => first !== undefined)
  const candidates = branches.map((first) => deepest(first, path))
  const best = candidates.reduce<Issue | undefined>(
    (a, b) => (a === undefined || isFurther(b, a) ? b : a),
    undefined,
  )
  if (best !== undefined && best.path.length > path.length) return best
  if (hasOwnWords(issue)) return { ...issue, path }
  // Of the right type and still wrong: the branch that was meant.
  return candidates.find((one) => !isTypeOnly(one)) ?? { ...issue, path }
}

type Json = Readonly<Record<string, unknown>>

const isRecord = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const described = new WeakMap<z.ZodType, Json>()

/** What /openapi.json says of it; made once. */
export const jsonSchemaOf = (schema: z.ZodType): Json => {
  const json =
    described.get(schema) ?? z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' })
  described.set(schema, json)
  return json
}

/** What a schema says of the number at a place; undefined: there is none. */
const numberAt = (json: unknown, path: readonly PropertyKey[]): Json | undefined => {
  if (!isRecord(json)) return undefined
  const branches = json.anyOf ?? json.oneOf
  if (Array.isArray(branches))
    return branches.map((one) => numberAt(one, path)).find((found) => found !== undefined)
  const [key, ...rest] = path
  if (key === undefined)
    return ['integer', 'number'].some((type) => [json.type].flat().includes(type))
      ? json
      : undefined
  const { items, properties, additionalProperties } = json
  if (typeof key === 'number') return numberAt(items, rest)
  const named = isRecord(properties) ? properties[String(key)] : undefined
  return numberAt(named ?? additionalProperties, rest)
}

/** `an integer from 1 to 128`. */
const inWords = (json: Json, given: unknown): string => {
  const { minimum: from, maximum: to, exclusiveMinimum: above } = json
  const what = [json.type].flat().includes('integer') ? 'an integer' : 'a number'
  const isUnsafe = typeof given === 'number' && Math.abs(given) > Number.MAX_SAFE_INTEGER
  /** The bounds of what JSON keeps exactly are told to whom they stop. */
  const isTold = (limit: unknown): boolean =>
    typeof limit === 'number' && (isUnsafe || Math.abs(limit) < Number.MAX_SAFE_INTEGER)
  if (isTold(above)) return `${what} above ${above}${isTold(to) ? ` and at most ${to}` : ''}`
  if (isTold(from))
    return isTold(to) ? `${what} from ${from} to ${to}` : `${what} of at least ${from}`
  return isTold(to) ? `${what} of at most ${to}` : what
}

const isOfNumber = (issue: Issue): boolean =>
  issue.code === 'invalid_type'
    ? ['int', 'number'].includes(issue.expected)
    : (issue.code === 'too_big' || issue.code === 'too_small') &&
      ['int', 'number'].includes(issue.origin)

/** Where and what, in words of ours. */
type Fault = {
  readonly path: readonly PropertyKey[]
  readonly kind: 'missing' | 'type' | 'value' | 'key'
  readonly words: string
  /** A text that is none of those there are. */
  readonly isUnsupported?: boolean
}

/** `a, b or c`. */
const anyOf = (names: readonly string[]): string =>
  [names.slice(0, -1).join(', '), ...names.slice(-1)].filter((part) => part !== '').join(' or ')

const units: Readonly<Record<string, string>> = { array: ' items', string: ' characters' }

const limit = ({ origin, inclusive }: { origin: string; inclusive?: boolean | undefined }) =>
  `${units[origin] ?? ''}${inclusive === false ? ' (exclusive)' : ''}`

const oneOf = (given: unknown, values: readonly unknown[]): Omit<Fault, 'path'> => ({
  kind: 'value',
  words: `${shown(given)}. Supported values are: ${values.map((value) => shown(value)).join(', ')}`,
  isUnsupported: typeof given === 'string',
})

const ofUnion = (
  issue: Extract<Issue, { code: 'invalid_union' }>,
  given: unknown,
): Omit<Fault, 'path'> => {
  if (hasOwnWords(issue)) return { kind: 'value', words: issue.message }
  const options = 'options' in issue ? (issue.options ?? []) : []
  if (options.length > 0) return oneOf(given, options)
  const expected = typesOf(issue)
  return expected.length > 0
    ? {
        kind: 'type',
        words: `expected ${anyOf([...new Set(expected)])}, but got ${describe(given)}`,
      }
    : { kind: 'value', words: issue.message }
}

/** `number`: what the schema says of it. */
const describeFault = (issue: Issue, given: unknown, number?: Json): Omit<Fault, 'path'> => {
  if (given === undefined && issue.code !== 'custom') return { kind: 'missing', words: 'missing' }
  if (number !== undefined && isOfNumber(issue)) {
    const kind = issue.code === 'invalid_type' ? 'type' : 'value'
    return { kind, words: `expected ${inWords(number, given)}, but got ${foundNumber(given)}` }
  }
  switch (issue.code) {
    case 'invalid_type':
      return {
        kind: 'type',
        words: `expected ${nameOfType(issue.expected)}, but got ${describe(given)}`,
      }
    case 'too_big':
      return { kind: 'value', words: `at most ${issue.maximum}${limit(issue)}` }
    case 'too_small':
      return { kind: 'value', words: `at least ${issue.minimum}${limit(issue)}` }
    case 'invalid_value':
      return oneOf(given, issue.values)
    case 'invalid_key': {
      const [first] = issue.issues
      return { kind: 'key', words: first ? describeFault(first, '').words : issue.message }
    }
    case 'unrecognized_keys':
      return { kind: 'value', words: `there is no ${issue.keys.map(shown).join(', ')} here` }
    case 'invalid_union':
      return ofUnion(issue, given)
    default:
      return { kind: 'value', words: issue.message }
  }
}

/** The first thing that is wrong with a value; undefined: nothing is. */
const firstFault = (error: z.ZodError, value: unknown, schema?: z.ZodType): Fault | undefined => {
  const [first] = error.issues
  if (first === undefined) return undefined
  // Whatever each branch would say of nothing.
  if (first.code === 'invalid_union' && valueAt(value, first.path) === undefined)
    return { path: first.path, kind: 'missing', words: 'missing' }
  const issue = deepest(first)
  const number =
    schema && isOfNumber(issue) ? numberAt(jsonSchemaOf(schema), issue.path) : undefined
  return { path: issue.path, ...describeFault(issue, valueAt(value, issue.path), number) }
}

/** The first thing that is wrong with a value that is no request, naming its field: `a.0.b: at most 3`. */
export const faultText = (
  error: z.ZodError,
  value: unknown,
  nameOf: (path: readonly PropertyKey[]) => string = dottedPath,
): string => {
  const { path = [], words = 'not valid' } = firstFault(error, value) ?? {}
  return path.length === 0 ? words : `${nameOf(path)}: ${words}`
}

/** The first thing wrong with a body, naming the field. */
const fromZod = (error: z.ZodError, body: unknown, schema: z.ZodType): RequestError => {
  const fault = firstFault(error, body, schema)
  if (fault === undefined) return badRequest('The request is not valid.')
  const { path, kind, words, isUnsupported } = fault
  const param = dottedPath(path) || null
  const name = param === null ? 'the request body' : `'${param}'`
  switch (kind) {
    case 'missing':
      return badRequest(`Missing required parameter: ${name}.`, param)
    case 'type':
      return badRequest(`Invalid type for ${name}: ${words}.`, param)
    case 'key':
      return badRequest(
        `Invalid key '${String(path.at(-1))}' in '${dottedPath(path.slice(0, -1))}': ${words}.`,
        param,
      )
    case 'value':
      return new RequestError(`Invalid value for ${name}: ${words}.`, {
        param,
        code: isUnsupported ? 'unsupported_value' : null,
      })
  }
}

/** Where a text has half of a surrogate pair, which UTF-8 cannot say: no model could read it as it is. */
export const brokenText = (value: unknown): readonly (string | number)[] | undefined => {
  if (typeof value === 'string') return value.isWellFormed() ? undefined : []
  if (typeof value !== 'object' || value === null) return undefined
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const path = typeof value[i] === 'number' ? undefined : brokenText(value[i])
      if (path !== undefined) return [i, ...path]
    }
    return undefined
  }
  for (const [key, one] of Object.entries(value)) {
    const path = key.isWellFormed() ? brokenText(one) : []
    if (path !== undefined) return [key.toWellFormed(), ...path]
  }
  return undefined
}

/** Fields that no schema names and that mean something elsewhere. */
export type UnservedFields = {
  /** Accepted, of no effect. */
  readonly withoutEffect: ReadonlySet<string>
  /** Refused by name; null: this value asks for nothing that we lack. */
  readonly refused: ReadonlyMap<
    string,
    (value: unknown, body: Readonly<Record<string, unknown>>) => RequestError | null
  >
  /** What within a field is left out, as a name for it. `body`: checked. */
  readonly leftOut?: (body: Readonly<Record<string, unknown>>) => readonly string[]
}

/** Twice what a request of all the fields of all servers would have. */
const MAX_FIELDS = 512

type Checked<T> = { readonly body: T; readonly ignored: readonly string[] }

/** Of what would have no effect. */
export const unrecognized = (param: string): RequestError =>
  unsupportedParameter(param, `Unrecognized request argument: '${param}'.`)

/** Checks a body, classifies the keys that its schema does not name, and drops nulls. */
export const checkBody = <T extends z.ZodObject>(
  schema: T,
  json: unknown,
  { isStrict, unserved }: { readonly isStrict: boolean; readonly unserved?: UnservedFields },
): Checked<z.output<T>> => {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw badRequest('The request body must be a JSON object.')
  const fields = Object.keys(json).length
  if (fields > MAX_FIELDS)
    throw badRequest(`The request body has ${fields} fields: at most ${MAX_FIELDS}.`)
  const given: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(json)) {
    if (value !== null && key !== '__proto__') given[key] = value
  }
  const result = schema.safeParse(given)
  if (!result.success) throw fromZod(result.error, given, schema)
  const ignored = [...(unserved?.leftOut?.(result.data) ?? [])]
  for (const key of Object.keys(given)) {
    if (Object.hasOwn(schema.shape, key) || unserved?.withoutEffect.has(key)) continue
    const refusal = unserved?.refused.get(key)
    if (refusal === undefined) ignored.push(key)
    else {
      const error = refusal(given[key], given)
      if (error !== null) throw error
    }
  }
  if (isStrict && ignored[0] !== undefined) throw unrecognized(ignored[0])
  return { body: result.data, ignored }
}
