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

/** Why a request was ended that its sender did not end. */
export const whyEnded = ({ engine, weights }: ServedModel): RequestError => {
  if (weights.change === 'abort') return endedBy('loaded other weights', 'weights_changed')
  if (engine.isPaused()) return endedBy('was paused', 'paused')
  return new RequestError('The server stopped before the answer was done.', {
    kind: 'unavailable',
    code: 'draining',
  })
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
    case 'aborted':
      return whyEnded(model)
    default:
      return new RequestError(error.message, { kind: 'internal', code: error.code })
  }
}
