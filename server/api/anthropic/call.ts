// A request of Anthropic's as a chat.

import type { ChatCall } from '../../chat/plan.js'
import { sourceOf } from '../../json-source.js'
import type { ServedModel } from '../../model/served-model.js'
import {
  boundMessages,
  type Conversation,
  type Message,
  type ToolCall,
} from '../../prompt/conversation.js'
import { badRequest } from '../../request-error.js'
import type {
  AssistantBlock,
  CountTokensRequest,
  GivenMessage,
  MessagesRequest,
  Tool,
  UserBlock,
} from './schema.js'

const textOf = (content: string | readonly { readonly text: string }[] | null | undefined) =>
  typeof content === 'string' ? content : (content ?? []).map(({ text }) => text).join('\n')

/** What the assistant's last turn called, and so what the user's has to answer. */
type Owed = { readonly at: number; readonly ids: readonly string[] }

const NOTHING: Owed = { at: 0, ids: [] }

const checkAnswered = ({ at, ids }: Owed): void => {
  const [id] = ids
  if (id === undefined) return
  throw badRequest(
    `Invalid value for 'messages.${at}.content': the call '${id}' has no 'tool_result' in the message that follows.`,
    `messages.${at}.content`,
  )
}

/** Results first, as Anthropic has it: what the user says comes after them. */
const readUser = (blocks: readonly UserBlock[], at: number, owed: Owed): readonly Message[] => {
  const messages: Message[] = []
  const texts: string[] = []
  const left = new Set(owed.ids)
  for (const [i, block] of blocks.entries()) {
    if (block.type === 'text') {
      texts.push(block.text)
      continue
    }
    const param = `messages.${at}.content.${i}`
    if (texts.length > 0)
      throw badRequest(
        `Invalid value for '${param}': a 'tool_result' stands before the text of its message.`,
        param,
      )
    if (!left.delete(block.tool_use_id))
      throw badRequest(
        `Invalid value for '${param}.tool_use_id': the message before has no 'tool_use' with the id '${block.tool_use_id}' that is still to be answered.`,
        `${param}.tool_use_id`,
      )
    const text = textOf(block.content)
    messages.push({
      role: 'tool',
      content: block.is_error === true ? `Error: ${text}` : text,
      toolCallId: block.tool_use_id,
    })
  }
  checkAnswered({ at: owed.at, ids: [...left] })
  if (texts.length > 0 || messages.length === 0)
    messages.push({ role: 'user', content: texts.join('\n') })
  return messages
}

const readAssistant = (blocks: readonly AssistantBlock[], at: number): Message => {
  const texts: string[] = []
  const thoughts: string[] = []
  const toolCalls: ToolCall[] = []
  for (const [i, block] of blocks.entries()) {
    if (block.type === 'thinking') thoughts.push(block.thinking)
    else if (block.type === 'text') texts.push(block.text)
    else {
      const { id, name, input } = block
      if (toolCalls.some((call) => call.id === id))
        throw badRequest(
          `Invalid value for 'messages.${at}.content.${i}.id': another call has the id '${id}' too.`,
          `messages.${at}.content.${i}.id`,
        )
      toolCalls.push({ id, name, arguments: sourceOf(input) ?? JSON.stringify(input) })
    }
  }
  return {
    role: 'assistant',
    content: texts.join('\n'),
    reasoning: thoughts.length > 0 ? thoughts.join('\n') : undefined,
    toolCalls,
  }
}

const blocksOf = <T>(content: string | readonly T[]) =>
  typeof content === 'string' ? [{ type: 'text' as const, text: content }] : content

const readMessages = (given: readonly GivenMessage[]): readonly Message[] => {
  let owed = NOTHING
  const messages: Message[] = []
  for (const [at, message] of given.entries()) {
    if (message.role === 'user') {
      messages.push(...readUser(blocksOf(message.content), at, owed))
      owed = NOTHING
      continue
    }
    checkAnswered(owed)
    if (message.role === 'system') {
      messages.push({ role: 'system', content: textOf(message.content) })
      continue
    }
    const read = readAssistant(blocksOf(message.content), at)
    owed = { at, ids: (read.toolCalls ?? []).map(({ id }) => id) }
    messages.push(read)
  }
  checkAnswered(owed)
  return messages
}

const readTool = ({ name, description, input_schema: parameters, strict }: Tool) => ({
  type: 'function' as const,
  // A template would write a member that is there and undefined.
  function: {
    name,
    ...(description != null && { description }),
    parameters,
    ...(strict != null && { strict }),
  },
})

const toolChoiceOf = (choice: CountTokensRequest['tool_choice']): Conversation['tool_choice'] => {
  switch (choice?.type) {
    case 'tool':
      return { type: 'function', function: { name: choice.name } }
    case 'any':
      return 'required'
    default:
      return choice?.type
  }
}

/** Not to think is nothing to ask of a model that never does; nor is to think as it sees fit. */
const effortOf = (thinking: CountTokensRequest['thinking'], { profile }: ServedModel) => {
  if (thinking === undefined) return undefined
  if (thinking.type !== 'enabled' && profile.reasoning === undefined) return undefined
  return thinking.type === 'disabled' ? 'none' : 'high'
}

/** What decides the prompt. */
export const readConversation = (body: CountTokensRequest, model: ServedModel): Conversation => {
  const system = textOf(body.system)
  const messages = boundMessages(readMessages(body.messages), 'messages')
  const choice = body.tool_choice
  return {
    messages: system === '' ? messages : [{ role: 'system', content: system }, ...messages],
    tools: body.tools?.map(readTool),
    tool_choice: toolChoiceOf(choice),
    parallel_tool_calls:
      choice?.type !== 'none' && choice?.disable_parallel_tool_use === true ? false : undefined,
    reasoning_effort: effortOf(body.thinking, model),
    ...(messages.at(-1)?.role === 'assistant' && { continue_final_message: true }),
  }
}

const checkBudget = ({ thinking, max_tokens: most }: MessagesRequest): void => {
  if (thinking?.type !== 'enabled' || thinking.budget_tokens < most) return
  throw badRequest(
    `Invalid value for 'thinking.budget_tokens': ${thinking.budget_tokens} leaves no room for the answer: it must be less than 'max_tokens', which is ${most}.`,
    'thinking.budget_tokens',
  )
}

export const readCall = (body: MessagesRequest, model: ServedModel): ChatCall => {
  checkBudget(body)
  const { thinking } = body
  const format = body.output_config?.format
  return {
    ...readConversation(body, model),
    max_tokens: body.max_tokens,
    temperature: body.temperature,
    top_p: body.top_p,
    top_k: body.top_k,
    stop: body.stop_sequences,
    stream: body.stream,
    cache_salt: body.cache_salt,
    ...(thinking?.type === 'enabled' && { thinking_token_budget: thinking.budget_tokens }),
    ...(format && {
      response_format: {
        type: 'json_schema' as const,
        json_schema: { name: 'answer', schema: format.schema },
      },
    }),
  }
}
