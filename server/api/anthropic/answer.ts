// An answer as Anthropic's message: in one piece and as a stream of events.

import type { ChatPlan } from '../../chat/plan.js'
import type { StreamForm, WholeForm } from '../../generation/answer.js'
import type { AnswerEvent } from '../../generation/answer-event.js'
import type { Counts, Run } from '../../generation/run.js'
import { messageError } from './error.js'
import type { MessagesRequest } from './schema.js'

export type MessageAnswer = ChatPlan & {
  readonly body: MessagesRequest
  readonly id: string
  readonly requestId: string
}

/** A thinking block has to have one, and clients send it back: nothing is signed here. */
const SIGNATURE = 'unsigned'

/** What was read from the cache is known when the answer ends; until then it counts as input. */
const usageOf = ({ promptTokens, cachedTokens, completionTokens }: Counts, thought: number) => ({
  input_tokens: promptTokens - cachedTokens,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: cachedTokens,
  output_tokens: completionTokens,
  output_tokens_details: { thinking_tokens: thought },
  server_tool_use: null,
})

const REASONS = { stop: 'end_turn', length: 'max_tokens', tool_calls: 'tool_use' } as const

/** The model's length may have less room than max_tokens asks for. */
const reasonOf = (last: AnswerEvent | undefined, { completionTokens }: Counts, most: number) =>
  last?.finish === 'length' && completionTokens < most
    ? ('model_context_window_exceeded' as const)
    : REASONS[last?.finish ?? 'stop']

const endOf = (last: AnswerEvent | undefined, counts: Counts, { body }: MessageAnswer) => {
  const stop = typeof last?.stopReason === 'string' ? last.stopReason : null
  return {
    stop_reason: stop === null ? reasonOf(last, counts, body.max_tokens) : 'stop_sequence',
    stop_sequence: stop,
  }
}

/** Where edits were asked for: those that may be asked for change nothing. */
const editsOf = ({ body }: MessageAnswer) =>
  body.context_management ? { context_management: { applied_edits: [] } } : {}

const head = ({ id, body }: MessageAnswer) => ({
  id,
  type: 'message' as const,
  role: 'assistant' as const,
  model: body.model,
  container: null,
  diagnostics: null,
  stop_details: null,
})

const wholeUsage = (counts: Counts, thought: number) => ({
  ...usageOf(counts, thought),
  cache_creation: { ephemeral_5m_input_tokens: 0, ephemeral_1h_input_tokens: 0 },
  inference_geo: null,
  service_tier: 'standard' as const,
  speed: null,
})

/** The block is there, and nothing is told in it. */
const isOmitted = ({ body: { thinking } }: MessageAnswer): boolean =>
  thinking !== undefined && thinking.type !== 'disabled' && thinking.display === 'omitted'

const DIRECT = { type: 'direct' as const }

type Block =
  | { readonly type: 'thinking'; thinking: string; readonly signature: string }
  | { readonly type: 'text'; text: string }
  | { readonly type: 'tool_use'; readonly id: string; readonly name: string; json: string }

const isJson = (text: string): boolean => {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** The blocks as a list in JSON; an input as the model wrote it, to the digit. A call that max_tokens cut off has
 * none that could be told. */
function* contentPieces(blocks: readonly Block[]): Generator<string> {
  let before = '['
  for (const block of blocks) {
    if (block.type !== 'tool_use') yield before + JSON.stringify(block)
    else if (isJson(block.json)) {
      const { type, id, name, json } = block
      const call = JSON.stringify({ type, id, name }).slice(0, -1)
      yield `${before}${call},"input":${json},"caller":${JSON.stringify(DIRECT)}}`
    } else continue
    before = ','
  }
  yield before === '[' ? '[]' : ']'
}

export const wholeMessage = (answer: MessageAnswer): WholeForm => {
  const blocks: Block[] = []
  const omits = isOmitted(answer)
  let last: AnswerEvent | undefined

  const add = (event: AnswerEvent): void => {
    const { reasoning, text, calls } = event
    let at = blocks.at(-1)
    if (reasoning !== '') {
      if (at?.type !== 'thinking') {
        at = { type: 'thinking', thinking: '', signature: SIGNATURE }
        blocks.push(at)
      }
      if (!omits) at.thinking += reasoning
    }
    if (text !== '') {
      if (at?.type !== 'text') {
        at = { type: 'text', text: '' }
        blocks.push(at)
      }
      at.text += text
    }
    for (const { id, name, arguments: json } of calls) {
      if (id !== undefined && name !== undefined) {
        at = { type: 'tool_use', id, name, json: '' }
        blocks.push(at)
      }
      if (at?.type === 'tool_use') at.json += json
    }
    last = event
  }

  return {
    event: add,
    *answer({ counts }) {
      const end = {
        ...endOf(last, counts, answer),
        ...editsOf(answer),
        usage: wholeUsage(counts, answer.reasoningTokens()),
      }
      yield `${JSON.stringify(head(answer)).slice(0, -1)},"content":`
      yield* contentPieces(blocks)
      yield `,${JSON.stringify(end).slice(1)}`
    },
  }
}

const sse = (type: string, rest: object): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...rest })}\n\n`

const PING = sse('ping', {})
const DELTA = 'event: content_block_delta\ndata: {"type":"content_block_delta","index":'
const ENDED = '"}}\n\n'

type Kind = Block['type']
const DELTAS = {
  thinking: '"thinking_delta","thinking":',
  text: '"text_delta","text":',
  tool_use: '"input_json_delta","partial_json":',
} as const

const deltaText = (index: number, kind: Kind, text: string): string =>
  `${DELTA}${index},"delta":{"type":${DELTAS[kind]}${JSON.stringify(text)}}}\n\n`

export const messageStream = (answer: MessageAnswer): StreamForm => {
  let index = -1
  let open: Kind | undefined
  let hasBegun = false
  const omits = isOmitted(answer)
  let last: AnswerEvent | undefined

  const begin = ({ counts }: Run): string => {
    hasBegun = true
    const message = {
      ...head(answer),
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: wholeUsage({ ...counts, completionTokens: 0, cachedTokens: 0 }, 0),
    }
    return sse('message_start', { message }) + PING
  }

  const close = (): string => {
    if (open === undefined) return ''
    const signed =
      open === 'thinking'
        ? `${DELTA}${index},"delta":{"type":"signature_delta","signature":"${SIGNATURE}${ENDED}`
        : ''
    open = undefined
    return signed + sse('content_block_stop', { index })
  }

  const start = (kind: Kind, block: object): string => {
    const before = close()
    open = kind
    index++
    return before + sse('content_block_start', { index, content_block: { type: kind, ...block } })
  }

  const event = (one: AnswerEvent, run: Run): string => {
    const { reasoning, text, calls } = one
    let out = hasBegun ? '' : begin(run)
    if (reasoning !== '') {
      if (open !== 'thinking') out += start('thinking', { thinking: '', signature: '' })
      if (!omits) out += deltaText(index, 'thinking', reasoning)
    }
    if (text !== '') {
      if (open !== 'text') out += start('text', { text: '' })
      out += deltaText(index, 'text', text)
    }
    for (const { id, name, arguments: json } of calls) {
      if (id !== undefined) out += start('tool_use', { id, name, input: {}, caller: DIRECT })
      if (json !== '') out += deltaText(index, 'tool_use', json)
    }
    if (one.finish === undefined) return out
    last = one
    return out + close()
  }

  return {
    event,
    closing: ({ counts }) =>
      sse('message_delta', {
        delta: { container: null, stop_details: null, ...endOf(last, counts, answer) },
        ...editsOf(answer),
        usage: usageOf(counts, answer.reasoningTokens()),
      }) + sse('message_stop', {}),
    error: (error) => {
      const { type, ...rest } = messageError(error, answer.requestId)
      return sse(type, rest)
    },
  }
}
