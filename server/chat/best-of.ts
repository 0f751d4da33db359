// Best of N in one request: the candidates are generated in one batch on a shared prompt, scored by a
// reward model of the same server, and the best ones go out, best first, as if only they had been
// generated. A stage between the run and the answer: it keeps all events, and passes the winners' on.

import type { TokenLogprob } from '../engine/types.js'
import type { AnswerHandler, Stage } from '../generation/answer.js'
import {
  type AnswerEvent,
  addCallPiece,
  type Call,
  type CallPiece,
} from '../generation/answer-event.js'
import type { RequestLog } from '../log.js'
import { requirePlace } from '../model/place.js'
import { findRewardModel, type ServedModel } from '../model/served-model.js'
import type { Conversation } from '../prompt/conversation.js'
import { asRequestError, badRequest, RequestError, stackOf } from '../request-error.js'
import { orderOf, type Rating, type RatingCall, rateAnswers } from '../scoring/rate.js'
import { checkRoom } from '../scoring/scoring.js'
import { createSplitter, type Piece, type Start } from './think-splitter.js'
import { type ToolFormat, writeCalls } from './tools/format.js'

export type BestOfFields = Pick<Conversation, 'messages' | 'continue_final_message'> & {
  readonly n?: number | undefined
  readonly best_of?: number | undefined
  readonly cache_salt?: string | undefined
  readonly seed?: number | undefined
  readonly reward?:
    | {
        readonly model: string
        readonly include_thinking?: boolean | null | undefined
        readonly principle?: string | undefined
      }
    | undefined
}

type BestOf = Rating & {
  readonly candidates: number
  /** How many of them are answered. */
  readonly keep: number
  readonly includeThinking: boolean
}

/** Known once the candidates are scored. */
export type Ranking = {
  /** By candidate; null: with its conversation longer than the reward model's context. */
  readonly scores: readonly (number | null)[]
  /** Candidates, best first. */
  readonly order: readonly number[]
}

/** A reward model whose rewards can be compared. */
export const findRankingModel = (
  models: readonly ServedModel[],
  name: string,
  param: string,
): ServedModel => {
  const model = findRewardModel(models, name, param)
  if (model.readout.isScalar) return model
  throw badRequest(
    `'${name}' has several scores and no weights for them: it cannot rank answers.`,
    param,
  )
}

/** What a chat asks for; undefined when it does not ask for the best of several. */
export const planBestOf = async (
  models: readonly ServedModel[],
  body: BestOfFields,
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
  const model = findRankingModel(models, reward.model, 'reward.model')
  if (body.continue_final_message)
    throw badRequest(
      "'reward' cannot be combined with 'continue_final_message'.",
      'continue_final_message',
    )
  const { messages, cache_salt: cacheSalt } = body
  await checkRoom(model, { messages, principle: reward.principle, cacheSalt })
  requirePlace(model)
  return {
    candidates,
    keep: n,
    model,
    name: reward.model,
    messages,
    includeThinking: reward.include_thinking === true,
    principle: reward.principle,
    cacheSalt,
    seed: body.seed,
  }
}

/** What a candidate has said. It is told all at once, as one event: many of each would fill the memory. */
const newCandidate = () => ({
  reasoning: '',
  text: '',
  calls: [] as Call[],
  tokenIds: [] as number[],
  logprobs: undefined as TokenLogprob[] | undefined,
  finish: undefined as AnswerEvent['finish'],
  stopReason: undefined as AnswerEvent['stopReason'],
})
type Candidate = ReturnType<typeof newCandidate>

const addEvent = (candidate: Candidate, event: AnswerEvent): void => {
  candidate.reasoning += event.reasoning
  candidate.text += event.text
  for (const piece of event.calls) addCallPiece(candidate.calls, piece)
  for (const id of event.tokenIds) candidate.tokenIds.push(id)
  if (event.logprobs) {
    candidate.logprobs ??= []
    for (const one of event.logprobs) candidate.logprobs.push(one)
  }
  candidate.finish = event.finish
  candidate.stopReason = event.stopReason
}

const piecesOf = ({ id, name, arguments: text }: Call, index: number): CallPiece[] => [
  { index, id, name, arguments: '' },
  { index, arguments: text },
]

/** Thinking and answer of a reply that is told in one piece. */
const splitReply = (start: Start, { finish, text }: Pick<Candidate, 'finish' | 'text'>): Piece => {
  const splitter = createSplitter(start)
  const first = splitter.push(text)
  const rest = splitter.end(finish === 'stop')
  return { reasoning: first.reasoning + rest.reasoning, content: first.content + rest.content }
}

/** What is scored: the answer, or the whole reply as the model writes it. */
const judgedText = ({ includeThinking }: BestOf, { reasoning, content }: Piece): string =>
  includeThinking && reasoning !== '' ? `<think>\n${reasoning}\n</think>\n\n${content}` : content

const rank = async (
  bestOf: BestOf,
  candidates: readonly Piece[],
  call: RatingCall,
): Promise<Ranking> => {
  const texts = candidates.map((one) => judgedText(bestOf, one))
  const scores = await rateAnswers(bestOf, texts, call)
  return { scores, order: orderOf(scores) }
}

type CandidateForm = {
  /** Where the candidates' texts begin, when they come with their thinking in them. */
  readonly unsplit: Start | undefined
  /** How they call tools. */
  readonly format: ToolFormat | undefined
}

export const createBestOf = (bestOf: BestOf, { unsplit, format }: CandidateForm) => {
  let ranking: Ranking | undefined

  const stage = (answer: AnswerHandler, record: RequestLog): Stage => {
    const gone = new AbortController()
    const candidates = Array.from({ length: bestOf.candidates }, newCandidate)
    let promptLogprobs: AnswerEvent['promptLogprobs']
    record.asks = [bestOf.model.id]
    const leave = () => {
      record.asks = []
    }
    const tell = ({ order }: Ranking): void => {
      for (const [choice, best] of order.slice(0, bestOf.keep).entries()) {
        const candidate = candidates[best]
        if (candidate === undefined) continue
        answer.onEvent({
          ...candidate,
          choice,
          calls: candidate.calls.flatMap(piecesOf),
          promptLogprobs: choice === 0 ? promptLogprobs : undefined,
        })
      }
      answer.onDone()
    }
    /** Nobody waits for it, so it throws nothing. */
    const finish = async () => {
      try {
        const replies = candidates.map(({ reasoning, text: said, calls, finish }) => {
          const text = format ? said + writeCalls(format, calls) : said
          return unsplit === undefined
            ? { reasoning, content: text }
            : splitReply(unsplit, { finish, text })
        })
        ranking = await rank(bestOf, replies, { signal: gone.signal, record })
        tell(ranking)
      } catch (error) {
        if (gone.signal.aborted) return
        if (!(error instanceof RequestError)) record.line.bug = stackOf(error)
        answer.onError(asRequestError(error))
      } finally {
        leave()
      }
    }
    return {
      onEvent: (event) => {
        promptLogprobs ??= event.promptLogprobs
        const candidate = candidates[event.choice]
        if (candidate !== undefined) addEvent(candidate, event)
      },
      onDone: () => void finish(),
      onError: (error) => {
        leave()
        answer.onError(error)
      },
      abort: () => {
        leave()
        gone.abort()
      },
    }
  }
  return { stage, ranking: () => ranking }
}
