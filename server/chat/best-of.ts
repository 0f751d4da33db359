// Best of N in one request: the candidates are generated in one batch on a shared prompt, scored by a
// reward model of the same server, and the best ones go out, best first, as if only they had been
// generated. Fits between a chat route and its Run: what is sent is a replay of the winners' deltas.

import type { ChatRequest, Message } from '../api/openai/schema.js'
import type { Delta } from '../engine/types.js'
import { type Run, type RunHandler, type RunOptions, startRun } from '../generation/run.js'
import { ApiError, badRequest } from '../http/errors.js'
import { requireQueue, type ServedModel, type Server } from '../model/served-model.js'
import {
  checkRoom,
  encodeInputs,
  findRewardModel,
  type ScoreItem,
  scoreItems,
} from '../scoring/scoring.js'
import { createChoice } from './choice.js'
import type { Start } from './think-splitter.js'

export type BestOf = {
  readonly candidates: number
  readonly model: ServedModel
  /** As the client named it. */
  readonly name: string
  readonly messages: readonly Message[]
  readonly includeThinking: boolean
}

/** Known once the candidates are scored. */
export type Ranking = {
  /** By candidate; null: with its conversation longer than the reward model's context. */
  readonly scores: readonly (number | null)[]
  /** Candidates, best first. */
  readonly order: readonly number[]
}

/** What a chat asks for; undefined when it does not ask for the best of several. */
export const planBestOf = async (
  server: Server,
  body: ChatRequest,
): Promise<BestOf | undefined> => {
  const n = body.n ?? 1
  const { best_of: candidates = n, reward } = body
  if (candidates < n)
    throw badRequest(`'best_of' (${candidates}) must not be less than 'n' (${n}).`, 'best_of')
  if (reward === undefined) {
    if (candidates === n) return undefined
    throw badRequest(
      "'best_of' above 'n' needs 'reward': {\"model\": ...}, the model that picks the best.",
      'reward',
    )
  }
  const model = findRewardModel(server, reward.model, 'reward.model')
  if (model.engine.info.rewardKind !== 'none' && !model.readout.isScalar)
    throw badRequest(
      `'${reward.model}' has several scores and no weights for them: it cannot rank answers.`,
      'reward.model',
    )
  if (body.continue_final_message)
    throw badRequest(
      "'reward' cannot be combined with 'continue_final_message'.",
      'continue_final_message',
    )
  await checkRoom(model, body.messages)
  requireQueue(model)
  return {
    candidates,
    model,
    name: reward.model,
    messages: body.messages,
    includeThinking: reward.include_thinking === true,
  }
}

export type BestOfRun = Run & { readonly ranking: () => Ranking | undefined }

export const startBestOf = (
  options: RunOptions,
  bestOf: BestOf,
  split: {
    readonly start: Start | undefined
    readonly skipSpecial: boolean
    readonly keep: number
  },
  handler: RunHandler,
): BestOfRun => {
  const { model } = options
  const deltas: Delta[][] = Array.from({ length: bestOf.candidates }, () => [])
  const gone = new AbortController()
  let ranking: Ranking | undefined

  const choices = deltas.map(() =>
    createChoice({
      start: split.start,
      tokenizer: model.tokenizer,
      skipSpecial: split.skipSpecial,
    }),
  )
  const thoughts = deltas.map(() => '')
  const answers = deltas.map(() => '')
  /** What is scored: the answer, or the whole reply as the model writes it. */
  const response = (answer: string, i: number): string =>
    bestOf.includeThinking && thoughts[i] !== ''
      ? `<think>\n${thoughts[i]}\n</think>\n\n${answer}`
      : answer

  /** Undefined: longer than the reward model can read. */
  const encode = async (answer: string): Promise<ScoreItem | undefined> => {
    try {
      const input = { messages: [...bestOf.messages], responses: [answer] }
      return (await encodeInputs(bestOf.model, [input], () => ''))[0]
    } catch (error) {
      if (error instanceof ApiError && error.code === 'context_length_exceeded') return undefined
      throw error
    }
  }

  const rank = async (): Promise<Ranking> => {
    const items = await Promise.all(answers.map(response).map(encode))
    const fitting = items.filter((item) => item !== undefined)
    if (fitting.length === 0)
      throw new ApiError(
        400,
        `None of the ${items.length} candidates can be scored: each is, with its conversation, longer than the ${bestOf.model.engine.info.maxModelLen} tokens of '${bestOf.name}'. Ask for fewer tokens.`,
        { param: 'max_tokens', code: 'context_length_exceeded' },
      )
    const scored = await scoreItems({
      model: bestOf.model,
      items: fitting,
      record: {},
      // The chat was admitted, and its candidates with it.
      isAdmitted: true,
      signal: gone.signal,
      arrival: performance.now(),
    })
    const rewards = scored.map((one) => bestOf.model.readout.reward(one.scores)).values()
    const scores = items.map((item) => (item && rewards.next().value) ?? null)
    const order = scores.map((_, i) => i)
    const rating = (i: number): number => {
      const score = scores[i] ?? Number.NaN
      return Number.isNaN(score) ? Number.NEGATIVE_INFINITY : score
    }
    order.sort((a, b) => Number(rating(b) > rating(a)) - Number(rating(a) > rating(b)) || a - b)
    return { scores, order }
  }

  const finish = async () => {
    try {
      ranking = await rank()
    } catch (error) {
      if (gone.signal.aborted) return
      handler.onError(
        error instanceof ApiError
          ? error
          : new ApiError(500, 'Scoring the candidates failed.', { code: 'internal' }),
      )
      return
    }
    for (const [choice, candidate] of ranking.order.slice(0, split.keep).entries()) {
      for (const delta of deltas[candidate] ?? []) handler.onDelta(0, { ...delta, choice })
    }
    handler.onDone()
  }

  const run = startRun(
    {
      ...options,
      reasoningTokens: () => choices.reduce((sum, one) => sum + one.reasoningTokens(), 0),
    },
    {
      onDelta: (_, delta) => {
        deltas[delta.choice]?.push(delta)
        const piece = choices[delta.choice]?.push(delta)
        if (piece) {
          thoughts[delta.choice] += piece.reasoning
          answers[delta.choice] += piece.content
        }
      },
      onDone: () => void finish(),
      onError: handler.onError,
    },
  )
  return {
    ...run,
    abort: () => {
      gone.abort()
      run.abort()
    },
    ranking: () => ranking,
  }
}
