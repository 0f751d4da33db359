// OpenAI's error object, with all four fields, and the one exception class that carries it.

import type { z } from 'zod'
import type { EngineError } from '../engine/types.js'

export type ErrorType = 'invalid_request_error' | 'rate_limit_error' | 'server_error'

export type ErrorBody = {
  readonly error: {
    readonly message: string
    readonly type: ErrorType
    readonly param: string | null
    readonly code: string | null
  }
}

export type ErrorStatus = 400 | 401 | 403 | 404 | 405 | 408 | 413 | 415 | 429 | 431 | 500 | 503

export class ApiError extends Error {
  readonly status: ErrorStatus
  readonly type: ErrorType
  readonly param: string | null
  readonly code: string | null
  readonly headers: Readonly<Record<string, string>>

  constructor(
    status: ErrorStatus,
    message: string,
    options: {
      readonly param?: string | null
      readonly code?: string | null
      readonly headers?: Readonly<Record<string, string>>
    } = {},
  ) {
    super(message)
    this.status = status
    this.type =
      status === 429 ? 'rate_limit_error' : status >= 500 ? 'server_error' : 'invalid_request_error'
    this.param = options.param ?? null
    this.code = options.code ?? null
    this.headers = options.headers ?? {}
  }
}

export const errorBody = (error: ApiError): ErrorBody => ({
  error: { message: error.message, type: error.type, param: error.param, code: error.code },
})

export const badRequest = (message: string, param: string | null = null): ApiError =>
  new ApiError(400, message, { param })

export const unsupportedParameter = (param: string, message: string): ApiError =>
  new ApiError(400, message, { param, code: 'unsupported_parameter' })

export const unsupportedValue = (param: string, message: string): ApiError =>
  new ApiError(400, message, { param, code: 'unsupported_value' })

export const queueFull = (retryAfter: number): ApiError =>
  new ApiError(
    429,
    `The server is at capacity: every place in its queue is taken. Retry in ${retryAfter} s.`,
    { code: 'rate_limit_exceeded', headers: { 'retry-after': String(retryAfter) } },
  )

export const notReady = (code: 'loading' | 'draining', retryAfter: number): ApiError =>
  new ApiError(
    503,
    code === 'loading'
      ? 'The server is loading its models.'
      : 'The server is shutting down and takes no new work.',
    { code, headers: { 'retry-after': String(retryAfter) } },
  )

export const contextExceeded = (
  maxModelLen: number,
  promptTokens: number,
  outputTokens: number,
  param: string,
): ApiError =>
  new ApiError(
    400,
    `This model's maximum context length is ${maxModelLen} tokens. However, you requested ` +
      `${promptTokens + outputTokens} tokens (${promptTokens} in the prompt, ${outputTokens} for ` +
      'the completion). Please shorten the prompt or ask for fewer tokens.',
    { param, code: 'context_length_exceeded' },
  )

/** What the engine said, as an answer. The queue's Retry-After is the caller's to know. */
export const fromEngineError = (error: EngineError, retryAfter: () => number): ApiError => {
  switch (error.code) {
    case 'queue_full':
      return queueFull(retryAfter())
    case 'invalid_argument':
    case 'unsupported':
      // The engine's messages begin with the field.
      return badRequest(error.message, /^([a-z_]+)(?:\[\d+\])?: /.exec(error.message)?.[1] ?? null)
    default:
      return new ApiError(500, error.message, { code: error.code })
  }
}

/** Anything thrown, as an answer; what we did not foresee is a 500 that does not leak its text. */
/** For the log: where it came from. */
export const stackOf = (thrown: unknown): string =>
  thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown)

export const toApiError = (thrown: unknown): ApiError =>
  thrown instanceof ApiError
    ? thrown
    : new ApiError(500, 'The server had an error while processing your request.', {
        code: 'internal',
      })

/** `messages.0.content`. */
export const dottedPath = (path: readonly PropertyKey[]): string => path.map(String).join('.')

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

/** Deeper, or further along a list. */
const isFurther = (a: Issue, b: Issue): boolean => {
  if (a.path.length !== b.path.length) return a.path.length > b.path.length
  const at = a.path.findIndex((key, i) => key !== b.path[i])
  return at >= 0 && Number(a.path[at]) > Number(b.path[at])
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
  return best === undefined || best.path.length === path.length ? { ...issue, path } : best
}

/** The first thing wrong with a body, naming the field. */
export const fromZod = (error: z.ZodError, body: unknown): ApiError => {
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
      return new ApiError(
        400,
        `Invalid value for ${name}: ${JSON.stringify(given)}. Supported values are: ${issue.values.map((value) => JSON.stringify(value)).join(', ')}.`,
        { param: param || null, code: typeof given === 'string' ? 'unsupported_value' : null },
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
