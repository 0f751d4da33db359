// The HTTP face as a Hono app: no I/O of its own, no globals. server.ts gives it models and a socket.
// The one table of routes: /openapi.json is made from it.

import { type Handler, Hono, type MiddlewareHandler } from 'hono'
import { healthRoute, liveRoute, metricsRoute, openApiRoute, versionRoute } from './api/about.js'
import { anthropic } from './api/anthropic/dialect.js'
import { batchRoutes } from './api/batches/table.js'
import { decisions } from './api/decisions/dialect.js'
import { modelRoute, modelsRoute } from './api/models.js'
import { openai } from './api/openai/dialect.js'
import { EVERY_MODEL_QUERY, ID_PATH, NAME_PATH, PAUSE_QUERY } from './api/openapi.js'
import { assetRoute, pageRoute } from './api/page.js'
import { isPausedRoute, pauseRoute, resumeRoute } from './api/pause.js'
import { UpdateWeightsRequest, updateError, updateWeightsRoute } from './api/reload.js'
import { WEIGHTS_HEADER } from './api/respond.js'
import { responses } from './api/responses/dialect.js'
import { reward } from './api/reward/dialect.js'
import { type Dialect, get, post, type Route } from './api/routes.js'
import type { Server } from './api/server.js'
import { serverEventsRoute, serverRoute } from './api/status.js'
import { systemOne } from './api/systemone/dialect.js'
import { requireKey } from './http/auth.js'
import { addHeader, type Env } from './http/context.js'
import { cors } from './http/cors.js'
import { checkDoor } from './http/door.js'
import {
  type ErrorForm,
  errorBody,
  errorName,
  HttpError,
  headersOf,
  statusOf,
} from './http/errors.js'
import { paceRefusals } from './http/refusals.js'
import { logRequests } from './http/request-log.js'
import { unknownRoute } from './http/unknown-route.js'
import { asRequestError, RequestError } from './request-error.js'

/** A wire each. One more is a folder of server/api/, and a name here. */
const DIALECTS: readonly Dialect[] = [openai, responses, anthropic, decisions, systemOne, reward]

/** `open`: needs no API key, for it neither computes nor shows data. */
const OPEN = { open: true }
const OPEN_PAGE = { open: true, types: ['text/html'] }
const OPEN_HEALTH = { open: true, errors: ['health'] } as const

/** Whose requests take a place in an engine. They can be lines of a batch. */
const isWork = (route: Route): boolean => route.method === 'POST' && route.isWork !== false

export const batchable = (table: readonly Route[]): readonly Route[] => table.filter(isWork)

export const routes = (server: Server): readonly Route[] => {
  const table: readonly Route[] = [
    ...DIALECTS.flatMap((dialect) => dialect.routes(server)),
    ...batchRoutes(server, () => batchable(table).map(({ path }) => path)),
    get('/v1/models', modelsRoute(server), 'The models of this server.', { errors: ['ready'] }),
    get('/v1/models/:id{.+}', modelRoute(server), 'One model.', {
      errors: ['model', 'ready'],
      parameters: [ID_PATH],
    }),
    post('/pause', pauseRoute(server), {
      summary: 'Pause the engines: new requests wait. Needs allow_pause.',
      parameters: [PAUSE_QUERY, EVERY_MODEL_QUERY],
      answer: 'They are paused.',
      isWork: false,
    }),
    post('/resume', resumeRoute(server), {
      summary: 'End the pause.',
      parameters: [EVERY_MODEL_QUERY],
      answer: 'They run.',
      isWork: false,
    }),
    post('/update_weights_from_disk', updateWeightsRoute(server), {
      summary: "Load other weights of the same model, in SGLang's shape. Needs reload_from.",
      body: { UpdateWeightsRequest },
      answer: 'They are loaded.',
      isWork: false,
      errorForm: updateError,
    }),
    get('/is_paused', isPausedRoute(server), 'Whether an engine is paused.', {
      errors: ['model', 'ready'],
      parameters: [EVERY_MODEL_QUERY],
    }),
    get('/health', healthRoute(server), '200 while every engine makes progress.', OPEN_HEALTH),
    get('/v1/health/ready', healthRoute(server), 'The same.', OPEN_HEALTH),
    get('/v1/health/live', liveRoute, '200 while the process lives.', OPEN),
    get('/v1/server', serverRoute(server), 'What each model is, and how its memory is planned.', {
      errors: ['ready'],
    }),
    get('/v1/server/events', serverEventsRoute(server), 'What the server does, once a second.', {
      types: ['text/event-stream'],
    }),
    get('/version', versionRoute(server), 'The version of the server.'),
    get('/metrics', metricsRoute(server), 'Prometheus metrics.', {
      open: server.config.openMetrics,
      types: ['text/plain'],
    }),
    get(
      '/openapi.json',
      openApiRoute(server, () => table),
      'This description.',
      OPEN,
    ),
    get('/docs', pageRoute, 'This description, as a page.', OPEN_PAGE),
    get('/', pageRoute, 'A page to try the server on, and to watch it.', OPEN_PAGE),
    get('/assets/:name{.+}', assetRoute, 'What the page is made of.', {
      open: true,
      types: ['text/javascript', 'text/css'],
      parameters: [NAME_PATH],
    }),
  ]
  return table
}

/** Stamps answers with the weights that they are of; streams have it when they begin (respond.ts). */
const stampWeights: MiddlewareHandler<Env> = async (c, next) => {
  await next()
  const { weight_version: version, stream } = c.get('record').line
  if (typeof version === 'string' && stream !== true) c.header(WEIGHTS_HEADER, version)
}

const strayForm = (path: string): ErrorForm =>
  DIALECTS.find(({ strays }) => strays?.isPath(path))?.strays?.errorForm ?? errorBody

/** The methods of each path, and what the others get. */
const addMethods = (app: Hono<Env>, table: readonly Route[]): void => {
  for (const path of new Set(table.map((route) => route.path))) {
    const methods = table.filter((route) => route.path === path).map((route) => route.method)
    const allow = [...methods, ...(methods.includes('GET') ? ['HEAD'] : []), 'OPTIONS'].join(', ')
    app.options(path, (c) => c.body(null, 204, { allow }))
    app.all(path, (c) => {
      throw new HttpError(
        405,
        `${c.req.method} is not allowed on ${c.req.path}. Use ${methods.join(' or ')}.`,
        { headers: { allow } },
      )
    })
  }
}

/** A server that goes away keeps no connection open: the next request is another server's. */
const closeWhenLeaving =
  ({ phase }: Server): MiddlewareHandler<Env> =>
  async (c, next) => {
    const { name } = phase()
    if (name === 'leaving' || name === 'draining') addHeader(c, 'connection', 'close')
    await next()
  }

export const createApp = (server: Server): Hono<Env> => {
  const app = new Hono<Env>({ strict: false })
  const table = routes(server)
  const checkKey = requireKey(server.config.apiKeys)
  const forms = new Map(table.map(({ path, errorForm }) => [path, errorForm]))
  const formOf = (path: string): ErrorForm =>
    forms.get(path.replace(/(?<=.)\/$/, '')) ?? strayForm(path)

  const { config } = server
  app.use(logRequests(server), paceRefusals(), closeWhenLeaving(server))
  app.use(cors(config.allowedOrigins), checkDoor(config))
  if (config.reloadFrom !== undefined) app.use(stampWeights)
  for (const route of table) {
    const { method, path, open, handler } = route
    const handlers: Handler<Env>[] = open ? [handler] : [checkKey, handler]
    app.on(method, [path], ...handlers)
  }
  addMethods(app, table)
  app.notFound((c) => {
    throw unknownRoute(c.req.method, c.req.path)
  })
  app.onError((thrown, c) => {
    const error = asRequestError(thrown)
    if (!(thrown instanceof RequestError))
      server.log.error({ err: thrown, request_id: c.get('requestId') }, 'unexpected error')
    c.get('record').line.error = errorName(error)
    for (const [name, value] of Object.entries(headersOf(error))) c.header(name, value)
    return c.json(formOf(c.req.path)(error, c.get('requestId')), statusOf(error))
  })
  return app
}
