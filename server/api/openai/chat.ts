// POST /v1/chat/completions.

import { startBestOf } from '../../chat/best-of.js'
import type { Choice } from '../../chat/choice.js'
import { type ChatPlan, type ChatRun, chatExtras, planChat, rewardFields } from '../../chat/plan.js'
import type { Delta } from '../../engine/types.js'
import { generate, readRequest } from '../../generation/answer.js'
import { chatLogprobs } from '../../generation/logprobs.js'
import { type RunHandler, startRun } from '../../generation/run.js'
import { jsonPieces } from '../../http/sliced-json.js'
import { type Ctx, findModel, type Server } from '../../model/served-model.js'
import { isReward } from '../../scoring/scoring.js'
import { rewardAnswer } from '../reward/nim-chat.js'
import { chatChunks } from './chat-stream.js'
import { finishReason, stopReason } from './chunk-frame.js'
import { ChatRequest } from './schema.js'

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
