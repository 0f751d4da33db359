// Messages to prompt, by the checkpoint's own chat template. The prompt is a list of segments: control
// tokens that the template wrote, and plain text in which nothing is a control token.

import type { Message } from '../api/openai/schema.js'
import type { Tokenizer } from '../engine/types.js'
import { badRequest } from '../http/errors.js'
import { readJinja } from './jinja.js'
import { CUT, createMarker, unmarked } from './marked-text.js'
import { fromJs, fromJson, TooDeep, type Value } from './value.js'

export type Segment = { readonly id: number; readonly name: string } | { readonly text: string }

export type RenderRequest = {
  readonly messages: readonly Message[]
  readonly addGenerationPrompt: boolean
  /** Leave the last message open: the answer goes on from its end. */
  readonly continueFinal: boolean
  readonly keepThinking: boolean
  readonly kwargs: Readonly<Record<string, unknown>>
  /** Text after the generation prompt. */
  readonly prefill: string
}

export type ChatTemplate = {
  /** The Jinja text; '' where there is none and chat is refused. */
  readonly source: string
  readonly render: (request: RenderRequest) => readonly Segment[]
}

const OPEN = '<think>'
const CLOSE = '</think>'

export const contentText = (content: Message['content']): string =>
  typeof content === 'string'
    ? content
    : Array.isArray(content)
      ? content.map((part) => part.text).join('\n')
      : ''

/** What an earlier turn answered, without what it thought. */
const withoutThinking = (content: string): string => {
  const at = content.indexOf(CLOSE)
  if (at >= 0) return content.slice(at + CLOSE.length).trimStart()
  return content.trimStart().startsWith(OPEN) ? '' : content
}

type AssistantMessage = Extract<Message, { role: 'assistant' }>

/** A message that says what was thought, even that nothing was, has no thinking in its content. */
const isApart = (message: AssistantMessage): boolean =>
  message.reasoning !== undefined || message.reasoning_content !== undefined

const thoughtOf = (message: AssistantMessage): string =>
  message.reasoning ?? message.reasoning_content ?? ''

const withThinking = (message: AssistantMessage): string => {
  const content = contentText(message.content)
  const thought = thoughtOf(message)
  return thought === '' || content.trimStart().startsWith(OPEN)
    ? content
    : `${OPEN}\n${thought}\n${CLOSE}\n\n${content}`
}

/** What the final message has so far; where it has only thought, its thinking goes on. */
export const continuedText = (message: Message, reasoning: boolean): string => {
  const content = contentText(message.content)
  if (message.role !== 'assistant' || !reasoning) return content
  const thought = thoughtOf(message)
  return content === '' && thought !== '' ? `${OPEN}\n${thought}` : withThinking(message)
}

const MAX_DEPTH = 64

const tooDeep = (error: unknown, param: string): unknown =>
  error instanceof TooDeep
    ? badRequest(
        `Invalid value for '${param}': it is nested more than ${MAX_DEPTH} levels deep.`,
        param,
      )
    : error

/** Escapes a name for a pattern. */
const escapeName = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')

/** Alternatives, longest first, so that a name that begins another does not win. */
const namesPattern = (names: readonly string[]): RegExp =>
  new RegExp(
    [...names]
      .sort((a, b) => b.length - a.length)
      .map(escapeName)
      .join('|') || '(?!)',
    'g',
  )

export type TemplateOptions = {
  readonly source: string
  readonly tokenizer: Tokenizer
  /** bos_token, eos_token and the like, as tokenizer_config.json names them. */
  readonly tokens: Readonly<Record<string, string>>
  /** Earlier turns' thinking is ours to drop or keep. */
  readonly reasoning: boolean
}

export const createTemplate = (options: TemplateOptions): ChatTemplate => {
  const { source, tokenizer, tokens, reasoning } = options
  if (source === '')
    return {
      source,
      render: () => {
        throw badRequest(
          'This model has no chat template. Use /v1/completions, or name a template in the configuration file.',
          'model',
        )
      },
    }
  const template = readJinja(source)
  const names = [...tokenizer.special.keys()]
  const { mark } = createMarker(names)
  const pattern = namesPattern(names)
  const bosId = tokenizer.bosId

  /** Arguments travel as JSON text; templates expect the value. No text: no arguments. */
  const argumentsOf = (given: string, param: string): Value => {
    if (given.trim() === '') return new Map()
    try {
      return fromJson(given, mark, MAX_DEPTH)
    } catch (error) {
      if (error instanceof SyntaxError) return mark(given)
      throw tooDeep(error, param)
    }
  }

  const kwargsOf = (kwargs: Readonly<Record<string, unknown>>): [string, Value][] => {
    try {
      // Names of variables are never written.
      return Object.entries(kwargs).map(([name, value]) => [name, fromJs(value, mark, MAX_DEPTH)])
    } catch (error) {
      throw tooDeep(error, 'chat_template_kwargs')
    }
  }

  const view = (message: Message, at: number, request: RenderRequest): Value => {
    const open = request.continueFinal && at === request.messages.length - 1
    let content = open ? continuedText(message, reasoning) : contentText(message.content)
    const ofModel = message.role === 'assistant' && reasoning
    if (ofModel && !open) {
      if (request.keepThinking) content = withThinking(message)
      else if (!isApart(message)) content = withoutThinking(content)
    }
    // A template may cut assistant text at </think> by itself: tags that are left have to stay.
    const tags = open || ofModel ? [OPEN, CLOSE] : []
    const shown = new Map<Value, Value>([
      ['role', message.role === 'developer' ? 'system' : message.role],
      ['content', mark(content, tags) + (open ? CUT : '')],
    ])
    if (typeof message.name === 'string') shown.set('name', mark(message.name))
    if (message.role === 'tool' && typeof message.tool_call_id === 'string')
      shown.set('tool_call_id', mark(message.tool_call_id))
    if (message.role === 'assistant' && message.tool_calls && message.tool_calls.length > 0)
      shown.set(
        'tool_calls',
        message.tool_calls.map((call, i) => {
          const { name, arguments: given } = call.function
          const param = `messages.${at}.tool_calls.${i}.function.arguments`
          return new Map<Value, Value>([
            ['id', mark(call.id ?? '')],
            ['type', 'function'],
            [
              'function',
              new Map([
                ['name', mark(name)],
                ['arguments', argumentsOf(given, param)],
              ]),
            ],
          ])
        }),
      )
    return shown
  }

  const run = (request: RenderRequest): string => {
    const values = new Map<string, Value>([
      ...kwargsOf(request.kwargs),
      ...Object.entries(tokens),
      ['messages', request.messages.map((message, at) => view(message, at, request))],
      ['add_generation_prompt', request.addGenerationPrompt],
    ])
    let text: string
    try {
      text = template.render(values)
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      throw badRequest(`The chat template refuses these messages: ${unmarked(why)}.`, 'messages')
    }
    if (!request.continueFinal) return text + request.prefill
    const cut = text.lastIndexOf(CUT)
    if (cut < 0)
      throw badRequest(
        'The chat template drops the final message, so it cannot be continued.',
        'continue_final_message',
      )
    return text.slice(0, cut)
  }

  const segments = (text: string): readonly Segment[] => {
    const list: Segment[] = []
    const plain = (from: number, to: number) => {
      if (to > from) list.push({ text: unmarked(text.slice(from, to)) })
    }
    let at = 0
    for (const match of text.matchAll(pattern)) {
      plain(at, match.index)
      at = match.index + match[0].length
      const id = tokenizer.special.get(match[0])
      if (id !== undefined) list.push({ id, name: match[0] })
    }
    plain(at, text.length)
    return list
  }

  return {
    source,
    render: (request) => {
      const list = segments(run(request))
      const [first, second] = list
      const doubled =
        bosId !== null && first && second && 'id' in first && 'id' in second && first.id === bosId
          ? second.id === bosId
          : false
      return doubled ? list.slice(1) : list
    },
  }
}

export const segmentsText = (segments: readonly Segment[]): string =>
  segments.map((segment) => ('text' in segment ? segment.text : segment.name)).join('')

/** Token ids of a prompt: names by their ids, text by itself. */
export const encodeSegments = async (
  segments: readonly Segment[],
  tokenizer: Tokenizer,
): Promise<readonly number[]> => {
  const parts = await Promise.all(
    segments.map((segment) => ('text' in segment ? tokenizer.encode(segment.text) : [segment.id])),
  )
  // Not flat(), which takes its time over 128,000 ids.
  const ids = new Array<number>(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) for (const id of part) ids[at++] = id
  return ids
}
