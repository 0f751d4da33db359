// What the engine said, to the sender of the request.

import type { EngineError } from '../failure.js'
import { queueFull } from '../model/place.js'
import type { ServedModel } from '../model/served-model.js'
import { badRequest, RequestError } from '../request-error.js'

export const endedByPause = (): RequestError =>
  new RequestError('The server was paused, which ended this request. Send it again.', {
    kind: 'unavailable',
    code: 'paused',
  })

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
      if (error.code === 'aborted' && model.engine.isPaused()) return endedByPause()
      return new RequestError(error.message, { kind: 'internal', code: error.code })
  }
}
