// What the routes that generate have in common: ids, headers, waiting for the end.

import { randomBytes } from 'node:crypto'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { z } from 'zod'
import type { Delta } from '../engine/types.js'
import { ignoredHeader, parseBody, readJson } from '../http/body.js'
import { ApiError, badRequest, errorBody, stackOf, toApiError } from '../http/errors.js'
import { type EventStream, openEventStream } from '../http/event-stream.js'
import { bytesInSlices, createTurns, finishInSlices } from '../http/sliced-json.js'
import {
  addHeader,
  type Ctx,
  requireCapacity,
  requireQueue,
  requireReady,
  type ServedModel,
  type Server,
} from '../model/served-model.js'
import type { Run, RunHandler } from './run.js'

export const answerId = (prefix: string): string => `${prefix}-${randomBytes(16).toString('hex')}`

/** The checked body. `queue`: refused before it is read while no such model has a place left. */
export const readRequest = async <T extends z.ZodObject>(
  c: Ctx,
  server: Server,
  schema: T,
  queue?: 'chat' | 'reward',
): Promise<z.output<T>> => {
  requireReady(server)
  if (queue !== undefined) requireCapacity(server, queue)
  const json = await readJson(c.env.incoming, server.config.bodyLimit)
  const { body, ignored } = parseBody(schema, json, server.config.strictParams)
  if (ignored.length > 0) addHeader(c, 'x-ignored-params', ignoredHeader(ignored))
  return body
}

/** After the body is known: this model's own queue, a client that did not wait, a server that did not. */
const requirePlace = (c: Ctx, server: Server, model: ServedModel): void => {
  requireReady(server)
  if (c.env.outgoing.destroyed) throw clientGone()
  requireQueue(model)
}

const clientGone = (): ApiError => badRequest('The client closed the connection.')

const timedOut = (seconds: number): ApiError =>
  new ApiError(503, `The request took longer than the server's limit of ${seconds} s.`, {
    code: 'request_timeout',
  })

const deadline = (server: Server, expire: (error: ApiError) => void): (() => void) => {
  const seconds = server.config.requestTimeout
  if (seconds <= 0) return () => {}
  const timer = setTimeout(() => expire(timedOut(seconds)), seconds * 1000)
  return () => clearTimeout(timer)
}

/** Runs to the end, or until the client goes away. */
const runToEnd = <R extends Run>(
  c: Ctx,
  server: Server,
  onDelta: RunHandler['onDelta'],
  begin: (handler: RunHandler) => R,
): Promise<R> =>
  new Promise((resolve, reject) => {
    const { outgoing } = c.env
    const settle = () => {
      stop()
      outgoing.off('close', onClose)
    }
    const give = (error: ApiError) => {
      settle()
      reject(error)
    }
    const onClose = () => {
      c.get('record').gone = 'closed'
      run.abort()
      give(clientGone())
    }
    const run = begin({
      onDelta,
      onDone: () => {
        settle()
        resolve(run)
      },
      onError: give,
    })
    const stop = deadline(server, (error) => {
      run.abort()
      give(error)
    })
    outgoing.once('close', onClose)
  })

/** Turns deltas into events, one that takes long in slices; `''` sends nothing. */
export type Chunks<R extends Run = Run> = {
  readonly onDelta: (prompt: number, delta: Delta, run: R) => string | Generator<string, string>
  /** After the last choice, before [DONE]. */
  readonly closing: (run: R) => string
}

/** Streams to the end. Resolves once the head is on its way; an error before that is a real status. */
const runAsStream = <R extends Run>(
  c: Ctx,
  server: Server,
  chunks: Chunks<R>,
  { begin, isLate }: Pick<Generation<R>, 'begin' | 'isLate'>,
): Promise<void> =>
  new Promise((resolve, reject) => {
    /** Told to the end, or nobody listens. */
    let over = false
    const fail = (error: ApiError) => {
      if (over) return
      over = true
      stop()
      if (stream.started()) {
        c.get('record').error = error.code ?? error.type
        stream.send(`data: ${JSON.stringify(errorBody(error))}\n\ndata: [DONE]\n\n`)
        stream.end()
        resolve()
      } else {
        stream.cancel()
        reject(error)
      }
    }
    const send = (events: string) => {
      if (events === '') return
      stream.send(events)
      resolve()
    }
    const inTurn = createTurns((error) => {
      c.get('record').bug = stackOf(error)
      run.abort()
      fail(toApiError(error))
    })
    const run = begin({
      onDelta: (prompt, delta) =>
        inTurn(() => {
          if (over) return
          const events = chunks.onDelta(prompt, delta, run)
          if (typeof events !== 'string') return finishInSlices(events, send, () => !over)
          send(events)
        }),
      onDone: () =>
        inTurn(() => {
          if (over) return
          over = true
          stop()
          stream.send(`${chunks.closing(run)}data: [DONE]\n\n`)
          stream.end()
          resolve()
        }),
      onError: (error) => inTurn(() => fail(error)),
    })
    const stop = deadline(server, (error) => {
      run.abort()
      inTurn(() => fail(error))
    })
    const stream: EventStream = openEventStream(c.env.outgoing, {
      headers: c.get('headers'),
      writeIdle: server.config.writeIdleTimeout * 1000,
      ping: server.config.pingInterval * 1000,
      onGone: (why) => {
        over = true
        stop()
        c.get('record').gone = why
        run.abort()
        resolve()
      },
    })
    if (!isLate) return
    stream.send(': ping\n\n')
    resolve()
  })

/** A request that is ready to run, and how it is answered. */
export type Generation<R extends Run> = {
  readonly model: ServedModel
  readonly stream: boolean
  readonly n: number
  /** The first delta comes late, when all is done: a stream begins with a ping. */
  readonly isLate?: boolean
  /** Submits to the engine. */
  readonly begin: (handler: RunHandler) => R
  readonly chunks: () => Chunks<R>
  /** For one object: takes the deltas, and in the end makes the answer of them, as pieces of JSON. */
  readonly whole: () => {
    readonly onDelta: RunHandler['onDelta']
    readonly answer: (run: R) => Iterable<string>
  }
}

export const generate = async <R extends Run>(
  c: Ctx,
  server: Server,
  generation: Generation<R>,
): Promise<Response> => {
  const { model, stream, n, begin } = generation
  Object.assign(c.get('record'), { model: model.id, stream, n })
  requirePlace(c, server, model)
  if (!stream) {
    const { onDelta, answer } = generation.whole()
    const body = await bytesInSlices(answer(await runToEnd(c, server, onDelta, begin)))
    return c.body(body, 200, { 'content-type': 'application/json' })
  }
  await runAsStream(c, server, generation.chunks(), generation)
  return RESPONSE_ALREADY_SENT
}
