// What a reward request means and what its scores say: shared by /v1/reward and engine.reward().

import { z } from 'zod'
import { list, ownObject } from '../list.js'
import { GivenMessages, Principle, readMessages } from '../prompt/conversation.js'
import { badRequest } from '../request-error.js'
import { JudgeFields, planTrials } from './judge.js'
import {
  encodeInputs,
  type RewardModel,
  type Scored,
  type ScoreInput,
  type ScoreItem,
} from './scoring.js'

const Responses = list(z.string(), 1, 1024).describe(
  'Candidate answers to the conversation, which then ends with the user.',
)

/** What is asked, by HTTP and in process. */
export const RewardBody = z.looseObject({
  messages: GivenMessages.optional().describe('One conversation. Not together with `inputs`.'),
  responses: Responses.optional(),
  principle: Principle.optional(),
  inputs: list(
    ownObject({
      messages: GivenMessages,
      responses: Responses.nullish(),
      principle: Principle.optional(),
    }),
    1,
    2048,
  )
    .optional()
    .describe('Many conversations.'),
  judge: JudgeFields.optional(),
  pairwise: z
    .boolean()
    .optional()
    .describe('Add preferences between the candidates of each prompt (Bradley-Terry).'),
})
export type RewardBody = z.output<typeof RewardBody>

/** Exactly one of `messages` and `inputs`. */
const inputsOf = (body: RewardBody): readonly ScoreInput[] => {
  if (body.inputs !== undefined) {
    for (const key of ['messages', 'responses'] as const) {
      if (body[key] !== undefined)
        throw badRequest(`'${key}' and 'inputs' cannot both be given: put it inside an input.`, key)
    }
    return body.inputs.map(({ messages, responses, principle = body.principle }) => ({
      messages: readMessages(messages),
      responses,
      principle,
    }))
  }
  if (body.messages === undefined)
    throw badRequest("Missing required parameter: 'messages' (or 'inputs').", 'messages')
  const { responses, principle } = body
  return [{ messages: readMessages(body.messages), responses, principle }]
}

/** About 100 bytes each; 256 answers to one prompt have 32,640. */
const MAX_PAIRS = 40_000

/** Checks everything and makes the items, in order. */
export const planRewards = async (
  model: RewardModel,
  body: RewardBody,
  cacheSalt: string | undefined,
): Promise<readonly ScoreItem[]> => {
  if (body.judge !== undefined)
    throw badRequest(
      `'judge' is not supported: '${model.id}' reads its scores off the answer and writes no judgements.`,
      'judge',
    )
  if (body.pairwise && !model.readout.isScalar)
    throw badRequest(
      `'pairwise' needs a scalar reward; '${model.id}' has several scores and no weights for them.`,
      'pairwise',
    )
  const inputs = inputsOf(body)
  const pairs = inputs.reduce((sum, { responses }) => {
    const count = responses?.length ?? 1
    return sum + (count * (count - 1)) / 2
  }, 0)
  if (body.pairwise && pairs > MAX_PAIRS)
    throw badRequest(
      `'pairwise' of these responses makes ${pairs} preferences: at most ${MAX_PAIRS}.`,
      'pairwise',
    )
  const path = (input: number) => (body.inputs === undefined ? '' : `inputs.${input}.`)
  for (const [input, { responses }] of inputs.entries()) {
    const empty = responses?.indexOf('') ?? -1
    const at = `${path(input)}responses.${empty}`
    if (empty >= 0) throw badRequest(`'${at}' is empty: there is nothing to score.`, at)
  }
  return encodeInputs(model, inputs, path, { cacheSalt })
}

/** The same for a judge. */
export const planJudging = async (
  model: RewardModel,
  body: RewardBody,
  cacheSalt: string | undefined,
) => {
  if (body.pairwise)
    throw badRequest(
      `'pairwise' is not supported: '${model.id}' is a judge, and 'comparisons' of its answer say what it found.`,
      'pairwise',
    )
  const inputs = inputsOf(body)
  const path = (input: number) => (body.inputs === undefined ? '' : `inputs.${input}.`)
  return {
    inputs,
    trials: await planTrials(model, inputs, { fields: body.judge, path, cacheSalt }),
  }
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

type Preference = {
  readonly chosen: number
  readonly rejected: number
  readonly probability: number
}

/** Bradley-Terry: P(a over b) = sigmoid(reward a - reward b). Every pair of one prompt's candidates, which
 * stand together, the better one as chosen; a tie keeps the order given. */
const preferences = (model: RewardModel, scored: readonly Scored[]): readonly Preference[] => {
  const rewards = scored.map(({ scores }) => model.readout.reward(scores) ?? 0)
  const all: Preference[] = []
  for (const [i, a] of scored.entries()) {
    for (let j = i + 1; scored[j]?.input === a.input; j++) {
      const [ra = 0, rb = 0] = [rewards[i], rewards[j]]
      const [chosen, rejected] = rb > ra ? [j, i] : [i, j]
      all.push({ chosen, rejected, probability: sigmoid(Math.abs(ra - rb)) })
    }
  }
  return all
}

export const rewardData = (model: RewardModel, scored: readonly Scored[], pairwise: boolean) => ({
  data: scored.map((one, index) => {
    const attributes = model.readout.attributes(one.scores)
    return {
      object: 'reward' as const,
      index,
      input: one.input,
      response: one.response,
      reward: model.readout.reward(one.scores),
      scores: one.scores,
      ...(attributes && { attributes }),
    }
  }),
  ...(pairwise && { preferences: preferences(model, scored) }),
})
