// POST /v1/messages and /v1/messages/count_tokens.

import { planChat } from '../../chat/plan.js'
import { renderChat } from '../../chat/prompt.js'
import { addHeader, type Ctx } from '../../http/context.js'
import { findModel, isReward, type ServedModel } from '../../model/served-model.js'
import { encodeSegments } from '../../prompt/encode.js'
import { badRequest } from '../../request-error.js'
import { inTheirNames, nameOf } from '../field-names.js'
import { readRequest } from '../read-request.js'
import { answerId, respond } from '../respond.js'
import type { Server } from '../server.js'
import { type MessageAnswer, messageStream, wholeMessage } from './answer.js'
import { readCall, readConversation } from './call.js'
import { NAMES, UNSERVED } from './fields.js'
import { CountTokensRequest, MessagesRequest } from './schema.js'

/** What both say of messages is the same. */
const VERSIONS = ['2023-06-01', '2026-10-21']

/** Their clients know the request by a header of another name. */
const checkHeaders = (c: Ctx): void => {
  addHeader(c, 'request-id', c.get('requestId'))
  const given = c.req.header('anthropic-version')
  if (given === undefined || VERSIONS.includes(given)) return
  throw badRequest(
    `The header 'anthropic-version' is ${JSON.stringify(given.slice(0, 100))}: this server knows ${VERSIONS.join(' and ')}.`,
    'anthropic-version',
  )
}

const chatModel = (server: Server, name: string): ServedModel => {
  const model = findModel(server.models(), name)
  if (!isReward(model)) return model
  throw badRequest(
    `Invalid value for 'model': '${name}' is a reward model and writes no answers; use POST /v1/reward.`,
    'model',
  )
}

export const messagesRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    checkHeaders(c)
    const body = await readRequest(c, server, MessagesRequest, 'chat', UNSERVED)
    const model = chatModel(server, body.model)
    const call = readCall(body, model)
    const plan = await inTheirNames(NAMES, () =>
      planChat(server.models(), model, call, { arrival, defaults: server.config, isCeiling: true }),
    )
    const answer: MessageAnswer = {
      ...plan,
      ignored: plan.ignored?.map((name) => nameOf(name, NAMES)),
      body,
      id: answerId('msg_'),
      requestId: c.get('requestId'),
    }
    const form = body.stream ? { stream: messageStream(answer) } : { whole: wholeMessage(answer) }
    return respond(c, server, answer, form)
  }

/** Of the prompt that the same message would have. */
export const countTokensRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    checkHeaders(c)
    const body = await readRequest(c, server, CountTokensRequest, undefined, UNSERVED)
    const model = chatModel(server, body.model)
    const conversation = readConversation(body, model)
    const { segments } = await inTheirNames(NAMES, () =>
      renderChat(model, conversation, server.config.defaultThinking),
    )
    const ids = await encodeSegments(segments, model.tokenizer)
    return c.json({ input_tokens: ids.length })
  }
