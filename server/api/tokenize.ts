// Text to tokens and back, without a step of the engine: /tokenize, /detokenize, render.

import { encodeChat, renderChat } from '../chat/prompt.js'
import { requireReady } from '../generation/admission.js'
import type { Ctx } from '../http/context.js'
import { findModel, type ServedModel } from '../model/served-model.js'
import { readMessages } from '../prompt/conversation.js'
import { encodeText } from '../prompt/encode.js'
import { badRequest } from '../request-error.js'
import { tokenText } from './openai/logprobs.js'
import { ChatRequest, DetokenizeRequest, TokenizeRequest } from './openai/schema.js'
import { readRequest } from './read-request.js'
import type { Server } from './server.js'

/** Without a name: the first model. */
const modelOf = (server: Server, name: string | undefined): ServedModel => {
  const [first] = server.models()
  if (name !== undefined || first === undefined) return findModel(server.models(), name ?? '')
  return first
}

export const tokenizeRoute = (server: Server) => async (c: Ctx) => {
  const body = await readRequest(c, server, TokenizeRequest)
  const model = modelOf(server, body.model)
  const { messages } = body
  const tokens =
    messages === undefined
      ? await encodeText(model.tokenizer, body.prompt ?? '', body.add_special_tokens !== false)
      : await encodeChat(
          model,
          renderChat(
            model,
            { ...body, messages: readMessages(messages) },
            server.config.defaultThinking,
          ),
        )
  return c.json({
    count: tokens.length,
    max_model_len: model.engine.info.maxModelLen,
    tokens,
    token_strs: body.return_token_strs ? tokens.map((id) => tokenText(model.tokenizer, id)) : null,
  })
}

/** As vLLM's: what a client needs to render and count by itself. */
export const tokenizerInfoRoute = (server: Server) => (c: Ctx) => {
  requireReady(server, 'show')
  const model = modelOf(server, c.req.query('model'))
  return c.json({
    ...model.tokenNames,
    chat_template: model.template.source,
    model_max_length: model.engine.info.maxModelLen,
  })
}

export const detokenizeRoute = (server: Server) => async (c: Ctx) => {
  const body = await readRequest(c, server, DetokenizeRequest)
  const model = modelOf(server, body.model)
  const { vocabSize } = model.engine.info
  const bad = body.tokens.findIndex((id) => id >= vocabSize)
  if (bad >= 0)
    throw badRequest(
      `Invalid value for 'tokens.${bad}': token id ${body.tokens[bad]} is beyond the vocabulary of ${vocabSize}.`,
      `tokens.${bad}`,
    )
  return c.json({ prompt: model.tokenizer.decode(body.tokens) })
}

export const renderRoute = (server: Server) => async (c: Ctx) => {
  const body = await readRequest(c, server, ChatRequest)
  const model = modelOf(server, body.model)
  const prompt = renderChat(
    model,
    { ...body, messages: readMessages(body.messages) },
    server.config.defaultThinking,
  )
  return c.json({ prompt: prompt.text, prompt_token_ids: await encodeChat(model, prompt) })
}
