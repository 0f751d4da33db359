// /openapi.json, made from the table of routes and the schemas that check requests.

import { z } from 'zod'

const ErrorResponse = z.object({
  error: z.object({
    message: z.string(),
    type: z.enum(['invalid_request_error', 'rate_limit_error', 'server_error']),
    param: z.string().nullable(),
    code: z.string().nullable(),
  }),
})

const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` })
const json = (schema: object) => ({ content: { 'application/json': { schema } } })

/** Named groups of errors that a route may give, in the form of that schema. */
const errorsOf = (form: string) => {
  const failure = (description: string) => ({ description, ...json(ref(form)) })
  return {
    key: { 401: failure('The API key is missing or wrong.') },
    ready: { 503: failure('Loading, shutting down or failed; `code` says which.') },
    model: { 404: failure('No such model.') },
    body: {
      400: failure('Something in the request is wrong: the error names it.'),
      413: failure('The body is too large.'),
      415: failure('The body is not JSON.'),
    },
    work: {
      429: failure('The queue is full; Retry-After says when to come back.'),
      500: failure('A fault inside the server.'),
      504: failure('The deadline of X-Request-Timeout or of the server came first.'),
    },
    health: {
      503: {
        description: 'It is not: `phase` and `message` say why.',
        content: { 'application/json': {} },
      },
    },
  }
}
type ErrorGroup = keyof ReturnType<typeof errorsOf>

const text = { type: 'string' } as const
export const MODEL_QUERY = {
  name: 'model',
  in: 'query',
  schema: text,
  description: 'Default: the first model.',
}
const inPath = (name: string) => ({ name, in: 'path', required: true, schema: text })
export const ID_PATH = inPath('id')
export const NAME_PATH = inPath('name')

export const EVERY_MODEL_QUERY = { ...MODEL_QUERY, description: 'Default: every model.' }
export const PAUSE_QUERY = {
  name: 'mode',
  in: 'query',
  schema: { type: 'string', enum: ['abort', 'wait', 'keep'], default: 'abort' },
  description:
    'abort: live requests end; wait: they are finished first; keep: they stop where they are.',
}

export type PostDescription = {
  readonly summary: string
  /** Its schema, under the name that it gets; without: there is none. */
  readonly body?: Readonly<Record<string, z.ZodType>>
  /** Of the body; default: JSON. */
  readonly bodyType?: string
  readonly parameters?: readonly object[]
  readonly answer: string
  readonly isStream?: boolean
  /** The schema of its errors, under its name; default: ErrorResponse. */
  readonly error?: Readonly<Record<string, z.ZodType>>
  /** It takes a place in the queue; default: true. */
  readonly isWork?: boolean
}

export type GetDescription = {
  readonly types?: readonly string[]
  /** Needs no key. */
  readonly open?: boolean
  readonly errors?: readonly ErrorGroup[]
  readonly parameters?: readonly object[]
}

export type RouteDescription = { readonly path: string; readonly summary: string } & (
  | ({ readonly method: 'POST'; readonly open?: never } & PostDescription)
  | ({ readonly method: 'GET' | 'DELETE' } & GetDescription)
)

const answers = (
  description: string,
  types: readonly string[],
  errors: readonly ErrorGroup[],
  groups = errorsOf('ErrorResponse'),
) => ({
  200: { description, content: Object.fromEntries(types.map((type) => [type, {}])) },
  ...Object.assign({}, ...errors.map((name) => groups[name])),
})

const JSON_TYPE = 'application/json'

const operation = (route: RouteDescription) => {
  if (route.method === 'POST') {
    const { summary, answer, isStream = false, isWork = true, error = {} } = route
    const { body, bodyType = JSON_TYPE, parameters = [] } = route
    const types = isStream ? [JSON_TYPE, 'text/event-stream'] : [JSON_TYPE]
    const errors = [
      'body',
      'key',
      'model',
      ...(isWork ? (['work'] as const) : []),
      'ready',
    ] as const
    return {
      summary,
      ...(parameters.length > 0 && { parameters }),
      ...(body && {
        requestBody: {
          required: true,
          content: { [bodyType]: { schema: ref(Object.keys(body)[0] ?? '') } },
        },
      }),
      responses: answers(answer, types, errors, errorsOf(Object.keys(error)[0] ?? 'ErrorResponse')),
    }
  }
  const { summary, types = [JSON_TYPE], open = false, errors = [], parameters = [] } = route
  return {
    summary,
    ...(parameters.length > 0 && { parameters }),
    responses: answers(summary, types, open ? errors : ['key', ...errors]),
    ...(open && { security: [] }),
  }
}

/** `/a/:id{.+}` as OpenAPI writes it. */
const pathOf = (route: RouteDescription): string =>
  route.path.replace(/:(\w+)(?:\{[^}]*\})?/g, '{$1}')

const pathsOf = (routes: readonly RouteDescription[]) => {
  const paths: Record<string, Record<string, object>> = {}
  for (const route of routes) {
    const path = pathOf(route)
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(route) }
  }
  return paths
}

export const openApiDocument = (version: string, routes: readonly RouteDescription[]) => {
  const schemas = Object.assign(
    {},
    ...routes.map((route) => route.method === 'POST' && { ...route.body, ...route.error }),
  )
  const components: Record<string, unknown> = {}
  for (const [name, schema] of Object.entries<z.ZodType>({ ...schemas, ErrorResponse })) {
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
    paths: pathsOf(routes),
    components: {
      schemas: components,
      securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
    },
  }
}
