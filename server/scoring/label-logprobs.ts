// How likely each of a few tokens comes next after a prompt.

import { setMaxListeners } from 'node:events'
import type { Engine, GenerateRequest, Timings } from '../engine/types.js'
import { type EngineError, EngineFailure } from '../failure.js'
import { fromEngineError } from '../generation/engine-error.js'
import type { RequestLog } from '../log.js'
import { requirePlace } from '../model/place.js'
import type { ServedModel } from '../model/served-model.js'
import { clientGone } from '../request-error.js'
import { startInTurns } from '../slices.js'

type Found = { readonly logprob: number; readonly timings: Timings | undefined }

const ABORTED: EngineError = { code: 'aborted', message: 'the request was aborted' }

/** What an engine tells of a token is its log probability in the whole vocabulary, whatever is allowed:
 * where nothing else is, that token is told. */
const requestOf = (prompt: readonly number[], label: number): GenerateRequest => ({
  promptTokenIds: prompt,
  sampling: { maxTokens: 1, temperature: 0, allowedTokenIds: [label], logprobs: 0 },
})

const ask = (engine: Engine, request: GenerateRequest, signal: AbortSignal): Promise<Found> =>
  new Promise((resolve, reject) => {
    let logprob: number | undefined
    const handle = engine.submit(request, (delta) => {
      logprob ??= delta.logprobs?.[0]?.logprob
      if (delta.finish === undefined) return
      signal.removeEventListener('abort', handle.abort)
      const error = delta.error ?? (delta.finish === 'abort' ? ABORTED : undefined)
      if (error !== undefined) reject(new EngineFailure(error))
      else if (logprob === undefined) reject(new Error('the engine told no log probability'))
      else resolve({ logprob, timings: delta.timings })
    })
    if (signal.aborted) handle.abort()
    signal.addEventListener('abort', handle.abort, { once: true })
  })

type LabelCall = {
  readonly model: ServedModel
  readonly prompts: readonly (readonly number[])[]
  readonly labels: readonly number[]
  readonly record: RequestLog
  readonly signal: AbortSignal
  readonly arrival: number
  readonly priority: number | undefined
  readonly cacheSalt: string | undefined
}

/** By prompt, of each label: the log probability in the whole vocabulary that it comes next. All are one
 * batch on the engine; the first failure ends the others. */
export const labelLogprobs = async (call: LabelCall) => {
  const { model, prompts, labels, record, signal, arrival, priority, cacheSalt } = call
  const { engine, pace, metrics } = model
  const asked = prompts.flatMap((prompt) => labels.map((label) => ({ prompt, label })))
  requirePlace(model)
  const leave = pace.enter(asked.length)
  const others = new AbortController()
  const any = AbortSignal.any([signal, others.signal])
  setMaxListeners(0, any) // as many as are asked
  const promptTokens = asked.reduce((sum, { prompt }) => sum + prompt.length, 0)
  let cachedTokens = 0
  let finish: 'stop' | 'abort' | 'error' = 'stop'
  try {
    const found = await startInTurns(asked, async ({ prompt, label }, i) => {
      const request = {
        ...requestOf(prompt, label),
        // The first asks for a place, the others come with it.
        admitted: i > 0,
        ...(priority !== undefined && { priority }),
        ...(cacheSalt !== undefined && { cacheSalt }),
      }
      const { logprob, timings } = await ask(engine, request, any)
      metrics.choiceDone({ finish: 'stop', tokens: 0, timings })
      cachedTokens += timings?.cachedTokens ?? 0
      return logprob
    })
    const { length } = labels
    const logprobs = prompts.map((_, i) => found.slice(i * length, (i + 1) * length))
    return { logprobs, promptTokens, cachedTokens }
  } catch (error) {
    others.abort()
    finish = signal.aborted ? 'abort' : 'error'
    metrics.choiceDone({ finish, tokens: 0, timings: undefined })
    if (!(error instanceof EngineFailure)) throw error
    throw signal.aborted ? clientGone() : fromEngineError(error, model)
  } finally {
    leave()
    Object.assign(record, {
      model: model.id,
      prompt_tokens: promptTokens,
      completion_tokens: 0,
      cached_tokens: cachedTokens,
      items: prompts.length,
      finish,
    })
    metrics.requestDone({
      seconds: (performance.now() - arrival) / 1000,
      promptTokens,
      cachedTokens,
      choices: asked.length,
      maxTokens: 0,
      mostTokens: 0,
    })
  }
}
