// Where a command's requests go: a server by its URL, or one of our own that lives as long as the
// command. Both over HTTP, so a command has one way to work.

import { type IncomingHttpHeaders, request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import { text as textOf } from 'node:stream/consumers'
import { pino } from 'pino'
import { z } from 'zod'
import { messageOf } from '../failure.js'
import { jsonOf } from '../json-source.js'
import type { Serving, startServer } from '../server.js'
import { ownSettings } from '../settings/own.js'
import type { FlagValues } from '../settings/read.js'
import { createProgress } from '../terminal.js'
import { type Host, tell } from './host.js'

export type Target = {
  readonly url: string
  /** The answer's JSON. Waits and asks again while the server is busy, for LOST_SECONDS while it cannot be
   * reached, and a few times where it fails; throws what it says otherwise. */
  readonly post: (path: string, body: object) => Promise<unknown>
  /** Whatever the server says of this request, its 4xx too. `path`: with its /v1. Throws what is at fault of all
   * requests: a key, the server itself. */
  readonly ask: (path: string, body: object) => Promise<Told>
  readonly models: () => Promise<readonly ListedModel[]>
  /** How the model's thinking is switched; null: it does not reason; undefined: the server does not say. */
  readonly thinking: (model: string) => Promise<string | null | undefined>
  readonly close: () => Promise<void>
}

type Told = {
  readonly status: number
  readonly requestId: string | null
  /** Where the server's weights may change: those that answered. */
  readonly weightVersion: string | undefined
  readonly body: unknown
}

export type ListedModel = {
  readonly id: string
  /** Of a prompt and its answer, in tokens. */
  readonly max_model_len?: number | undefined
}

/** What a server refused or failed at. */
export class RequestFailure extends Error {
  readonly status: number
  readonly param: string | null
  readonly code: string | null
  /** The server has answered others. */
  readonly isServing: boolean

  constructor(
    message: string,
    status: number,
    answer: z.output<typeof ErrorAnswer>['error'],
    isServing = false,
  ) {
    super(message)
    this.status = status
    this.isServing = isServing
    this.param = answer.param ?? null
    this.code = answer.code ?? (answer.type === 'timeout_error' ? 'request_timeout' : null)
  }
}

/** Of a request that is wrong in itself, even where the answer is no JSON: a proxy refuses long ones in HTML. */
const WRONG = [400, 413, 422]
/** Such as of weights that make no number of this one text. */
const FAILED = 500
/** It took longer than the server or a proxy lets one take, and would again. Of a server of ours before 504 it is a 503. */
const isTimeout = ({ status, code }: Pick<RequestFailure, 'status' | 'code'>): boolean =>
  status === 504 || (status === 503 && code === 'request_timeout')

/** What one request asked is at fault: others may be right. A wrong model, key or address is at fault of all, and so
 * is a server that fails at whatever it is asked. */
export const isRequestsFault = (error: unknown): error is RequestFailure =>
  error instanceof RequestFailure &&
  (isTimeout(error) ||
    (error.status === FAILED && error.isServing) ||
    (WRONG.includes(error.status) && error.param !== 'model'))

type TargetOptions = {
  /** Base URL with its /v1, as OpenAI clients take it. */
  readonly url?: string | undefined
  readonly apiKey?: string | undefined
  /** Models to serve when there is no URL; empty: those of NEMOTRON_MODEL, else the embedded ones. */
  readonly model: readonly string[]
  /** Models that are asked by their names, by the flag that says so. */
  readonly names?: Readonly<Record<string, string | undefined>>
}

const ErrorAnswer = z.looseObject({
  error: z.looseObject({
    message: z.string(),
    param: z.string().nullish(),
    code: z.string().nullish().catch(null),
    /** Anthropic's errors have this, and no code. */
    type: z.string().nullish().catch(null),
  }),
})
/** What these commands read of a choice of a chat. */
export const ChatChoice = z.looseObject({
  message: z.looseObject({
    content: z.string().nullable(),
    reasoning_content: z.string().nullish(),
    tool_calls: z.array(z.looseObject({ function: z.unknown() })).nullish(),
  }),
  finish_reason: z.string(),
})
const ModelList = z.looseObject({
  data: z.array(z.looseObject({ id: z.string(), max_model_len: z.int().optional() })),
})

const ServerCard = z.looseObject({
  models: z.array(
    z.looseObject({
      id: z.string(),
      aliases: z.array(z.string()),
      root: z.string(),
      reasoning: z.looseObject({ switch: z.string().optional() }).nullable(),
    }),
  ),
})

const RETRIES = 100
/** Once a second, after the server failed. */
const MORE_TRIES = 2
/** How long a server that answered before may be gone: longer than a restart. */
const LOST_SECONDS = 60
const sleep = (seconds: number): Promise<void> =>
  new Promise((done) => setTimeout(done, seconds * 1000))

const parse = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // an error page of a proxy
  }
}

type Asked = { readonly method: 'GET' | 'POST'; readonly body?: string }
type Reply = {
  readonly status: number
  readonly statusText: string
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

/** One exchange, however long the answer takes: fetch() gives up after five minutes without a head, and to
 * ask again would begin anew. */
const exchange = (
  url: string,
  headers: Readonly<Record<string, string>>,
  { method, body }: Asked,
): Promise<Reply> =>
  new Promise((resolve, reject) => {
    const request = url.startsWith('https:') ? requestHttps : requestHttp
    const length = body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }
    const sent = request(url, { method, headers: { ...headers, ...length } }, (response) => {
      const { statusCode: status = 0, statusMessage: statusText = '', headers } = response
      textOf(response).then((text) => resolve({ status, statusText, headers, text }), reject)
    })
    // A machine that is gone closes nothing.
    sent.on('socket', (socket) => socket.setKeepAlive(true, 30_000))
    sent.on('error', reject)
    sent.end(body)
  })

/** Of an exchange that failed: a name that has several addresses fails once for each. */
const whyLost = (error: unknown): string => {
  const first = error instanceof AggregateError ? error.errors[0] : error
  return messageOf(first) || String(first)
}

const thinkingOf = (answer: string, name: string): string | null | undefined => {
  const { models = [] } = ServerCard.safeParse(parse(answer)).data ?? {}
  const found = models.find((one) => [one.id, one.root, ...one.aliases].includes(name))
  return found?.reasoning === null ? null : found?.reasoning.switch
}

const failure = (
  url: string,
  { status, statusText, text }: Reply,
  isServing = false,
): RequestFailure => {
  const { error = { message: statusText } } = ErrorAnswer.safeParse(parse(text)).data ?? {}
  return new RequestFailure(`${url}: ${status} ${error.message}`, status, error, isServing)
}

/** Asks a server that fails a few times more. */
const insist = async (ask: () => Promise<Reply>): Promise<Reply> => {
  let reply = await ask()
  for (let again = 0; reply.status === FAILED && again < MORE_TRIES; again++) {
    await sleep(1)
    reply = await ask()
  }
  return reply
}

const connect = (url: string, apiKey: string | undefined, close: () => Promise<void>): Target => {
  const base = url.replace(/\/+$/, '')
  const root = base.replace(/\/v1$/, '')
  const headers = {
    'content-type': 'application/json',
    ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }),
  }
  let [answered, isServing] = [false, false]
  /** Asks again, once a second, after a connection that was lost, by a proxy too (502). */
  const reach = async (url: string, asked: Asked): Promise<Reply> => {
    for (let lost = 0; ; lost++) {
      try {
        const reply = await exchange(url, headers, asked)
        if (reply.status === 502) throw new Error(`502 ${reply.statusText}`)
        answered = true
        return reply
      } catch (error) {
        // A first request that fails has a wrong URL more often than a server that restarts.
        if (answered && lost < LOST_SECONDS) {
          await sleep(1)
          continue
        }
        const why = whyLost(error)
        const tried = lost > 0 ? `, tried for ${lost} s` : ''
        throw new Error(
          `${url} cannot be reached (${why}${tried}): is the server running, and --url right?`,
        )
      }
    }
  }
  /** Waits while the server is busy. */
  const settle = async (url: string, asked: Asked): Promise<Reply> => {
    for (let attempt = 0; ; attempt++) {
      const reply = await reach(url, asked)
      const busy = reply.status === 429 || reply.status === 503
      if (!busy || isTimeout(failure(url, reply)) || attempt >= RETRIES) return reply
      await sleep(Math.min(30, Number(reply.headers['retry-after']) || 1))
    }
  }
  const request = async (path: string, asked: Asked): Promise<unknown> => {
    const url = `${base}${path}`
    const reply = await insist(() => settle(url, asked))
    if (reply.status < 200 || reply.status > 299) throw failure(url, reply, isServing)
    if (asked.method === 'POST') isServing = true
    return JSON.parse(reply.text)
  }
  const ask = async (path: string, body: object): Promise<Told> => {
    const url = `${root}${path}`
    const reply = await settle(url, { method: 'POST', body: jsonOf(body) })
    const { status, headers } = reply
    const json = parse(reply.text)
    const isWhole = json !== undefined && status <= 500 && ![401, 403, 429].includes(status)
    if (!isWhole && !WRONG.includes(status)) {
      const why = failure(url, reply)
      if (!isTimeout(why)) throw why
    }
    const requestId = [headers['x-request-id']].flat()[0] ?? null
    const weightVersion = [headers['x-weight-version']].flat()[0]
    return { status, requestId, weightVersion, body: json ?? reply.text }
  }
  return {
    url: base,
    thinking: async (name) =>
      thinkingOf((await settle(`${root}/v1/server`, { method: 'GET' })).text, name),
    post: (path, body) => request(path, { method: 'POST', body: JSON.stringify(body) }),
    ask,
    models: async () => ModelList.parse(await request('/models', { method: 'GET' })).data,
    close,
  }
}

/** A server that lives as long as the command. Its code is loaded here: most commands ask one that runs, and
 * begin in half the time without. */
export const startOwn = async (
  flags: FlagValues,
  env: NodeJS.ProcessEnv,
  options: Omit<Parameters<typeof startServer>[0], 'settings'>,
): Promise<Serving> => {
  const settings = ownSettings(flags, env)
  const server = await import('../server.js')
  return server.startServer({ settings, isOwn: true, ...options })
}

/** Throws what a server refuses of a request whatever its models are, before any is loaded. */
export const checkOwnRequest = async (path: string, body: object): Promise<void> =>
  (await import('../server.js')).checkRequest(path, body)

const checkNames =
  ({ names = {}, model }: TargetOptions) =>
  (served: readonly string[]): void => {
    for (const [flag, name] of Object.entries(names))
      if (name !== undefined && !served.includes(name) && !model.includes(name))
        throw new Error(`${flag}: there is no '${name}' among the models: ${served.join(', ')}`)
  }

const checkUrl = (url: string, model: readonly string[]): void => {
  if (!/^https?:\/\/[^/]/.test(url) || !URL.canParse(url))
    throw new Error(
      `--url is '${url}': it must be the server's address with its scheme, such as http://127.0.0.1:8000/v1`,
    )
  if (model.length > 0)
    throw new Error(
      '--model loads a model here, and --url asks a server that has its own: give one of them',
    )
}

export const openTarget = async (host: Host, options: TargetOptions): Promise<Target> => {
  const { url, apiKey, model } = options
  if (url !== undefined) checkUrl(url, model)
  if (url !== undefined) return connect(url, apiKey, async () => {})
  const serving = await startOwn({ model: [...model] }, host.env, {
    log: pino({ level: 'warn', base: null }, host.stderr),
    progress: createProgress(host.stderr),
    tell: (text) => tell(host, text),
    checkNames: checkNames(options),
  })
  await serving.ready
  return connect(`${serving.url}/v1`, undefined, serving.drain)
}
