// A request that is wanted as a whole: its texts, once all of them are written.

import type { Engine, FinishReason, GenerateRequest, Timings } from '../engine/types.js'
import { type EngineError, EngineFailure } from '../failure.js'

export type WholeTexts = {
  /** By choice, as the next. */
  readonly texts: readonly string[]
  readonly finishes: readonly FinishReason[]
  readonly tokens: number
  readonly timings: Timings | undefined
}

const ABORTED: EngineError = { code: 'aborted', message: 'the request was aborted' }

/** Rejects with an EngineFailure. */
export const writeTexts = (
  engine: Engine,
  request: GenerateRequest,
  signal: AbortSignal,
): Promise<WholeTexts> =>
  new Promise((resolve, reject) => {
    const texts = Array<string>(request.n ?? 1).fill('')
    const finishes = Array<FinishReason>(texts.length).fill('stop')
    let live = texts.length
    let tokens = 0
    let timings: Timings | undefined
    let failure: EngineError | undefined
    const handle = engine.submit(request, (delta) => {
      texts[delta.choice] += delta.text
      tokens += delta.tokenIds.length
      timings = delta.timings ?? timings
      failure = delta.error ?? failure
      if (delta.finish === undefined) return
      finishes[delta.choice] = delta.finish
      if (delta.finish === 'abort') failure ??= ABORTED
      if (--live > 0) return
      signal.removeEventListener('abort', handle.abort)
      if (failure === undefined) resolve({ texts, finishes, tokens, timings })
      else reject(new EngineFailure(failure))
    })
    if (signal.aborted) handle.abort()
    signal.addEventListener('abort', handle.abort, { once: true })
  })
