// Judges: reward models that write what they think of one answer or of two (Nemotron's GenRM). Several
// answers are compared each with each, in both orders, and rewarded with the mean of what they got.

import { setMaxListeners } from 'node:events'
import { z } from 'zod'
import { type WholeText, writeTexts } from '../generation/whole-texts.js'
import { ownObject } from '../list.js'
import type { RequestLog } from '../log.js'
import type { ServedModel } from '../model/served-model.js'
import { charactersOf, type Message } from '../prompt/conversation.js'
import { checkCharacters, encodePrompt, segmentsText } from '../prompt/encode.js'
import type { ChatTemplate } from '../prompt/template.js'
import { badRequest, contextExceeded, RequestError } from '../request-error.js'
import { mapInTurns, startInTurns } from '../slices.js'
import { engineWork } from './engine-work.js'
import { pointsOf, readJudgement } from './judgement.js'
import { judgeSegments, principleMessages, type RewardModel, type ScoreInput } from './scoring.js'

/** How a judge is asked; only judges take it. */
export const JudgeFields = ownObject({
  both_orders: z
    .boolean()
    .optional()
    .describe('Compare each two answers twice, each of them first once. Default true.'),
  votes: z.int().min(1).max(64).optional().describe('Judgements of each comparison. Default 1.'),
  max_tokens: z.int().min(1).optional().describe("Of one judgement. Default: the model's own."),
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().gt(0).max(1).optional(),
  seed: z.int().optional().describe('The same seed gives the same judgements.'),
  return_text: z.boolean().optional().describe('Add what the judge wrote. Default false.'),
}).describe('How a judge (GenRM) is asked. Other reward models refuse it.')
export type JudgeFields = z.output<typeof JudgeFields>

/** One or two answers of an input, to be judged together. */
type Trial = {
  readonly input: number
  readonly responses: readonly [number] | readonly [number, number]
  readonly ids: readonly number[]
  readonly maxTokens: number
}

const MAX_JUDGEMENTS = 4096

const ROLES = ['response_1', 'response_2'] as const

/** Which answers are compared, in which order. */
const pairsOf = (count: number, bothOrders: boolean): readonly Trial['responses'][] => {
  if (count === 1) return [[0]]
  const pairs: Trial['responses'][] = []
  for (let i = 0; i < count; i++)
    for (let j = i + 1; j < count; j++) {
      pairs.push([i, j])
      if (bothOrders) pairs.push([j, i])
    }
  return pairs
}

type Shown = { readonly role: (typeof ROLES)[number]; readonly content: string }

/** By template: the roles of answers that it shows. */
const known = new WeakMap<ChatTemplate, ReadonlySet<Shown['role']>>()

/** Two answers that make no difference to a prompt are not in it: what they say may be there without them. */
const showsAnswer = (model: RewardModel, role: Shown['role']): boolean => {
  const find = () => {
    const differs = (one: Shown['role']): boolean => {
      const [a, b] = ['first 1', 'other 2'].map((content) =>
        segmentsText(
          judgeSegments(model.template, [
            { role: 'user', content: 'a' },
            ...ROLES.map((each) => ({ role: each, content: each === one ? content : 'b' })),
          ]),
        ),
      )
      return a !== b
    }
    return new Set(ROLES.filter(differs))
  }
  const roles = known.get(model.template) ?? find()
  known.set(model.template, roles)
  return roles.has(role)
}

const promptOf = (model: RewardModel, given: readonly Message[], shown: readonly Shown[]) => {
  const messages: readonly Message[] = [...given, ...shown]
  checkCharacters(charactersOf(messages), model, 'messages')
  const segments = judgeSegments(model.template, messages)
  const unseen = shown.find(({ role }) => !showsAnswer(model, role))
  if (unseen !== undefined)
    throw badRequest(
      `The chat template of '${model.id}' does not show a message of role '${unseen.role}': it is no template of a judge.`,
      'model',
    )
  return segments
}

/** Messages before the answers (and the principle), and the answers: of a conversation that ends with one, that one. */
const split = ({ messages, responses }: ScoreInput) => {
  if (responses != null) return { before: messages, answers: responses }
  return { before: messages.slice(0, -1), answers: [messages.at(-1)?.content ?? ''] }
}

const checkInput = (
  { id }: RewardModel,
  { messages, responses }: ScoreInput,
  path: string,
): void => {
  const at = `${path}messages`
  const endsWithAnswer = messages.at(-1)?.role === 'assistant'
  if (responses == null && !endsWithAnswer)
    throw badRequest(
      `'${id}' judges answers: give 'responses', or end '${at}' with the assistant's.`,
      at,
    )
  if (responses != null && endsWithAnswer)
    throw badRequest(
      `With 'responses' the messages end before the answer, but the last one in '${at}' is the assistant's.`,
      at,
    )
  const empty = split({ messages, responses }).answers.findIndex((one) => one.trim() === '')
  if (empty >= 0) {
    const where = responses == null ? at : `${path}responses.${empty}`
    throw badRequest(`The answer in '${where}' is empty: there is nothing to judge.`, where)
  }
}

type PlanOptions = {
  readonly fields: JudgeFields | undefined
  readonly path: (input: number) => string
  readonly cacheSalt: string | undefined
  /** Comparisons that are too long are left out, and not an error. */
  readonly skipLong?: boolean
}

/** Everything is rendered and checked before the judge writes anything. */
export const planTrials = async (
  model: RewardModel,
  inputs: readonly ScoreInput[],
  { fields = {}, path, cacheSalt, skipLong = false }: PlanOptions,
): Promise<readonly Trial[]> => {
  const { judge } = model.readout
  if (judge === undefined) throw new Error(`${model.id} is no judge`)
  const { maxModelLen } = model.engine.info
  const judgedBy = inputs.map(({ principle }, i) =>
    principleMessages(model, principle, `${path(i)}principle`),
  )
  for (const [i, input] of inputs.entries()) checkInput(model, input, path(i))
  const asked = inputs.flatMap((given, input) => {
    const { before: conversation, answers } = split(given)
    const before = [...conversation, ...(judgedBy[input] ?? [])]
    return pairsOf(answers.length, fields.both_orders ?? true).map((responses) => ({
      ...{ input, responses, before },
      shown: responses.map(
        (at, i): Shown => ({
          role: i === 0 ? 'response_1' : 'response_2',
          content: answers[at] ?? '',
        }),
      ),
    }))
  })
  const votes = fields.votes ?? 1
  if (asked.length * votes > MAX_JUDGEMENTS)
    throw badRequest(
      `These responses make ${asked.length} comparisons of ${votes} votes each: at most ${MAX_JUDGEMENTS} judgements in one request.`,
      'responses',
    )
  const trials = await mapInTurns(asked, async ({ input, responses, before, shown }) => {
    const param = `${path(input)}responses.${Math.max(...responses)}`
    try {
      const ids = await encodePrompt(promptOf(model, before, shown), model, param, cacheSalt)
      const room = maxModelLen - ids.length
      const needed = fields.max_tokens ?? 1
      if (room < needed) throw contextExceeded(maxModelLen, ids.length, needed, param)
      return {
        ...{ input, responses, ids },
        maxTokens: fields.max_tokens ?? Math.min(judge.max_tokens, room),
      } as Trial
    } catch (error) {
      const isLong = error instanceof RequestError && error.code === 'context_length_exceeded'
      if (skipLong && isLong) return undefined
      throw error
    }
  })
  return trials.filter((trial) => trial !== undefined)
}

/** What a judge wrote of a trial. */
type Written = Trial & { readonly votes: readonly WholeText[] }

type JudgeOptions = {
  readonly fields: JudgeFields | undefined
  readonly signal?: AbortSignal | undefined
  readonly priority?: number | undefined
  readonly cacheSalt?: string | undefined
  readonly isAdmitted?: boolean
  /** When the work began that they are part of. */
  readonly since?: number | undefined
  /** A vote has ended, perhaps by a failure. */
  readonly onEnd?: (end: WholeText, vote: number) => void
}

/** All trials in one batch on the engine. The first failure ends the others. */
export const judgeBatch = async (
  { engine, readout }: RewardModel,
  trials: readonly Trial[],
  options: JudgeOptions,
): Promise<readonly Written[]> => {
  const { fields = {}, signal, priority, cacheSalt, isAdmitted = false, since } = options
  const { onEnd = () => {} } = options
  const others = new AbortController()
  const any = signal ? AbortSignal.any([signal, others.signal]) : others.signal
  const { temperature = readout.judge?.temperature, top_p: topP = readout.judge?.top_p } = fields
  setMaxListeners(0, any) // as many as there are trials
  const votes = fields.votes ?? 1
  try {
    return await startInTurns(trials, async (trial, i): Promise<Written> => {
      const written = await writeTexts(
        engine,
        {
          promptTokenIds: trial.ids,
          n: votes,
          // The first asks for a place, the others come with it.
          admitted: isAdmitted || i > 0,
          since,
          ...(priority !== undefined && { priority }),
          ...(cacheSalt !== undefined && { cacheSalt }),
          sampling: {
            maxTokens: trial.maxTokens,
            ...(temperature !== undefined && { temperature }),
            ...(topP !== undefined && { topP }),
            // The next ones may be beyond what a number keeps.
            ...(fields.seed !== undefined && {
              seed: BigInt.asUintN(64, BigInt(fields.seed) + BigInt(i * votes)),
            }),
          },
        },
        { signal: any, onEnd },
      )
      return { ...trial, votes: written }
    })
  } catch (error) {
    others.abort()
    throw error
  }
}

type Mean = { sum: number; own: number; count: number }

/** Of each answer of each input, in order: the mean of its points, and of its own scores; null where no
 * judgement of it can be read. */
export const judgeData = (
  inputs: readonly ScoreInput[],
  written: readonly Written[],
  fields: JudgeFields = {},
) => {
  const means = inputs.map((input) =>
    split(input).answers.map((): Mean => ({ sum: 0, own: 0, count: 0 })),
  )
  const comparisons = written.flatMap(({ input, responses, votes }) =>
    votes.map(({ text }) => {
      const judgement = readJudgement(text, responses.length)
      const points = judgement === undefined ? [] : pointsOf(judgement)
      for (const [i, response] of responses.entries()) {
        const mean = means[input]?.[response]
        if (mean === undefined || judgement === undefined) continue
        mean.sum += points[i] ?? 0
        mean.own += judgement.scores[i] ?? 0
        mean.count++
      }
      return {
        input,
        responses,
        scores: judgement?.scores ?? null,
        ranking: judgement?.ranking ?? null,
        ...(fields.return_text === true && { text }),
      }
    }),
  )
  const data = means
    .flatMap((of, input) => of.map((mean, response) => ({ mean, input, response })))
    .map(({ mean: { sum, own, count }, input, response }, index) => ({
      object: 'reward' as const,
      index,
      input,
      response,
      reward: count === 0 ? null : sum / count,
      scores: count === 0 ? [] : [own / count],
    }))
  return { data, comparisons }
}

export const judgeUsage = (written: readonly Written[]) => {
  const prompt = written.reduce((sum, { ids }) => sum + ids.length, 0)
  const votes = written.flatMap((one) => one.votes)
  const completion = votes.reduce((sum, { tokens }) => sum + tokens, 0)
  const cached = written.reduce((sum, one) => sum + (one.votes[0]?.timings?.cachedTokens ?? 0), 0)
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: cached },
  }
}

type JudgeCall = JudgeOptions & {
  readonly model: ServedModel
  readonly trials: readonly Trial[]
  readonly record: RequestLog
  readonly signal: AbortSignal
  readonly arrival: number
}

/** The same as one HTTP request: admitted, measured, logged. */
export const judgeTrials = (call: JudgeCall): Promise<readonly Written[]> => {
  const { model, trials, fields } = call
  const work = {
    ...call,
    items: trials.length,
    choices: trials.length * (fields?.votes ?? 1),
    promptTokens: trials.reduce((sum, { ids }) => sum + ids.length, 0),
    maxTokens: Math.max(0, ...trials.map(({ maxTokens }) => maxTokens)),
  }
  return engineWork(work, (done) =>
    judgeBatch(model, trials, { ...call, since: call.record.begun, onEnd: done }),
  )
}
