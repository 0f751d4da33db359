// Messages to prompt, by the checkpoint's own chat template. The prompt is a list of segments: control
// tokens that the template wrote, and plain text in which nothing is a control token.

import { Template } from '@huggingface/jinja'
import type { Message } from '../api/openai/schema.js'
import type { Tokenizer } from '../engine/types.js'
import { badRequest } from '../http/errors.js'
import { CUT, createNeutraliser, namesPattern } from './control-tokens.js'

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
export const withoutThinking = (content: string): string => {
  const at = content.lastIndexOf(CLOSE)
  if (at >= 0) return content.slice(at + CLOSE.length).trimStart()
  return content.trimStart().startsWith(OPEN) ? '' : content
}

const withThinking = (content: string, reasoning: string): string =>
  reasoning === '' || content.includes(CLOSE)
    ? content
    : `${OPEN}\n${reasoning}\n${CLOSE}\n\n${content}`

/** Arguments travel as JSON text; templates expect the value. */
const parsedArguments = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

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
  const template = new Template(source)
  const names = [...tokenizer.special.keys()]
  const neutral = createNeutraliser(names, [OPEN, CLOSE])
  const pattern = namesPattern(names)
  const bosId = tokenizer.bosId

  const view = (message: Message, request: RenderRequest, isLast: boolean) => {
    const open = isLast && request.continueFinal
    let content = contentText(message.content)
    // A template may cut assistant text at </think> by itself: hide the tags that have to stay.
    let hideTags = open
    if (message.role === 'assistant' && reasoning && !open) {
      if (request.keepThinking) {
        content = withThinking(content, message.reasoning ?? message.reasoning_content ?? '')
        hideTags = true
      } else content = withoutThinking(content)
    }
    const shown: Record<string, unknown> = {
      role: message.role === 'developer' ? 'system' : message.role,
      content: neutral.hide(content, hideTags) + (open ? CUT : ''),
    }
    if (typeof message.name === 'string') shown.name = neutral.hide(message.name)
    if (message.role === 'tool' && typeof message.tool_call_id === 'string')
      shown.tool_call_id = neutral.hide(message.tool_call_id)
    if (message.role === 'assistant' && message.tool_calls && message.tool_calls.length > 0)
      shown.tool_calls = message.tool_calls.map((call) => ({
        id: neutral.hideDeep(call.id ?? ''),
        type: 'function',
        function: {
          name: neutral.hide(call.function.name),
          arguments: neutral.hideDeep(parsedArguments(call.function.arguments)),
        },
      }))
    return shown
  }

  const run = (request: RenderRequest): string => {
    const last = request.messages.length - 1
    const context = {
      ...(neutral.hideDeep(request.kwargs) as Record<string, unknown>),
      ...tokens,
      messages: request.messages.map((message, i) => view(message, request, i === last)),
      add_generation_prompt: request.addGenerationPrompt,
    }
    let text: string
    try {
      text = template.render(context)
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      throw badRequest(
        `The chat template refuses these messages: ${neutral.restore(why)}`,
        'messages',
      )
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
      if (to > from) list.push({ text: neutral.restore(text.slice(from, to)) })
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
