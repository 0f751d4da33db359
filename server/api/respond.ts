// The way out, the same for all dialects: what was generated, in the form given.

import { randomBytes } from 'node:crypto'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import {
  answerAsStream,
  answerWhole,
  type Generation,
  type StreamForm,
  type WholeForm,
} from '../generation/answer.js'
import { tellIgnored } from '../http/body.js'
import { clientOf, workSignal } from '../http/client.js'
import type { Ctx } from '../http/context.js'
import { badRequest, clientGone } from '../request-error.js'
import { bytesInSlices, jsonPieces } from '../slices.js'
import type { Server } from './server.js'

/** `prefix`: with its separator. */
export const answerId = (prefix: string): string => prefix + randomBytes(16).toString('hex')

export const unixTime = (): number => Math.floor(Date.now() / 1000)

const JSON_TYPE = { 'content-type': 'application/json' } as const

/** An answer that may be long, made in slices. */
export const answerJson = async (c: Ctx, value: unknown): Promise<Response> =>
  c.body(await bytesInSlices(jsonPieces(value)), 200, JSON_TYPE)

/** Where weights may change: those that an answer is of, or that its stream begins with. */
export const WEIGHTS_HEADER = 'x-weight-version'

const TIMEOUT_HEADER = 'x-request-timeout'

/** Seconds that an answer may take: the server's limit, or the sender's where that is less; 0: no limit. */
const timeoutOf = (c: Ctx, limit: number): number => {
  const given = c.req.header(TIMEOUT_HEADER)
  if (given === undefined) return limit
  const seconds = /^\d+(?:\.\d+)?$/.test(given) ? Number(given) : 0
  if (seconds <= 0 || seconds > 86_400)
    throw badRequest(
      `The header ${TIMEOUT_HEADER} is seconds from above 0 to 86400, such as 30, not '${given}'.`,
      TIMEOUT_HEADER,
    )
  return limit > 0 ? Math.min(limit, seconds) : seconds
}

/** Of work that is answered in one piece: aborted when nobody waits for it any more, or its time is over. */
export const signalOf = (c: Ctx, { config }: Server): AbortSignal =>
  workSignal(c.env.outgoing, timeoutOf(c, config.requestTimeout))

export const respond = async (
  c: Ctx,
  server: Server,
  generation: Generation,
  form: { readonly stream: StreamForm } | { readonly whole: WholeForm },
): Promise<Response> => {
  const { config } = server
  const timeout = timeoutOf(c, config.requestTimeout)
  const client = clientOf(c, config, () => {
    const { version } = generation.model.weights
    return version === undefined ? {} : { [WEIGHTS_HEADER]: version }
  })
  Object.assign(client.record.line, {
    model: generation.model.id,
    stream: 'stream' in form,
    n: generation.n,
  })
  // Reading and planning took their time. A server that drains meanwhile waits for who was let in.
  tellIgnored(c, generation.ignored ?? [])
  if (client.isGone()) throw clientGone()
  const context = { client, timeout }
  if ('stream' in form) {
    await answerAsStream(context, generation, form.stream)
    return RESPONSE_ALREADY_SENT
  }
  const body = await bytesInSlices(await answerWhole(context, generation, form.whole))
  return c.body(body, 200, JSON_TYPE)
}
