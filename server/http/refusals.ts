// Refusals for want of a place go out no faster than a few percent of a thread can write them. To clients that
// ignore Retry-After a refusal is the sign to ask again: answered at once, they would take the time in
// which the engine makes room for them.

import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { MiddlewareHandler } from 'hono'
import { RequestError } from '../request-error.js'
import type { Env } from './context.js'

/** Refusals a second, when there are more. */
const RATE = 50
/** So many may come at once without a wait. */
const BURST = 100
/** Whoever comes back on its connection sooner than it was told may wait so long. */
const MAX_WAIT_MS = 1000
/** Whoever does wait as told, behind many who do not, still hears soon. */
const MAX_FAIR_WAIT_MS = 400
/** Refused so often in a row, a connection is closed: the next one may lead to another server. */
const MAX_IN_A_ROW = 8

/** Returns how long the refusal that is due now has to wait. All times in milliseconds. */
export const createRefusalPace = (now: () => number = () => performance.now()) => {
  const burst = (1000 * BURST) / RATE
  /** When all refusals so far would be out, had there been no burst. */
  let outAt = Number.NEGATIVE_INFINITY
  return (isEarly: boolean): number => {
    const time = now()
    outAt = Math.min(Math.max(outAt, time) + 1000 / RATE, time + burst + MAX_WAIT_MS)
    const ms = Math.max(0, outAt - time - burst)
    return isEarly ? ms : Math.min(MAX_FAIR_WAIT_MS, ms)
  }
}

/** What a connection was told since its last answer. `comeBackAt` is in milliseconds of performance.now. */
type Told = { readonly times: number; readonly comeBackAt: number }

export const paceRefusals = (): MiddlewareHandler<Env> => {
  const wait = createRefusalPace()
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
    const ms = wait(arrived < comeBackAt)
    if (ms > 0) await sleep(ms)
    const seconds = c.error.retryAfter ?? 1
    told.set(socket, { times: times + 1, comeBackAt: performance.now() + 1000 * seconds })
  }
}
