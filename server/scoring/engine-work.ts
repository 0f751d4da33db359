// One HTTP request that is many of the engine's: admitted, measured, logged.

import type { Timings } from '../engine/types.js'
import { EngineFailure } from '../failure.js'
import { fromEngineError } from '../generation/engine-error.js'
import type { EngineWork, RequestLog } from '../log.js'
import { requirePlace } from '../model/place.js'
import type { ServedModel } from '../model/served-model.js'
import { abortedBy } from '../request-error.js'

type Work = {
  readonly model: ServedModel
  readonly record: RequestLog
  readonly signal: AbortSignal
  /** By performance.now. */
  readonly arrival: number
  /** It has its place already. */
  readonly isAdmitted?: boolean | undefined
  /** What the client sent to be scored. */
  readonly items: number
  /** Requests of the engine, and places. */
  readonly choices: number
  readonly promptTokens: number
  /** Most tokens that one of them may write. */
  readonly maxTokens: number
}

/** Tells of one of the engine's requests that has ended: `tokens` written. */
type ChoiceDone = (tokens: number, timings: Timings | undefined) => void

/** What the engine refused never was in it. */
const isRefused = (error: unknown): boolean =>
  error instanceof EngineFailure &&
  ['invalid_argument', 'unsupported', 'queue_full'].includes(error.code)

type Stages = Pick<Timings, 'queueSeconds' | 'prefillSeconds' | 'decodeSeconds'>

const total = (t: Stages): number => t.queueSeconds + t.prefillSeconds + t.decodeSeconds

export const engineWork = async <T>(
  work: Work,
  run: (done: ChoiceDone) => Promise<T>,
): Promise<T> => {
  const { model, record, signal, arrival, items, choices, promptTokens, maxTokens } = work
  const { pace, metrics } = model
  if (work.isAdmitted !== true) {
    requirePlace(model)
    record.asks = [model.id]
  }
  const leave = pace.enter(choices)
  const startedAt = performance.now()
  const sums = { cached: 0, written: 0, most: 0 }
  let slowest: EngineWork['stages']
  let version: string | undefined
  let finish: 'stop' | 'abort' | 'error' = 'stop'
  try {
    return await run((tokens, timings) => {
      metrics.choiceDone({ finish: 'stop', tokens, timings })
      version = model.weights.version
      sums.cached += timings?.cachedTokens ?? 0
      sums.written += tokens
      sums.most = Math.max(sums.most, tokens)
      if (timings && (slowest === undefined || total(timings) > total(slowest)))
        slowest = { startedAt: performance.now() - total(timings) * 1000, ...timings }
    })
  } catch (error) {
    finish = signal.aborted ? 'abort' : 'error'
    if (signal.aborted || !isRefused(error))
      metrics.choiceDone({ finish, tokens: 0, timings: undefined })
    if (!(error instanceof EngineFailure)) throw error
    throw signal.aborted ? abortedBy(signal) : fromEngineError(error, model)
  } finally {
    leave()
    if (work.isAdmitted !== true) record.asks = []
    record.work.push({
      kind: 'score',
      model: model.id,
      startedAt,
      endedAt: performance.now(),
      promptTokens,
      completionTokens: sums.written,
      cachedTokens: sums.cached,
      finishes: finish === 'stop' ? [] : [finish],
      choices,
      stages: slowest,
    })
    Object.assign(record.line, {
      model: model.id,
      prompt_tokens: promptTokens,
      completion_tokens: sums.written,
      cached_tokens: sums.cached,
      items,
      finish,
      weight_version: version,
    })
    metrics.requestDone({
      seconds: (performance.now() - arrival) / 1000,
      promptTokens,
      cachedTokens: sums.cached,
      choices,
      maxTokens,
      mostTokens: sums.most,
    })
  }
}
