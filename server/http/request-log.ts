// Request ids, the one log line of a request, and HTTP metrics.

import { randomUUID } from 'node:crypto'
import type { MiddlewareHandler } from 'hono'
import { routePath } from 'hono/route'
import { addHeader, type Env, type RequestLog, type Server } from '../model/served-model.js'

const GIVEN_ID = /^[\w.:/+=-]{1,128}$/

export const observe =
  (server: Server): MiddlewareHandler<Env> =>
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
      server.metrics.httpDone({
        handler,
        method,
        status,
        seconds,
        requestBytes: Number(incoming.headers['content-length'] ?? 0) || 0,
        responseBytes: Math.max(0, socket.bytesWritten - writtenBefore),
      })
      const line = { request_id: requestId, method, path: c.req.path, status, seconds, ...record }
      // 503 while loading, draining or full is how a server at work answers.
      if (status === 503) server.log.warn(line, 'request')
      else if (status >= 500) server.log.error(line, 'request')
      else server.log.info(line, 'request')
    }
    // After the other listeners: they still have something to say about a client that left.
    outgoing.once('close', () => queueMicrotask(done))
    await next()
    handler = routePath(c, -1)
    if (handler === '/*') handler = 'none'
  }
