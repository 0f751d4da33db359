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
import { clientOf } from '../http/client.js'
import type { Ctx } from '../http/context.js'
import { bytesInSlices } from '../slices.js'
import type { Server } from './server.js'

export const answerId = (prefix: string): string => `${prefix}-${randomBytes(16).toString('hex')}`

export const unixTime = (): number => Math.floor(Date.now() / 1000)

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
