// POST /v1/rerank and /v1/score, in vLLM's shapes: how good an answer each document is to a query. A score
// is the reward, as it is: it has the model's scale.

import { findRankingModel } from '../../chat/best-of.js'
import type { Ctx } from '../../http/context.js'
import type { ServedModel } from '../../model/served-model.js'
import { badRequest } from '../../request-error.js'
import { encodeInputs, scoreUsage } from '../../scoring/scoring.js'
import { readRequest } from '../read-request.js'
import { answerId, answerJson, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { UNSERVED_OF_SCORES } from '../unserved-fields.js'
import { type Common, refuseJudge, score } from './routes.js'
import { RerankRequest, ScoreRequest } from './schema.js'

type Pair = { readonly query: string; readonly document: string; readonly param: string }

type Ranked = {
  readonly model: ServedModel
  readonly body: Common & { readonly principle?: string | undefined }
  readonly pairs: readonly Pair[]
  /** The field that has the documents. */
  readonly field: string
}

const findRanker = (server: Server, name: string): ServedModel => {
  const model = findRankingModel(server.models(), name, 'model')
  refuseJudge(model)
  return model
}

/** In the order of the pairs. */
const rewardsOf = async (
  c: Ctx,
  server: Server,
  { model, body, pairs, field }: Ranked,
  arrival: number,
) => {
  const inputs = pairs.map(({ query, document }) => ({
    messages: [{ role: 'user' as const, content: query }],
    responses: [document],
    principle: body.principle,
  }))
  const names = { item: (input: number) => pairs[input]?.param ?? field, all: field }
  const items = await encodeInputs(model, inputs, () => '', { names, cacheSalt: body.cache_salt })
  const scored = await score(c, server, model, items, body, arrival)
  const rewards = scored.map(({ scores }) => {
    const reward = model.readout.reward(scores)
    if (reward === null) throw new Error(`${model.id} has no reward of ${scores}`)
    return reward
  })
  const { prompt_tokens, total_tokens, prompt_tokens_details } = scoreUsage(scored)
  return {
    rewards,
    usage: { prompt_tokens, total_tokens, completion_tokens: 0, prompt_tokens_details },
  }
}

/** The best first; of equals the one that was given first. */
export const rerankRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, RerankRequest, 'reward', UNSERVED_OF_SCORES)
    const model = findRanker(server, body.model)
    const { query, top_n: top = 0, return_documents: showsDocuments = true } = body
    const texts = body.documents.map((one) => (typeof one === 'string' ? one : one.text))
    const pairs = texts.map((document, i) => ({ query, document, param: `documents.${i}` }))
    const { rewards, usage } = await rewardsOf(
      c,
      server,
      { model, body, pairs, field: 'documents' },
      arrival,
    )
    const results = rewards
      .map((reward, index) => ({
        index,
        ...(showsDocuments && { document: { text: texts[index] } }),
        relevance_score: reward,
      }))
      .sort((a, b) => b.relevance_score - a.relevance_score)
    return answerJson(c, {
      id: answerId('rerank-'),
      model: body.model,
      results: top === 0 ? results : results.slice(0, top),
      usage,
    })
  }

/** The names that vLLM has for the two sides. */
const SIDES = [
  ['text_1', 'text_2'],
  ['data_1', 'data_2'],
  ['queries', 'documents'],
  ['queries', 'items'],
] as const
const KEYS = ['text_1', 'text_2', 'data_1', 'data_2', 'queries', 'documents', 'items'] as const

const readPairs = (body: ScoreRequest): Pick<Ranked, 'pairs' | 'field'> => {
  const given = KEYS.filter((key) => body[key] !== undefined)
  const sides = SIDES.find((keys) => given.length === 2 && keys.every((key) => given.includes(key)))
  if (sides === undefined)
    throw badRequest(
      "Exactly one pair of 'text_1' and 'text_2', 'data_1' and 'data_2', 'queries' and 'documents', or 'queries' and 'items' is needed.",
      given.at(-1) ?? 'text_1',
    )
  const [left, right] = sides
  const queries = [body[left] ?? []].flat()
  const documents = [body[right] ?? []].flat()
  if (queries.length !== 1 && queries.length !== documents.length)
    throw badRequest(
      `'${left}' has ${queries.length} texts and '${right}' has ${documents.length}: give as many, or one in '${left}' for all.`,
      right,
    )
  const isList = Array.isArray(body[right])
  const pairs = documents.map((document, i) => ({
    query: queries[queries.length === 1 ? 0 : i] ?? '',
    document,
    param: isList ? `${right}.${i}` : right,
  }))
  return { pairs, field: right }
}

export const scoreRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, ScoreRequest, 'reward', UNSERVED_OF_SCORES)
    const model = findRanker(server, body.model)
    const { rewards, usage } = await rewardsOf(
      c,
      server,
      { model, body, ...readPairs(body) },
      arrival,
    )
    return answerJson(c, {
      id: answerId('score-'),
      object: 'list',
      created: unixTime(),
      model: body.model,
      data: rewards.map((reward, index) => ({ index, object: 'score', score: reward })),
      usage,
    })
  }
