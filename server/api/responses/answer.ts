// An answer as OpenAI's response: in one piece and as a stream of numbered events.

import type { ChatPlan } from '../../chat/plan.js'
import type { StreamForm, WholeForm } from '../../generation/answer.js'
import type { AnswerEvent } from '../../generation/answer-event.js'
import type { Counts, Run } from '../../generation/run.js'
import type { RequestError } from '../../request-error.js'
import { jsonPieces } from '../../slices.js'
import { answerId, unixTime } from '../respond.js'
import { knownFunctions } from './call.js'
import { isLeftOut, type ResponsesRequest } from './schema.js'

export type ResponseAnswer = ChatPlan & {
  readonly body: ResponsesRequest
  readonly id: string
  readonly created: number
}

type Item = {
  readonly type: 'reasoning' | 'message' | 'function_call'
  readonly id: string
  /** Of a call: its id and its name. */
  readonly call?: { readonly call_id: string; readonly name: string; readonly namespace?: string }
  /** What was thought or said, or the arguments. */
  text: string
}
type Status = 'in_progress' | 'completed' | 'incomplete'

const textPart = (text: string) => ({
  type: 'output_text' as const,
  text,
  annotations: [],
  logprobs: [],
})
const summaryPart = (text: string) => ({ type: 'summary_text' as const, text })

/** `isEmpty`: as it is told when it begins. */
const itemObject = (
  { type, id, call, text }: Item,
  status: Status,
  { include }: ResponsesRequest,
  isEmpty = false,
) => {
  switch (type) {
    case 'reasoning':
      return {
        id,
        type,
        summary: isEmpty ? [] : [summaryPart(text)],
        // Nothing is encrypted: the summary is what comes back.
        ...(include?.includes('reasoning.encrypted_content') && {
          encrypted_content: 'unencrypted',
        }),
        status,
      }
    case 'message':
      return { id, type, role: 'assistant', status, content: isEmpty ? [] : [textPart(text)] }
    default:
      return { id, type, ...call, arguments: isEmpty ? '' : text, status }
  }
}

const usageOf = (counts: Counts, thought: number) => ({
  input_tokens: counts.promptTokens,
  input_tokens_details: { cached_tokens: counts.cachedTokens, cache_write_tokens: 0 },
  output_tokens: counts.completionTokens,
  output_tokens_details: { reasoning_tokens: thought },
  total_tokens: counts.promptTokens + counts.completionTokens,
})

type Told = {
  readonly status: Status | 'failed'
  readonly output?: readonly object[]
  readonly error?: { readonly code: string; readonly message: string }
  readonly counts?: Counts
}

const responseObject = (answer: ResponseAnswer, { status, output, error, counts }: Told) => {
  const { body, id, created } = answer
  const sampling = answer.requests[0]?.sampling
  return {
    id,
    object: 'response' as const,
    created_at: created,
    status,
    background: false,
    completed_at: status === 'completed' ? unixTime() : null,
    error: error ?? null,
    incomplete_details: status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    max_tool_calls: null,
    model: body.model,
    output: output ?? [],
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: null,
    reasoning: { effort: body.reasoning?.effort ?? null, summary: body.reasoning?.summary ?? null },
    service_tier: 'default' as const,
    store: false,
    temperature: sampling?.temperature ?? null,
    text: { format: body.text?.format ?? { type: 'text' as const } },
    tool_choice: body.tool_choice ?? 'auto',
    tools: body.tools?.filter((tool) => !isLeftOut(tool)) ?? [],
    top_logprobs: 0,
    top_p: sampling?.topP ?? null,
    truncation: 'disabled' as const,
    usage: counts ? usageOf(counts, answer.reasoningTokens()) : null,
    metadata: body.metadata ?? {},
  }
}

type Emit = (type: string, rest: object) => void

const PREFIX = { reasoning: 'rs_', message: 'msg_', function_call: 'fc_' } as const

const DELTA = {
  reasoning: 'response.reasoning_summary_text.delta',
  message: 'response.output_text.delta',
  function_call: 'response.function_call_arguments.delta',
} as const

/** What stands in all events of an item's text. */
const placeOf = ({ type, id }: Item, index: number) => ({
  item_id: id,
  output_index: index,
  ...(type === 'reasoning' && { summary_index: 0 }),
  ...(type === 'message' && { content_index: 0 }),
})

/** The items of an answer while it grows; `emit` hears of what is not a delta. */
const createOutput = (
  body: ResponsesRequest,
  emit?: Emit,
  onDelta?: (item: Item, text: string) => void,
) => {
  const items: Item[] = []
  const known = knownFunctions(body)
  let open: Item | undefined

  const begin = (type: Item['type'], call?: Item['call']): Item => {
    close('completed')
    const item: Item = { type, id: answerId(PREFIX[type]), text: '', ...(call && { call }) }
    open = item
    const place = placeOf(item, items.push(item) - 1)
    emit?.('response.output_item.added', {
      output_index: place.output_index,
      item: itemObject(item, 'in_progress', body, true),
    })
    if (type === 'reasoning')
      emit?.('response.reasoning_summary_part.added', { ...place, part: summaryPart('') })
    if (type === 'message') emit?.('response.content_part.added', { ...place, part: textPart('') })
    return item
  }

  const close = (status: Status): void => {
    if (open === undefined) return
    const item = open
    const { type, text, call } = item
    open = undefined
    const place = placeOf(item, items.length - 1)
    if (type === 'reasoning') {
      emit?.('response.reasoning_summary_text.done', { ...place, text })
      emit?.('response.reasoning_summary_part.done', { ...place, part: summaryPart(text) })
    } else if (type === 'message') {
      emit?.('response.output_text.done', { ...place, text, logprobs: [] })
      emit?.('response.content_part.done', { ...place, part: textPart(text) })
    } else
      emit?.('response.function_call_arguments.done', {
        ...place,
        name: call?.name,
        arguments: text,
      })
    emit?.('response.output_item.done', {
      output_index: place.output_index,
      item: itemObject(item, status, body),
    })
  }

  const grow = (type: Item['type'], text: string): void => {
    const item = open?.type === type ? open : begin(type)
    item.text += text
    onDelta?.(item, text)
  }

  const add = ({ reasoning, text, calls, finish }: AnswerEvent): void => {
    if (reasoning !== '') grow('reasoning', reasoning)
    if (text !== '') grow('message', text)
    for (const { id, name, arguments: json } of calls) {
      if (id !== undefined && name !== undefined)
        begin('function_call', { call_id: id, ...(known.get(name) ?? { name }) })
      if (json !== '') grow('function_call', json)
    }
    if (finish !== undefined) close(finish === 'length' ? 'incomplete' : 'completed')
  }

  /** `last`: the status of the last item. */
  const told = (last: Status): readonly object[] =>
    items.map((item, i) => itemObject(item, i === items.length - 1 ? last : 'completed', body))
  return { add, told, count: () => items.length }
}

const statusOf = (last: AnswerEvent | undefined) =>
  last?.finish === 'length' ? ('incomplete' as const) : ('completed' as const)

export const wholeResponse = (answer: ResponseAnswer): WholeForm => {
  const output = createOutput(answer.body)
  let last: AnswerEvent | undefined
  return {
    event: (event) => {
      output.add(event)
      last = event
    },
    answer: ({ counts }) => {
      const status = statusOf(last)
      return jsonPieces(responseObject(answer, { status, output: output.told(status), counts }))
    },
  }
}

/** Characters of a text that is not told whole between two turns of the event loop. */
const LONG = 1 << 16

function* inTurns(first: string, rest: readonly (() => string)[]): Generator<string, string> {
  yield first
  for (const make of rest) yield make()
  return ''
}

/** Events that go out together, numbered. */
const createEvents = () => {
  let number = 0
  let out = ''
  /** Those that say a long text whole once more, and those behind them: each is made in its turn. */
  let later: (() => string)[] = []
  return {
    hasBegun: () => number > 0,
    next: () => number++,
    put: (make: () => string, isLong: boolean): void => {
      if (isLong || later.length > 0) later.push(make)
      else out += make()
    },
    taken: (): string | Generator<string, string> => {
      const [text, rest] = [out, later]
      out = ''
      later = []
      return rest.length === 0 ? text : inTurns(text, rest)
    },
  }
}

export const responseStream = (answer: ResponseAnswer): StreamForm => {
  const events = createEvents()
  let last: AnswerEvent | undefined
  /** Of the item that grows: what its deltas have before and behind their text. */
  let growing: Item | undefined
  let [before, behind] = ['', '']

  const emit: Emit = (type, rest) => {
    const event = { type, sequence_number: events.next(), ...rest }
    const isLong = (growing?.text.length ?? 0) > LONG
    events.put(() => `event: ${type}\ndata: ${JSON.stringify(event)}\n\n`, isLong)
  }
  const onDelta = (item: Item, text: string): void => {
    if (item !== growing) {
      growing = item
      const type = DELTA[item.type]
      before = `event: ${type}\ndata: {"type":"${type}","sequence_number":`
      const place = JSON.stringify(placeOf(item, output.count() - 1)).slice(1, -1)
      behind = `${item.type === 'message' ? ',"logprobs":[]' : ''},${place}}\n\n`
    }
    const event = `${before}${events.next()},"delta":${JSON.stringify(text)}${behind}`
    events.put(() => event, false)
  }
  const output = createOutput(answer.body, emit, onDelta)

  const begin = (): void => {
    const response = responseObject(answer, { status: 'in_progress' })
    emit('response.created', { response })
    emit('response.in_progress', { response })
  }
  return {
    event: (event) => {
      if (!events.hasBegun()) begin()
      output.add(event)
      last = event
      return events.taken()
    },
    closing: ({ counts }: Run) => {
      const status = statusOf(last)
      const response = responseObject(answer, { status, output: output.told(status), counts })
      emit(`response.${status}`, { response })
      return events.taken()
    },
    error: ({ message, code, param, kind }: RequestError) => {
      if (!events.hasBegun()) begin() // a ping may have opened the stream
      growing = undefined
      const error = { code: kind === 'busy' ? 'rate_limit_exceeded' : 'server_error', message }
      const response = responseObject(answer, {
        status: 'failed',
        output: output.told('incomplete'),
        error,
      })
      emit('response.failed', { response })
      // OpenAI's form is flat; its clients throw only what stands below `error`.
      const flat = { code: code ?? error.code, message, param }
      emit('error', { ...flat, error: { type: 'error', ...flat } })
      const told = events.taken()
      return typeof told === 'string' ? told : [...told].join('')
    },
  }
}
