// How likely each of a few tokens comes next after a prompt.

import { setMaxListeners } from 'node:events'
import type { Engine, GenerateRequest, Timings } from '../engine/types.js'
import { type EngineError, EngineFailure } from '../failure.js'
import type { RequestLog } from '../log.js'
import type { ServedModel } from '../model/served-model.js'
import { startInTurns } from '../slices.js'
import { engineWork } from './engine-work.js'

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
  const { model, prompts, labels, signal, priority, cacheSalt } = call
  const asked = prompts.flatMap((prompt) => labels.map((label) => ({ prompt, label })))
  const others = new AbortController()
  const any = AbortSignal.any([signal, others.signal])
  setMaxListeners(0, any) // as many as are asked
  const promptTokens = asked.reduce((sum, { prompt }) => sum + prompt.length, 0)
  let cachedTokens = 0
  const counts = { items: prompts.length, choices: asked.length, promptTokens, maxTokens: 0 }
  const found = await engineWork({ ...call, ...counts }, async (done) => {
    try {
      return await startInTurns(asked, async ({ prompt, label }, i) => {
        const request = {
          ...requestOf(prompt, label),
          // The first asks for a place, the others come with it.
          admitted: i > 0,
          ...(priority !== undefined && { priority }),
          ...(cacheSalt !== undefined && { cacheSalt }),
        }
        const { logprob, timings } = await ask(model.engine, request, any)
        done(0, timings)
        cachedTokens += timings?.cachedTokens ?? 0
        return logprob
      })
    } catch (error) {
      others.abort()
      throw error
    }
  })
  const { length } = labels
  const logprobs = prompts.map((_, i) => found.slice(i * length, (i + 1) * length))
  return { logprobs, promptTokens, cachedTokens }
}
