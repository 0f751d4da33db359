// May the work come in? Asked once before a body is read, when it costs nothing to refuse. After that
// the engine itself counts, and says queue_full.

import type { EngineError } from '../failure.js'
import { isReward, type ServedModel } from '../model/served-model.js'
import { badRequest, RequestError } from '../request-error.js'

export type Phase =
  | { readonly name: 'loading'; readonly detail: string }
  | { readonly name: 'ready' }
  /** Still takes work, and tells proxies to send it elsewhere. */
  | { readonly name: 'leaving' }
  | { readonly name: 'draining' }
  | { readonly name: 'failed'; readonly detail: string }

export type Readiness = {
  readonly phase: () => Phase
  readonly models: () => readonly ServedModel[]
}

const notReady = (message: string, code: string, retryAfter?: number): RequestError =>
  new RequestError(message, { kind: 'unavailable', code, retryAfter })

/** `show` asks only for data, which a draining server still gives. */
export const requireReady = (
  { phase }: Pick<Readiness, 'phase'>,
  what: 'work' | 'show' = 'work',
): void => {
  const now = phase()
  if (now.name === 'loading') throw notReady('The server is loading its models.', 'loading', 5)
  if (now.name === 'draining' && what === 'work')
    throw notReady('The server is shutting down and takes no new work.', 'draining', 30)
  if (now.name === 'failed') throw notReady(`The server failed to load: ${now.detail}`, 'failed')
}

const queueFull = (retryAfter: number): RequestError =>
  new RequestError(
    `The server is at capacity: every place in its queue is taken. Retry in ${retryAfter} s.`,
    { kind: 'busy', code: 'rate_limit_exceeded', retryAfter },
  )

/** Refused before the body is read: none of the models that could answer has a place left. */
export const requireCapacity = (
  { models }: Pick<Readiness, 'models'>,
  kind: 'chat' | 'reward',
): void => {
  const able = models().filter((model) => isReward(model) === (kind === 'reward'))
  if (able.length === 0 || able.some((model) => !model.engine.isFull())) return
  for (const model of able) model.metrics.rejected()
  throw queueFull(Math.min(...able.map((model) => model.pace.retryAfter())))
}

/** This model's queue is full: counted, and said. */
const refusedBy = (model: ServedModel): RequestError => {
  model.metrics.rejected()
  return queueFull(model.pace.retryAfter())
}

/** Before work that comes to this model in many pieces: one place must be free for the first. */
export const requirePlace = (model: ServedModel): void => {
  if (model.engine.isFull()) throw refusedBy(model)
}

export const clientGone = (): RequestError => badRequest('The client closed the connection.')

/** What the engine said, to the sender of the request. */
export const fromEngineError = (error: EngineError, model: ServedModel): RequestError => {
  switch (error.code) {
    case 'queue_full':
      return refusedBy(model)
    case 'invalid_argument':
    case 'unsupported':
      // The engine's messages begin with the field.
      return badRequest(error.message, /^([a-z_]+)(?:\[\d+\])?: /.exec(error.message)?.[1] ?? null)
    default:
      return new RequestError(error.message, { kind: 'internal', code: error.code })
  }
}
