// Everything a route needs to know of the server. `phase` and `models` change while it lives.

import type { Logger } from 'pino'
import type { Batches } from '../batch/batches.js'
import type { Defaults } from '../chat/plan.js'
import type { Bodies } from '../http/body.js'
import type { HttpConfig } from '../http/context.js'
import type { LiveRequest } from '../http/request-log.js'
import type { Metrics } from '../metrics/metrics.js'
import type { Traces } from '../metrics/traces.js'
import type { Readiness } from './admission.js'

export type ServerConfig = HttpConfig &
  Defaults & {
    /** GET /metrics needs no key. */
    readonly openMetrics: boolean
    /** Clients may pause the engines. */
    readonly allowPause: boolean
    /** The folder below which clients may have weights loaded; undefined: they may not. */
    readonly reloadFrom: string | undefined
    /** Seconds; 0: none. */
    readonly requestTimeout: number
    /** /health is 503 when the step loop made no progress for so many seconds while it had work. */
    readonly stallTimeout: number
  }

export type Server = Readiness & {
  readonly config: ServerConfig
  readonly log: Logger
  readonly metrics: Metrics
  /** Undefined: none are sent. */
  readonly traces: Traces | undefined
  readonly version: string
  readonly bodies: Bodies
  /** Undefined without --data-dir. */
  readonly batches: Batches | undefined
  /** Requests under way. */
  readonly live: Set<LiveRequest>
}
