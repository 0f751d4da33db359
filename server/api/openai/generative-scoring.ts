// POST /generative_scoring, in vLLM's shape: how likely a chat model goes on with a label after a query and
// each of several items.

import type { Ctx } from '../../http/context.js'
import { findModel, refuseReward, type ServedModel } from '../../model/served-model.js'
import { checkCharacters, encodeText } from '../../prompt/encode.js'
import { badRequest, contextExceeded } from '../../request-error.js'
import { labelLogprobs } from '../../scoring/label-logprobs.js'
import { mapInTurns } from '../../slices.js'
import { readRequest } from '../read-request.js'
import { answerId, answerJson, signalOf, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { UNSERVED_OF_LABELS } from '../unserved-fields.js'
import { GenerativeScoringRequest } from './schema.js'

/** Of all prompts of a request: what they take in memory is bounded. */
const MAX_TOKENS = 1 << 22

const MAX_ASKED = 8192

/** Softmax; from the largest on, so that labels that are all unlikely still have shares. */
const shareOfFirst = (logprobs: readonly number[]): number => {
  const most = Math.max(...logprobs)
  const sum = logprobs.reduce((all, one) => all + Math.exp(one - most), 0)
  return Math.exp((logprobs[0] ?? 0) - most) / sum
}

type Given = string | readonly number[]

const checkIds = (ids: readonly number[], vocabSize: number, param: string): void => {
  const bad = ids.findIndex((id) => id >= vocabSize)
  if (bad < 0) return
  throw badRequest(
    `Invalid value for '${param}.${bad}': token id ${ids[bad]} is beyond the vocabulary of ${vocabSize}.`,
    `${param}.${bad}`,
  )
}

const encode = async (model: ServedModel, given: Given, param: string, addBos: boolean) => {
  if (typeof given !== 'string') {
    checkIds(given, model.engine.info.vocabSize, param)
    return given
  }
  checkCharacters(given.length, model, param)
  return encodeText(model.tokenizer, given, addBos)
}

/** Query and item are tokenized by themselves, as vLLM does: the tokens of a query are the same before
 * every item. What stands first begins the text. */
const promptsOf = async (model: ServedModel, body: GenerativeScoringRequest) => {
  const { query, items, item_first: isItemFirst = false, add_special_tokens: adds = true } = body
  const { maxModelLen } = model.engine.info
  const before = await encode(model, query, 'query', adds && !isItemFirst)
  let total = 0
  return mapInTurns<Given, readonly number[]>(items, async (item, i) => {
    const param = `items.${i}`
    const ids = await encode(model, item, param, adds && isItemFirst)
    const length = ids.length + before.length
    if (length + 1 > maxModelLen) throw contextExceeded(maxModelLen, length, 1, param)
    if (length === 0) throw badRequest(`'query' and '${param}' are both empty.`, param)
    total += length
    if (total > MAX_TOKENS)
      throw badRequest(
        `The items, each with the query, have more than ${MAX_TOKENS} tokens in one request.`,
        'items',
      )
    return isItemFirst ? ids.concat(before) : before.concat(ids)
  })
}

export const generativeScoringRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, GenerativeScoringRequest, 'chat', UNSERVED_OF_LABELS)
    const model = findModel(server.models(), body.model)
    refuseReward(server.models(), model, 'it writes no text')
    const { label_token_ids: ids, apply_softmax: isNormalised = true } = body
    checkIds(ids, model.engine.info.vocabSize, 'label_token_ids')
    const twice = ids.findIndex((id, i) => ids.indexOf(id) < i)
    if (twice >= 0)
      throw badRequest(
        `'label_token_ids.${twice}' is there twice: token id ${ids[twice]}.`,
        `label_token_ids.${twice}`,
      )
    const labels = isNormalised ? ids : ids.slice(0, 1)
    const asked = labels.length * body.items.length
    if (asked > MAX_ASKED)
      throw badRequest(
        `${body.items.length} items with ${labels.length} labels each make ${asked} probabilities: at most ${MAX_ASKED} in one request.`,
        'items',
      )
    const prompts = await promptsOf(model, body)
    const { answers, promptTokens } = await labelLogprobs({
      ...{ model, arrival },
      asked: prompts.map((prompt) => ({ prompt, labels })),
      record: c.get('record'),
      signal: signalOf(c, server),
      priority: body.priority,
      cacheSalt: body.cache_salt,
    })
    return answerJson(c, {
      id: answerId('generative-scoring-'),
      object: 'list',
      created: unixTime(),
      model: body.model,
      data: answers.map(({ logprobs }, index) => ({
        index,
        object: 'score',
        score: isNormalised ? shareOfFirst(logprobs) : Math.exp(logprobs[0] ?? 0),
      })),
      usage: {
        prompt_tokens: promptTokens,
        completion_tokens: 0,
        total_tokens: promptTokens,
        prompt_tokens_details: {
          cached_tokens: answers.reduce((sum, one) => sum + one.cachedTokens, 0),
        },
      },
    })
  }
