// What a route is, and a dialect: app.ts makes a server of them.

import type { Ctx } from '../http/context.js'
import { type ErrorForm, errorBody } from '../http/errors.js'
import type { GetDescription, PostDescription, RouteDescription } from './openapi.js'
import type { Server } from './server.js'

type Handle = (c: Ctx) => Response | Promise<Response>

export type Route = RouteDescription & {
  readonly handler: Handle
  /** Of every error on its path, of a wrong key or method too. */
  readonly errorForm: ErrorForm
}

/** All that the server knows of a wire. */
export type Dialect = {
  readonly routes: (server: Server) => readonly Route[]
  /** Where nothing is served, paths on which its callers expect errors in its own form. */
  readonly strays?: { readonly isPath: (path: string) => boolean; readonly errorForm: ErrorForm }
}

export const post = (
  path: string,
  handler: Handle,
  { errorForm = errorBody, ...description }: PostDescription & { readonly errorForm?: ErrorForm },
): Route => ({ method: 'POST', path, handler, errorForm, ...description })

export const get = (
  path: string,
  handler: Handle,
  summary: string,
  description: GetDescription = {},
): Route => ({ method: 'GET', path, handler, errorForm: errorBody, summary, ...description })
