// Request ids, the one log line of a request, and HTTP metrics.

import { randomUUID } from 'node:crypto'
import type { MiddlewareHandler } from 'hono'
import { routePath } from 'hono/route'
import type { Logger } from 'pino'
import type { RequestLog } from '../log.js'
import type { Metrics } from '../metrics/metrics.js'
import { addHeader, type Env } from './context.js'

const GIVEN_ID = /^[\w.:/+=-]{1,128}$/

export const logRequests =
  ({
    log,
    metrics,
  }: {
    readonly log: Logger
    readonly metrics: Pick<Metrics, 'httpDone'>
  }): MiddlewareHandler<Env> =>
  async (c, next) => {
    const since = performance.now()
    const { incoming, outgoing } = c.env
    const given = c.req.header('x-request-id')
    const requestId = given !== undefined && GIVEN_ID.test(given) ? given : `req_${randomUUID()}`
    const record: RequestLog = {}
    let handler = 'none'
    c.set('requestId', requestId)
    c.set('record', record)
    c.set('headers', {})
    addHeader(c, 'x-request-id', requestId)
    addHeader(c, 'x-content-type-options', 'nosniff')
    const { socket } = incoming
    const writtenBefore = socket.bytesWritten
    const done = () => {
      const seconds = (performance.now() - since) / 1000
      // 499: the client left before there was an answer.
      const status = outgoing.headersSent ? outgoing.statusCode : 499
      const { method = '' } = incoming
      metrics.httpDone({
        handler,
        method,
        status,
        seconds,
        requestBytes: Number(incoming.headers['content-length'] ?? 0) || 0,
        responseBytes: Math.max(0, socket.bytesWritten - writtenBefore),
      })
      const line = { request_id: requestId, method, path: c.req.path, status, seconds, ...record }
      // 503 while loading, draining or full is how a server at work answers.
      if (status === 503) log.warn(line, 'request')
      else if (status >= 500) log.error(line, 'request')
      else log.info(line, 'request')
    }
    // After the other listeners: they still have something to say about a client that left.
    outgoing.once('close', () => queueMicrotask(done))
    await next()
    handler = routePath(c, -1)
    if (handler === '/*') handler = 'none'
  }
