// What a request asks of tools: which are shown, which may be called, and whether one has to be.

import { asksNothing } from '../../list.js'
import type { ServedModel } from '../../model/served-model.js'
import type { Conversation, Tool, ToolChoice } from '../../prompt/conversation.js'
import { badRequest, unsupportedParameter } from '../../request-error.js'
import { type ToolFormat, toolFormatOf } from './format.js'

export type ToolUse = {
  readonly format: ToolFormat
  /** What the prompt shows. */
  readonly shown: readonly Tool[]
  /** Of these, what may be called: where they stand in the request's list. */
  readonly callable: readonly number[]
  /** The answer is a call. */
  readonly isRequired: boolean
  /** An answer has one call at most. */
  readonly isSingle: boolean
  /** Members that neither the server reads nor the model is shown, by the fields that they would be. */
  readonly unread: readonly string[]
}

const nameOf = (tool: Tool): string => tool.function.name

const checkTools = (tools: readonly Tool[]): void => {
  const seen = new Set<string>()
  for (const [i, tool] of tools.entries()) {
    const name = nameOf(tool)
    if (seen.has(name))
      throw badRequest(
        `Invalid value for 'tools.${i}.function.name': another tool is named '${name}' too.`,
        `tools.${i}.function.name`,
      )
    seen.add(name)
    const type = tool.function.parameters?.type
    if (type !== undefined && type !== 'object')
      throw badRequest(
        `Invalid value for 'tools.${i}.function.parameters': arguments are an object, so its 'type' is "object", not ${JSON.stringify(type)}.`,
        `tools.${i}.function.parameters`,
      )
  }
}

const find = (tools: readonly Tool[], name: string, param: string): number => {
  const at = tools.findIndex((tool) => nameOf(tool) === name)
  if (at >= 0) return at
  const names = tools.map((tool) => `'${nameOf(tool)}'`).join(', ')
  throw badRequest(
    `Invalid value for '${param}': no tool is named '${name}'. There are: ${names}.`,
    param,
  )
}

type Chosen = Pick<ToolUse, 'callable' | 'isRequired'> & { readonly isNamed?: boolean }

/** Undefined: none is to be called. */
const choose = (tools: readonly Tool[], choice: ToolChoice): Chosen | undefined => {
  const all = [...tools.keys()]
  if (choice === 'none') return undefined
  if (typeof choice === 'string') return { callable: all, isRequired: choice === 'required' }
  if (choice.type === 'function') {
    const at = find(tools, choice.function.name, 'tool_choice.function.name')
    return { callable: [at], isRequired: true, isNamed: true }
  }
  const { mode, tools: allowed } = choice.allowed_tools
  const callable = allowed.map((one, i) =>
    find(tools, one.function.name, `tool_choice.allowed_tools.tools.${i}.function.name`),
  )
  return { callable: [...new Set(callable)], isRequired: mode === 'required' }
}

const READ = {
  tool: ['type', 'function'],
  function: ['name', 'description', 'parameters', 'strict'],
} as const

const unreadOf = (tools: readonly Tool[], { template }: ServedModel): readonly string[] => {
  const fields = new Set<string>()
  const look = (place: keyof typeof READ, of: object, path: string) => {
    for (const [name, value] of Object.entries(of)) {
      const isRead = READ[place].some((one) => one === name)
      if (!isRead && !asksNothing(value) && !template.showsOfTool(place, name))
        fields.add(`${path}.${name}`)
    }
  }
  for (const tool of tools) {
    look('tool', tool, 'tools')
    look('function', tool.function, 'tools.function')
  }
  return [...fields]
}

/** Undefined: there are no tools, or none is to be called; the model is shown none then. */
export const planTools = (model: ServedModel, call: Conversation): ToolUse | undefined => {
  const { tools = [], tool_choice: choice = 'auto' } = call
  if (tools.length === 0) {
    if (choice === 'auto' || choice === 'none') return undefined
    throw badRequest("'tool_choice' is only allowed when 'tools' are given.", 'tool_choice')
  }
  checkTools(tools)
  const format = toolFormatOf(model.template.toolSource)
  if (format === undefined)
    throw unsupportedParameter(
      'tools',
      `'tools' is not supported: the chat template of '${model.id}' has no form for tools that this server knows.`,
    )
  const chosen = choose(tools, choice)
  if (chosen === undefined) return undefined
  return {
    format,
    shown: tools,
    callable: chosen.callable,
    isRequired: chosen.isRequired,
    isSingle: chosen.isNamed === true || call.parallel_tool_calls === false,
    unread: unreadOf(tools, model),
  }
}

/** Whether a tool of this name may be called. */
export const callableNames = ({ callable, shown }: ToolUse): ((name: string) => boolean) => {
  const names = new Set(callable.map((at) => shown[at]?.function.name))
  return (name) => names.has(name)
}

/** Where the model alone cannot promise what was asked for. */
export const needsGrammar = ({ isRequired, isSingle, callable, shown }: ToolUse): boolean =>
  isRequired ||
  isSingle ||
  callable.length < shown.length ||
  callable.some((at) => shown[at]?.function.strict === true)
