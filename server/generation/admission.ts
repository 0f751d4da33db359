// May the work come in? First the server as a whole, before a body is read; then the model's queue.

import type { EngineError } from '../failure.js'
import { isReward, type ServedModel } from '../model/served-model.js'
import { badRequest, RequestError } from '../request-error.js'

export type Phase =
  | { readonly name: 'loading'; readonly detail: string }
  | { readonly name: 'ready' }
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
  if (able.length === 0 || able.some((model) => !model.gate.full())) return
  for (const model of able) model.metrics.rejected()
  throw queueFull(Math.min(...able.map((model) => model.gate.retryAfter())))
}

/** Refused where this model itself has no place left. */
export const requireQueue = (model: ServedModel): void => {
  if (!model.gate.full()) return
  model.metrics.rejected()
  throw queueFull(model.gate.retryAfter())
}

export const clientGone = (): RequestError => badRequest('The client closed the connection.')

/** What the engine said, to the sender of the request. */
export const fromEngineError = (error: EngineError, model: ServedModel): RequestError => {
  switch (error.code) {
    case 'queue_full':
      return queueFull(model.gate.retryAfter())
    case 'invalid_argument':
    case 'unsupported':
      // The engine's messages begin with the field.
      return badRequest(error.message, /^([a-z_]+)(?:\[\d+\])?: /.exec(error.message)?.[1] ?? null)
    default:
      return new RequestError(error.message, { kind: 'internal', code: error.code })
  }
}
