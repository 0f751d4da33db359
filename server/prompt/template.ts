// Messages to prompt, by the checkpoint's own chat template. The prompt is a list of segments: control
// tokens that the template wrote, and plain text in which nothing is a control token.

import { messageOf } from '../failure.js'
import { badRequest } from '../request-error.js'
import type { Tokenizer } from '../tokenizer/types.js'
import { inCallOrder } from './call-order.js'
import type { Message, Tool, ToolCall } from './conversation.js'
import type { Segment } from './encode.js'
import { readJinja } from './jinja.js'
import { CUT, createMarker, unmarked } from './marked-text.js'
import { fitted, isOfTools, probeTemplate, type ToolPlace } from './shown.js'
import { type Bounds, fromJs, fromJson, TooMuch, type Value } from './value.js'

export type RenderRequest = {
  readonly messages: readonly Message[]
  /** So many of them, at the start, are not the caller's. Default 0. */
  readonly added?: number
  readonly addGenerationPrompt: boolean
  /** Leave the last message open: the answer goes on from its end. */
  readonly continueFinal: boolean
  readonly keepThinking: boolean
  readonly tools?: readonly Tool[]
  readonly kwargs: Readonly<Record<string, unknown>>
  /** Text after the generation prompt. */
  readonly prefill: string
}

export type ChatTemplate = {
  /** The Jinja text; '' where there is none and chat is refused. */
  readonly source: string
  /** The Jinja text of conversations with tools; '' where it knows none. */
  readonly toolSource: string
  readonly render: (request: RenderRequest) => readonly Segment[]
  /** Whether a member of this name, in such a place of a tool, may be in the prompt. */
  readonly showsOfTool: (place: ToolPlace, name: string) => boolean
}

const OPEN = '<think>'
const CLOSE = '</think>'

/** What an earlier turn answered, without what it thought. */
const withoutThinking = (content: string): string => {
  const at = content.indexOf(CLOSE)
  if (at >= 0) return content.slice(at + CLOSE.length).trimStart()
  return content.trimStart().startsWith(OPEN) ? '' : content
}

const withThinking = ({ content, reasoning = '' }: Message): string =>
  reasoning === '' || content.trimStart().startsWith(OPEN)
    ? content
    : `${OPEN}\n${reasoning}\n${CLOSE}\n\n${content}`

/** What the final message has so far; where it has only thought, its thinking goes on. */
export const continuedText = (message: Message, reasons: boolean): string => {
  const { role, content, reasoning = '' } = message
  if (role !== 'assistant' || !reasons) return content
  return content === '' && reasoning !== '' ? `${OPEN}\n${reasoning}` : withThinking(message)
}

const MAX_DEPTH = 64

/** Of all arguments of calls together, and of chat_template_kwargs. */
const MAX_VALUES = 20_000

/** Of the texts in chat_template_kwargs and in tools each; those of calls count with their messages. */
const MAX_CHARACTERS = 1 << 20

const tooMuch = (error: unknown, param: string): unknown =>
  error instanceof TooMuch
    ? badRequest(
        `Invalid value for '${param}': ${error.message} (at most ${MAX_DEPTH} levels, ${MAX_VALUES} values and ${MAX_CHARACTERS} characters).`,
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

/** Whether a template shows tools. */
export const knowsTools = (source: string): boolean => /\btools\b/.test(source)

type TemplateOptions = {
  readonly source: string
  /** Renders conversations with tools; undefined: `source` does. */
  readonly toolSource?: string | undefined
  readonly tokenizer: Tokenizer
  /** bos_token, eos_token and the like, as tokenizer_config.json names them. */
  readonly tokens: Readonly<Record<string, string>>
  /** Earlier turns' thinking is ours to drop or keep. */
  readonly reasoning: boolean
}

type Mark = ReturnType<typeof createMarker>['mark']

/** A caller's values: marked, and counted. */
type Caller = { readonly mark: Mark; readonly bounds: Bounds }

/** Some clients write arguments as JSON twice: the text inside, where it is an object or nothing. */
const writtenOnce = (given: string): string => {
  if (!/^\s*"/.test(given)) return given
  try {
    const inside: unknown = JSON.parse(given)
    return typeof inside === 'string' && /^\s*(?:\{|$)/.test(inside) ? inside : given
  } catch {
    return given
  }
}

/** Arguments travel as JSON text; templates expect the value. No text: no arguments. */
const argumentsOf = (text: string, param: string, { mark, bounds }: Caller): Value => {
  const given = writtenOnce(text)
  if (given.trim() === '') return new Map()
  try {
    return fromJson(given, mark, bounds)
  } catch (error) {
    if (error instanceof SyntaxError) return mark(given)
    throw tooMuch(error, param)
  }
}

/** Marks so much text, and no more. */
const counting = (mark: Mark): Mark => {
  let left = MAX_CHARACTERS
  return (text) => {
    left -= text.length
    if (left < 0) throw new TooMuch('it has too much text')
    return mark(text)
  }
}

const kwargsOf = (
  kwargs: Readonly<Record<string, unknown>>,
  { mark, bounds }: Caller,
): [string, Value][] => {
  const change = counting(mark)
  try {
    // Names of variables are never written.
    return Object.entries(kwargs).map(([name, value]) => [name, fromJs(value, change, bounds)])
  } catch (error) {
    throw tooMuch(error, 'chat_template_kwargs')
  }
}

/** Without `strict`, which is for the server. */
const viewTools = (tools: readonly Tool[], { mark, bounds }: Caller): Value => {
  const shown = tools.map((tool) => {
    const { strict: _, ...described } = tool.function
    return { ...tool, function: described }
  })
  try {
    return fromJs(shown, counting(mark), bounds)
  } catch (error) {
    throw tooMuch(error, 'tools')
  }
}

const viewCall = (call: ToolCall, path: string, caller: Caller): Value =>
  new Map<Value, Value>([
    ['id', caller.mark(call.id)],
    ['type', 'function'],
    [
      'function',
      new Map([
        ['name', caller.mark(call.name)],
        ['arguments', argumentsOf(call.arguments, `${path}.function.arguments`, caller)],
      ]),
    ],
  ])

/** The messages with the texts that they have in the prompt. `reasons`: earlier turns' thinking is ours to drop
 * or keep. */
const spoken = (request: RenderRequest, reasons: boolean): readonly Message[] => {
  const { messages, continueFinal, keepThinking } = request
  const said = (message: Message, isOpen: boolean): string => {
    if (isOpen) return continuedText(message, reasons)
    if (message.role !== 'assistant' || !reasons) return message.content
    if (keepThinking) return withThinking(message)
    // A message that says what was thought, even that nothing was, has no thinking in its content.
    return message.reasoning === undefined ? withoutThinking(message.content) : message.content
  }
  return inCallOrder(messages).map((message, at) => ({
    ...message,
    content: said(message, continueFinal && at === messages.length - 1),
  }))
}

/** Where calls stand in a request. */
const callPaths = ({ messages, added = 0 }: RenderRequest): ReadonlyMap<ToolCall, string> =>
  new Map(
    messages.flatMap(({ toolCalls = [] }, at) =>
      toolCalls.map((call, i) => [call, `messages.${at - added}.tool_calls.${i}`] as const),
    ),
  )

/** A message as a template sees it. `isOpen`: the answer goes on from its end. `tags`: they stay as they are. */
const view = (
  message: Message,
  isOpen: boolean,
  tags: readonly string[],
  { caller, paths }: { caller: Caller; paths: ReadonlyMap<ToolCall, string> },
): Value => {
  const { mark } = caller
  const shown = new Map<Value, Value>([
    ['role', message.role],
    ['content', mark(message.content, tags) + (isOpen ? CUT : '')],
  ])
  if (message.name !== undefined) shown.set('name', mark(message.name))
  if (message.toolCallId !== undefined) shown.set('tool_call_id', mark(message.toolCallId))
  if (message.toolCalls && message.toolCalls.length > 0)
    shown.set(
      'tool_calls',
      message.toolCalls.map((call) => viewCall(call, paths.get(call) ?? '', caller)),
    )
  return shown
}

/** Cuts a prompt at the names of control tokens. */
const segmentsOf = (text: string, pattern: RegExp, { special }: Tokenizer): Segment[] => {
  const list: Segment[] = []
  const plain = (from: number, to: number) => {
    if (to > from) list.push({ text: unmarked(text.slice(from, to)) })
  }
  let at = 0
  for (const match of text.matchAll(pattern)) {
    plain(at, match.index)
    at = match.index + match[0].length
    const id = special.get(match[0])
    if (id !== undefined) list.push({ id, name: match[0] })
  }
  plain(at, text.length)
  return list
}

const noTemplate: ChatTemplate = {
  source: '',
  toolSource: '',
  render: () => {
    throw badRequest(
      'This model has no chat template. Use /v1/completions, or name a template in the configuration file.',
      'model',
    )
  },
  showsOfTool: () => false,
}

/** Which template renders a conversation, and what it shows of one. */
const createChooser = ({ source, toolSource = source, tokens }: TemplateOptions) => {
  const open = (from: string) => {
    const { render } = readJinja(from)
    const probe = (hasTools: boolean) => probeTemplate(render, tokens, hasTools)
    return { render, bare: probe(false), tooled: probe(true) }
  }
  const plain = open(source)
  const withTools = toolSource === source ? plain : open(toolSource)
  const choose = (messages: readonly Message[], hasTools: boolean) => {
    if (hasTools) return { render: withTools.render, probe: withTools.tooled }
    // What earlier turns called and got has the form for tools, though none may be called now.
    const isBare = !isOfTools(messages) || withTools.bare.refuses('one call')
    const { render, bare } = isBare ? plain : withTools
    return { render, probe: bare }
  }
  return { choose, tooled: withTools.tooled }
}

export const createTemplate = (options: TemplateOptions): ChatTemplate => {
  const { source, toolSource = source, tokenizer, tokens, reasoning: reasons } = options
  if (source === '') return noTemplate
  const { choose, tooled } = createChooser(options)
  const names = [...tokenizer.special.keys()]
  const { mark } = createMarker(names)
  const pattern = namesPattern(names)
  const { bosId } = tokenizer

  const run = (request: RenderRequest): string => {
    const { tools = [], kwargs, added = 0, continueFinal } = request
    const { render, probe } = choose(request.messages, tools.length > 0)
    const messages = fitted(spoken(request, reasons), probe, added)
    const caller = { mark, bounds: { depth: MAX_DEPTH, values: MAX_VALUES } }
    const placed = { caller, paths: callPaths(request) }
    const values = new Map<string, Value>([
      ['documents', null],
      ...kwargsOf(kwargs, caller),
      ...Object.entries(tokens),
      [
        'messages',
        messages.map((message, at) => {
          const isOpen = continueFinal && at === messages.length - 1
          // A template may cut assistant text at </think> by itself: tags that are left have to stay.
          const isKept = isOpen || (message.role === 'assistant' && reasons)
          return view(message, isOpen, isKept ? [OPEN, CLOSE] : [], placed)
        }),
      ],
      ['tools', tools.length === 0 ? null : viewTools(tools, caller)],
      ['add_generation_prompt', request.addGenerationPrompt],
    ])
    let text: string
    try {
      text = render(values)
    } catch (error) {
      const why = messageOf(error)
      throw badRequest(`The chat template refuses these messages: ${unmarked(why)}.`, 'messages')
    }
    if (!continueFinal) return text + request.prefill
    const cut = text.lastIndexOf(CUT)
    if (cut < 0)
      throw badRequest(
        'The chat template drops the final message, so it cannot be continued.',
        'continue_final_message',
      )
    return text.slice(0, cut)
  }

  return {
    source,
    toolSource,
    render: (request) => {
      const list = segmentsOf(run(request), pattern, tokenizer)
      // Where the template writes BOS beside bos_token, one is enough.
      const isBos = (at: number) => {
        const segment = list[at]
        return bosId !== null && segment !== undefined && 'id' in segment && segment.id === bosId
      }
      return isBos(0) && isBos(1) ? list.slice(1) : list
    },
    // One that shows no others may still show one that it names.
    showsOfTool: (place, name) => tooled.showsAll(place) || toolSource.includes(name),
  }
}
