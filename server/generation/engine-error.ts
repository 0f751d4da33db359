// What the engine said, to the sender of the request.

import type { EngineError } from '../failure.js'
import { queueFull } from '../model/place.js'
import type { ServedModel } from '../model/served-model.js'
import { badRequest, RequestError } from '../request-error.js'

const endedBy = (what: string, code: string): RequestError =>
  new RequestError(`The server ${what}, which ended this request. Send it again.`, {
    kind: 'unavailable',
    code,
  })

/** Why a request was ended that its sender did not end; undefined: the engine closes. */
export const whyEnded = ({ engine, weights }: ServedModel): RequestError | undefined => {
  if (weights.change === 'abort') return endedBy('loaded other weights', 'weights_changed')
  return engine.isPaused() ? endedBy('was paused', 'paused') : undefined
}

export const fromEngineError = (error: EngineError, model: ServedModel): RequestError => {
  switch (error.code) {
    case 'queue_full':
      return queueFull([model])
    case 'invalid_argument':
    case 'unsupported':
      // The engine's messages begin with the field.
      return badRequest(error.message, /^([a-z_]+)(?:\[\d+\])?: /.exec(error.message)?.[1] ?? null)
    case 'unavailable':
      // Failed, closing, or between two sets of weights: another replica can answer.
      return new RequestError(error.message, { kind: 'unavailable', code: 'engine_unavailable' })
    default:
      return (
        (error.code === 'aborted' ? whyEnded(model) : undefined) ??
        new RequestError(error.message, { kind: 'internal', code: error.code })
      )
  }
}
