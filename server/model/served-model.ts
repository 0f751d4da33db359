// What the HTTP layer knows of a model and of the server. Plain data; server.ts makes it.

import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import type { Logger } from 'pino'
import type { Engine, Tokenizer } from '../engine/types.js'
import type { Gate } from '../generation/admission.js'
import { ApiError, notReady, queueFull } from '../http/errors.js'
import type { Metrics, ModelMetrics } from '../metrics/metrics.js'
import type { ChatTemplate } from '../prompt/template.js'
import type { ModelProfile } from './registry.js'
import type { Readout } from './reward-readout.js'

/** From generation_config.json: what holds when the caller says nothing. */
export type GenerationDefaults = {
  readonly temperature?: number
  readonly topP?: number
  readonly topK?: number
  readonly repetitionPenalty?: number
  /** do_sample: false. */
  readonly greedy: boolean
}

export type ServedModel = {
  readonly id: string
  /** Other names that clients may use. */
  readonly aliases: readonly string[]
  /** The folder or Hugging Face id it was loaded from. */
  readonly root: string
  readonly created: number
  readonly engine: Engine
  readonly tokenizer: Tokenizer
  readonly template: ChatTemplate
  /** bos_token, eos_token and the like; '' where there is none. */
  readonly tokenNames: Readonly<Record<string, string>>
  readonly profile: ModelProfile
  readonly generation: GenerationDefaults
  /** What a reward model's outputs mean; of a chat model, unused. */
  readonly readout: Readout
  readonly gate: Gate
  readonly metrics: ModelMetrics
}

export type HttpConfig = {
  readonly apiKeys: readonly string[]
  readonly allowedOrigins: readonly string[]
  readonly bodyLimit: number
  readonly strictParams: boolean
  readonly defaultThinking: boolean
  /** Seconds; 0: none. */
  readonly requestTimeout: number
  readonly writeIdleTimeout: number
  readonly pingInterval: number
  /** /health is 503 when the step loop made no progress for so long while it had work. */
  readonly stallTimeout: number
}

export type Phase =
  | { readonly name: 'loading'; readonly detail: string }
  | { readonly name: 'ready' }
  | { readonly name: 'draining' }
  | { readonly name: 'failed'; readonly detail: string }

/** Everything a route needs. `phase` and `models` change while the server lives. */
export type Server = {
  readonly config: HttpConfig
  readonly log: Logger
  readonly metrics: Metrics
  readonly version: string
  readonly phase: () => Phase
  readonly models: () => readonly ServedModel[]
}

/** What the one log line of a request says; routes fill it in. Never content. */
export type RequestLog = Record<string, string | number | boolean | null | undefined>

export type Env = {
  Bindings: HttpBindings
  Variables: { requestId: string; record: RequestLog; headers: Record<string, string> }
}
export type Ctx = Context<Env>

/** For answers of both kinds: those that Hono writes and streams, which write themselves. (Reading
 * `c.res.headers` for the latter would make Hono build a response, and write it.) */
export const addHeader = (c: Ctx, name: string, value: string): void => {
  c.header(name, value)
  c.get('headers')[name] = value
}

/** `show` asks only for data, which a draining server still gives. */
export const requireReady = (server: Server, what: 'work' | 'show' = 'work'): void => {
  const phase = server.phase()
  if (phase.name === 'loading') throw notReady('loading', 5)
  if (phase.name === 'draining' && what === 'work') throw notReady('draining', 30)
  if (phase.name === 'failed')
    throw new ApiError(503, `The server failed to load: ${phase.detail}`, { code: 'failed' })
}

const names = (model: ServedModel): readonly string[] => [model.id, ...model.aliases]

export const findModel = (server: Server, name: string, param = 'model'): ServedModel => {
  const found = server.models().find((model) => model.root === name || names(model).includes(name))
  if (found !== undefined) return found
  throw new ApiError(404, `The model '${name}' does not exist or you do not have access to it.`, {
    param,
    code: 'model_not_found',
  })
}

/** Refused before the body is read: none of the models that could answer has a place left. */
export const requireCapacity = (server: Server, kind: 'chat' | 'reward'): void => {
  const isKind = ({ engine }: ServedModel) =>
    (engine.info.rewardKind === 'none') === (kind === 'chat')
  const models = server.models().filter(isKind)
  if (models.length === 0 || models.some((model) => !model.gate.full())) return
  for (const model of models) model.metrics.rejected()
  throw queueFull(Math.min(...models.map((model) => model.gate.retryAfter())))
}

/** Refused where this model itself has no place left. */
export const requireQueue = (model: ServedModel): void => {
  if (!model.gate.full()) return
  model.metrics.rejected()
  throw queueFull(model.gate.retryAfter())
}
