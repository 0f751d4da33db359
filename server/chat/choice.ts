// One choice of a chat answer while it grows: its text split into thinking, answer and calls of tools, its
// ids counted.

import type { Delta } from '../engine/types.js'
import { type AnswerEvent, eventOf } from '../generation/answer-event.js'
import type { Tokenizer } from '../tokenizer/types.js'
import { createSplitter, type Start } from './think-splitter.js'
import { type CallParser, createCallParser, type ParserOptions } from './tools/call-parser.js'

type Choice = {
  /** What a delta says; of the one that finishes, the rest too. */
  readonly toEvent: (delta: Delta) => AnswerEvent
  readonly reasoningTokens: () => number
}

type ChoiceOptions = {
  /** Where the text begins; undefined: it has no thinking. */
  readonly start: Start | undefined
  /** The answer is held to a form from its beginning. */
  readonly isHeld: boolean
  /** Thinking stays in the text. */
  readonly isUnsplit: boolean
  /** How calls of tools are read; undefined: there are none. */
  readonly calls: ParserOptions | undefined
  readonly tokenizer: Tokenizer
  readonly skipSpecial: boolean
  /** The ids and log probabilities of the thinking are not told. */
  readonly hideThinking: boolean
}

type Told = Pick<AnswerEvent, 'tokenIds'> & {
  readonly logprobs?: AnswerEvent['logprobs']
}

const NOTHING: Told = { tokenIds: [], logprobs: undefined }

const from = ({ tokenIds, logprobs }: Told, at: number): Told => ({
  tokenIds: tokenIds.slice(at),
  logprobs: logprobs?.slice(at),
})

const joined = (a: Told, b: Told): Told => ({
  tokenIds: [...a.tokenIds, ...b.tokenIds],
  logprobs: b.logprobs && [...(a.logprobs ?? []), ...b.logprobs],
})

/** Counts the tokens of thinking: those that begin before the end of the closing tag, the same
 * however the deltas were cut. */
const createCounter = ({ tokenizer, skipSpecial }: ChoiceOptions) => {
  const starts: number[] = [] // where each token's bytes begin
  let bytes = 0
  return {
    note: (ids: readonly number[]) => {
      for (const id of ids) {
        starts.push(bytes)
        bytes += skipSpecial && tokenizer.isSpecial(id) ? 0 : tokenizer.bytes(id).length
      }
    },
    before: (end: number) => starts.filter((at) => at < end).length,
    all: () => starts.length,
    forget: () => {
      starts.length = 0
    },
  }
}

const createPlain = (): Choice => ({
  toEvent: (delta) => eventOf(delta.choice, delta),
  reasoningTokens: () => 0,
})

const createSplit = (options: ChoiceOptions, start: Start): Choice => {
  const splitter = createSplitter(start, options.calls?.format.open, options.isHeld)
  const counter = createCounter(options)
  let thought: number | undefined

  const count = (): number => {
    const end = splitter.closedAt()
    if (end !== null) return counter.before(end)
    return splitter.isThinking() ? counter.all() : 0
  }

  /** Tokens of which it is not known yet whether they are thinking. */
  let undecided = NOTHING

  /** What may be told of a delta's tokens, when the thinking is hidden. */
  const visible = (delta: Delta, before: number): Told => {
    const closed = splitter.closedAt() !== null
    const isDecided = closed || splitter.isAnswering() || splitter.isThinking()
    if (!isDecided) undecided = joined(undecided, delta)
    else if (splitter.isThinking()) undecided = NOTHING
    if (closed) return from(delta, Math.max(0, (thought ?? 0) - before))
    if (splitter.isThinking()) return NOTHING
    if (!isDecided && delta.finish === undefined) return NOTHING
    const told = isDecided ? joined(undecided, delta) : undecided
    undecided = NOTHING
    return told
  }

  return {
    toEvent: (delta) => {
      if (thought !== undefined && splitter.isAnswering()) return eventOf(delta.choice, delta)
      const before = counter.all()
      if (thought === undefined) counter.note(delta.tokenIds)
      const isCounted = thought !== undefined
      let { reasoning, content } = splitter.push(delta.text)
      if (!isCounted && (splitter.closedAt() !== null || splitter.isAnswering())) thought = count()
      const told = options.hideThinking && !isCounted ? visible(delta, before) : undefined
      if (thought !== undefined) counter.forget()
      if (delta.finish !== undefined) {
        const rest = splitter.end(delta.finish === 'stop')
        reasoning += rest.reasoning
        content += rest.content
      }
      const event = eventOf(delta.choice, delta, reasoning, content)
      return told === undefined ? event : { ...event, logprobs: undefined, ...told }
    },
    reasoningTokens: () => thought ?? count(),
  }
}

/** Of text that has its thinking in it: what is thinking or its tags, and what is the answer. */
type Gate = (text: string, isLast: boolean) => readonly [before: string, answer: string]

const openGate: Gate = (text) => ['', text]

const createGate = (start: Start, answerTag: string): Gate => {
  const splitter = createSplitter(start, answerTag)
  let held = ''
  return (text, isLast) => {
    const { content } = splitter.push(text)
    const all = held + text
    const isKnown = splitter.isThinking() || splitter.isAnswering() || splitter.closedAt() !== null
    held = isKnown || isLast ? '' : all
    return held === '' ? [all.slice(0, all.length - content.length), content] : ['', '']
  }
}

/** Calls apart from the text. What is only thought is no call. */
const withCalls = (choice: Choice, parser: CallParser, gate: Gate): Choice => ({
  ...choice,
  toEvent: (delta) => {
    const event = choice.toEvent(delta)
    const isLast = event.finish !== undefined
    const [before, answer] = gate(event.text, isLast)
    const { text, calls } = parser.push(answer)
    if (!isLast) return { ...event, text: before + text, calls }
    const rest = parser.end()
    return {
      ...event,
      text: before + text + rest.text,
      calls: [...calls, ...rest.calls],
      finish: event.finish === 'stop' && parser.endsInCalls() ? 'tool_calls' : event.finish,
    }
  },
})

export const createChoice = (options: ChoiceOptions): Choice => {
  const { start, isUnsplit, calls } = options
  const isSplit = start !== undefined && !isUnsplit
  const choice = isSplit ? createSplit(options, start) : createPlain()
  if (calls === undefined) return choice
  const gate = start !== undefined && isUnsplit ? createGate(start, calls.format.open) : openGate
  return withCalls(choice, createCallParser(calls), gate)
}
