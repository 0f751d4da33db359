// A chat whose prompt the caller gives as token ids: nothing is rendered, and the answer is split as ever.

import type { ServedModel } from '../model/served-model.js'
import type { Conversation } from '../prompt/conversation.js'
import { unsupportedParameter } from '../request-error.js'
import type { ChatPrompt } from './prompt.js'
import { checkIds } from './sampling.js'
import { continuedStart, refuseThinking } from './thinking-mode.js'
import { planTools } from './tools/tool-use.js'

/** They say how messages are rendered, or what is scored of them. */
const OF_MESSAGES = [
  'add_generation_prompt',
  'continue_final_message',
  'chat_template_kwargs',
  'keep_thinking',
  'reasoning_effort',
  'reward',
] as const

type GivenCall = Conversation & { readonly reward?: unknown }

const refuseOfMessages = (call: GivenCall): void => {
  const name = OF_MESSAGES.find((field) => call[field] !== undefined)
  if (name !== undefined)
    throw unsupportedParameter(
      name,
      `'${name}' is not supported with 'prompt_token_ids': it is about 'messages', which are not given.`,
    )
}

/** What stands behind the last control token: of the answer, as far as it is there. */
const beginning = (ids: readonly number[], { tokenizer }: ServedModel): string => {
  const control = ids.findLastIndex((id) => tokenizer.isSpecial(id))
  return tokenizer.decode(ids.slice(control + 1))
}

export const givenPrompt = (
  model: ServedModel,
  call: GivenCall,
  ids: readonly number[],
): ChatPrompt => {
  checkIds(ids, model.engine.info.vocabSize, 'prompt_token_ids')
  refuseOfMessages(call)
  const { reasoning } = model.profile
  if (reasoning === undefined) refuseThinking(call, model.id)
  return {
    segments: [],
    start: reasoning && continuedStart(beginning(ids, model), 'possible'),
    card: undefined,
    toolUse: planTools(model, call),
  }
}
