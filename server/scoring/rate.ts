// How good answers to one conversation are, by a reward model of any kind: one that reads its scores off each
// answer, or a judge that compares them.

import type { RequestLog } from '../log.js'
import type { ServedModel } from '../model/served-model.js'
import { isJudge } from '../model/served-model.js'
import type { Message } from '../prompt/conversation.js'
import { RequestError } from '../request-error.js'
import { judgeData, judgeTrials, planTrials } from './judge.js'
import { encodeInputs, type ScoreItem, scoreItems } from './scoring.js'

export type Rating = {
  readonly model: ServedModel
  /** As the client named it. */
  readonly name: string
  readonly messages: readonly Message[]
  readonly principle: string | undefined
  readonly cacheSalt: string | undefined
  /** Of what a judge writes. */
  readonly seed: number | undefined
}

const noneFits = ({ model, name }: Rating, answers: number): RequestError =>
  new RequestError(
    `None of the ${answers} candidates can be scored: each is, with its conversation, longer than the ${model.engine.info.maxModelLen} tokens of '${name}'. Ask for fewer tokens.`,
    { param: 'max_tokens', code: 'context_length_exceeded' },
  )

const path = () => ''

export type RatingCall = {
  readonly signal: AbortSignal
  /** Of the request that it is for. */
  readonly record: RequestLog
}

/** The request was admitted, and its answers with it. */
const withRequest = ({ signal, record }: RatingCall) => ({
  signal,
  record,
  isAdmitted: true,
  arrival: performance.now(),
})

/** Each two answers are compared, in both orders. */
const byComparison = async (
  rating: Rating,
  answers: readonly string[],
  call: RatingCall,
): Promise<readonly (number | null)[]> => {
  const { model, messages, principle, cacheSalt, seed } = rating
  // Without text there is nothing to judge.
  const told = answers.flatMap((text, i) => (text.trim() === '' ? [] : [i]))
  if (told.length === 0) return answers.map(() => null)
  const input = { messages, principle, responses: told.map((i) => answers[i] ?? '') }
  const fields = seed === undefined ? {} : { seed }
  const trials = await planTrials(model, [input], { fields, path, cacheSalt, skipLong: true })
  if (trials.length === 0) throw noneFits(rating, answers.length)
  const written = await judgeTrials({
    ...{ model, trials, cacheSalt, fields },
    ...withRequest(call),
  })
  const { data } = judgeData([input], written)
  const rewards = new Map(data.map(({ response, reward }) => [told[response], reward]))
  return answers.map((_, i) => rewards.get(i) ?? null)
}

/** Undefined: longer than the reward model can read. */
const encode = async (
  { model, messages, principle, cacheSalt }: Rating,
  response: string,
): Promise<ScoreItem | undefined> => {
  try {
    const input = { messages, responses: [response], principle }
    const [item] = await encodeInputs(model, [input], path, { cacheSalt })
    return item
  } catch (error) {
    if (error instanceof RequestError && error.code === 'context_length_exceeded') return undefined
    throw error
  }
}

const byScores = async (
  rating: Rating,
  answers: readonly string[],
  call: RatingCall,
): Promise<readonly (number | null)[]> => {
  const { model, cacheSalt } = rating
  const items = await Promise.all(answers.map((one) => encode(rating, one)))
  const fitting = items.filter((item) => item !== undefined)
  if (fitting.length === 0) throw noneFits(rating, items.length)
  const scored = await scoreItems({
    ...{ model, items: fitting, cacheSalt },
    ...withRequest(call),
  })
  const rewards = scored.map((one) => model.readout.reward(one.scores)).values()
  return items.map((item) => (item && rewards.next().value) ?? null)
}

/** By answer; null: with its conversation longer than the reward model reads, or not judged. */
export const rateAnswers = (
  rating: Rating,
  answers: readonly string[],
  call: RatingCall,
): Promise<readonly (number | null)[]> =>
  (isJudge(rating.model) ? byComparison : byScores)(rating, answers, call)

/** Best first; what has no score comes last, equal ones as they were. */
export const orderOf = (scores: readonly (number | null)[]): readonly number[] => {
  const rating = (i: number): number => {
    const score = scores[i] ?? Number.NaN
    return Number.isNaN(score) ? Number.NEGATIVE_INFINITY : score
  }
  return scores
    .map((_, i) => i)
    .sort((a, b) => Number(rating(b) > rating(a)) - Number(rating(a) > rating(b)) || a - b)
}
