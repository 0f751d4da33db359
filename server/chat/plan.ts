// From the body of a chat to what is run, and what all forms of its answer say.

import type { ChatRequest } from '../api/openai/schema.js'
import type { Delta, GenerateRequest } from '../engine/types.js'
import { answerId } from '../generation/answer.js'
import { promptLogprobs } from '../generation/logprobs.js'
import type { Run } from '../generation/run.js'
import {
  checkStreamOptions,
  makeSampling,
  outputLimit,
  queueFields,
  truncatePrompt,
} from '../generation/sampling.js'
import { badRequest } from '../http/errors.js'
import { findModel, type ServedModel, type Server } from '../model/served-model.js'
import { type BestOf, planBestOf, type Ranking } from './best-of.js'
import { type Choice, createChoice } from './choice.js'
import { encodeChat, renderChat } from './prompt.js'
import type { Start } from './think-splitter.js'

/** A chat that is ready to run. */
export type ChatPlan = {
  readonly body: ChatRequest
  readonly model: ServedModel
  readonly request: GenerateRequest
  readonly makeChoice: () => Choice
  readonly start: Start | undefined
  readonly bestOf: BestOf | undefined
  readonly dropped: number
  readonly id: string
  readonly created: number
  readonly arrival: number
}

export const planChat = async (
  server: Server,
  body: ChatRequest,
  arrival: number,
): Promise<ChatPlan> => {
  const model = findModel(server, body.model)
  checkStreamOptions(body)
  if (body.top_logprobs !== undefined && body.logprobs !== true)
    throw badRequest("'top_logprobs' is only allowed when 'logprobs' is true.", 'top_logprobs')
  const bestOf = await planBestOf(server, body)
  const prompt = renderChat(model, body, server.config.defaultThinking)
  const all = await encodeChat(model, prompt)
  const { maxModelLen } = model.engine.info
  const asked = body.max_completion_tokens ?? body.max_tokens
  const { ids, dropped } = truncatePrompt(
    all,
    body.truncate_prompt_tokens,
    maxModelLen - (asked ?? 1),
  )
  const maxTokens = outputLimit(maxModelLen, {
    promptTokens: ids.length,
    maxTokens: asked,
    fallback: Number.POSITIVE_INFINITY,
    promptParam: 'messages',
    tokensParam: body.max_completion_tokens !== undefined ? 'max_completion_tokens' : 'max_tokens',
  })
  const sampling = await makeSampling({
    body,
    model,
    maxTokens,
    logprobs: body.logprobs === true ? (body.top_logprobs ?? 0) : undefined,
    promptLogprobs: body.prompt_logprobs,
    card: prompt.card,
  })
  const start = body.reasoning_format === 'none' ? undefined : prompt.start
  return {
    body,
    model,
    request: {
      promptTokenIds: ids,
      n: bestOf?.candidates ?? body.n ?? 1,
      sampling,
      ...queueFields(body),
    },
    start,
    bestOf,
    makeChoice: () =>
      createChoice({
        start,
        tokenizer: model.tokenizer,
        skipSpecial: body.skip_special_tokens ?? true,
      }),
    dropped,
    id: answerId('chatcmpl'),
    created: Math.floor(Date.now() / 1000),
    arrival,
  }
}

/** A choice's reward, and what the whole answer says of the candidates. */
export const rewardFields = (plan: ChatPlan, ranking: Ranking | undefined) => ({
  ofChoice: (index: number) => {
    const candidate = ranking?.order[index]
    return candidate === undefined ? {} : { reward: ranking?.scores[candidate] }
  },
  ofAnswer:
    ranking && plan.bestOf ? { reward: { model: plan.bestOf.name, scores: ranking.scores } } : {},
})

/** What an answer says once, beside its choices. In slices. */
export function* chatExtras(plan: ChatPlan, first: Delta | undefined) {
  const { body, model, request, dropped } = plan
  return {
    ...(body.return_token_ids && { prompt_token_ids: Array.from(request.promptTokenIds) }),
    ...(first?.promptLogprobs && {
      prompt_logprobs: yield* promptLogprobs(first.promptLogprobs, model.tokenizer),
    }),
    ...(body.truncate_prompt_tokens !== undefined && {
      truncate_prompt_tokens: body.truncate_prompt_tokens,
      truncated_tokens: dropped,
    }),
  }
}

/** A run that may know how its candidates were ranked. */
export type ChatRun = Run & { readonly ranking?: () => Ranking | undefined }
