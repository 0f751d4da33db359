// What the routes of all dialects share: a checked body comes in, an answer goes out.

import { randomBytes } from 'node:crypto'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { z } from 'zod'
import { checkBody } from '../check.js'
import { requireCapacity, requireReady } from '../generation/admission.js'
import {
  answerAsStream,
  answerWhole,
  type Generation,
  type StreamForm,
  type WholeForm,
} from '../generation/answer.js'
import { ignoredHeader, readJson } from '../http/body.js'
import { clientOf } from '../http/client.js'
import { addHeader, type Ctx } from '../http/context.js'
import { bytesInSlices } from '../slices.js'
import type { Server } from './server.js'
import { UNSERVED } from './unserved-fields.js'

export const answerId = (prefix: string): string => `${prefix}-${randomBytes(16).toString('hex')}`

export const unixTime = (): number => Math.floor(Date.now() / 1000)

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
  const { strictParams: isStrict } = server.config
  const { body, ignored } = checkBody(schema, json, { isStrict, unserved: UNSERVED })
  if (ignored.length > 0) addHeader(c, 'x-ignored-params', ignoredHeader(ignored))
  return body
}

/** Generates, and answers in the form given. */
export const respond = async (
  c: Ctx,
  { phase, config }: Server,
  generation: Generation,
  form: { readonly stream: StreamForm } | { readonly whole: WholeForm },
): Promise<Response> => {
  const context = { phase, client: clientOf(c, config), timeout: config.requestTimeout }
  if ('stream' in form) {
    await answerAsStream(context, generation, form.stream)
    return RESPONSE_ALREADY_SENT
  }
  const body = await bytesInSlices(await answerWhole(context, generation, form.whole))
  return c.body(body, 200, { 'content-type': 'application/json' })
}
