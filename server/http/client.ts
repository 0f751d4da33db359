// The client of a request: is it still there, and how a stream reaches it.

import type { ServerResponse } from 'node:http'
import { type RequestError, timedOut } from '../request-error.js'
import type { Ctx, HttpConfig } from './context.js'
import { errorName, statusOf } from './errors.js'
import { openEventStream } from './event-stream.js'

/** `late`: headers of a stream that are known when it begins. */
export const clientOf = (
  c: Ctx,
  config: HttpConfig,
  late: () => Readonly<Record<string, string>> = () => ({}),
) => {
  const { outgoing } = c.env
  const record = c.get('record')
  return {
    record,
    isGone: () => outgoing.destroyed,
    onGone: (listener: () => void) => {
      outgoing.once('close', listener)
      return () => outgoing.off('close', listener)
    },
    openStream: (onGone: (why: 'closed' | 'stalled') => void) =>
      openEventStream(outgoing, {
        headers: () => ({ ...c.get('headers'), ...late() }),
        ping: config.pingInterval * 1000,
        onGone,
      }),
    noteError: (error: RequestError) => {
      record.line.error = errorName(error)
      record.isBroken = statusOf(error) >= 500
    },
  }
}

/** Aborted when the client goes away, or after so many seconds, where they are not 0. */
export const workSignal = (
  outgoing: Pick<ServerResponse, 'once' | 'destroyed' | 'writableFinished'>,
  seconds: number,
): AbortSignal => {
  // It went while its request was read.
  if (outgoing.destroyed) return AbortSignal.abort()
  const controller = new AbortController()
  const timer =
    seconds > 0 ? setTimeout(() => controller.abort(timedOut(seconds)), seconds * 1000) : undefined
  outgoing.once('close', () => {
    clearTimeout(timer)
    if (!outgoing.writableFinished) controller.abort()
  })
  return controller.signal
}
