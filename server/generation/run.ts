// One HTTP request in the engine: its prompts, its news, its end, and what of it is measured.

import type { Delta, GenerateRequest, RequestHandle, Timings } from '../engine/types.js'
import { EngineFailure } from '../failure.js'
import { ApiError, fromEngineError, stackOf, toApiError } from '../http/errors.js'
import type { RequestLog, ServedModel } from '../model/served-model.js'

export type Usage = {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  readonly prompt_tokens_details: { readonly cached_tokens: number; readonly audio_tokens: number }
  readonly completion_tokens_details: {
    readonly reasoning_tokens: number
    readonly audio_tokens: number
    readonly accepted_prediction_tokens: number
    readonly rejected_prediction_tokens: number
  }
}

export type RunHandler = {
  /** `prompt`: which of the requests; deltas of one engine step come in one tick. */
  readonly onDelta: (prompt: number, delta: Delta) => void
  /** Every choice has finished. */
  readonly onDone: () => void
  /** The engine failed; nothing more comes. */
  readonly onError: (error: ApiError) => void
}

export type RunOptions = {
  readonly model: ServedModel
  readonly requests: readonly GenerateRequest[]
  readonly record: RequestLog
  /** performance.now() when the HTTP request came. */
  readonly arrival: number
  /** Tokens of thinking, known to the routes that look for it. */
  readonly reasoningTokens: () => number
}

export type Run = {
  readonly abort: () => void
  readonly usage: () => Usage
  /** Of the slowest choice. */
  readonly timings: () => Record<string, unknown>
}

const timingsObject = (t: Timings | undefined, completionTokens: number) => ({
  queue_seconds: t?.queueSeconds ?? 0,
  prefill_seconds: t?.prefillSeconds ?? 0,
  decode_seconds: t?.decodeSeconds ?? 0,
  tokens_per_second: t && t.decodeSeconds > 0 ? completionTokens / t.decodeSeconds : null,
  cached_tokens: t?.cachedTokens ?? 0,
  cache_miss: t?.cacheMiss ?? null,
  preemptions: t?.preemptions ?? 0,
  drafted_tokens: t?.draftedTokens ?? 0,
  accepted_tokens: t?.acceptedTokens ?? 0,
})

/** Submits everything or throws; afterwards exactly one of onDone and onError is called, or neither
 * after abort(). */
export const startRun = (options: RunOptions, handler: RunHandler): Run => {
  const { model, requests, record, arrival } = options
  const { engine, metrics, gate } = model
  const handles: RequestHandle[] = []
  const choices = requests.reduce((sum, request) => sum + (request.n ?? 1), 0)
  const promptTokens = requests.reduce((sum, request) => sum + request.promptTokenIds.length, 0)
  const leave = gate.enter(choices)
  // By choice, the prompts' choices one after another.
  const n = requests[0]?.n ?? 1
  const lastTokenAt = new Float64Array(choices)
  const generated = new Int32Array(choices)
  let mostTokens = 0
  let live = choices
  let over = false
  let completionTokens = 0
  let cachedTokens = 0
  let firstTokenAt = 0
  let slowest: Timings | undefined

  const settle = (finish: 'stop' | 'length' | 'abort' | 'error') => {
    over = true
    leave()
    if (finish === 'abort' || finish === 'error') {
      for (let i = 0; i < live; i++) metrics.choiceDone({ finish, tokens: 0, timings: undefined })
    }
    const seconds = (performance.now() - arrival) / 1000
    Object.assign(record, {
      model: model.id,
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      cached_tokens: cachedTokens,
      finish,
      queue_s: slowest?.queueSeconds,
      prefill_s: slowest?.prefillSeconds,
      decode_s: slowest?.decodeSeconds,
      ttft_s: firstTokenAt > 0 ? (firstTokenAt - arrival) / 1000 : undefined,
    })
    metrics.requestDone({
      seconds,
      promptTokens,
      cachedTokens,
      choices: n,
      maxTokens: requests[0]?.sampling?.maxTokens ?? 0,
      mostTokens,
    })
  }

  const abortAll = () => {
    for (const handle of handles) handle.abort()
  }

  const fail = (error: ApiError) => {
    if (over) return
    abortAll()
    settle('error')
    handler.onError(error)
  }

  const measure = (at: number, tokens: number) => {
    const now = performance.now()
    const last = lastTokenAt[at] ?? 0
    if (firstTokenAt === 0) {
      firstTokenAt = now
      metrics.firstToken((now - arrival) / 1000)
    } else if (last > 0) metrics.nextToken((now - last) / 1000, tokens)
    lastTokenAt[at] = now
  }

  const take = (prompt: number, delta: Delta) => {
    if (over) return
    const at = prompt * n + delta.choice
    const tokens = delta.tokenIds.length
    if (tokens > 0) {
      completionTokens += tokens
      generated[at] = (generated[at] ?? 0) + tokens
      measure(at, tokens)
    }
    if (delta.finish === 'error')
      return fail(
        fromEngineError(delta.error ?? { code: 'internal', message: 'The engine failed.' }, () =>
          gate.retryAfter(),
        ),
      )
    if (delta.finish === 'abort')
      return fail(
        new ApiError(503, 'The server stopped before the answer was done.', { code: 'draining' }),
      )
    if (delta.finish !== undefined) {
      live--
      const all = generated[at] ?? 0
      mostTokens = Math.max(mostTokens, all)
      metrics.choiceDone({ finish: delta.finish, tokens: all, timings: delta.timings })
      if (delta.choice === 0) cachedTokens += delta.timings?.cachedTokens ?? 0
      if (delta.timings) {
        const total = (t: Timings) => t.queueSeconds + t.prefillSeconds + t.decodeSeconds
        if (slowest === undefined || total(delta.timings) > total(slowest)) slowest = delta.timings
      }
    }
    handler.onDelta(prompt, delta)
    if (live === 0 && !over) {
      settle(delta.finish ?? 'stop')
      handler.onDone()
    }
  }

  /** What a delta of ours breaks must not reach the engine's callback, and so everyone. */
  const onDelta = (prompt: number, delta: Delta) => {
    try {
      take(prompt, delta)
    } catch (error) {
      record.bug = stackOf(error)
      fail(toApiError(error))
    }
  }

  try {
    requests.forEach((request, i) => {
      handles.push(engine.submit(request, (delta) => onDelta(i, delta)))
    })
  } catch (error) {
    over = true
    abortAll()
    leave()
    if (error instanceof EngineFailure)
      throw fromEngineError({ code: error.code, message: error.message }, () => gate.retryAfter())
    throw error
  }

  return {
    abort: () => {
      if (over) return
      abortAll()
      settle('abort')
    },
    usage: () => ({
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens,
      prompt_tokens_details: { cached_tokens: cachedTokens, audio_tokens: 0 },
      completion_tokens_details: {
        reasoning_tokens: options.reasoningTokens(),
        audio_tokens: 0,
        accepted_prediction_tokens: 0,
        rejected_prediction_tokens: 0,
      },
    }),
    timings: () => timingsObject(slowest, completionTokens),
  }
}
