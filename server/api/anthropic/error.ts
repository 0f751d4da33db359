// Errors in Anthropic's form.

import { statusOf } from '../../http/errors.js'
import type { RequestError } from '../../request-error.js'

const TYPES: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  500: 'api_error',
  503: 'overloaded_error',
  504: 'timeout_error',
}

const typeOf = (error: RequestError): string => TYPES[statusOf(error)] ?? 'invalid_request_error'

/** It has no place for the field but the message. Clients shorten a conversation when they read the words by
 * which Anthropic refuses a long one. */
const messageOf = ({ message, param, code }: RequestError): string => {
  if (code === 'context_length_exceeded') return `prompt is too long: ${message}`
  return param === null || message.includes(param) ? message : `${param}: ${message}`
}

/** By this their client knows that it has to send the whole conversation each time. */
const detailsOf = ({ param }: RequestError) =>
  param === 'thread'
    ? { details: { error_code: 'thread_unsupported_request', unsupported: ['thread'] } }
    : {}

export const messageError = (error: RequestError, requestId: string) => ({
  type: 'error' as const,
  error: { type: typeOf(error), message: messageOf(error), ...detailsOf(error) },
  request_id: requestId,
})
