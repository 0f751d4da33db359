// Reasoning mode: is thinking on, who said so, and what follows for prompt, sampling and splitter.

import type { Reasoning } from '../model/registry.js'
import type { Conversation, Message } from '../prompt/conversation.js'
import { continuedText } from '../prompt/template.js'
import { badRequest, unsupportedParameter } from '../request-error.js'
import type { Start } from './think-splitter.js'

type Thinking = {
  readonly messages: readonly Message[]
  readonly kwargs: Readonly<Record<string, unknown>>
  readonly prefill: string
  readonly start: Start
  /** What the model's card advises for this mode. */
  readonly card: { readonly temperature: number; readonly topP: number }
}

// A line or a sentence of its own; what follows it on the line is the caller's too.
const OWN_LINE = /(?:^|[.!?;:])[ \t*_"'`]*detailed thinking (on|off)[ \t*_"'`]*(?=$|[.,;:!?])/im
const OWN_LINES = new RegExp(OWN_LINE, 'gim')
// With the blank line behind the block: the model would spend the answer's first tokens on it.
const PREFILL_OFF = '<think>\n</think>\n\n'

const ownLine = (messages: readonly Message[]): boolean | undefined => {
  for (const message of messages) {
    const found = message.role === 'system' ? OWN_LINE.exec(message.content) : null
    if (found) return found[1]?.toLowerCase() === 'on'
  }
  return undefined
}

// A word of its own. Where both stand there, the template of Super-49B-v1.5 obeys the first that it looks for.
const NO_THINK = /(?:^|\s)\/no_think(?:\s|$)/
const THINK = /(?:^|\s)\/think(?:\s|$)/

const ownWord = (messages: readonly Message[]): boolean | undefined => {
  const texts = messages.filter(({ role }) => role === 'system').map(({ content }) => content)
  if (texts.some((text) => NO_THINK.test(text))) return false
  return texts.some((text) => THINK.test(text)) ? true : undefined
}

const WORDS = /(?<=^|\s)\/(?:no_)?think(?=\s|$)/g

const SWITCHES = ['enable_thinking', 'thinking'] as const

/** Variables that the server sets, or that go past a refusal. */
const OTHERS_KWARGS: Readonly<Record<string, string>> = {
  messages: "use 'messages'",
  add_generation_prompt: "use 'add_generation_prompt'",
  continue_final_message: "use 'continue_final_message'",
  bos_token: "it is the tokenizer's",
  eos_token: "it is the tokenizer's",
  tools: "use 'tools'",
  custom_tools: "use 'tools'",
  builtin_tools: "use 'tools'",
  functions: "use 'tools'",
  thinking_budget: "use 'thinking_token_budget'",
  reasoning_budget: "use 'thinking_token_budget'",
  chat_template: "the server's configuration names the template",
}

export const checkKwargs = (kwargs: Readonly<Record<string, unknown>> | undefined): void => {
  for (const [name, value] of Object.entries(kwargs ?? {})) {
    const why = Object.hasOwn(OTHERS_KWARGS, name) ? OTHERS_KWARGS[name] : undefined
    const asksNothing = value === null || (Array.isArray(value) && value.length === 0)
    if (why === undefined || asksNothing) continue
    const param = `chat_template_kwargs.${name}`
    throw unsupportedParameter(param, `'${param}' is not supported: ${why}.`)
  }
}

const kwargSwitch = (kwargs: Readonly<Record<string, unknown>>): boolean | undefined => {
  for (const key of SWITCHES) {
    const value = kwargs[key]
    if (value === undefined || value === null) continue
    if (typeof value !== 'boolean')
      throw badRequest(
        `Invalid type for 'chat_template_kwargs.${key}': expected a boolean.`,
        `chat_template_kwargs.${key}`,
      )
    return value
  }
  return undefined
}

/** For models that do not reason: asking for it is an error, never a guess. */
export const refuseThinking = (body: Partial<Conversation>, model: string): void => {
  const refuse = (param: string) => {
    throw unsupportedParameter(param, `'${param}' is not supported: '${model}' does not reason.`)
  }
  if (body.reasoning_effort !== undefined) refuse('reasoning_effort')
  if (body.thinking_token_budget !== undefined) refuse('thinking_token_budget')
  if (body.thinking_budget !== undefined) refuse('thinking_budget')
  for (const key of SWITCHES) {
    if ((body.chat_template_kwargs?.[key] ?? null) !== null) refuse(`chat_template_kwargs.${key}`)
  }
}

/** The mode line comes first, then a blank line, then the caller's system text. */
const withModeLine = (messages: readonly Message[], on: boolean): readonly Message[] => {
  const line = `detailed thinking ${on ? 'on' : 'off'}`
  const [first, ...rest] = messages
  if (first?.role !== 'system') return [{ role: 'system', content: line }, ...messages]
  const text = first.content
  return [{ role: 'system', content: text.trim() === '' ? line : `${line}\n\n${text}` }, ...rest]
}

/** The template takes the word out. On is what it does without one. */
const withWord = (messages: readonly Message[], on: boolean): readonly Message[] => {
  if (on) return messages
  const [first, ...rest] = messages
  if (first?.role !== 'system') return [{ role: 'system', content: '/no_think' }, ...messages]
  return [{ ...first, content: `${first.content}\n\n/no_think`.trim() }, ...rest]
}

/** Who said it in the text of the conversation, by the model's way. */
const said = (way: Reasoning['switch'], messages: readonly Message[]): boolean | undefined => {
  if (way === 'detailed_thinking') return ownLine(messages)
  return way === 'no_think' ? ownWord(messages) : undefined
}

/** The conversation as the model is told whether to think. */
const told = (
  way: Reasoning['switch'],
  messages: readonly Message[],
  on: boolean,
): readonly Message[] => {
  if (way === 'template') return messages
  return way === 'no_think' ? withWord(messages, on) : withModeLine(messages, on)
}

/** The conversation without what tells the model in it to think. */
const untold = (way: Reasoning['switch'], messages: readonly Message[]): readonly Message[] => {
  const change = (text: string): string => {
    if (way === 'no_think') return text.replace(WORDS, '')
    return text.replace(OWN_LINES, (line) => line.replace(/\bon\b/i, 'off'))
  }
  if (way === 'template') return messages
  return messages.map((message) =>
    message.role === 'system' ? { ...message, content: change(message.content) } : message,
  )
}

/** Where the answer begins when it goes on from a text. */
export const continuedStart = (content: string, otherwise: Start): Start => {
  if (content.trim() === '') return otherwise
  const opened = content.lastIndexOf('<think>')
  const closed = content.lastIndexOf('</think>')
  if (opened > closed) return 'thinking'
  if (closed >= 0 && content.slice(closed + '</think>'.length).trim() === '') return 'closed'
  return 'answer'
}

/** Whether a model thinks where nothing else says it; 'never': whatever else says that it does. */
export type Thinks = boolean | 'never'

export const resolveThinking = (
  body: Conversation,
  reasoning: Reasoning,
  thinks: Thinks,
): Thinking => {
  const isNever = thinks === 'never'
  const given = isNever ? untold(reasoning.switch, body.messages) : body.messages
  const kwargs = body.chat_template_kwargs ?? {}
  const byKwarg = kwargSwitch(kwargs)
  const byEffort =
    body.reasoning_effort === undefined
      ? undefined
      : !['none', 'minimal'].includes(body.reasoning_effort)
  const byField = isNever ? false : (byKwarg ?? byEffort)
  const own = said(reasoning.switch, given)
  const on = own ?? byField ?? thinks === true
  const asks = body.continue_final_message !== true && body.add_generation_prompt !== false
  const byTemplate = reasoning.switch === 'template'
  // If only the system text or the server's default turns thinking off, the model is told so. If a
  // field of the request does, it is certain: the block is closed in the prompt.
  const byLine = reasoning.switch === 'detailed_thinking'
  const isCertain = isNever || (own === undefined && byField === false)
  const prefilled = byLine && !on && isCertain && asks
  const last = body.messages.at(-1)
  const start: Start = prefilled ? 'closed' : on ? 'expected' : 'possible'
  const advice = on ? reasoning.on : reasoning.off
  return {
    messages: own === undefined ? told(reasoning.switch, given, on) : given,
    kwargs: byTemplate ? { ...kwargs, enable_thinking: on, thinking: on } : kwargs,
    prefill: prefilled ? PREFILL_OFF : '',
    start:
      body.continue_final_message === true && last
        ? continuedStart(continuedText(last, true), start)
        : start,
    card: { temperature: advice.temperature, topP: advice.top_p },
  }
}
