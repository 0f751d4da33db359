// A line of a batch as a request that came over no connection: the handler of its route answers it, with the
// same checks and errors as over HTTP.

import { randomUUID } from 'node:crypto'
import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { Hono } from 'hono'
import type { Work } from '../../batch/runner.js'
import type { Ctx, Env } from '../../http/context.js'
import { type ErrorForm, errorBody, statusOf } from '../../http/errors.js'
import { unknownRoute } from '../../http/unknown-route.js'
import { newRequestLog, type RequestLog } from '../../log.js'
import { inBackground } from '../../model/background.js'
import { asRequestError, RequestError } from '../../request-error.js'
import type { Server } from '../server.js'

type AskedRoute = {
  readonly path: string
  readonly handler: (c: Ctx) => Response | Promise<Response>
  readonly errorForm: ErrorForm
}

const requestOf = (bytes: Buffer): IncomingMessage => {
  const incoming = new IncomingMessage(new Socket())
  incoming.method = 'POST'
  incoming.headers = { 'content-type': 'application/json', 'content-length': String(bytes.length) }
  incoming.push(bytes)
  incoming.push(null)
  incoming.complete = true
  return incoming
}

/** Of one line. */
type Asked = Env['Bindings'] & {
  readonly requestId: string
  readonly owner: string
  readonly record: RequestLog
}

const createLineApp = (server: Server, { path, handler, errorForm }: AskedRoute): Hono<Env> => {
  const app = new Hono<Env>()
  app.use(async (c, next) => {
    const { requestId, owner, record } = c.env as Asked
    c.set('requestId', requestId)
    c.set('record', record)
    c.set('headers', {})
    if (owner !== '' && server.config.apiKeys.length > 1) c.set('caller', owner)
    await next()
  })
  app.post(path, handler)
  app.onError((thrown, c) => {
    if (!(thrown instanceof RequestError))
      server.log.error({ err: thrown, request_id: c.get('requestId') }, 'unexpected error')
    const error = asRequestError(thrown)
    return c.json(errorForm(error, c.get('requestId')), statusOf(error))
  })
  return app
}

const missing = (endpoint: string, requestId: string) => {
  const error = unknownRoute('POST', endpoint)
  return { status: statusOf(error), text: JSON.stringify(errorBody(error)), requestId }
}

export const createAsk = (server: Server, routes: readonly AskedRoute[]): Work['ask'] => {
  const byPath = new Map(routes.map((route) => [route.path, createLineApp(server, route)]))
  return async (endpoint, body, { owner, signal }) => {
    const requestId = `req_${randomUUID()}`
    const app = byPath.get(endpoint)
    // The server that took the batch had it.
    if (app === undefined) return missing(endpoint, requestId)
    const incoming = requestOf(Buffer.from(body))
    const outgoing = new ServerResponse(incoming)
    const record = newRequestLog()
    // It never gets a socket, whose end would be its own.
    const leave = () => {
      outgoing.destroy()
      outgoing.emit('close')
    }
    signal.addEventListener('abort', leave)
    try {
      const request = new Request(`http://localhost${endpoint}`, { method: 'POST' })
      const response = await app.fetch(request, { incoming, outgoing, requestId, owner, record })
      const { weight_version: version } = record.line
      return {
        status: response.status,
        text: await response.text(),
        requestId,
        weightVersion: typeof version === 'string' ? version : undefined,
      }
    } finally {
      signal.removeEventListener('abort', leave)
    }
  }
}

/** Lines that are asked at once: those that run, and as many behind them, so that the engine need not wait. */
export const linesAtOnce = ({ models }: Pick<Server, 'models'>): number =>
  2 * Math.max(...models().map(({ engine }) => engine.info.maxNumSeqs))

/** The server as lines of batches see it: nobody waits for them, and they have the batch's window, not
 * --request-timeout. */
export const inBackgroundOf = (server: Server): Server => {
  const models = server.models().map(inBackground)
  return { ...server, models: () => models, config: { ...server.config, requestTimeout: 0 } }
}
