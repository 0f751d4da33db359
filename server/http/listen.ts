// The socket under the app: one Node server, with the limits that a public port needs.

import {
  createServer,
  type Server as HttpServer,
  type IncomingMessage,
  ServerResponse,
} from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, Server as NetServer, type Socket } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { getRequestListener } from '@hono/node-server'
import type { Logger } from 'pino'
import { badRequest } from '../request-error.js'
import { canonicalHost } from './door.js'
import { errorBody, HttpError } from './errors.js'
import { StalledClient } from './stalled-client.js'

type ListenOptions = {
  /** Answers requests. */
  readonly fetch: Parameters<typeof getRequestListener>[0]
  readonly log: Logger
  readonly host: string
  readonly port: number
  /** Milliseconds without progress after which a client that does not take its answer, or does not send the rest of
   * its request, is cut off. */
  readonly writeIdle: number
  /** Milliseconds in each of which a body that is not whole brings a MiB. */
  readonly bodyTime: number
  readonly tls?: { readonly cert: string; readonly key: string }
}

export type Listening = {
  readonly url: string
  readonly port: number
  /** No new connections; idle ones close. Resolves when the last answer is out. */
  readonly stop: () => Promise<void>
  /** Closes connections that are kept with nothing under way on them. */
  readonly closeIdle: () => void
  /** Cuts what is still open. */
  readonly cut: () => void
}

/** Whether a request on it has no whole answer yet. */
const isAnswering = (socket: Socket): boolean =>
  '_httpMessage' in socket && socket._httpMessage !== null

/** Whether a request on it has not come whole, and no answer has begun. */
const isAsking = (socket: Socket): boolean => {
  const response = '_httpMessage' in socket ? socket._httpMessage : null
  return response instanceof ServerResponse && !response.headersSent && !response.req.complete
}

const NAMES = {
  400: 'Bad Request',
  408: 'Request Timeout',
  431: 'Request Header Fields Too Large',
}

/** Written past the app: there is no request that it could answer, only a socket. */
const refuse = (socket: Socket, status: keyof typeof NAMES, message: string): void => {
  const body = JSON.stringify(errorBody(new HttpError(status, message)))
  socket.end(
    `HTTP/1.1 ${status} ${NAMES[status]}\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
    // Of who still sends, the rest is left to come: a close under it could take the answer away.
    () => status === 408 && socket.destroy(new StalledClient()),
  )
}

/** What the HTTP parser itself refuses. */
const refuseGarbage = (error: NodeJS.ErrnoException, socket: Socket): void => {
  const isLate = error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
  // Never into an answer that is under way, or before that of an earlier request.
  const mayAnswer = !isAnswering(socket) || (isLate && isAsking(socket))
  if (socket.destroyed || !socket.writable || !mayAnswer || error.code === 'ECONNRESET')
    return void socket.destroy()
  const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : isLate ? 408 : 400
  refuse(
    socket,
    status,
    isLate
      ? 'The head of the request did not come whole in 60 s.'
      : `The HTTP request is not valid: ${NAMES[status]}.`,
  )
}

const refuseExpectation = (_: IncomingMessage, response: ServerResponse): void => {
  const body = JSON.stringify(
    errorBody(new HttpError(417, "The only 'Expect' that is understood is 100-continue.")),
  )
  response.writeHead(417, { 'content-type': 'application/json', connection: 'close' })
  response.end(body)
}

const LEAST_BYTES = 1 << 20

const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0

/** A body may take as long as its size needs, but not by a byte now and then. */
const watchPace = (request: IncomingMessage, time: number): void => {
  if (!hasBody(request)) return
  const { socket } = request
  let before = socket.bytesRead
  const timer = setInterval(() => {
    const came = socket.bytesRead - before
    before = socket.bytesRead
    // Node tells no end of one whose connection was closed after its answer.
    if (request.complete || socket.destroyed) return void end()
    if (came >= LEAST_BYTES) return
    const least = `of its body ${LEAST_BYTES} bytes are expected in each ${time / 1000} s`
    if (isAsking(socket)) refuse(socket, 408, `The request is not whole, and ${least}.`)
    else if (!isAnswering(socket)) socket.destroy()
  }, time)
  timer.unref()
  const end = () => clearInterval(timer)
  request.once('end', end)
  request.once('close', end)
}

/** What is wrong before there is a request to speak of: a bad Host, a path that is no URL. */
const badTarget = (): Response =>
  Response.json(errorBody(badRequest('The request target or the Host header is not valid.')), {
    status: 400,
  })

/**
 * Connections on which everything is answered, and the answers are out. Node's own closeIdleConnections, which its
 * close() calls too, takes an answer for out whose bytes still wait for their reader.
 */
const createIdle = (node: HttpServer, isTls: boolean) => {
  const open = new Set<Socket>()
  /** How many bytes had come when the last answer was out: none of a next request. */
  const answeredAt = new WeakMap<Socket, number>()
  node.on(isTls ? 'secureConnection' : 'connection', (socket: Socket) => {
    open.add(socket)
    socket.once('close', () => open.delete(socket))
  })
  return {
    note: ({ socket, complete }: IncomingMessage): void => {
      if (complete) answeredAt.set(socket, socket.bytesRead)
    },
    close: (): void => {
      for (const socket of open)
        if (answeredAt.get(socket) === socket.bytesRead && !isAnswering(socket)) socket.destroy()
    },
  }
}

const ACCEPT_MS = 500

/**
 * Who has connected by now is accepted: a socket that closes resets whom the kernel still holds in its queue. Each turn of
 * the event loop accepts one or more; a turn in which nobody came says that nobody waits. Under a load without a gap some
 * always do, so it takes ACCEPT_MS at most.
 */
const acceptAll = async (node: HttpServer): Promise<void> => {
  let came = true
  const note = () => {
    came = true
  }
  node.on('connection', note)
  const until = performance.now() + ACCEPT_MS
  // The rest of this turn, which has perhaps accepted already.
  await nextTurn()
  while (came && performance.now() < until) {
    came = false
    await nextTurn()
  }
  node.off('connection', note)
}

/** A socket on which nothing came, went or was taken for as long as its timeout is. */
const closeIdle =
  (writeIdle: number) =>
  (socket: Socket): void => {
    if (socket.writableLength > 0) socket.destroy(new StalledClient())
    else if (isAsking(socket))
      refuse(
        socket,
        408,
        `The request is not whole, and nothing of it came for ${writeIdle / 1000} s.`,
      )
    // A first request has the time of its headers, and an answer that of its model.
    else if (socket.timeout !== writeIdle && !isAnswering(socket)) socket.destroy()
  }

export const listen = (options: ListenOptions): Promise<Listening> =>
  new Promise((resolve, reject) => {
    const { log } = options
    const listener = getRequestListener(options.fetch, {
      autoCleanupIncoming: false,
      hostname: options.host,
      errorHandler: (error) => {
        log.warn({ err: error }, 'bad request target')
        return badTarget()
      },
    })
    const answer = (request: IncomingMessage, response: ServerResponse): void => {
      // The listener takes an address for a bad one where a URL would write it otherwise.
      const { host } = request.headers
      if (host !== undefined) request.headers.host = canonicalHost(host)
      watchPace(request, options.bodyTime)
      response.once('close', () => idle.note(request))
      void listener(request, response)
    }
    const limits = {
      keepAliveTimeout: 75_000,
      headersTimeout: 60_000,
      // In all, whatever comes: a large file on a slow line would be cut. The pace is watched instead.
      requestTimeout: 0,
      // The app answers without one; Node would refuse in words of its own.
      requireHostHeader: false,
      noDelay: true,
    }
    const node: HttpServer = options.tls
      ? createTlsServer({ ...limits, ...options.tls }, answer)
      : createServer(limits, answer)
    const idle = createIdle(node, options.tls !== undefined)
    // Node starts it anew while a slow reader takes what was written, and between requests takes that of
    // keep-alive for it.
    node.setTimeout(options.writeIdle, closeIdle(options.writeIdle))
    node.on('clientError', refuseGarbage)
    node.on('checkExpectation', refuseExpectation)
    node.once('error', reject)
    node.listen(options.port, options.host, () => {
      node.off('error', reject)
      node.on('error', (error) => log.error({ err: error }, 'http server'))
      const { port, address, family } = node.address() as AddressInfo
      const shown = family === 'IPv6' ? `[${address}]` : address
      resolve({
        url: `${options.tls ? 'https' : 'http'}://${shown}:${port}`,
        port,
        stop: async () => {
          await acceptAll(node)
          await new Promise<void>((done) => {
            NetServer.prototype.close.call(node, () => done())
            idle.close()
          })
        },
        closeIdle: idle.close,
        cut: () => node.closeAllConnections(),
      })
    })
  })
