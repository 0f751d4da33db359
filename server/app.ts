// The HTTP face as a Hono app: no I/O of its own, no globals. server.ts gives it models and a socket.

import { type Handler, Hono } from 'hono'
import {
  healthRoute,
  liveRoute,
  metricsRoute,
  openApiRoute,
  pageRoute,
  versionRoute,
} from './api/about.js'
import { modelRoute, modelsRoute } from './api/models.js'
import { chatRoute } from './api/openai/chat.js'
import { completionRoute } from './api/openai/completions.js'
import { classifyRoute, poolingRoute, rewardRoute } from './api/reward/routes.js'
import { detokenizeRoute, renderRoute, tokenizeRoute, tokenizerInfoRoute } from './api/tokenize.js'
import { requireKey } from './http/auth.js'
import { cors } from './http/cors.js'
import { ApiError, errorBody, toApiError } from './http/errors.js'
import { observe } from './http/request-log.js'
import type { Ctx, Env, Server } from './model/served-model.js'

type Route = {
  readonly method: 'GET' | 'POST'
  readonly path: string
  /** Needs no API key: it neither computes nor shows data. */
  readonly open?: boolean
  readonly handler: (c: Ctx) => Response | Promise<Response>
}

export const routes = (server: Server): readonly Route[] => [
  { method: 'POST', path: '/v1/chat/completions', handler: chatRoute(server) },
  { method: 'POST', path: '/v1/completions', handler: completionRoute(server) },
  { method: 'POST', path: '/v1/chat/completions/render', handler: renderRoute(server) },
  { method: 'POST', path: '/v1/reward', handler: rewardRoute(server) },
  { method: 'POST', path: '/pooling', handler: poolingRoute(server) },
  { method: 'POST', path: '/classify', handler: classifyRoute(server) },
  { method: 'GET', path: '/v1/models', handler: modelsRoute(server) },
  { method: 'GET', path: '/v1/models/:id{.+}', handler: modelRoute(server) },
  { method: 'POST', path: '/tokenize', handler: tokenizeRoute(server) },
  { method: 'POST', path: '/detokenize', handler: detokenizeRoute(server) },
  { method: 'GET', path: '/tokenizer_info', handler: tokenizerInfoRoute(server) },
  { method: 'GET', path: '/version', handler: versionRoute(server) },
  { method: 'GET', path: '/metrics', handler: metricsRoute(server) },
  { method: 'GET', path: '/health', open: true, handler: healthRoute(server) },
  { method: 'GET', path: '/v1/health/ready', open: true, handler: healthRoute(server) },
  { method: 'GET', path: '/v1/health/live', open: true, handler: liveRoute },
  { method: 'GET', path: '/openapi.json', open: true, handler: openApiRoute(server) },
  { method: 'GET', path: '/docs', open: true, handler: pageRoute },
  { method: 'GET', path: '/', open: true, handler: pageRoute },
]

export const createApp = (server: Server): Hono<Env> => {
  const app = new Hono<Env>({ strict: false })
  const table = routes(server)
  const checkKey = requireKey(server.config.apiKeys)

  app.use(observe(server), cors(server.config.allowedOrigins))
  for (const { method, path, open, handler } of table) {
    const handlers: Handler<Env>[] = open ? [handler] : [checkKey, handler]
    app.on(method, [path], ...handlers)
  }
  for (const path of new Set(table.map((route) => route.path))) {
    const methods = table.filter((route) => route.path === path).map((route) => route.method)
    const allow = [...methods, ...(methods.includes('GET') ? ['HEAD'] : []), 'OPTIONS'].join(', ')
    app.options(path, (c) => c.body(null, 204, { allow }))
    app.all(path, (c) => {
      throw new ApiError(
        405,
        `${c.req.method} is not allowed on ${c.req.path}. Use ${methods.join(' or ')}.`,
        {
          headers: { allow },
        },
      )
    })
  }
  app.notFound((c) => {
    throw new ApiError(404, `Invalid URL (${c.req.method} ${c.req.path})`)
  })
  app.onError((thrown, c) => {
    const error = toApiError(thrown)
    if (!(thrown instanceof ApiError))
      server.log.error({ err: thrown, request_id: c.get('requestId') }, 'unexpected error')
    c.get('record').error = error.code ?? error.type
    for (const [name, value] of Object.entries(error.headers)) c.header(name, value)
    return c.json(errorBody(error), error.status)
  })
  return app
}

/** What is wrong before there is a request to speak of: a bad Host, a path that is no URL. */
export const badTarget = (): Response =>
  Response.json(
    errorBody(new ApiError(400, 'The request target or the Host header is not valid.')),
    {
      status: 400,
    },
  )
