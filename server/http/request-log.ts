// Request ids, the one log line of a request, and HTTP metrics.

import { randomUUID } from 'node:crypto'
import type { MiddlewareHandler } from 'hono'
import { routePath } from 'hono/route'
import type { Logger } from 'pino'
import { newRequestLog, type RequestLog } from '../log.js'
import type { Metrics } from '../metrics/metrics.js'
import type { Traces } from '../metrics/traces.js'
import { addHeader, type Env } from './context.js'
import { whyGone } from './stalled-client.js'

/** A request that has no whole answer yet. */
export type LiveRequest = {
  readonly requestId: string
  readonly path: string
  /** On the clock of performance.now(). */
  readonly since: number
  readonly record: RequestLog
  /** Nothing is left to do for it: what is not yet out is on its way. */
  readonly isTold: () => boolean
}

const GIVEN_ID = /^[\w.:/+=-]{1,128}$/

const PROBES = new Set(['/health', '/v1/health/ready', '/v1/health/live', '/metrics'])

/** Not a probe: it asked for something. */
export const isTaken = ({ path }: LiveRequest): boolean => !PROBES.has(path)

/** What asks for no work. Those that last have their own ends when a server leaves. */
const OF_SERVER = new Set([
  ...PROBES,
  ...['/v1/server/events', '/pause', '/resume', '/update_weights_from_disk'],
])

/** What a server that leaves finishes: work, and what is up- or downloaded. */
export const isWork = ({ path }: LiveRequest): boolean => !OF_SERVER.has(path)

/** Errors that a probe is there to find, and that pass. */
const PASSING = new Set(['loading', 'leaving', 'draining'])

const REFUSALS_EVERY_MS = 1000

/** A storm of refusals is one line a second: the last of them, and `refused`, how many there were. */
const createRefusalLog = (log: Logger) => {
  let count = 0
  let shownAt = Number.NEGATIVE_INFINITY
  let last: object = {}
  let timer: NodeJS.Timeout | undefined
  const show = () => {
    timer = undefined
    shownAt = performance.now()
    log.info(count === 1 ? last : { ...last, refused: count }, 'request')
    count = 0
  }
  return (line: object): void => {
    count++
    last = line
    if (timer !== undefined) return
    const wait = shownAt + REFUSALS_EVERY_MS - performance.now()
    if (wait <= 0) show()
    else timer = setTimeout(show, wait).unref()
  }
}

/** At the level that it is worth. */
const createLineLog = (log: Logger) => {
  const refused = createRefusalLog(log)
  return (line: object, status: number, error: unknown, isProbe: boolean): void => {
    // Its client may have left before it heard.
    if (error === 'rate_limit_exceeded') refused(line)
    // A probe that found what it expects says nothing new.
    else if (isProbe && (status < 400 || PASSING.has(String(error)))) log.debug(line, 'request')
    // 503 while loading or draining, and 504 at a deadline, are how a server at work answers.
    else if (status === 503 || status === 504) log.warn(line, 'request')
    else if (status >= 500) log.error(line, 'request')
    else log.info(line, 'request')
  }
}

export const logRequests = ({
  log,
  metrics,
  traces,
  live,
}: {
  readonly log: Logger
  readonly metrics: Pick<Metrics, 'httpDone'>
  /** Undefined: none are sent. */
  readonly traces: Traces | undefined
  /** Those under way stand in it. */
  readonly live: Set<LiveRequest>
}): MiddlewareHandler<Env> => {
  const say = createLineLog(log)
  return async (c, next) => {
    const since = performance.now()
    const { incoming, outgoing } = c.env
    const given = c.req.header('x-request-id')
    const requestId = given !== undefined && GIVEN_ID.test(given) ? given : `req_${randomUUID()}`
    const record = newRequestLog()
    // Known before the handler runs: a client may leave before it ends.
    const path = routePath(c, -1)
    const handler = path === '/*' ? 'none' : path
    c.set('requestId', requestId)
    c.set('record', record)
    c.set('headers', {})
    addHeader(c, 'x-request-id', requestId)
    addHeader(c, 'x-content-type-options', 'nosniff')
    const { socket } = incoming
    const writtenBefore = socket.bytesWritten
    const isTold = () => outgoing.writableEnded || outgoing.destroyed
    const request: LiveRequest = { requestId, path: c.req.path, since, record, isTold }
    live.add(request)
    const done = () => {
      live.delete(request)
      const seconds = (performance.now() - since) / 1000
      // 499: the client left before there was an answer.
      const status = outgoing.headersSent ? outgoing.statusCode : 499
      // A socket that was closed has nothing left to write, and what stood in it counts as written.
      const why = whyGone(socket)
      if (why === 'stalled' || !outgoing.writableFinished) record.line.gone ??= why
      const { method = '' } = incoming
      metrics.httpDone({
        handler,
        method,
        status,
        seconds,
        requestBytes: Number(incoming.headers['content-length'] ?? 0) || 0,
        responseBytes: Math.max(0, socket.bytesWritten - writtenBefore),
      })
      const isProbe = PROBES.has(handler)
      const ended = { ...request, method, status, headers: incoming.headers }
      const route = handler === 'none' ? undefined : handler
      const trace_id = isProbe ? undefined : traces?.requestDone({ ...ended, route })
      const said = { request_id: requestId, trace_id, method, path: c.req.path, status, seconds }
      say({ ...said, ...record.line }, status, record.line.error, isProbe)
    }
    // After the other listeners: they still have something to say about a client that left.
    outgoing.once('close', () => queueMicrotask(done))
    await next()
  }
}
