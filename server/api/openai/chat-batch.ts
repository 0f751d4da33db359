// POST /v1/chat/completions/batch: several conversations in one request, in vLLM's shape. Each choice
// answers one of them.

import { type ChatPlan, planChat } from '../../chat/plan.js'
import { checkPromptLogprobs } from '../../chat/sampling.js'
import type { Generation, WholeForm } from '../../generation/answer.js'
import type { AnswerEvent } from '../../generation/answer-event.js'
import type { Run } from '../../generation/run.js'
import type { Ctx } from '../../http/context.js'
import { requirePlaces } from '../../model/place.js'
import { findModel, refuseReward } from '../../model/served-model.js'
import { readMessages } from '../../prompt/conversation.js'
import { RequestError } from '../../request-error.js'
import { jsonPieces, mapInTurns } from '../../slices.js'
import { readRequest } from '../read-request.js'
import { answerId, respond, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { UNSERVED_OF_BATCH } from '../unserved-fields.js'
import { addEvent, choiceObject, newPart, promptExtras } from './chat-answer.js'
import { ChatBatchRequest } from './schema.js'
import { timingsObject, usageObject, weightsFields } from './usage.js'

/** An error of one conversation, which says of which. */
const ofConversation = (error: unknown, i: number): unknown => {
  if (!(error instanceof RequestError) || !error.param?.startsWith('messages')) return error
  const { message, kind, code, retryAfter } = error
  const param = `messages.${i}${error.param.slice('messages'.length)}`
  return new RequestError(`messages.${i}: ${message}`, { kind, param, code, retryAfter })
}

type Batch = { readonly body: ChatBatchRequest; readonly plans: readonly ChatPlan[] }

const wholeBatch = ({ body, plans }: Batch): WholeForm => {
  const parts = plans.map(newPart)
  const firsts: (AnswerEvent | undefined)[] = plans.map(() => undefined)

  function* object({ counts }: Run) {
    const choices = []
    for (const [i, plan] of plans.entries()) {
      const part = parts[i]
      if (part === undefined) continue
      const answer = { ...plan, body }
      choices.push({
        ...choiceObject(answer, part, i),
        ...(yield* promptExtras(answer, firsts[i])),
      })
      yield ''
    }
    yield* jsonPieces({
      id: answerId('chatcmpl-'),
      object: 'chat.completion' as const,
      created: unixTime(),
      model: body.model,
      system_fingerprint: plans[0]?.model.engine.info.fingerprint,
      choices,
      usage: usageObject(
        counts,
        plans.reduce((sum, plan) => sum + plan.reasoningTokens(), 0),
      ),
      ...weightsFields(counts),
      ...(body.truncate_prompt_tokens !== undefined && {
        truncate_prompt_tokens: body.truncate_prompt_tokens,
        truncated_tokens: plans.reduce((sum, { dropped }) => sum + dropped, 0),
      }),
      ...(body.timings && { timings: timingsObject(counts) }),
    })
  }
  return {
    event: (event) => {
      const { choice } = event
      const [plan, part] = [plans[choice], parts[choice]]
      if (plan === undefined || part === undefined) return
      firsts[choice] ??= event
      addEvent({ ...plan, body }, part, event)
    },
    answer: object,
  }
}

export const chatBatchRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, ChatBatchRequest, 'chat', UNSERVED_OF_BATCH)
    const model = findModel(server.models(), body.model)
    refuseReward(server.models(), model, 'POST /v1/reward scores many conversations')
    const { messages: conversations } = body
    requirePlaces(model, conversations.length, { param: 'messages', asking: "'messages' asks" })
    const context = { arrival, defaults: server.config, answers: conversations.length }
    const plans = await mapInTurns(conversations, async (given, i) => {
      const call = { ...body, messages: readMessages(given) }
      try {
        return await planChat(server.models(), model, call, context)
      } catch (error) {
        throw ofConversation(error, i)
      }
    })
    const promptTokens = plans.reduce((sum, { promptTokenIds: ids }) => sum + ids.length, 0)
    checkPromptLogprobs(promptTokens, body.prompt_logprobs)
    const generation: Generation = {
      model,
      requests: plans.flatMap((plan) => plan.requests),
      n: 1,
      arrival,
      toEvent: (conversation, delta) => {
        const plan = plans[conversation]
        if (plan === undefined) throw new Error(`there is no conversation ${conversation}`)
        return { ...plan.toEvent(0, delta), choice: conversation }
      },
    }
    return respond(c, server, generation, { whole: wholeBatch({ body, plans }) })
  }
