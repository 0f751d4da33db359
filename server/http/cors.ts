// CORS, on every answer and every error.

import type { MiddlewareHandler } from 'hono'
import { addHeader, type Env } from './context.js'
import { isAllowedOrigin } from './door.js'

/** Of all that the server sets by name, what a page may read. */
const EXPOSED =
  'x-request-id, request-id, x-ignored-params, x-weight-version, x-label-mass, retry-after, x-should-retry'

export const cors = (origins: readonly string[]): MiddlewareHandler<Env> => {
  const any = origins.includes('*')
  return async (c, next) => {
    const origin = c.req.header('origin')
    if (!any) addHeader(c, 'vary', 'Origin')
    const allowed = any
      ? '*'
      : origin !== undefined && isAllowedOrigin(origin, origins, c.req.header('host'))
        ? origin
        : undefined
    if (allowed !== undefined) {
      addHeader(c, 'access-control-allow-origin', allowed)
      addHeader(c, 'access-control-expose-headers', EXPOSED)
    }
    const preflight =
      c.req.method === 'OPTIONS' && c.req.header('access-control-request-method') !== undefined
    if (!preflight) return next()
    if (allowed !== undefined) {
      c.header('access-control-allow-methods', 'GET, POST, DELETE, OPTIONS')
      c.header(
        'access-control-allow-headers',
        c.req.header('access-control-request-headers') ?? 'authorization, content-type',
      )
      c.header('access-control-max-age', '86400')
    }
    return c.body(null, 204)
  }
}
