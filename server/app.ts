// The HTTP face as a Hono app: no I/O of its own, no globals. server.ts gives it models and a socket.
// The one table of routes: /openapi.json is made from it.

import { type Handler, Hono, type MiddlewareHandler } from 'hono'
import { healthRoute, liveRoute, metricsRoute, openApiRoute, versionRoute } from './api/about.js'
import { messageError } from './api/anthropic/error.js'
import { countTokensRoute, messagesRoute } from './api/anthropic/routes.js'
import { CountTokensRequest, MessageError, MessagesRequest } from './api/anthropic/schema.js'
import {
  batchesRoute,
  batchRoute,
  cancelBatchRoute,
  contentRoute,
  createBatchRoute,
  createFileRoute,
  deleteFileRoute,
  fileRoute,
  filesRoute,
} from './api/batches/routes.js'
import { BatchCreateRequest, FileCreateForm } from './api/batches/schema.js'
import { decisionsRoute } from './api/decisions/route.js'
import { DecisionsRequest } from './api/decisions/schema.js'
import { modelRoute, modelsRoute } from './api/models.js'
import { chatRoute } from './api/openai/chat.js'
import { chatBatchRoute } from './api/openai/chat-batch.js'
import { completionRoute } from './api/openai/completions.js'
import { generativeScoringRoute } from './api/openai/generative-scoring.js'
import {
  ChatBatchRequest,
  ChatRequest,
  CompletionRequest,
  DetokenizeRequest,
  GenerativeScoringRequest,
  RenderRequest,
  TokenizeRequest,
} from './api/openai/schema.js'
import {
  detokenizeRoute,
  renderRoute,
  tokenizeRoute,
  tokenizerInfoRoute,
} from './api/openai/tokenize.js'
import {
  EVERY_MODEL_QUERY,
  type GetDescription,
  ID_PATH,
  MODEL_QUERY,
  NAME_PATH,
  PAUSE_QUERY,
  type PostDescription,
  type RouteDescription,
} from './api/openapi.js'
import { assetRoute, pageRoute } from './api/page.js'
import { isPausedRoute, pauseRoute, resumeRoute } from './api/pause.js'
import { UpdateWeightsRequest, updateError, updateWeightsRoute } from './api/reload.js'
import { WEIGHTS_HEADER } from './api/respond.js'
import { responsesRoute } from './api/responses/route.js'
import { ResponsesRequest } from './api/responses/schema.js'
import { rerankRoute, scoreRoute } from './api/reward/rank.js'
import { refineRoute } from './api/reward/refine.js'
import { classifyRoute, poolingRoute, rewardRoute } from './api/reward/routes.js'
import {
  ClassifyRequest,
  PoolingRequest,
  RefineRequest,
  RerankRequest,
  RewardRequest,
  ScoreRequest,
} from './api/reward/schema.js'
import type { Server } from './api/server.js'
import { serverEventsRoute, serverRoute } from './api/status.js'
import { systemOneRoute } from './api/systemone/route.js'
import { SystemOneRequest } from './api/systemone/schema.js'
import { requireKey } from './http/auth.js'
import { addHeader, type Ctx, type Env } from './http/context.js'
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

type Handle = (c: Ctx) => Response | Promise<Response>
type Route = RouteDescription & {
  readonly handler: Handle
  /** Of every error on its path, of a wrong key or method too. */
  readonly errorForm: ErrorForm
}

const post = (path: string, handler: Handle, description: PostDescription): Route => ({
  method: 'POST',
  path,
  handler,
  errorForm: errorBody,
  ...description,
})

/** Anthropic's: errors have a form of their own. */
const postMessages = (path: string, handler: Handle, description: PostDescription): Route => ({
  ...post(path, handler, { ...description, error: { MessageError } }),
  errorForm: messageError,
})

const get = (
  path: string,
  handler: Handle,
  summary: string,
  description: GetDescription = {},
): Route => ({ method: 'GET', path, handler, errorForm: errorBody, summary, ...description })

/** `open`: needs no API key, for it neither computes nor shows data. */
const OPEN = { open: true }
const OPEN_PAGE = { open: true, types: ['text/html'] }
const OPEN_HEALTH = { open: true, errors: ['health'] } as const

const workRoutes = (server: Server): readonly Route[] => [
  post('/v1/chat/completions', chatRoute(server), {
    summary:
      'Answer a conversation; with `reward`, the best of several answers. A reward model scores it.',
    body: { ChatRequest },
    answer: 'The answer, or a stream of chunks.',
    isStream: true,
  }),
  post('/v1/chat/completions/batch', chatBatchRoute(server), {
    summary: "Answer several conversations, in vLLM's shape.",
    body: { ChatBatchRequest },
    answer: 'One choice a conversation, in their order.',
  }),
  post('/v1/completions', completionRoute(server), {
    summary: 'Continue text.',
    body: { CompletionRequest },
    answer: 'The text, or a stream of chunks.',
    isStream: true,
  }),
  post('/v1/responses', responsesRoute(server), {
    summary: "Answer items, in OpenAI's Responses API; nothing is kept.",
    body: { ResponsesRequest },
    answer: 'The response, or a stream of events.',
    isStream: true,
  }),
  postMessages('/v1/messages', messagesRoute(server), {
    summary: "Answer a conversation, in Anthropic's Messages API.",
    body: { MessagesRequest },
    answer: 'The message, or a stream of events.',
    isStream: true,
  }),
  postMessages('/v1/messages/count_tokens', countTokensRoute(server), {
    summary: "How many tokens a message's prompt has.",
    body: { CountTokensRequest },
    answer: 'Their number.',
    isWork: false,
  }),
  post('/v1/decisions', decisionsRoute(server), {
    summary: "Probabilities of answers to typed questions, in OpenAI's Decisions API.",
    body: { DecisionsRequest },
    answer: 'One answer a question, in their order.',
  }),
  post('/v1/systemone', systemOneRoute(server), {
    summary: 'The same for questions by id about a state.',
    body: { SystemOneRequest },
    answer: 'One answer a question, by its id.',
  }),
  post('/v1/chat/completions/render', renderRoute(server), {
    summary: 'The prompt of a conversation, without an answer.',
    body: { RenderRequest },
    answer: 'The prompt and its tokens.',
    isWork: false,
  }),
  post('/v1/reward', rewardRoute(server), {
    summary: 'Score answers: one conversation, candidates of one prompt, or many of both.',
    body: { RewardRequest },
    answer: 'One reward an answer, in the order given.',
  }),
  post('/v1/refine', refineRoute(server), {
    summary: 'Drafts, feedback on them, edits by it, and the best of all by a reward model.',
    body: { RefineRequest },
    answer: 'The best text, and all others with their rewards.',
  }),
  post('/v1/rerank', rerankRoute(server), {
    summary: "Order documents by how good an answer each is, in vLLM's shape.",
    body: { RerankRequest },
    answer: 'The documents and their rewards, the best first.',
  }),
  post('/v1/score', scoreRoute(server), {
    summary: "Score pairs of a query and an answer, in vLLM's shape.",
    body: { ScoreRequest },
    answer: 'One reward a pair, in the order given.',
  }),
  post('/generative_scoring', generativeScoringRoute(server), {
    summary: "How likely a chat model goes on with a label, in vLLM's shape.",
    body: { GenerativeScoringRequest },
    answer: 'One probability an item, in the order given.',
  }),
  post('/pooling', poolingRoute(server), {
    summary: "The outputs of a reward model, in vLLM's shape.",
    body: { PoolingRequest },
    answer: 'The outputs.',
  }),
  post('/classify', classifyRoute(server), {
    summary: "The outputs of a reward model, in SGLang's shape.",
    body: { ClassifyRequest },
    answer: 'The outputs; a list for several texts.',
  }),
  post('/tokenize', tokenizeRoute(server), {
    summary: 'Text or a conversation to tokens.',
    body: { TokenizeRequest },
    answer: 'The tokens.',
    isWork: false,
  }),
  post('/detokenize', detokenizeRoute(server), {
    summary: 'Tokens to text.',
    body: { DetokenizeRequest },
    answer: 'The text.',
    isWork: false,
  }),
]

/** Whose requests take a place in an engine. They can be lines of a batch. */
const isWork = (route: Route): boolean => route.method === 'POST' && route.isWork !== false

export const batchable = (table: readonly Route[]): readonly Route[] => table.filter(isWork)

const FILE_PATH = { parameters: [ID_PATH], errors: ['model'] } as const
const SECONDARY = { isWork: false } as const

const batchRoutes = (server: Server, table: () => readonly Route[]): readonly Route[] => [
  post('/v1/files', createFileRoute(server), {
    summary: 'Keep a file: the input of a batch.',
    body: { FileCreateForm },
    bodyType: 'multipart/form-data',
    answer: 'The file.',
    ...SECONDARY,
  }),
  get('/v1/files', filesRoute(server), 'The files that are kept.'),
  get('/v1/files/:id', fileRoute(server), 'One file.', FILE_PATH),
  {
    ...get('/v1/files/:id', deleteFileRoute(server), 'Remove a file.', FILE_PATH),
    method: 'DELETE',
  },
  get('/v1/files/:id/content', contentRoute(server), 'What a file holds.', {
    ...FILE_PATH,
    types: ['application/octet-stream'],
  }),
  post(
    '/v1/batches',
    createBatchRoute(server, () => batchable(table()).map(({ path }) => path)),
    {
      summary: 'Ask every line of a file when nobody else needs the engine.',
      body: { BatchCreateRequest },
      answer: 'The batch.',
      ...SECONDARY,
    },
  ),
  get('/v1/batches', batchesRoute(server), 'The batches, the newest first.'),
  get('/v1/batches/:id', batchRoute(server), 'One batch, and how far it is.', FILE_PATH),
  post('/v1/batches/:id/cancel', cancelBatchRoute(server), {
    summary: 'End a batch; what was answered is kept.',
    parameters: [ID_PATH],
    answer: 'The batch.',
    ...SECONDARY,
  }),
]

export const routes = (server: Server): readonly Route[] => {
  const table: readonly Route[] = [
    ...workRoutes(server),
    ...batchRoutes(server, () => table),
    get(
      '/tokenizer_info',
      tokenizerInfoRoute(server),
      'Names of control tokens and the chat template.',
      { errors: ['model', 'ready'], parameters: [MODEL_QUERY] },
    ),
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
    {
      ...post('/update_weights_from_disk', updateWeightsRoute(server), {
        summary: "Load other weights of the same model, in SGLang's shape. Needs reload_from.",
        body: { UpdateWeightsRequest },
        answer: 'They are loaded.',
        isWork: false,
      }),
      errorForm: updateError,
    },
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
    get('/metrics', metricsRoute(server), 'Prometheus metrics.', { types: ['text/plain'] }),
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

/** Stamps answers with the weights that they are of; streams have it before they begin (respond.ts). */
const stampWeights =
  (server: Server): MiddlewareHandler<Env> =>
  async (c, next) => {
    await next()
    const { model, stream } = c.get('record').line
    const served = server.models().find(({ id }) => id === model)
    const version = served?.weights.version
    if (version !== undefined && stream !== true) c.header(WEIGHTS_HEADER, version)
  }

/** Whoever asks there expects Anthropic's form of errors, on paths that are not served too. */
const isMessagesPath = (path: string): boolean => /^(\/anthropic)?(\/v1)?\/messages\b/.test(path)

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
    forms.get(path.replace(/(?<=.)\/$/, '')) ?? (isMessagesPath(path) ? messageError : errorBody)

  const { config } = server
  app.use(logRequests(server), paceRefusals(), closeWhenLeaving(server))
  app.use(cors(config.allowedOrigins), checkDoor(config))
  if (config.reloadFrom !== undefined) app.use(stampWeights(server))
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
