// Who may come in through a browser. A page of any site can make its visitor's browser call this server;
// two headers tell: Origin, which site the page is of, and Host, the name it called us by.

import type { MiddlewareHandler } from 'hono'
import type { Env, HttpConfig } from './context.js'
import { HttpError } from './errors.js'

/** In allowed_origins: every page of this machine. */
const LOOPBACK = 'loopback'

/** A name or an address as URLs write it: an address can be written in many ways, such as `127.1`. */
export const canonicalHost = (host: string): string => {
  if (!/^[\w.:[\]-]+$/.test(host)) return host
  try {
    return new URL(`http://${host}`).host
  } catch {
    return host
  }
}

/** Whether the name means this machine itself. */
export const isLoopback = (host: string): boolean => {
  const isBare = host.includes(':') && !host.startsWith('[')
  const name = canonicalHost(isBare ? `[${host}]` : host)
    .toLowerCase()
    .replace(/^\[(.*)\]$|\.$/g, '$1')
  return (
    name === 'localhost' ||
    name.endsWith('.localhost') ||
    name === '::1' ||
    /^127(?:\.\d{1,3}){3}$|^::ffff:7f[0-9a-f]{2}:[0-9a-f]{1,4}$/.test(name)
  )
}

/** The name in a Host header, without its port; undefined: no such thing. */
const nameOf = (host: string): string | undefined =>
  /^(\[[^\]]*\]|[^:[\]]+)(?::\d*)?$/.exec(host.trim().toLowerCase())?.[1]

const urlOf = (origin: string): URL | undefined => {
  try {
    return new URL(origin)
  } catch {
    return undefined
  }
}

/** Whether pages of this origin may call. `host`: the request's, whose own pages may. */
export const isAllowedOrigin = (
  origin: string,
  allowed: readonly string[],
  host: string | undefined,
): boolean => {
  if (allowed.includes('*') || allowed.includes(origin.toLowerCase())) return true
  const url = urlOf(origin)
  if (url === undefined) return false
  return (allowed.includes(LOOPBACK) && isLoopback(url.hostname)) || url.host === host
}

const refuse = (code: string, message: string): never => {
  throw new HttpError(403, message, { code })
}

type DoorConfig = Pick<HttpConfig, 'host' | 'allowedHosts' | 'allowedOrigins'>

/** On the loopback interface only this machine calls, so another name in Host is a web page's, whose
 * name was made to mean 127.0.0.1. A name without a dot is no page's on the internet: it is a proxy's for
 * its upstream. */
const checkHost = ({ host, allowedHosts }: DoorConfig, given: string | undefined): void => {
  if (!isLoopback(host) || given === undefined || allowedHosts.includes('*')) return
  const name = nameOf(given)
  if (name === undefined || isLoopback(name) || allowedHosts.includes(name)) return
  if (/^[\w-]+$/.test(name)) return
  refuse(
    'host_not_allowed',
    `The host '${name}' is not allowed: this server listens on ${host}, for this machine alone. Call it by that name, or allow the name with --allowed-hosts.`,
  )
}

export const checkDoor = (config: DoorConfig): MiddlewareHandler<Env> => {
  return async (c, next) => {
    const host = c.req.header('host')
    checkHost(config, host)
    const origin = c.req.header('origin')
    const isPreflight = c.req.method === 'OPTIONS'
    if (
      origin !== undefined &&
      !isPreflight &&
      !isAllowedOrigin(origin, config.allowedOrigins, host)
    )
      refuse(
        'origin_not_allowed',
        `Pages of '${origin}' may not call this server: allow them with --allowed-origins.`,
      )
    await next()
  }
}
