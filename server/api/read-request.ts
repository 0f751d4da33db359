// The way in, the same for all dialects: ready, room, a body, checked.

import type { z } from 'zod'
import { checkBody, type UnservedFields, unrecognized } from '../check.js'
import { readJson, tellIgnored } from '../http/body.js'
import type { Ctx } from '../http/context.js'
import { requireAnyPlace } from '../model/place.js'
import { createTurn } from '../slices.js'
import { requireReady } from './admission.js'
import type { Server } from './server.js'
import { unreadMembers } from './unread-members.js'
import { UNSERVED } from './unserved-fields.js'

/** Says what was asked for in vain, or refuses it, where that is wished. */
export const tellUnread = (c: Ctx, { config }: Server, params: readonly string[]): void => {
  const [first] = params
  if (config.strictParams && first !== undefined) throw unrecognized(first)
  tellIgnored(c, params)
}

/** The checked body. `queue`: refused before it is read while no such model has a place left. `unserved`: what is
 * said of the fields that the schema does not name. */
export const readRequest = async <T extends z.ZodObject>(
  c: Ctx,
  server: Server,
  schema: T,
  queue?: 'chat' | 'reward',
  unserved: UnservedFields = UNSERVED,
): Promise<z.output<T>> => {
  requireReady(server)
  if (queue !== undefined) requireAnyPlace(server.models(), queue)
  const json = await readJson(c.env.incoming, server.bodies)
  const turn = createTurn()
  const { strictParams: isStrict } = server.config
  const { body, ignored } = checkBody(schema, json, { isStrict, unserved })
  await turn()
  const unread = unreadMembers(schema, json as object)
  if (isStrict && unread[0] !== undefined) throw unrecognized(unread[0].param)
  // To check a body may take a slice, and so may what is done with it.
  await turn()
  tellIgnored(c, [...ignored, ...unread.map(({ name }) => name)])
  c.get('record').begun = performance.now()
  const caller = c.get('caller')
  if (caller === undefined || !('cache_salt' in schema.shape)) return body
  // What others have cached answers sooner, and so would tell what they asked.
  const { cache_salt: salt = '' } = body as { readonly cache_salt?: string }
  return { ...body, cache_salt: `${caller} ${salt}` }
}
