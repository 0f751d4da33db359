// /openapi.json, made from the schemas that check requests.

import { z } from 'zod'
import {
  ChatRequest,
  CompletionRequest,
  DetokenizeRequest,
  TokenizeRequest,
} from './openai/schema.js'
import { ClassifyRequest, PoolingRequest, RewardRequest } from './reward/schema.js'

const ErrorResponse = z.object({
  error: z.object({
    message: z.string(),
    type: z.enum(['invalid_request_error', 'rate_limit_error', 'server_error']),
    param: z.string().nullable(),
    code: z.string().nullable(),
  }),
})

const schemas = {
  ChatRequest,
  CompletionRequest,
  RewardRequest,
  PoolingRequest,
  ClassifyRequest,
  TokenizeRequest,
  DetokenizeRequest,
  ErrorResponse,
}

const ref = (name: keyof typeof schemas) => ({ $ref: `#/components/schemas/${name}` })
const json = (schema: object) => ({ content: { 'application/json': { schema } } })
const failure = (description: string) => ({ description, ...json(ref('ErrorResponse')) })

const KEY = { 401: failure('The API key is missing or wrong.') }
const NOT_READY = { 503: failure('Loading, shutting down or failed; `code` says which.') }
const NO_MODEL = { 404: failure('No such model.') }
const BODY = {
  400: failure('Something in the request is wrong; `param` names it.'),
  413: failure('The body is too large.'),
  415: failure('The body is not JSON.'),
}
const WORK = {
  429: failure('The queue is full; Retry-After says when to come back.'),
  500: failure('The engine failed.'),
}

const ok = (description: string, types: readonly string[]) => ({
  200: { description, content: Object.fromEntries(types.map((type) => [type, {}])) },
})

const JSON_TYPE = 'application/json'
const EVENTS = 'text/event-stream'

type Post = {
  readonly summary: string
  readonly body: keyof typeof schemas
  readonly answer: string
  readonly stream?: boolean
  /** It takes a place in the queue. */
  readonly work?: boolean
}

const post = ({ summary, body, answer, stream = false, work = true }: Post) => ({
  post: {
    summary,
    requestBody: { required: true, ...json(ref(body)) },
    responses: {
      ...ok(answer, stream ? [JSON_TYPE, EVENTS] : [JSON_TYPE]),
      ...BODY,
      ...KEY,
      ...NO_MODEL,
      ...(work && WORK),
      ...NOT_READY,
    },
  },
})

type Get = {
  readonly type?: string
  /** Needs no key. */
  readonly open?: boolean
  readonly errors?: object
  readonly parameters?: readonly object[]
}

const get = (
  summary: string,
  { type = JSON_TYPE, open = false, errors = {}, parameters = [] }: Get = {},
) => ({
  get: {
    summary,
    ...(parameters.length > 0 && { parameters }),
    responses: { ...ok(summary, [type]), ...(open ? {} : KEY), ...errors },
    ...(open && { security: [] }),
  },
})

const unwell = {
  503: { description: 'It is not: `phase` and `message` say why.', content: { [JSON_TYPE]: {} } },
}
const text = { type: 'string' } as const

const paths = {
  '/v1/chat/completions': post({
    summary:
      'Answer a conversation; with `reward`, the best of several answers. A reward model scores it.',
    body: 'ChatRequest',
    answer: 'The answer, or a stream of chunks.',
    stream: true,
  }),
  '/v1/completions': post({
    summary: 'Continue text.',
    body: 'CompletionRequest',
    answer: 'The text, or a stream of chunks.',
    stream: true,
  }),
  '/v1/chat/completions/render': post({
    summary: 'The prompt of a conversation, without an answer.',
    body: 'ChatRequest',
    answer: 'The prompt and its tokens.',
    work: false,
  }),
  '/v1/reward': post({
    summary: 'Score answers: one conversation, candidates of one prompt, or many of both.',
    body: 'RewardRequest',
    answer: 'One reward an answer, in the order given.',
  }),
  '/pooling': post({
    summary: "The outputs of a reward model, in vLLM's shape.",
    body: 'PoolingRequest',
    answer: 'The outputs.',
  }),
  '/classify': post({
    summary: "The outputs of a reward model, in SGLang's shape.",
    body: 'ClassifyRequest',
    answer: 'The outputs; a list for several texts.',
  }),
  '/tokenize': post({
    summary: 'Text or a conversation to tokens.',
    body: 'TokenizeRequest',
    answer: 'The tokens.',
    work: false,
  }),
  '/detokenize': post({
    summary: 'Tokens to text.',
    body: 'DetokenizeRequest',
    answer: 'The text.',
    work: false,
  }),
  '/tokenizer_info': get('Names of control tokens and the chat template.', {
    errors: { ...NO_MODEL, ...NOT_READY },
    parameters: [
      { name: 'model', in: 'query', schema: text, description: 'Default: the first model.' },
    ],
  }),
  '/v1/models': get('The models of this server.', { errors: NOT_READY }),
  '/v1/models/{id}': get('One model.', {
    errors: { ...NO_MODEL, ...NOT_READY },
    parameters: [{ name: 'id', in: 'path', required: true, schema: text }],
  }),
  '/health': get('200 while every engine makes progress.', { open: true, errors: unwell }),
  '/v1/health/ready': get('The same.', { open: true, errors: unwell }),
  '/v1/health/live': get('200 while the process lives.', { open: true }),
  '/version': get('The version of the server.'),
  '/metrics': get('Prometheus metrics.', { type: 'text/plain' }),
  '/openapi.json': get('This description.', { open: true }),
  '/docs': get('This description, as a page.', { open: true, type: 'text/html' }),
  '/': get('The same page.', { open: true, type: 'text/html' }),
}

export const openApiDocument = (version: string) => {
  const components: Record<string, unknown> = {}
  for (const [name, schema] of Object.entries(schemas)) {
    const { $schema, ...rest } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' })
    components[name] = rest
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'nemotron-server',
      version,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    security: [{}, { key: [] }],
    paths,
    components: {
      schemas: components,
      securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
    },
  }
}
