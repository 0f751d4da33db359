// Feedback, edit, select: drafts are judged in words by one model, edited by those words by another, and the
// best of drafts and edits is chosen by a reward model (HelpSteer3, arXiv 2503.04378).

import { setMaxListeners } from 'node:events'
import { writeTexts } from '../generation/whole-texts.js'
import type { RequestLog } from '../log.js'
import { requirePlace } from '../model/place.js'
import type { ServedModel } from '../model/served-model.js'
import type { Message } from '../prompt/conversation.js'
import { encodePrompt } from '../prompt/encode.js'
import { contextExceeded, RequestError } from '../request-error.js'
import { engineWork } from '../scoring/engine-work.js'
import { orderOf, rateAnswers } from '../scoring/rate.js'
import { checkRoom } from '../scoring/scoring.js'
import { renderChat } from './prompt.js'
import { createSplitter } from './think-splitter.js'

/** Who does a part of the work, and how. */
type Stage = {
  readonly name: 'draft' | 'feedback' | 'edit'
  readonly model: ServedModel
  readonly temperature: number
  readonly topP: number | undefined
  /** As a message of the user, behind the draft; {feedback} stands for it. */
  readonly prompt: string
}

export type Refinement = {
  readonly messages: readonly Message[]
  /** Written by `draft`, or given. */
  readonly drafts: { readonly count: number } | { readonly given: readonly string[] }
  readonly draft: Omit<Stage, 'prompt'> | undefined
  readonly feedback: Stage
  /** To each draft. */
  readonly feedbacks: number
  readonly edit: Stage
  readonly select: ServedModel
  readonly selectName: string
  readonly principle: string | undefined
  readonly maxTokens: number | undefined
  readonly seed: number | undefined
  readonly cacheSalt: string | undefined
  readonly priority: number | undefined
}

type Written = { readonly text: string; readonly finish: string }

type Work = Refinement & {
  readonly defaultThinking: boolean
  readonly signal: AbortSignal
  /** Of the request. */
  readonly record: RequestLog
  readonly count: (prompt: number, completion: number, cached: number) => void
}

type Task = {
  readonly stage: Omit<Stage, 'prompt'>
  readonly messages: readonly Message[]
  readonly n: number
  /** Where its seeds begin. */
  readonly at: number
  /** The first of the request asks for a place, the others come with it. */
  readonly isFirst: boolean
}

/** Says which of the stages failed, and with which model. */
const inStage = (
  { name, model }: { readonly name: string; readonly model: ServedModel },
  error: unknown,
): unknown => {
  if (!(error instanceof RequestError)) return error
  const { kind, param, code, retryAfter } = error
  const message = `${name} by '${model.id}': ${error.message}`
  return new RequestError(message, { kind, param, code, retryAfter })
}

/** Answers to one conversation, without their thinking. */
const writeStage = async (work: Work, task: Task): Promise<readonly Written[]> => {
  const { stage, messages, n, at } = task
  const { model, temperature, topP } = stage
  const { engine } = model
  const { maxModelLen } = engine.info
  const prompt = renderChat(model, { messages }, work.defaultThinking)
  const ids = await encodePrompt(prompt.segments, model, 'messages', work.cacheSalt)
  const room = maxModelLen - ids.length
  if (room < (work.maxTokens ?? 1))
    throw contextExceeded(maxModelLen, ids.length, work.maxTokens ?? 1, 'messages')
  const maxTokens = work.maxTokens ?? room
  const texts = await engineWork(
    {
      ...{ model, maxTokens, record: work.record, signal: work.signal, isAdmitted: true },
      ...{ items: n, choices: n, promptTokens: ids.length, arrival: performance.now() },
      sampling: { maxTokens, temperature, topP },
    },
    (done) =>
      writeTexts(
        engine,
        {
          promptTokenIds: ids,
          n,
          admitted: !task.isFirst,
          since: work.record.begun,
          ...(work.priority !== undefined && { priority: work.priority }),
          ...(work.cacheSalt !== undefined && { cacheSalt: work.cacheSalt }),
          sampling: {
            maxTokens,
            temperature,
            ...(topP !== undefined && { topP }),
            ...(work.seed !== undefined && { seed: BigInt(work.seed) + BigInt(at) }),
          },
        },
        { signal: work.signal, onEnd: done },
      ),
  )
  const written = texts.reduce((sum, { tokens }) => sum + tokens, 0)
  work.count(ids.length, written, texts[0]?.timings?.cachedTokens ?? 0)
  return texts.map(({ text, finish }) => {
    if (prompt.start === undefined) return { text, finish }
    const splitter = createSplitter(prompt.start)
    const first = splitter.push(text)
    return { text: first.content + splitter.end(finish === 'stop').content, finish }
  })
}

const write = async (work: Work, task: Task): Promise<readonly Written[]> => {
  try {
    return await writeStage(work, task)
  } catch (error) {
    throw work.signal.aborted ? error : inStage(task.stage, error)
  }
}

const assistant = (content: string): Message => ({ role: 'assistant', content })
const user = (content: string): Message => ({ role: 'user', content })

const draftsOf = async (work: Work): Promise<readonly Written[]> => {
  const { drafts, draft } = work
  if ('given' in drafts) return drafts.given.map((text) => ({ text, finish: 'stop' }))
  if (draft === undefined) throw new Error('nobody writes the drafts')
  const { messages } = work
  return write(work, { stage: draft, messages, n: drafts.count, at: 0, isFirst: true })
}

type Answer = Written & {
  readonly kind: 'draft' | 'edit'
  readonly draft: number
  /** Its place among the feedbacks. */
  readonly feedback: number | null
}

type Feedback = Written & { readonly draft: number }

/** All of a draft's feedbacks at once, the drafts beside one another. A draft without text gets none. */
const feedbacksOf = async (
  work: Work,
  drafts: readonly Written[],
): Promise<readonly Feedback[]> => {
  const { messages, feedback: stage, feedbacks: n } = work
  const isGiven = 'given' in work.drafts
  const first = drafts.findIndex(({ text }) => text.trim() !== '')
  const all = await Promise.all(
    drafts.map(async ({ text }, draft) => {
      if (text.trim() === '') return []
      const asked = [...messages, assistant(text), user(stage.prompt)]
      const at = 1000 * (draft + 1)
      const isFirst = isGiven && draft === first
      const written = await write(work, { stage, messages: asked, n, at, isFirst })
      return written.map((one) => ({ ...one, draft }))
    }),
  )
  return all.flat()
}

const editsOf = (
  work: Work,
  drafts: readonly Written[],
  feedbacks: readonly Feedback[],
): Promise<readonly Answer[]> =>
  Promise.all(
    feedbacks.map(async ({ text: said, draft }, feedback) => {
      const { messages, edit: stage } = work
      const prompt = stage.prompt.replace('{feedback}', () => said)
      const asked = [...messages, assistant(drafts[draft]?.text ?? ''), user(prompt)]
      const at = 1_000_000 + feedback
      const [one] = await write(work, { stage, messages: asked, n: 1, at, isFirst: false })
      return { text: '', finish: 'stop', ...one, kind: 'edit' as const, draft, feedback }
    }),
  )

/** Whom it asks from this stage on. */
const noteAsks = (record: RequestLog, all: Refinement, from: 0 | 1 | 2 | 3): void => {
  const { draft, feedback, edit, select } = all
  const models = [(draft ?? feedback).model, feedback.model, edit.model, select]
  record.asks = models.slice(from).map(({ id }) => id)
}

export const refine = async (
  refinement: Refinement,
  {
    record,
    signal,
    defaultThinking,
  }: {
    readonly record: RequestLog
    readonly signal: AbortSignal
    readonly defaultThinking: boolean
  },
) => {
  const { messages, select, selectName, principle, cacheSalt, seed } = refinement
  try {
    await checkRoom(select, { messages, principle, cacheSalt }, 'select.principle')
  } catch (error) {
    throw inStage({ name: 'select', model: select }, error)
  }
  requirePlace(select)
  const usage = { prompt: 0, completion: 0, cached: 0 }
  // The first failure ends the others.
  const gone = new AbortController()
  const work: Work = {
    ...refinement,
    defaultThinking,
    record,
    signal: AbortSignal.any([signal, gone.signal]),
    count: (prompt, completion, cached) => {
      usage.prompt += prompt
      usage.completion += completion
      usage.cached += cached
    },
  }
  setMaxListeners(0, work.signal) // as many as there are edits
  try {
    noteAsks(record, refinement, 0)
    const drafts = await draftsOf(work)
    noteAsks(record, refinement, 1)
    const feedbacks = await feedbacksOf(work, drafts)
    noteAsks(record, refinement, 2)
    const edits = await editsOf(work, drafts, feedbacks)
    noteAsks(record, refinement, 3)
    const answers: readonly Answer[] = [
      ...drafts.map((one, draft) => ({ ...one, kind: 'draft' as const, draft, feedback: null })),
      ...edits,
    ]
    if (answers.every(({ text }) => text.trim() === ''))
      throw new RequestError(
        'No draft and no edit has any text: every token went into thinking. Allow more with max_tokens.',
        { param: 'max_tokens' },
      )
    const rating = { model: select, name: selectName, messages, principle, cacheSalt, seed }
    const told = answers.flatMap(({ text }, i) => (text.trim() === '' ? [] : [i]))
    const given = told.map((i) => answers[i]?.text ?? '')
    const rewards = await rateAnswers(rating, given, work)
    const scores = answers.map((_, i) => rewards[told.indexOf(i)] ?? null)
    return { answers, feedbacks, scores, order: orderOf(scores), usage }
  } catch (error) {
    gone.abort()
    throw error
  } finally {
    Object.assign(record.line, {
      model: refinement.edit.model.id,
      prompt_tokens: usage.prompt,
      completion_tokens: usage.completion,
      cached_tokens: usage.cached,
      weight_version: refinement.edit.model.weights.version,
    })
  }
}
