// A conversation to prompt tokens, with all that follows from its reasoning mode.

import type { ServedModel } from '../model/served-model.js'
import { type Conversation, charactersOf } from '../prompt/conversation.js'
import { checkCharacters, type Segment } from '../prompt/encode.js'
import { badRequest } from '../request-error.js'
import type { Start } from './think-splitter.js'
import { checkKwargs, refuseThinking, resolveThinking, type Thinks } from './thinking-mode.js'
import { planTools, type ToolUse } from './tools/tool-use.js'

export type ChatPrompt = {
  readonly segments: readonly Segment[]
  /** How the answer is split; undefined for models that do not reason. */
  readonly start: Start | undefined
  readonly card: { readonly temperature: number; readonly topP: number } | undefined
  /** Undefined: the answer calls none. */
  readonly toolUse: ToolUse | undefined
}

/** Templates that open or close the block themselves decide where the answer begins. */
const startAfter = (segments: readonly Segment[], start: Start): Start => {
  const last = segments.at(-1)
  if (last === undefined || !('text' in last)) return start
  const opened = last.text.lastIndexOf('<think>')
  const closed = last.text.lastIndexOf('</think>')
  if (opened > closed) return 'thinking'
  return closed >= 0 && last.text.slice(closed).trimEnd() === '</think>' ? 'closed' : start
}

export const renderChat = (model: ServedModel, body: Conversation, thinks: Thinks): ChatPrompt => {
  const continueFinal = body.continue_final_message === true
  if (continueFinal && body.add_generation_prompt === true)
    throw badRequest(
      "'continue_final_message' and 'add_generation_prompt' cannot both be true.",
      'continue_final_message',
    )
  if (continueFinal && body.messages.at(-1)?.role !== 'assistant')
    throw badRequest(
      "'continue_final_message' needs the last message to be the assistant's.",
      'continue_final_message',
    )
  if (continueFinal && (body.messages.at(-1)?.toolCalls?.length ?? 0) > 0)
    throw badRequest(
      "'continue_final_message' needs a last message without calls: nothing is written behind them.",
      'continue_final_message',
    )
  checkCharacters(charactersOf(body.messages), model, 'messages')
  checkKwargs(body.chat_template_kwargs)
  const toolUse = planTools(model, body)
  const common = {
    ...(toolUse && { tools: toolUse.shown }),
    addGenerationPrompt: body.add_generation_prompt ?? !continueFinal,
    continueFinal,
    keepThinking: body.keep_thinking === true,
  }
  const { reasoning } = model.profile
  if (reasoning === undefined) {
    refuseThinking(body, model.id)
    const segments = model.template.render({
      ...common,
      messages: body.messages,
      kwargs: body.chat_template_kwargs ?? {},
      prefill: '',
    })
    return { segments, start: undefined, card: undefined, toolUse }
  }
  const thinking = resolveThinking(body, reasoning, thinks)
  const segments = model.template.render({
    ...common,
    messages: thinking.messages,
    added: thinking.messages.length - body.messages.length,
    kwargs: thinking.kwargs,
    prefill: thinking.prefill,
  })
  const asks = common.addGenerationPrompt
  return {
    segments,
    start: asks ? startAfter(segments, thinking.start) : thinking.start,
    card: thinking.card,
    toolUse,
  }
}
