// What is wrong with a request, in no protocol's words: http/errors.ts says which status that is.

export type ErrorKind =
  /** The request asks for what cannot be. */
  | 'invalid'
  | 'not_found'
  /** Every place is taken. */
  | 'busy'
  /** Not now, or not any more: loading, draining, failed. Another server may do it. */
  | 'unavailable'
  /** It took longer than it may, and would elsewhere. */
  | 'late'
  /** The fault is ours. */
  | 'internal'

type ErrorDetails = {
  readonly kind?: ErrorKind
  readonly param?: string | null
  readonly code?: string | null
  /** Whole seconds after which it is worth another try. */
  readonly retryAfter?: number | undefined
}

/** What a sender wrote is shown to them, but not all of it. */
const MAX_MESSAGE = 1500
const MAX_PARAM = 200

const shortened = (text: string, most: number): string =>
  text.length <= most ? text : `${text.slice(0, most)}...`

/** Why a request is refused or came to nothing. The message is written for its sender. */
export class RequestError extends Error {
  override readonly name: string = 'RequestError'
  readonly kind: ErrorKind
  /** The field that is wrong, as the sender named it. */
  readonly param: string | null
  /** For programs: stable where the message is not. */
  readonly code: string | null
  readonly retryAfter: number | undefined

  constructor(message: string, details: ErrorDetails = {}) {
    const { stackTraceLimit } = Error
    // Thrown by the hundred when there is least time, and from places that say nothing.
    if (details.kind === 'busy') Error.stackTraceLimit = 0
    super(shortened(message, MAX_MESSAGE))
    Error.stackTraceLimit = stackTraceLimit
    this.kind = details.kind ?? 'invalid'
    this.param = details.param == null ? null : shortened(details.param, MAX_PARAM)
    this.code = details.code ?? null
    this.retryAfter = details.retryAfter
  }
}

export const badRequest = (message: string, param: string | null = null): RequestError =>
  new RequestError(message, { param })

/** So many new schemas wait to be made into grammars that this one would wait too long. */
export const grammarsWait = (waitMs = 0): RequestError => {
  const retryAfter = Math.max(1, Math.ceil(waitMs / 1000))
  return new RequestError(
    `Too many new schemas and grammars are waiting to be made ready. Known ones are served. Retry in ${retryAfter} s.`,
    { kind: 'busy', code: 'rate_limit_exceeded', retryAfter },
  )
}

export const clientGone = (): RequestError => badRequest('The client closed the connection.')

/** Why work ended that its signal ended. */
export const abortedBy = ({ reason }: AbortSignal): RequestError =>
  reason instanceof RequestError ? reason : clientGone()

export const timedOut = (seconds: number): RequestError =>
  new RequestError(`The request took longer than its limit of ${seconds} s.`, {
    kind: 'late',
    code: 'request_timeout',
  })

export const unsupportedParameter = (param: string, message: string): RequestError =>
  new RequestError(message, { param, code: 'unsupported_parameter' })

export const unsupportedValue = (param: string, message: string): RequestError =>
  new RequestError(message, { param, code: 'unsupported_value' })

export const contextExceeded = (
  maxModelLen: number,
  promptTokens: number,
  outputTokens: number,
  param: string,
): RequestError =>
  new RequestError(
    `This model's maximum context length is ${maxModelLen} tokens. However, you requested ` +
      `${promptTokens + outputTokens} tokens (${promptTokens} in the prompt, ${outputTokens} for ` +
      'the completion). Please shorten the prompt or ask for fewer tokens.',
    { param, code: 'context_length_exceeded' },
  )

/** Anything thrown; what we did not foresee is an error of ours that does not leak its text. */
export const asRequestError = (thrown: unknown): RequestError =>
  thrown instanceof RequestError
    ? thrown
    : new RequestError('The server had an error while processing your request.', {
        kind: 'internal',
        code: 'internal',
      })

/** For the log: where it came from. */
export const stackOf = (thrown: unknown): string =>
  thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown)
