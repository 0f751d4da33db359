// A request that is wanted as a whole: its texts, once all of them are written.

import type { Engine, FinishReason, GenerateRequest, Timings } from '../engine/types.js'
import { type EngineError, EngineFailure } from '../failure.js'

/** Of a choice that has ended. */
export type WholeText = {
  readonly text: string
  readonly finish: FinishReason
  readonly tokens: number
  readonly timings: Timings | undefined
}

const ABORTED: EngineError = { code: 'aborted', message: 'the request was aborted' }

type WholeOptions = {
  readonly signal: AbortSignal
  /** Every choice, as it ends: those too that fail or are aborted. */
  readonly onEnd: (end: WholeText, choice: number) => void
}

/** By choice. Rejects with an EngineFailure, when all choices have ended. */
export const writeTexts = (
  engine: Engine,
  request: GenerateRequest,
  { signal, onEnd }: WholeOptions,
): Promise<readonly WholeText[]> =>
  new Promise((resolve, reject) => {
    const all = Array.from({ length: request.n ?? 1 }, (): WholeText => {
      return { text: '', finish: 'stop', tokens: 0, timings: undefined }
    })
    let live = all.length
    let failure: EngineError | undefined
    const handle = engine.submit(request, (delta) => {
      const { choice, tokenIds, finish, timings, error } = delta
      const before = all[choice]
      if (before === undefined) return
      const text = before.text + delta.text
      const now = {
        text,
        finish: finish ?? 'stop',
        tokens: before.tokens + tokenIds.length,
        timings,
      }
      all[choice] = now
      failure = error ?? failure
      if (finish === undefined) return
      if (finish === 'abort') failure ??= ABORTED
      onEnd(now, choice)
      if (--live > 0) return
      signal.removeEventListener('abort', handle.abort)
      if (failure === undefined) resolve(all)
      else reject(new EngineFailure(failure))
    })
    if (signal.aborted) handle.abort()
    signal.addEventListener('abort', handle.abort, { once: true })
  })
