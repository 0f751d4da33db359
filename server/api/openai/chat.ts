// POST /v1/chat/completions.

import { planChat } from '../../chat/plan.js'
import type { Ctx } from '../../http/context.js'
import {
  findModel,
  isReward,
  onlyOfRewardModels,
  type ServedModel,
} from '../../model/served-model.js'
import { type GivenMessage, readMessages } from '../../prompt/conversation.js'
import { badRequest, unsupportedParameter } from '../../request-error.js'
import { readRequest } from '../read-request.js'
import { answerId, respond, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { type ChatAnswer, wholeChat } from './chat-answer.js'
import { chatStream } from './chat-stream.js'
import { checkStreamOptions } from './chunk-frame.js'
import { nimChat } from './nim-chat.js'
import { ChatRequest } from './schema.js'

/** None where the prompt is given as ids. */
const givenMessages = (body: ChatRequest, model: ServedModel): readonly GivenMessage[] => {
  const { messages, prompt_token_ids: ids } = body
  if (ids === undefined) {
    if (messages === undefined)
      throw badRequest("Missing required parameter: 'messages'.", 'messages')
    if (messages.length === 0)
      throw badRequest("Invalid value for 'messages': at least 1 items.", 'messages')
    return messages
  }
  if (isReward(model))
    throw unsupportedParameter(
      'prompt_token_ids',
      `'prompt_token_ids' is not supported: '${body.model}' is a reward model; /pooling scores token ids.`,
    )
  if (messages !== undefined && messages.length > 0)
    throw badRequest(
      "'prompt_token_ids' are the whole prompt: send them or 'messages', not both.",
      'prompt_token_ids',
    )
  return []
}

export const chatRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, ChatRequest, 'chat')
    const model = findModel(server.models(), body.model)
    const messages = readMessages(givenMessages(body, model))
    if (isReward(model)) return nimChat(c, server, { model, body, messages, arrival })
    if (body.principle !== undefined) throw onlyOfRewardModels(model)
    checkStreamOptions(body)
    const plan = await planChat(
      server.models(),
      model,
      { ...body, messages },
      { arrival, defaults: server.config },
    )
    const answer: ChatAnswer = { ...plan, body, id: answerId('chatcmpl-'), created: unixTime() }
    const form = body.stream ? { stream: chatStream(answer) } : { whole: wholeChat(answer) }
    return respond(c, server, answer, form)
  }
