// POST /v1/reward, and the same call in other servers' shapes: /pooling (vLLM), /classify (SGLang).

import type { Ctx } from '../../http/context.js'
import { findRewardModel, isJudge, isReward, type ServedModel } from '../../model/served-model.js'
import { readMessages } from '../../prompt/conversation.js'
import { badRequest } from '../../request-error.js'
import { judgeData, judgeTrials, judgeUsage } from '../../scoring/judge.js'
import { planJudging, planRewards, rewardData } from '../../scoring/rewards.js'
import {
  encodeInputs,
  encodeRaw,
  type ScoreItem,
  scoreItems,
  scoreUsage,
} from '../../scoring/scoring.js'
import { readRequest } from '../read-request.js'
import { answerId, answerJson, signalOf, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { UNSERVED_OF_SCORES } from '../unserved-fields.js'
import { ClassifyRequest, PoolingRequest, RewardRequest } from './schema.js'

export type Common = {
  readonly priority?: number | undefined
  readonly cache_salt?: string | undefined
}

export const score = (
  c: Ctx,
  server: Server,
  model: ServedModel,
  items: readonly ScoreItem[],
  body: Common,
  arrival: number,
) =>
  scoreItems({
    model,
    items,
    record: c.get('record'),
    signal: signalOf(c, server),
    arrival,
    priority: body.priority,
    cacheSalt: body.cache_salt,
  })

const judged = async (
  c: Ctx,
  server: Server,
  model: ServedModel,
  body: RewardRequest,
  arrival: number,
) => {
  const { inputs, trials } = await planJudging(model, body, body.cache_salt)
  const written = await judgeTrials({
    ...{ model, trials, arrival, fields: body.judge },
    record: c.get('record'),
    signal: signalOf(c, server),
    priority: body.priority,
    cacheSalt: body.cache_salt,
  })
  return {
    id: answerId('reward-'),
    object: 'list',
    model: body.model,
    ...judgeData(inputs, written, body.judge),
    usage: judgeUsage(written),
  }
}

/** Those that other servers know read scores off one conversation. */
export const refuseJudge = (model: ServedModel): void => {
  if (isJudge(model))
    throw badRequest(`'${model.id}' is a judge: it answers at /v1/reward.`, 'model')
}

export const rewardRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, RewardRequest, 'reward', UNSERVED_OF_SCORES)
    const model = findRewardModel(server.models(), body.model)
    if (isJudge(model)) return answerJson(c, await judged(c, server, model, body, arrival))
    const items = await planRewards(model, body, body.cache_salt)
    const scored = await score(c, server, model, items, body, arrival)
    return answerJson(c, {
      id: answerId('reward-'),
      object: 'list',
      model: body.model,
      ...rewardData(model, scored, body.pairwise === true),
      usage: scoreUsage(scored),
    })
  }

const base64 = (scores: readonly number[]): string =>
  Buffer.from(Float32Array.from(scores).buffer).toString('base64')

/** vLLM's: data[i].data are the head's outputs. */
export const poolingRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, PoolingRequest, 'reward', UNSERVED_OF_SCORES)
    const model = findRewardModel(server.models(), body.model)
    refuseJudge(model)
    if ((body.messages === undefined) === (body.input === undefined))
      throw badRequest("Exactly one of 'messages' and 'input' is needed.", 'input')
    const { principle } = body
    if (body.input !== undefined && principle !== undefined)
      throw badRequest("'principle' is of 'messages': 'input' is scored as it is.", 'principle')
    const items =
      body.messages !== undefined
        ? await encodeInputs(
            model,
            [{ messages: readMessages(body.messages), principle }],
            () => '',
            { cacheSalt: body.cache_salt },
          )
        : await encodeRaw(model, body.input ?? [], 'input')
    const scored = await score(c, server, model, items, body, arrival)
    const tokens = scored.reduce((sum, { ids }) => sum + ids.length, 0)
    return answerJson(c, {
      id: answerId('pool-'),
      object: 'list',
      created: unixTime(),
      model: body.model,
      data: scored.map(({ scores }, index) => ({
        index,
        object: 'pooling',
        data: body.encoding_format === 'base64' ? base64(scores) : scores,
      })),
      usage: {
        prompt_tokens: tokens,
        total_tokens: tokens,
        completion_tokens: 0,
        prompt_tokens_details: scoreUsage(scored).prompt_tokens_details,
      },
    })
  }

/** SGLang's: one object for one text, a list for several. Without `model`, the only reward model. */
export const classifyRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, ClassifyRequest, 'reward', UNSERVED_OF_SCORES)
    const able = server.models().filter(isReward)
    const only = able.length === 1 ? able[0]?.id : undefined
    const name = body.model ?? only
    if (name === undefined)
      throw badRequest(
        able.length === 0
          ? 'This server serves no reward model.'
          : `Missing required parameter: 'model', one of ${able.map(({ id }) => `'${id}'`).join(', ')}.`,
        'model',
      )
    const model = findRewardModel(server.models(), name)
    refuseJudge(model)
    const given = (['text', 'input', 'input_ids'] as const).filter((key) => body[key] !== undefined)
    const key = given[0]
    if (key === undefined || given.length > 1)
      throw badRequest("Exactly one of 'text', 'input' and 'input_ids' is needed.", key ?? 'text')
    const value = body[key] ?? []
    const scored = await score(c, server, model, await encodeRaw(model, value, key), body, arrival)
    const answers = scored.map(({ ids, scores, timings }) => ({
      embedding: scores,
      meta_info: {
        id: c.get('requestId'),
        prompt_tokens: ids.length,
        cached_tokens: timings.cachedTokens,
      },
    }))
    const single = typeof value === 'string' || value.every((one) => typeof one === 'number')
    return answerJson(c, single ? answers[0] : answers)
  }
