// Fields of a chat that mean nothing to a model that scores what it is given: refused by name, at every door.

import type { Conversation } from '../prompt/conversation.js'
import { unsupportedParameter } from '../request-error.js'
import { refuseThinking } from './thinking-mode.js'

type Fields = Partial<Omit<Conversation, 'messages'>> & {
  readonly truncate_prompt_tokens?: number | undefined
}

const NOTHING_IS_WRITTEN = 'scores what it is given and generates nothing'

/** Why a field that asks for something is refused; what is absent, false or empty asks for nothing. */
const WHY: Readonly<Record<string, string>> = {
  add_generation_prompt: NOTHING_IS_WRITTEN,
  continue_final_message: NOTHING_IS_WRITTEN,
  keep_thinking: 'scores a conversation without earlier thinking',
  tools: 'scores what it is given and calls none',
  truncate_prompt_tokens: 'scores a whole conversation or refuses it',
}

const asks = (value: unknown): boolean =>
  value !== undefined && value !== false && !(Array.isArray(value) && value.length === 0)

export const refuseAnswering = (body: Fields, model: string): void => {
  refuseThinking(body, model)
  const refuse = (name: string, why: string) => {
    throw unsupportedParameter(name, `'${name}' is not supported: '${model}' ${why}.`)
  }
  for (const [name, why] of Object.entries(WHY))
    if (asks(body[name as keyof Fields])) refuse(name, why)
  for (const [name, value] of Object.entries(body.chat_template_kwargs ?? {}))
    if (value !== null)
      refuse(`chat_template_kwargs.${name}`, 'is shown conversations by the template alone')
}
