// POST /v1/chat/completions.

import { type BestOf, planBestOf, type Ranking, startBestOf } from './best-of.js'
import { chatChunks } from './chat-stream.js'
import { type Choice, createChoice } from './choice.js'
import { finishReason, stopReason } from './chunks.js'
import { badRequest } from './errors.js'
import { chatLogprobs, promptLogprobs } from './logprobs.js'
import { encodeChat, renderChat } from './prompt.js'
import type { Start } from './reasoning.js'
import { answerId, generate, readRequest } from './respond.js'
import { rewardAnswer } from './reward-chat.js'
import { type Run, type RunHandler, startRun } from './run.js'
import {
  checkStreamOptions,
  makeSampling,
  outputLimit,
  queueFields,
  truncatePrompt,
} from './sampling.js'
import { ChatRequest } from './schema.js'
import { isReward } from './scoring.js'
import { type Ctx, findModel, type ServedModel, type Server } from './served.js'
import { jsonPieces } from './slices.js'
import type { Delta, GenerateRequest } from './types.js'

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

const planChat = async (server: Server, body: ChatRequest, arrival: number): Promise<ChatPlan> => {
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

/** The whole answer, one object. */
const wholeChat = (plan: ChatPlan, choices: readonly Choice[]) => {
  const { body, model } = plan
  const parts = choices.map(() => ({
    reasoning: '',
    content: '',
    ids: [] as number[],
    logprobs: [] as ReturnType<typeof chatLogprobs>,
    last: undefined as Delta | undefined,
  }))
  const reasons = model.profile.reasoning !== undefined
  let first: Delta | undefined

  const onDelta = (_: number, delta: Delta) => {
    first ??= delta
    const part = parts[delta.choice]
    const piece = choices[delta.choice]?.push(delta)
    if (!part || !piece) return
    part.reasoning += piece.reasoning
    part.content += piece.content
    if (body.return_token_ids) part.ids.push(...delta.tokenIds)
    if (delta.logprobs) part.logprobs.push(...chatLogprobs(delta.logprobs, model.tokenizer))
    part.last = delta
  }

  const choice = (part: (typeof parts)[number], index: number) => {
    const hidden = part.reasoning === '' || body.include_reasoning === false
    const reasoning = hidden ? null : part.reasoning
    return {
      index,
      message: {
        role: 'assistant' as const,
        content: part.content,
        refusal: null,
        ...(reasons && { reasoning_content: reasoning, reasoning }),
      },
      logprobs: body.logprobs ? { content: part.logprobs, refusal: null } : null,
      finish_reason: finishReason(part.last),
      ...stopReason(part.last, body),
      ...(body.return_token_ids && { token_ids: part.ids }),
    }
  }

  function* answer(run: ChatRun) {
    const rewards = rewardFields(plan, run.ranking?.())
    yield* jsonPieces({
      id: plan.id,
      object: 'chat.completion' as const,
      created: plan.created,
      model: body.model,
      system_fingerprint: model.engine.info.fingerprint,
      choices: parts.map((part, i) => ({ ...choice(part, i), ...rewards.ofChoice(i) })),
      usage: run.usage(),
      ...rewards.ofAnswer,
      ...(yield* chatExtras(plan, first)),
      ...(body.timings && { timings: run.timings() }),
    })
  }
  return { onDelta, answer }
}

/** A run that may know how its candidates were ranked. */
export type ChatRun = Run & { readonly ranking?: () => Ranking | undefined }

const begin = (
  c: Ctx,
  plan: ChatPlan,
  choices: readonly Choice[],
  handler: RunHandler,
): ChatRun => {
  const options = {
    model: plan.model,
    requests: [plan.request],
    record: c.get('record'),
    arrival: plan.arrival,
    reasoningTokens: () => choices.reduce((sum, choice) => sum + choice.reasoningTokens(), 0),
  }
  if (plan.bestOf === undefined) return startRun(options, handler)
  const split = {
    start: plan.start,
    skipSpecial: plan.body.skip_special_tokens ?? true,
    keep: choices.length,
  }
  return startBestOf(options, plan.bestOf, split, handler)
}

export const chatRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, ChatRequest, 'chat')
    if (isReward(findModel(server, body.model))) return rewardAnswer(c, server, body, arrival)
    const plan = await planChat(server, body, arrival)
    const n = body.n ?? 1
    const choices = Array.from({ length: n }, plan.makeChoice)
    return generate<ChatRun>(c, server, {
      model: plan.model,
      stream: body.stream === true,
      n,
      isLate: plan.bestOf !== undefined,
      begin: (handler) => begin(c, plan, choices, handler),
      chunks: () => chatChunks(plan, choices),
      whole: () => wholeChat(plan, choices),
    })
  }
