// POST /v1/chat/completions.

import { planChat } from '../../chat/plan.js'
import type { Ctx } from '../../http/context.js'
import { findModel, isReward, onlyOfRewardModels } from '../../model/served-model.js'
import { readMessages } from '../../prompt/conversation.js'
import { readRequest } from '../read-request.js'
import { answerId, respond, unixTime } from '../respond.js'
import { nimChat } from '../reward/nim-chat.js'
import type { Server } from '../server.js'
import { type ChatAnswer, wholeChat } from './chat-answer.js'
import { chatStream } from './chat-stream.js'
import { checkStreamOptions } from './chunk-frame.js'
import { ChatRequest } from './schema.js'

export const chatRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, ChatRequest, 'chat')
    const model = findModel(server.models(), body.model)
    const messages = readMessages(body.messages)
    if (isReward(model)) return nimChat(c, server, { model, body, messages, arrival })
    if (body.principle !== undefined) throw onlyOfRewardModels(model)
    checkStreamOptions(body)
    const { defaultThinking } = server.config
    const plan = await planChat(
      server.models(),
      model,
      { ...body, messages },
      { arrival, defaultThinking },
    )
    const answer: ChatAnswer = { ...plan, body, id: answerId('chatcmpl-'), created: unixTime() }
    const form = body.stream ? { stream: chatStream(answer) } : { whole: wholeChat(answer) }
    return respond(c, server, answer, form)
  }
