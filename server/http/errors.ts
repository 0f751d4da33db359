// Errors as HTTP says them: the status of each kind, and a body in OpenAI's form.

import { type ErrorKind, RequestError } from '../request-error.js'

const STATUS = {
  invalid: 400,
  not_found: 404,
  busy: 429,
  internal: 500,
  unavailable: 503,
  late: 504,
} as const

type ErrorStatus = (typeof STATUS)[ErrorKind] | 401 | 403 | 405 | 408 | 413 | 415 | 417 | 431 | 503

/** What only HTTP can be wrong about. */
export class HttpError extends RequestError {
  override readonly name = 'HttpError'
  readonly status: ErrorStatus
  readonly headers: Readonly<Record<string, string>>

  constructor(
    status: ErrorStatus,
    message: string,
    options: {
      readonly code?: string
      readonly headers?: Readonly<Record<string, string>>
    } = {},
  ) {
    super(message, { code: options.code ?? null })
    this.status = status
    this.headers = options.headers ?? {}
  }
}

export const statusOf = (error: RequestError): ErrorStatus =>
  error instanceof HttpError ? error.status : STATUS[error.kind]

export const headersOf = (error: RequestError): Readonly<Record<string, string>> => {
  if (error instanceof HttpError) return error.headers
  // Official clients ask again after a 5xx, twice: the same work would be late again.
  if (error.kind === 'late') return { 'x-should-retry': 'false' }
  return error.retryAfter === undefined ? {} : { 'retry-after': String(error.retryAfter) }
}

type ErrorType = 'invalid_request_error' | 'rate_limit_error' | 'server_error'

const typeOf = (error: RequestError): ErrorType => {
  const status = statusOf(error)
  if (status === 429) return 'rate_limit_error'
  return status >= 500 ? 'server_error' : 'invalid_request_error'
}

/** What the log calls it. */
export const errorName = (error: RequestError): string => error.code ?? typeOf(error)

/** How a dialect tells an error that comes before its answer has begun. */
export type ErrorForm = (error: RequestError, requestId: string) => object

/** OpenAI's form: that of most routes, and of what is no route's. */
export const errorBody = (error: RequestError) => ({
  error: { message: error.message, type: typeOf(error), param: error.param, code: error.code },
})
