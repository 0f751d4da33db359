// A model as work that nobody waits for sees it: its requests give way to all others and take none of their
// places.

import type { Engine } from '../engine/types.js'
import type { ModelMetrics } from '../metrics/metrics.js'
import { createPace } from './pace.js'
import type { ServedModel } from './served-model.js'

const BACKGROUND = { background: true, since: undefined } as const

const backgroundEngine = (engine: Engine): Engine => ({
  ...engine,
  submit: (request, onDelta) => engine.submit({ ...request, ...BACKGROUND }, onDelta),
  generate: (request, options) => engine.generate({ ...request, ...BACKGROUND }, options),
  score: (request, options) => engine.score({ ...request, ...BACKGROUND }, options),
  isFull: () => false,
})

/** Counts everything; times are of those who wait. */
const untimed = (metrics: ModelMetrics): ModelMetrics => ({
  ...metrics,
  firstToken: () => {},
  nextToken: () => {},
  choiceDone: (outcome) => metrics.choiceDone({ ...outcome, timings: undefined }),
  requestDone: (outcome) => metrics.requestDone({ ...outcome, seconds: undefined }),
})

export const inBackground = (model: ServedModel): ServedModel => ({
  ...model,
  engine: backgroundEngine(model.engine),
  // Of its own: what is in flight here keeps nobody out.
  pace: { ...createPace(), inFlight: () => 0 },
  metrics: untimed(model.metrics),
})
