// A request of the Responses API as a chat.

import type { ChatCall } from '../../chat/plan.js'
import type { ServedModel } from '../../model/served-model.js'
import {
  boundMessages,
  type Conversation,
  type Message,
  type ToolCall,
} from '../../prompt/conversation.js'
import { badRequest, type RequestError } from '../../request-error.js'
import type { FieldNames } from '../field-names.js'
import { NAMES } from './fields.js'
import { type FunctionTool, type Item, MAX_TOOLS, type ResponsesRequest } from './schema.js'

const textOf = (content: string | readonly { readonly text: string }[]): string =>
  typeof content === 'string' ? content : content.map(({ text }) => text).join('\n')

/** What the assistant said at one go: items that follow each other. */
type Turn = { reasoning?: string; content?: string; calls: ToolCall[]; readonly at: number }

const thoughtOf = ({ content, summary }: Extract<Item, { type: 'reasoning' }>): string =>
  textOf(content && content.length > 0 ? content : (summary ?? []))

/** A function's name as the model knows it. */
const shownName = ({
  name,
  namespace,
}: {
  readonly name: string
  readonly namespace?: string | null | undefined
}): string => (namespace ? `${namespace}.${name}` : name)

const wrong = (param: string, why: string): RequestError =>
  badRequest(`Invalid value for '${param}': ${why}.`, param)

/** Makes messages of items; says which calls and outputs have lost each other. */
const createReader = () => {
  const messages: Message[] = []
  /** Calls without an output so far, and where they stand. */
  const owed = new Map<string, number>()
  const seen = new Set<string>()
  let turn: Turn | undefined

  const endTurn = () => {
    if (turn === undefined) return
    const { reasoning, content, calls, at } = turn
    if (content === undefined && calls.length === 0)
      throw wrong(`input.${at}`, 'a reasoning item stands before the message or the call it led to')
    messages.push({ role: 'assistant', content: content ?? '', reasoning, toolCalls: calls })
    turn = undefined
  }

  const say = (at: number): Turn => {
    turn ??= { calls: [], at }
    return turn
  }

  const read = (item: Item, at: number): void => {
    const isFull = turn?.content !== undefined || (turn?.calls.length ?? 0) > 0
    switch (item.type) {
      case 'reasoning': {
        if (isFull) endTurn()
        const mine = say(at)
        const thought = thoughtOf(item)
        mine.reasoning = mine.reasoning === undefined ? thought : `${mine.reasoning}\n${thought}`
        return
      }
      case 'function_call': {
        const { call_id: id, arguments: text } = item
        if (seen.has(id)) throw wrong(`input.${at}.call_id`, `another call has the id '${id}' too`)
        seen.add(id)
        owed.set(id, at)
        say(at).calls.push({ id, name: shownName(item), arguments: text })
        return
      }
      case 'function_call_output':
        endTurn()
        if (!owed.delete(item.call_id))
          throw wrong(
            `input.${at}.call_id`,
            `no 'function_call' with the id '${item.call_id}' stands before it and is still to be answered`,
          )
        messages.push({ role: 'tool', content: textOf(item.output), toolCallId: item.call_id })
        return
      default:
        if (item.role === 'assistant') {
          if (isFull) endTurn()
          say(at).content = textOf(item.content)
          return
        }
        endTurn()
        messages.push({
          role: item.role === 'developer' ? 'system' : item.role,
          content: textOf(item.content),
        })
    }
  }

  const end = (): readonly Message[] => {
    endTurn()
    for (const [id, at] of owed)
      throw wrong(`input.${at}.call_id`, `the call '${id}' has no 'function_call_output' after it`)
    return messages
  }
  return { read, end }
}

const readInput = ({ input, instructions }: ResponsesRequest): readonly Message[] => {
  const reader = createReader()
  if (typeof input === 'string') reader.read({ type: 'message', role: 'user', content: input }, 0)
  else for (const [at, item] of input.entries()) reader.read(item, at)
  const messages = boundMessages(reader.end(), 'input')
  return instructions ? [{ role: 'system', content: instructions }, ...messages] : messages
}

/** What a caller knows a function by. */
type Known = { readonly name: string; readonly namespace?: string }

/** `path`: where it stands in the request. */
type Placed = { readonly tool: FunctionTool; readonly known: Known; readonly path: string }

/** All functions, those of namespaces too. */
const functionsOf = ({ tools = [] }: ResponsesRequest): readonly Placed[] =>
  tools.flatMap((tool, at): readonly Placed[] => {
    const path = `tools.${at}`
    if (tool.type === 'function') return [{ tool, known: { name: tool.name }, path }]
    if (tool.type !== 'namespace') return []
    return tool.tools.map((one, i) => ({
      tool: one,
      known: { name: one.name, namespace: tool.name },
      path: `${path}.tools.${i}`,
    }))
  })

/** By the name that the model calls. */
export const knownFunctions = (body: ResponsesRequest): ReadonlyMap<string, Known> =>
  new Map(functionsOf(body).map(({ known }) => [shownName(known), known]))

/** What a chat's fields are called here: functions stand where their caller wrote them. */
export const namesOf = (body: ResponsesRequest): FieldNames =>
  body.tools?.every(({ type }) => type === 'function') === false
    ? [
        ...functionsOf(body).map(
          ({ path }, at) => [new RegExp(`^tools\\.${at}\\.function(?=\\.|$)`), path] as const,
        ),
        ...NAMES,
      ]
    : NAMES

const readTool = ({ tool: { description, parameters, strict }, known }: Placed) => ({
  type: 'function' as const,
  // A template would write a member that is there and undefined.
  function: {
    name: shownName(known),
    ...(description != null && { description }),
    ...(parameters != null && { parameters }),
    ...(strict != null && { strict }),
  },
})

const readTools = (body: ResponsesRequest): Conversation['tools'] => {
  const functions = functionsOf(body)
  if (functions.length > MAX_TOOLS)
    throw wrong('tools', `it has ${functions.length} functions, at most ${MAX_TOOLS} may be given`)
  return functions.map(readTool)
}

const named = ({ name }: { readonly name: string }) => ({
  type: 'function' as const,
  function: { name },
})

const toolChoiceOf = (choice: ResponsesRequest['tool_choice']): Conversation['tool_choice'] => {
  if (choice === undefined || typeof choice === 'string') return choice
  if (choice.type === 'function') return named(choice)
  const { mode, tools } = choice
  return { type: 'allowed_tools', allowed_tools: { mode, tools: tools.map(named) } }
}

const formatOf = ({ text }: ResponsesRequest): Pick<ChatCall, 'response_format'> => {
  const format = text?.format
  if (format == null || format.type === 'text') return {}
  if (format.type === 'json_object') return { response_format: { type: 'json_object' } }
  const { name, schema } = format
  return { response_format: { type: 'json_schema', json_schema: { name, schema } } }
}

/** Not to think is nothing to ask of a model that never does. */
const effortOf = ({ reasoning }: ResponsesRequest, { profile }: ServedModel) => {
  const effort = reasoning?.effort ?? undefined
  const isOff = effort === 'none' || effort === 'minimal'
  return isOff && profile.reasoning === undefined ? undefined : effort
}

export const readCall = (body: ResponsesRequest, model: ServedModel): ChatCall => ({
  messages: readInput(body),
  tools: body.tools && readTools(body),
  tool_choice: toolChoiceOf(body.tool_choice),
  parallel_tool_calls: body.parallel_tool_calls,
  reasoning_effort: effortOf(body, model),
  max_tokens: body.max_output_tokens,
  temperature: body.temperature,
  top_p: body.top_p,
  stream: body.stream,
  cache_salt: body.cache_salt,
  ...formatOf(body),
})
