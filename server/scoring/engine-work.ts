// What a request has one engine do, in one piece or in many: admitted, measured, logged.

import type { FinishReason, Timings } from '../engine/types.js'
import { EngineFailure } from '../failure.js'
import { fromEngineError } from '../generation/engine-error.js'
import type { WholeText } from '../generation/whole-texts.js'
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
  /** A part of a request that has its place already, and a line in the log that others write. */
  readonly isAdmitted?: boolean | undefined
  /** Of answers that are written; undefined: what was given is judged. */
  readonly sampling?: EngineWork['sampling']
  /** What the client sent to be scored. */
  readonly items: number
  /** Requests of the engine, and places. */
  readonly choices: number
  readonly promptTokens: number
  /** Most tokens that one of them may write. */
  readonly maxTokens: number
}

/** Tells of the end of a choice. The first of a prompt says what of it was cached. */
type ChoiceDone = (end: Omit<WholeText, 'text'>, choice: number) => void

/** What the engine refused never was in it. */
const isRefused = (error: unknown): boolean =>
  error instanceof EngineFailure &&
  ['invalid_argument', 'unsupported', 'queue_full'].includes(error.code)

type Stages = Pick<Timings, 'queueSeconds' | 'prefillSeconds' | 'decodeSeconds'>

const total = (t: Stages): number => t.queueSeconds + t.prefillSeconds + t.decodeSeconds

/** What is counted while it lasts. */
const newTally = () => ({
  startedAt: performance.now(),
  cached: 0,
  written: 0,
  /** Tokens of the choice that got the most. */
  most: 0,
  finishes: [] as FinishReason[],
  /** Of the choice that took longest. */
  slowest: undefined as EngineWork['stages'],
  version: undefined as string | undefined,
})
type Tally = ReturnType<typeof newTally>

const isFailure = (finish: FinishReason): boolean => finish === 'abort' || finish === 'error'

const countChoice = (
  tally: Tally,
  { metrics, weights }: ServedModel,
  { finish, tokens, timings }: Omit<WholeText, 'text'>,
  choice: number,
): void => {
  metrics.choiceDone({ finish, tokens, timings: isFailure(finish) ? undefined : timings })
  tally.version = weights.version
  if (choice === 0) tally.cached += timings?.cachedTokens ?? 0
  tally.written += tokens
  tally.most = Math.max(tally.most, tokens)
  tally.finishes.push(finish)
  if (timings && (tally.slowest === undefined || total(timings) > total(tally.slowest)))
    tally.slowest = { startedAt: performance.now() - total(timings) * 1000, ...timings }
}

/** To the metrics and the trace. */
const countEnd = (work: Work, tally: Tally, finish: FinishReason): void => {
  const { model, record, arrival, choices, promptTokens, maxTokens, sampling } = work
  const { startedAt, cached: cachedTokens, written, most, finishes, slowest } = tally
  const failures = finish === 'stop' ? [] : [finish]
  record.work.push({
    ...(sampling ? { kind: 'generate', sampling } : { kind: 'score' }),
    model: model.id,
    startedAt,
    endedAt: performance.now(),
    promptTokens,
    completionTokens: written,
    cachedTokens,
    finishes: sampling && finishes.length > 0 ? finishes : failures,
    choices,
    stages: slowest,
  })
  model.metrics.requestDone({
    ...{ promptTokens, cachedTokens, choices, maxTokens, mostTokens: most },
    seconds: (performance.now() - arrival) / 1000,
  })
}

export const engineWork = async <T>(
  work: Work,
  run: (done: ChoiceDone) => Promise<T>,
): Promise<T> => {
  const { model, record, signal, choices, items, promptTokens } = work
  if (work.isAdmitted !== true) {
    requirePlace(model)
    record.asks = [model.id]
  }
  const leave = model.pace.enter(choices)
  const tally = newTally()
  let finish: FinishReason = 'stop'
  let wasIn = true
  try {
    return await run((end, choice) => countChoice(tally, model, end, choice))
  } catch (error) {
    finish = signal.aborted ? 'abort' : 'error'
    const isRefusal = !signal.aborted && isRefused(error)
    wasIn = !isRefusal || tally.finishes.length > 0
    if (!isRefusal && !tally.finishes.some(isFailure))
      model.metrics.choiceDone({ finish, tokens: 0, timings: undefined })
    if (!(error instanceof EngineFailure)) throw error
    throw signal.aborted ? abortedBy(signal) : fromEngineError(error, model)
  } finally {
    leave()
    if (work.isAdmitted !== true) record.asks = []
    if (wasIn) countEnd(work, tally, finish)
    if (work.isAdmitted !== true)
      Object.assign(record.line, {
        model: model.id,
        prompt_tokens: promptTokens,
        completion_tokens: tally.written,
        cached_tokens: tally.cached,
        items,
        finish,
        weight_version: tally.version,
      })
  }
}
