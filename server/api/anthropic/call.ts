// A request of Anthropic's as a chat.

import type { ChatCall } from '../../chat/plan.js'
import { jsonOf } from '../../json-source.js'
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

/** A block, and the field that it is. */
type Placed<T> = { readonly block: T; readonly param: string }

type Turn =
  | { readonly role: 'user'; readonly blocks: Placed<UserBlock>[] }
  | { readonly role: 'assistant'; readonly blocks: Placed<AssistantBlock>[] }
  | { readonly role: 'system'; readonly text: string }

const placed = <T>(content: string | readonly T[], param: string) =>
  typeof content === 'string'
    ? [{ block: { type: 'text' as const, text: content }, param }]
    : content.map((block, i) => ({ block, param: `${param}.${i}` }))

/** As Anthropic has it, messages of one role that follow one another are one turn. */
const readTurns = (given: readonly GivenMessage[]): readonly Turn[] => {
  const turns: Turn[] = []
  const lastUser = given.findLastIndex(({ role }) => role === 'user')
  for (const [at, message] of given.entries()) {
    const param = `messages.${at}.content`
    const last = turns.at(-1)
    if (message.role === 'system') {
      const text = textOf(message.content)
      const isOver = message.clear_at === 'next_user_message' && at < lastUser
      if (text !== '' && !isOver) turns.push({ role: 'system', text })
    } else if (message.role === 'user') {
      const blocks = placed(message.content, param)
      if (last?.role === 'user') last.blocks.push(...blocks)
      else turns.push({ role: 'user', blocks })
    } else {
      const blocks = placed(message.content, param)
      if (last?.role === 'assistant') last.blocks.push(...blocks)
      else turns.push({ role: 'assistant', blocks })
    }
  }
  return turns
}

/** Calls that the turn after them has to answer: their fields by their ids. */
type Owed = ReadonlyMap<string, string>

const NOTHING: Owed = new Map()

const checkAnswered = (owed: Owed): void => {
  for (const [id, param] of owed)
    throw badRequest(
      `Invalid value for '${param}': the call '${id}' has no 'tool_result' in the message that follows.`,
      param,
    )
}

/** Results first, as Anthropic has it: what the user says comes after them. */
const readUser = (blocks: readonly Placed<UserBlock>[], owed: Owed): readonly Message[] => {
  const messages: Message[] = []
  const texts: string[] = []
  const left = new Map(owed)
  for (const { block, param } of blocks) {
    if (block.type === 'text') {
      texts.push(block.text)
      continue
    }
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
  checkAnswered(left)
  if (texts.length > 0 || messages.length === 0)
    messages.push({ role: 'user', content: texts.join('\n') })
  return messages
}

const readAssistant = (
  blocks: readonly Placed<AssistantBlock>[],
): { readonly message: Message; readonly owed: Owed } => {
  const texts: string[] = []
  const thoughts: string[] = []
  const toolCalls: ToolCall[] = []
  const owed = new Map<string, string>()
  for (const { block, param } of blocks) {
    if (block.type === 'thinking') thoughts.push(block.thinking)
    else if (block.type === 'text') texts.push(block.text)
    else {
      const { id, name, input } = block
      if (owed.has(id))
        throw badRequest(
          `Invalid value for '${param}.id': another call has the id '${id}' too.`,
          `${param}.id`,
        )
      owed.set(id, param)
      toolCalls.push({ id, name, arguments: jsonOf(input) })
    }
  }
  const reasoning = thoughts.length > 0 ? thoughts.join('\n') : undefined
  return {
    message: { role: 'assistant', content: texts.join('\n'), reasoning, toolCalls },
    owed,
  }
}

const readMessages = (given: readonly GivenMessage[]): readonly Message[] => {
  let owed = NOTHING
  const messages: Message[] = []
  for (const turn of readTurns(given)) {
    if (turn.role === 'user') {
      messages.push(...readUser(turn.blocks, owed))
      owed = NOTHING
      continue
    }
    checkAnswered(owed)
    if (turn.role === 'system') {
      messages.push({ role: 'system', content: turn.text })
      continue
    }
    const read = readAssistant(turn.blocks)
    owed = read.owed
    messages.push(read.message)
  }
  checkAnswered(owed)
  return messages
}

/** Their types let an object's schema say null where it says nothing. */
const readSchema = (schema: Tool['input_schema']): Tool['input_schema'] =>
  schema.properties === null || schema.required === null
    ? Object.fromEntries(Object.entries(schema).filter(([, value]) => value !== null))
    : schema

const readTool = ({ name, description, input_schema, strict }: Tool) => ({
  type: 'function' as const,
  // A template would write a member that is there and undefined.
  function: {
    name,
    ...(description != null && { description }),
    parameters: readSchema(input_schema),
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
