// A request of the Decisions API as a conversation and questions about it.

import type { Question as Asked } from '../../chat/decide.js'
import { jsonOf } from '../../json-source.js'
import { boundMessages, type Message } from '../../prompt/conversation.js'
import { badRequest, type RequestError } from '../../request-error.js'
import type { Content, DecisionsRequest, Item, Question } from './schema.js'

type Part = Exclude<Content, string>[number]

const partText = (part: Part): string => {
  switch (part.type) {
    case 'input_json':
      return jsonOf(part.data)
    case 'refusal':
      return part.refusal
    default:
      return part.text
  }
}

const textOf = (content: Content): string =>
  typeof content === 'string' ? content : (content as readonly Part[]).map(partText).join('\n')

const wrong = (param: string, why: string): RequestError =>
  badRequest(`Invalid value for '${param}': ${why}.`, param)

const isOutput = (item: Item) =>
  item.type === 'function_call_output' || item.type === 'custom_tool_call_output'

/** Calls of one answer are one message; every output has its call before it, and every call its output. */
const readItems = (items: readonly Item[]): readonly Message[] => {
  const messages: Message[] = []
  const owed = new Map<string, { readonly at: number; readonly type: Item['type'] }>()
  for (const [at, item] of items.entries()) {
    if (item.type === 'message') {
      const role = item.role === 'developer' ? 'system' : item.role
      messages.push({ role, content: textOf(item.content) })
      continue
    }
    const { call_id: id } = item
    if (isOutput(item)) {
      const call = owed.get(id)
      if (call === undefined || `${call.type}_output` !== item.type)
        throw wrong(
          `input.${at}.call_id`,
          `no call of this kind with the id '${id}' stands before it`,
        )
      owed.delete(id)
      messages.push({ role: 'tool', content: textOf(item.output), toolCallId: id })
      continue
    }
    if (owed.has(id)) throw wrong(`input.${at}.call_id`, `another call has the id '${id}' too`)
    owed.set(id, { at, type: item.type })
    // What a custom tool takes is text; a template shows arguments.
    const text =
      item.type === 'function_call' ? item.arguments : JSON.stringify({ input: item.input })
    const call = { id, name: item.name, arguments: text }
    const last = messages.at(-1)
    if (last?.role === 'assistant')
      messages[messages.length - 1] = { ...last, toolCalls: [...(last.toolCalls ?? []), call] }
    else messages.push({ role: 'assistant', content: '', toolCalls: [call] })
  }
  for (const [id, { at }] of owed)
    throw wrong(`input.${at}.call_id`, `the call '${id}' has no output after it`)
  return messages
}

export const readInput = ({ input }: DecisionsRequest): readonly Message[] =>
  typeof input === 'string'
    ? [{ role: 'user', content: input }]
    : boundMessages(readItems(input), 'input')

const twice = (keys: readonly string[]): number => keys.findIndex((key, i) => keys.indexOf(key) < i)

export const readQuestion = (question: Question, i: number): Asked => {
  const text = textOf(question.instructions)
  const { type: kind } = question
  switch (kind) {
    case 'predicate':
      return { kind, text, options: [] }
    case 'choice': {
      const { choices } = question
      const at = twice(choices.map(({ value }) => JSON.stringify(value)))
      if (at >= 0)
        throw wrong(
          `questions.${i}.choices.${at}.value`,
          `${JSON.stringify(choices[at]?.value)} is there twice`,
        )
      const options = choices.map(({ value, description }) => ({
        text: String(value),
        description,
      }))
      return { kind, text, options }
    }
    case 'score': {
      const { levels } = question
      const at = twice(levels.map(({ label }) => label))
      if (at >= 0)
        throw wrong(`questions.${i}.levels.${at}.label`, `'${levels[at]?.label}' is there twice`)
      const options = levels.map(({ label, description }) => ({ text: label, description }))
      return { kind, text, options }
    }
  }
}
