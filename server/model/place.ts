// Places in the engines: asked for where it costs nothing to refuse. After that the engine itself
// counts, and says queue_full.

import { badRequest, RequestError } from '../request-error.js'
import { isReward, type ServedModel } from './served-model.js'

/** Counted by each of these models, and said. */
export const queueFull = (models: readonly ServedModel[]): RequestError => {
  for (const model of models) model.metrics.rejected()
  const retryAfter = Math.min(...models.map((model) => model.pace.retryAfter()))
  return new RequestError(
    `The server is at capacity: every place in its queue is taken. Retry in ${retryAfter} s.`,
    { kind: 'busy', code: 'rate_limit_exceeded', retryAfter },
  )
}

/** Before it is known which model is meant: refused when none of those that could answer has a place. */
export const requireAnyPlace = (models: readonly ServedModel[], kind: 'chat' | 'reward'): void => {
  const able = models.filter((model) => isReward(model) === (kind === 'reward'))
  if (able.length > 0 && able.every((model) => model.engine.isFull())) throw queueFull(able)
}

/** Before work of several prompts: each of its sequences needs a place, so that it keeps nobody out for
 * longer than others do. */
export const requirePlaces = (
  model: ServedModel,
  sequences: number,
  { param, asking } = { param: 'prompt', asking: "'prompt' and 'n' ask" },
): void => {
  const { places } = model.engine.info
  if (sequences > places)
    throw badRequest(
      `${asking} for ${sequences} answers: '${model.id}' has ${places} places (max_num_seqs and max_waiting). Send them in several requests.`,
      param,
    )
  if (model.pace.inFlight() + sequences > places) throw queueFull([model])
}

/** Before work that comes to this model in many pieces: one place must be free for the first. */
export const requirePlace = (model: ServedModel): void => {
  if (model.engine.isFull()) throw queueFull([model])
}
