// Whether anybody asks over HTTP. What has no hurry waits for a quiet time.

import type { MiddlewareHandler } from 'hono'
import type { Env } from './context.js'

export type Traffic = {
  /** Nobody asks, and nobody did for a while. */
  readonly isQuiet: () => boolean
  /** Of the routes that take a place. */
  readonly watch: MiddlewareHandler<Env>
}

const QUIET_MS = 5000

export const createTraffic = (): Traffic => {
  let open = 0
  let leftAt = Number.NEGATIVE_INFINITY
  return {
    isQuiet: () => open === 0 && performance.now() - leftAt > QUIET_MS,
    watch: async (c, next) => {
      open++
      c.env.outgoing.once('close', () => {
        open--
        leftAt = performance.now()
      })
      await next()
    },
  }
}
