// What an HTTP request carries on its way through Hono.

import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import type { RequestLog } from '../log.js'

export type HttpConfig = {
  /** The address it listens on. */
  readonly host: string
  /** Names by which clients may call, beside this machine's own. */
  readonly allowedHosts: readonly string[]
  readonly apiKeys: readonly string[]
  readonly allowedOrigins: readonly string[]
  readonly bodyLimit: number
  readonly strictParams: boolean
  /** Seconds. */
  readonly writeIdleTimeout: number
  readonly pingInterval: number
}

export type Env = {
  Bindings: HttpBindings
  Variables: {
    requestId: string
    record: RequestLog
    headers: Record<string, string>
    /** Whose key it is: a hash of it. */
    owner?: string
    /** The same, where there are several keys: what one has cached is not another's. */
    caller?: string
  }
}
export type Ctx = Context<Env>

/** For answers of both kinds: those that Hono writes and streams, which write themselves. (Reading
 * `c.res.headers` for the latter would make Hono build a response, and write it.) */
export const addHeader = (c: Ctx, name: string, value: string): void => {
  c.header(name, value)
  c.get('headers')[name] = value
}
