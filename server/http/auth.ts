// API keys: compared in constant time, whatever their lengths and whichever matches.

import { createHash, timingSafeEqual } from 'node:crypto'
import type { MiddlewareHandler } from 'hono'
import type { Env } from './context.js'
import { HttpError } from './errors.js'

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

/** Who a key belongs to: a hash of it. */
const ownerOf = (key: string): string => digest(key).toString('base64url')

/** Whose everything is, where there is one key. */
export const soleOwner = (keys: readonly string[]): string | undefined => {
  const [key, ...others] = new Set(keys)
  return key === undefined || others.length > 0 ? undefined : ownerOf(key)
}

export const requireKey = (keys: readonly string[]): MiddlewareHandler<Env> => {
  const digests = keys.map(digest)
  const matches = (given: string): boolean => {
    const mine = digest(given)
    return digests.reduce((found, one) => timingSafeEqual(one, mine) || found, false)
  }
  return async (c, next) => {
    if (keys.length > 0) {
      const bearer = /^bearer +(.+)$/i.exec(c.req.header('authorization') ?? '')?.[1]
      const given = [bearer, c.req.header('x-api-key')].flatMap((one) => one?.trim() ?? [])
      const key = given.find(matches)
      if (key === undefined)
        throw new HttpError(
          401,
          given.length === 0
            ? 'You did not provide an API key: send it as "Authorization: Bearer KEY".'
            : 'Incorrect API key provided.',
          { code: 'invalid_api_key', headers: { 'www-authenticate': 'Bearer' } },
        )
      const owner = ownerOf(key)
      c.set('owner', owner)
      if (keys.length > 1) c.set('caller', owner)
    }
    await next()
  }
}
