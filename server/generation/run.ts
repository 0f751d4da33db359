// One request in the engine: submitted, measured, logged, ended once.

import type { Delta, GenerateRequest, RequestHandle, Timings } from '../engine/types.js'
import { EngineFailure } from '../failure.js'
import type { RequestLog } from '../log.js'
import { requirePlaces } from '../model/place.js'
import type { ServedModel } from '../model/served-model.js'
import { asRequestError, type RequestError, stackOf } from '../request-error.js'
import { fromEngineError, whyEnded } from './engine-error.js'

type RunHandler = {
  /** `prompt`: which of the requests; deltas of one engine step come in one tick. */
  readonly onDelta: (prompt: number, delta: Delta) => void
  /** Every choice has finished. */
  readonly onDone: () => void
  /** The engine failed; nothing more comes. */
  readonly onError: (error: RequestError) => void
}

type RunOptions = {
  readonly model: ServedModel
  readonly requests: readonly GenerateRequest[]
  readonly record: RequestLog
  /** performance.now() when the request came. */
  readonly arrival: number
}

export type Counts = {
  readonly promptTokens: number
  readonly completionTokens: number
  readonly cachedTokens: number
  /** Of the slowest choice; undefined while none has finished. */
  readonly slowest: Timings | undefined
  /** The weights that ran when the last choice that has finished did; undefined: none has, or they never change. */
  readonly weightVersion: string | undefined
}

export type Run = {
  /** Nothing comes after it. */
  readonly abort: () => void
  readonly counts: Counts
}

/** What is counted while a run lasts. Lists are by choice, the prompts' choices one after another. */
type Tally = { -readonly [K in keyof Counts]: Counts[K] } & {
  readonly startedAt: number
  readonly lastTokenAt: Float64Array
  readonly generated: Int32Array
  readonly isFinished: Uint8Array
  mostTokens: number
  readonly finishes: string[]
  /** Choices that have not finished. */
  live: number
  firstTokenAt: number
}

const sequencesOf = (requests: readonly GenerateRequest[]): number =>
  requests.reduce((sum, request) => sum + (request.n ?? 1), 0)

const newTally = (requests: readonly GenerateRequest[]): Tally => {
  const choices = sequencesOf(requests)
  return {
    startedAt: performance.now(),
    promptTokens: requests.reduce((sum, request) => sum + request.promptTokenIds.length, 0),
    completionTokens: 0,
    cachedTokens: 0,
    slowest: undefined,
    weightVersion: undefined,
    finishes: [],
    lastTokenAt: new Float64Array(choices),
    generated: new Int32Array(choices),
    isFinished: new Uint8Array(choices),
    mostTokens: 0,
    live: choices,
    firstTokenAt: 0,
  }
}

const countTokens = (
  tally: Tally,
  { model: { metrics }, arrival }: RunOptions,
  at: number,
  tokens: number,
): void => {
  tally.completionTokens += tokens
  tally.generated[at] = (tally.generated[at] ?? 0) + tokens
  const now = performance.now()
  const last = tally.lastTokenAt[at] ?? 0
  if (tally.firstTokenAt === 0) {
    tally.firstTokenAt = now
    metrics.firstToken((now - arrival) / 1000)
  } else if (last > 0) metrics.nextToken((now - last) / 1000, tokens)
  tally.lastTokenAt[at] = now
}

const total = (t: Timings): number => t.queueSeconds + t.prefillSeconds + t.decodeSeconds

const countFinish = (
  tally: Tally,
  { metrics, weights }: ServedModel,
  at: number,
  { choice, finish, timings }: Delta,
): void => {
  const tokens = tally.generated[at] ?? 0
  tally.live--
  tally.weightVersion = weights.version
  tally.isFinished[at] = 1
  tally.finishes[at] = finish ?? 'stop'
  tally.mostTokens = Math.max(tally.mostTokens, tokens)
  metrics.choiceDone({ finish: finish ?? 'stop', tokens, timings })
  if (choice === 0) tally.cachedTokens += timings?.cachedTokens ?? 0
  if (timings && (tally.slowest === undefined || total(timings) > total(tally.slowest)))
    tally.slowest = timings
}

/** The end of a run, to the log: what the request asks now is the model that rates its answer, if there is one. */
const logEnd = (tally: Tally, options: RunOptions, finish: NonNullable<Delta['finish']>): void => {
  const { model, requests, record, arrival } = options
  const { startedAt, promptTokens, completionTokens, cachedTokens, slowest, firstTokenAt } = tally
  record.asks = record.asks?.slice(1)
  record.work.push({
    kind: 'generate',
    model: model.id,
    startedAt,
    endedAt: performance.now(),
    promptTokens,
    completionTokens,
    cachedTokens,
    finishes: Array.from(tally.isFinished, (_, at) => tally.finishes[at] ?? finish),
    sampling: requests[0]?.sampling ?? {},
    choices: requests[0]?.n ?? 1,
    stages: slowest && { startedAt, ...slowest },
  })
  Object.assign(record.line, {
    model: model.id,
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    cached_tokens: cachedTokens,
    finish,
    weight_version: tally.weightVersion,
    queue_s: slowest?.queueSeconds,
    prefill_s: slowest?.prefillSeconds,
    decode_s: slowest?.decodeSeconds,
    ttft_s: firstTokenAt > 0 ? (firstTokenAt - arrival) / 1000 : undefined,
  })
}

/** The end of a run that took `seconds`, to the metrics. */
const countEnd = (
  tally: Tally,
  { model, requests }: RunOptions,
  finish: NonNullable<Delta['finish']>,
  seconds: number,
): void => {
  for (const [at, tokens] of tally.generated.entries()) {
    if (tally.isFinished[at]) continue
    tally.mostTokens = Math.max(tally.mostTokens, tokens)
    model.metrics.choiceDone({ finish, tokens, timings: undefined })
  }
  model.metrics.requestDone({
    seconds,
    promptTokens: tally.promptTokens,
    cachedTokens: tally.cachedTokens,
    choices: requests[0]?.n ?? 1,
    maxTokens: requests[0]?.sampling?.maxTokens ?? 0,
    mostTokens: tally.mostTokens,
  })
}

/** Why a choice ended that did not come to its end; undefined: it did. */
const failureOf = ({ finish, error }: Delta, model: ServedModel): RequestError | undefined => {
  if (finish === 'error')
    return fromEngineError(error ?? { code: 'internal', message: 'The engine failed.' }, model)
  return finish === 'abort' ? whyEnded(model) : undefined
}

const abortAll = (handles: readonly RequestHandle[]): void => {
  for (const handle of handles) handle.abort()
}

/** Submits all prompts or none. Where there are several, each has its place by our own count, and the
 * engine's knows of those that have just left a little later: it asks for the first alone. */
const submitAll = (
  { model, requests, record }: RunOptions,
  onDelta: (prompt: number, delta: Delta) => void,
): readonly RequestHandle[] => {
  const handles: RequestHandle[] = []
  if (requests.length > 1) requirePlaces(model, sequencesOf(requests))
  try {
    for (const [i, request] of requests.entries()) {
      const since = record.begun
      const one = i === 0 ? { ...request, since } : { ...request, since, admitted: true }
      handles.push(model.engine.submit(one, (delta) => onDelta(i, delta)))
    }
    return handles
  } catch (error) {
    abortAll(handles)
    throw error instanceof EngineFailure ? fromEngineError(error, model) : error
  }
}

/** Submits everything or throws; afterwards exactly one of onDone and onError is called, or neither
 * after abort(). */
export const startRun = (options: RunOptions, handler: RunHandler): Run => {
  const { model, requests, record } = options
  const tally = newTally(requests)
  const n = requests[0]?.n ?? 1
  /** Until all are submitted too: what comes of those before one that is refused is nobody's. */
  let over = true
  /** After abort(): what the engine had drawn by then is still counted. */
  let countLast: ((at: number, delta: Delta) => void) | undefined

  const end = (finish: NonNullable<Delta['finish']>): number => {
    over = true
    leave()
    logEnd(tally, options, finish)
    return (performance.now() - options.arrival) / 1000
  }
  const fail = (error: RequestError) => {
    if (over) return
    abortAll(handles)
    countEnd(tally, options, 'error', end('error'))
    handler.onError(error)
  }

  const take = (prompt: number, delta: Delta) => {
    const at = prompt * n + delta.choice
    if (over) return countLast?.(at, delta)
    const tokens = delta.tokenIds.length
    if (tokens > 0) countTokens(tally, options, at, tokens)
    if (delta.finish !== undefined) {
      const failure = failureOf(delta, model)
      if (failure) return fail(failure)
      countFinish(tally, model, at, delta)
    }
    handler.onDelta(prompt, delta)
    if (tally.live > 0 || over) return
    const finish = delta.finish ?? 'stop'
    countEnd(tally, options, finish, end(finish))
    handler.onDone()
  }

  /** What a delta of ours breaks must not reach the engine's callback, and so everyone. */
  const onDelta = (prompt: number, delta: Delta) => {
    try {
      take(prompt, delta)
    } catch (error) {
      record.line.bug = stackOf(error)
      fail(asRequestError(error))
    }
  }

  record.asks = [model.id, ...(record.asks ?? [])]
  // Deltas come through the event loop: none before this function returns.
  const handles = submitAll(options, onDelta)
  over = false
  const leave = model.pace.enter(tally.live)
  return {
    abort: () => {
      if (over) return
      abortAll(handles)
      const seconds = end('abort')
      countLast = (at, delta) => {
        tally.generated[at] = (tally.generated[at] ?? 0) + delta.tokenIds.length
        if (delta.finish === undefined) return
        const { timings: _, ...last } = delta
        countFinish(tally, model, at, last)
        if (tally.live === 0) countEnd(tally, options, 'abort', seconds)
      }
    },
    counts: tally,
  }
}
