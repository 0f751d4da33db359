// /openapi.json, made from the schemas that check requests.

import { z } from 'zod'
import { ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest } from './schema.js'

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
  TokenizeRequest,
  DetokenizeRequest,
  ErrorResponse,
}

const ref = (name: keyof typeof schemas) => ({ $ref: `#/components/schemas/${name}` })
const json = (schema: object) => ({ content: { 'application/json': { schema } } })
const failure = (description: string) => ({ description, ...json(ref('ErrorResponse')) })

const ERRORS = {
  400: failure('Something in the request is wrong; `param` names it.'),
  401: failure('The API key is missing or wrong.'),
  404: failure('No such model.'),
  413: failure('The body is too large.'),
  415: failure('The body is not JSON.'),
  429: failure('The queue is full; Retry-After says when to come back.'),
  500: failure('The engine failed.'),
  503: failure('Loading or shutting down.'),
}

const ok = (description: string) => ({ 200: { description }, ...ERRORS })

const post = (summary: string, body: keyof typeof schemas, answer: string, open = false) => ({
  post: {
    summary,
    requestBody: { required: true, ...json(ref(body)) },
    responses: ok(answer),
    ...(open && { security: [] }),
  },
})
const get = (summary: string, open = false) => ({
  get: { summary, responses: ok(summary), ...(open && { security: [] }) },
})

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
    paths: {
      '/v1/chat/completions': post(
        'Answer a conversation.',
        'ChatRequest',
        'The answer, or a stream of chunks.',
      ),
      '/v1/completions': post(
        'Continue text.',
        'CompletionRequest',
        'The text, or a stream of chunks.',
      ),
      '/v1/chat/completions/render': post(
        'The prompt of a conversation, without an answer.',
        'ChatRequest',
        'The prompt and its tokens.',
      ),
      '/tokenize': post('Text or a conversation to tokens.', 'TokenizeRequest', 'The tokens.'),
      '/detokenize': post('Tokens to text.', 'DetokenizeRequest', 'The text.'),
      '/tokenizer_info': get('Names of control tokens and the chat template.'),
      '/v1/models': get('The models of this server.'),
      '/v1/models/{id}': {
        parameters: [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }],
        ...get('One model.'),
      },
      '/health': get('200 while the engines make progress.', true),
      '/v1/health/ready': get('The same.', true),
      '/v1/health/live': get('200 while the process lives.', true),
      '/version': get('The version of the server.'),
      '/metrics': get('Prometheus metrics.'),
    },
    components: {
      schemas: components,
      securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
    },
  }
}
