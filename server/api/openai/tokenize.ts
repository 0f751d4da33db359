// Text to tokens and back, without a step of the engine: /tokenize, /detokenize, render.

import type { z } from 'zod'
import { refuseAnswering } from '../../chat/answering.js'
import { renderChat } from '../../chat/prompt.js'
import type { Ctx } from '../../http/context.js'
import { asksNothing } from '../../list.js'
import {
  findModel,
  isReward,
  onlyOfRewardModels,
  type ServedModel,
} from '../../model/served-model.js'
import { type Conversation, readMessages } from '../../prompt/conversation.js'
import {
  checkCharacters,
  encodeSegments,
  encodeText,
  type Segment,
  segmentsText,
} from '../../prompt/encode.js'
import { badRequest } from '../../request-error.js'
import { questionOf, scoredPrompt } from '../../scoring/scoring.js'
import { createTurn } from '../../slices.js'
import type { Tokenizer } from '../../tokenizer/types.js'
import { requireReady } from '../admission.js'
import { readRequest, tellUnread } from '../read-request.js'
import { answerJson } from '../respond.js'
import type { Server } from '../server.js'
import { tokenText } from './logprobs.js'
import { DetokenizeRequest, RenderRequest, TokenizeRequest } from './schema.js'

/** Without a name: the first model. */
const modelOf = (server: Server, name: string | undefined): ServedModel => {
  const [first] = server.models()
  if (name !== undefined || first === undefined) return findModel(server.models(), name ?? '')
  return first
}

type Fields = Omit<Conversation, 'messages'> & { readonly principle?: string | undefined }

/** The prompt of a conversation: of a reward model, what it scores. */
const promptOf = (
  c: Ctx,
  server: Server,
  model: ServedModel,
  body: Fields,
  given: RenderRequest['messages'],
): readonly Segment[] => {
  const messages = readMessages(given)
  if (!isReward(model) && body.principle !== undefined) throw onlyOfRewardModels(model)
  if (!isReward(model)) {
    const conversation = { ...body, messages }
    const { segments, toolUse } = renderChat(model, conversation, server.config.defaultThinking)
    tellUnread(c, server, toolUse?.unread ?? [])
    return segments
  }
  refuseAnswering(body, model.id)
  const { principle } = body
  return scoredPrompt(model, messages, questionOf(model, principle, 'principle'))
}

/** The text of each token, in slices. */
const textsOf = async (ids: readonly number[], tokenizer: Tokenizer): Promise<string[]> => {
  const texts: string[] = []
  const turn = createTurn()
  for (const id of ids) {
    texts.push(tokenText(tokenizer, id))
    if (texts.length % 256 === 0) await turn()
  }
  return texts
}

/** What changes the prompt of a conversation. */
const OF_MESSAGES = [
  ...(['tools', 'chat_template_kwargs', 'reasoning_effort'] as const),
  ...(['keep_thinking', 'continue_final_message'] as const),
]

/** Fields of a conversation say nothing of a raw text, nor the other way round. */
const checkKind = (body: z.output<typeof TokenizeRequest>): void => {
  const refuse = (name: string, why: string) => {
    throw badRequest(`'${name}' is only allowed with '${why}'.`, name)
  }
  if (body.messages !== undefined) {
    if (body.add_special_tokens === true) refuse('add_special_tokens', 'prompt')
    return
  }
  for (const name of OF_MESSAGES) if (!asksNothing(body[name])) refuse(name, 'messages')
}

export const tokenizeRoute = (server: Server) => async (c: Ctx) => {
  const body = await readRequest(c, server, TokenizeRequest)
  checkKind(body)
  const model = modelOf(server, body.model)
  const { messages, prompt = '' } = body
  checkCharacters(prompt.length, model, 'prompt')
  const tokens =
    messages === undefined
      ? await encodeText(model.tokenizer, prompt, body.add_special_tokens !== false)
      : await encodeSegments(promptOf(c, server, model, body, messages), model.tokenizer)
  return answerJson(c, {
    count: tokens.length,
    max_model_len: model.engine.info.maxModelLen,
    tokens,
    token_strs: body.return_token_strs ? await textsOf(tokens, model.tokenizer) : null,
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

/** Of one text, or the context where it is longer. */
const MAX_TOKENS = 1 << 18

export const detokenizeRoute = (server: Server) => async (c: Ctx) => {
  const body = await readRequest(c, server, DetokenizeRequest)
  const model = modelOf(server, body.model)
  const { vocabSize, maxModelLen } = model.engine.info
  const most = Math.max(MAX_TOKENS, maxModelLen)
  if (body.tokens.length > most)
    throw badRequest(
      `Invalid value for 'tokens': it has ${body.tokens.length} token ids, at most ${most}.`,
      'tokens',
    )
  const bad = body.tokens.findIndex((id) => id >= vocabSize)
  if (bad >= 0)
    throw badRequest(
      `Invalid value for 'tokens.${bad}': token id ${body.tokens[bad]} is beyond the vocabulary of ${vocabSize}.`,
      `tokens.${bad}`,
    )
  return answerJson(c, { prompt: model.tokenizer.decode(body.tokens) })
}

export const renderRoute = (server: Server) => async (c: Ctx) => {
  const body = await readRequest(c, server, RenderRequest)
  if (body.truncate_prompt_tokens !== undefined)
    throw badRequest(
      "'truncate_prompt_tokens' is not supported: the whole prompt is told.",
      'truncate_prompt_tokens',
    )
  const model = modelOf(server, body.model)
  const segments = promptOf(c, server, model, body, body.messages)
  const ids = await encodeSegments(segments, model.tokenizer)
  return answerJson(c, { prompt: segmentsText(segments), prompt_token_ids: ids })
}
