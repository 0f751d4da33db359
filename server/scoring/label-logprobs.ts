// How likely each of a few tokens comes next after a prompt.

import { setMaxListeners } from 'node:events'
import type { Engine, GenerateRequest, Timings, TokenLogprob } from '../engine/types.js'
import { type EngineError, EngineFailure } from '../failure.js'
import type { RequestLog } from '../log.js'
import type { ServedModel } from '../model/served-model.js'
import { startInTurns } from '../slices.js'
import { engineWork } from './engine-work.js'

/** Most ids that the engine tells of one position. */
const TOLD = 128

/** `labels`: token ids that may come after the prompt. */
export type Asked = { readonly prompt: readonly number[]; readonly labels: readonly number[] }

type Answered = {
  /** Of each label: the log probability in the whole vocabulary that it comes next. */
  readonly logprobs: readonly number[]
  /** The likeliest token of all. */
  readonly likeliest: number | undefined
  /** Of the prompt. */
  readonly cachedTokens: number
}

type Told = { readonly logprob: TokenLogprob; readonly timings: Timings | undefined }

const ABORTED: EngineError = { code: 'aborted', message: 'the request was aborted' }

/** The likeliest token is drawn, and the labels are told beside it. */
const requestOf = (prompt: readonly number[], labels: readonly number[]): GenerateRequest => ({
  promptTokenIds: prompt,
  sampling: { maxTokens: 1, temperature: 0, logprobs: 0, logprobIds: labels },
})

const inParts = (labels: readonly number[]): readonly (readonly number[])[] =>
  Array.from({ length: Math.ceil(labels.length / TOLD) }, (_, i) =>
    labels.slice(i * TOLD, (i + 1) * TOLD),
  )

const ask = (engine: Engine, request: GenerateRequest, signal: AbortSignal): Promise<Told> =>
  new Promise((resolve, reject) => {
    let logprob: TokenLogprob | undefined
    const handle = engine.submit(request, (delta) => {
      logprob ??= delta.logprobs?.[0]
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
  readonly asked: readonly Asked[]
  readonly record: RequestLog
  readonly signal: AbortSignal
  readonly arrival: number
  readonly priority: number | undefined
  readonly cacheSalt: string | undefined
}

/** In the order asked. All are one batch on the engine. The first failure ends the others. */
export const labelLogprobs = async (call: LabelCall) => {
  const { model, asked, record, signal, priority, cacheSalt } = call
  const others = new AbortController()
  const any = AbortSignal.any([signal, others.signal])
  setMaxListeners(0, any) // as many as are asked
  const promptTokens = asked.reduce((sum, { prompt }) => sum + prompt.length, 0)
  const counts = { items: asked.length, choices: asked.length, promptTokens, maxTokens: 0 }
  const known = asked.map(() => new Map<number, number>())
  const likeliest: (number | undefined)[] = asked.map(() => undefined)
  const cached: number[] = asked.map(() => 0)
  const parts = asked.flatMap(({ prompt, labels }, i) =>
    inParts(labels).map((ids, part) => ({ i, part, request: requestOf(prompt, ids) })),
  )
  await engineWork({ ...call, ...counts }, async (done) => {
    /** The first of all asks for a place, the others come with it. */
    let isAdmitted = false
    const one = async ({ i, part, request }: (typeof parts)[number]): Promise<void> => {
      const admitted = isAdmitted
      isAdmitted = true
      const { logprob, timings } = await ask(
        model.engine,
        {
          ...request,
          admitted,
          since: record.begun,
          ...(priority !== undefined && { priority }),
          ...(cacheSalt !== undefined && { cacheSalt }),
        },
        any,
      )
      done({ finish: 'stop', tokens: 0, timings }, part)
      if (part === 0) cached[i] = timings?.cachedTokens ?? 0
      likeliest[i] = logprob.id
      for (const { id, logprob: value } of logprob.top) known[i]?.set(id, value)
    }
    try {
      await startInTurns(parts, one)
    } catch (error) {
      others.abort()
      throw error
    }
  })
  const answers = asked.map(
    ({ labels }, i): Answered => ({
      logprobs: labels.map((label) => known[i]?.get(label) ?? Number.NEGATIVE_INFINITY),
      likeliest: likeliest[i],
      cachedTokens: cached[i] ?? 0,
    }),
  )
  return { answers, promptTokens }
}
