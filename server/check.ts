// A body against its schema: what is wrong is named by its field, whichever library found it.

import type { z } from 'zod'
import { badRequest, RequestError, unsupportedParameter } from './request-error.js'

/** `messages.0.content`. */
const dottedPath = (path: readonly PropertyKey[]): string => path.map(String).join('.')

type Issue = z.core.$ZodIssue

const describe = (value: unknown): string =>
  value === null
    ? 'null'
    : Array.isArray(value)
      ? 'an array'
      : `a ${typeof value}`.replace('a o', 'an o')

const valueAt = (root: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (value, key) =>
      typeof value === 'object' && value !== null
        ? (value as Record<PropertyKey, unknown>)[key]
        : undefined,
    root,
  )

/** A value as an error shows it. */
const shown = (value: unknown): string =>
  typeof value === 'string' && value.length > 100
    ? `${JSON.stringify(value.slice(0, 100))}...`
    : JSON.stringify(value)

/** Of the right type and still wrong. */
const hasType = ({ code, message }: Issue): boolean =>
  code !== 'invalid_type' && !message.startsWith('expected')

/** Deeper, further along a list, or at the same place of the right type. */
const isFurther = (a: Issue, b: Issue): boolean => {
  if (a.path.length !== b.path.length) return a.path.length > b.path.length
  const at = a.path.findIndex((key, i) => key !== b.path[i])
  if (at < 0) return hasType(a) && !hasType(b)
  return Number(a.path[at]) > Number(b.path[at])
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
  // Of the right type and still wrong: the branch that was meant.
  return candidates.find((one) => one.code !== 'invalid_type') ?? { ...issue, path }
}

/** The first thing wrong with a body, naming the field. */
const fromZod = (error: z.ZodError, body: unknown): RequestError => {
  const first = error.issues[0]
  if (first === undefined) return badRequest('The request is not valid.')
  const issue = deepest(first)
  const param = dottedPath(issue.path)
  const given = valueAt(body, issue.path)
  const name = param === '' ? 'the request body' : `'${param}'`
  if (given === undefined && issue.code !== 'custom')
    return badRequest(`Missing required parameter: ${name}.`, param || null)
  switch (issue.code) {
    case 'invalid_type':
      return badRequest(
        `Invalid type for ${name}: expected ${issue.expected === 'int' ? 'an integer' : `${/^[aeio]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`}, but got ${describe(given)}.`,
        param || null,
      )
    case 'too_big':
      return badRequest(
        `Invalid value for ${name}: at most ${issue.maximum}${issue.origin === 'array' ? ' items' : issue.origin === 'string' ? ' characters' : ''}${issue.inclusive === false ? ' (exclusive)' : ''}.`,
        param || null,
      )
    case 'too_small':
      return badRequest(
        `Invalid value for ${name}: at least ${issue.minimum}${issue.origin === 'array' ? ' items' : issue.origin === 'string' ? ' characters' : ''}${issue.inclusive === false ? ' (exclusive)' : ''}.`,
        param || null,
      )
    case 'invalid_value':
      return new RequestError(
        `Invalid value for ${name}: ${shown(given)}. Supported values are: ${issue.values.map((value) => JSON.stringify(value)).join(', ')}.`,
        { param: param || null, code: typeof given === 'string' ? 'unsupported_value' : null },
      )
    case 'invalid_key':
      return badRequest(
        `Invalid key '${String(issue.path.at(-1))}' in '${dottedPath(issue.path.slice(0, -1))}': ${issue.issues[0]?.message}.`,
        param || null,
      )
    case 'invalid_union': {
      const expected = issue.errors.flatMap((errors) =>
        errors.flatMap((one) => (one.code === 'invalid_type' ? [one.expected] : [])),
      )
      return badRequest(
        expected.length > 0
          ? `Invalid type for ${name}: expected ${expected.join(' or ')}, but got ${describe(given)}.`
          : `Invalid value for ${name}: ${issue.message}.`,
        param || null,
      )
    }
    default:
      return badRequest(`Invalid value for ${name}: ${issue.message}.`, param || null)
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
}

/** Twice what a request of all the fields of all servers would have. */
const MAX_FIELDS = 512

type Checked<T> = { readonly body: T; readonly ignored: readonly string[] }

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
  if (!result.success) throw fromZod(result.error, given)
  const ignored: string[] = []
  for (const key of Object.keys(given)) {
    if (Object.hasOwn(schema.shape, key) || unserved?.withoutEffect.has(key)) continue
    const refusal = unserved?.refused.get(key)
    if (refusal === undefined) ignored.push(key)
    else {
      const error = refusal(given[key], given)
      if (error !== null) throw error
    }
  }
  if (isStrict && ignored[0] !== undefined)
    throw unsupportedParameter(ignored[0], `Unrecognized request argument: '${ignored[0]}'.`)
  return { body: result.data, ignored }
}
