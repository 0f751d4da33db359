// Refusals for want of a place go out no faster than a few percent of a thread can write them. To clients that
// ignore Retry-After a refusal is the sign to ask again: answered at once, they would take the time in
// which the engine makes room for them.

import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { MiddlewareHandler } from 'hono'
import { RequestError } from '../request-error.js'
import type { Env } from './context.js'

type Pace = {
  /** Refusals a second, when there are more. */
  readonly rate: number
  readonly maxWaitMs: number
}

/** For whoever comes back on its connection sooner than it was told: its next try is as late as it can be made. */
export const EARLY: Pace = { rate: 25, maxWaitMs: 2000 }
/** For all others: to be refused soon is all that they get. A wait spreads a flood, it does not thin it, for each
 * of them comes on a connection of its own. */
export const FAIR: Pace = { rate: 200, maxWaitMs: 40 }
/** So many of either may come at once without a wait. */
const BURST = 100
/** Refused so often in a row, a connection is closed: the next one may lead to another server. */
const MAX_IN_A_ROW = 8

/** Returns how long the refusal that is due now has to wait. All times in milliseconds. */
export const createRefusalPace = (
  { rate, maxWaitMs }: Pace,
  now: () => number = () => performance.now(),
) => {
  const burst = (1000 * BURST) / rate
  /** When all refusals so far would be out, had there been no burst. */
  let outAt = Number.NEGATIVE_INFINITY
  return (): number => {
    const time = now()
    outAt = Math.min(Math.max(outAt, time) + 1000 / rate, time + burst + maxWaitMs)
    return Math.max(0, outAt - time - burst)
  }
}

/** What a connection was told since its last answer. `comeBackAt` is in milliseconds of performance.now. */
type Told = { readonly times: number; readonly comeBackAt: number }

export const paceRefusals = (): MiddlewareHandler<Env> => {
  const waitEarly = createRefusalPace(EARLY)
  const waitFair = createRefusalPace(FAIR)
  const told = new WeakMap<Socket, Told>()
  return async (c, next) => {
    const arrived = performance.now()
    await next()
    const { socket } = c.env.incoming
    // Not by the status: to ask for it would write an answer over one that writes itself.
    if (!(c.error instanceof RequestError) || c.error.kind !== 'busy') {
      told.delete(socket)
      return
    }
    const { times, comeBackAt } = told.get(socket) ?? { times: 0, comeBackAt: 0 }
    if (times + 1 >= MAX_IN_A_ROW) c.header('connection', 'close')
    const ms = arrived < comeBackAt ? waitEarly() : waitFair()
    if (ms > 0) await sleep(ms)
    const seconds = c.error.retryAfter ?? 1
    told.set(socket, { times: times + 1, comeBackAt: performance.now() + 1000 * seconds })
  }
}
