// One choice of a chat answer while it grows: its text split into thinking and answer, its ids counted.

import type { Delta } from '../engine/types.js'
import { type AnswerEvent, eventOf } from '../generation/answer-event.js'
import type { Tokenizer } from '../tokenizer/types.js'
import { createSplitter, type Start } from './think-splitter.js'

type Choice = {
  /** What a delta says; of the one that finishes, the rest too. */
  readonly toEvent: (delta: Delta) => AnswerEvent
  readonly reasoningTokens: () => number
}

type ChoiceOptions = {
  /** undefined: nothing is split, all text is content. */
  readonly start: Start | undefined
  readonly tokenizer: Tokenizer
  readonly skipSpecial: boolean
}

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

export const createChoice = (options: ChoiceOptions): Choice => {
  if (options.start === undefined)
    return { toEvent: (delta) => eventOf(delta.choice, delta), reasoningTokens: () => 0 }
  const splitter = createSplitter(options.start)
  const counter = createCounter(options)
  let thought: number | undefined

  const count = (): number => {
    const end = splitter.closedAt()
    if (end !== null) return counter.before(end)
    return splitter.isThinking() ? counter.all() : 0
  }

  return {
    toEvent: (delta) => {
      if (thought === undefined) counter.note(delta.tokenIds)
      else if (splitter.isAnswering()) return eventOf(delta.choice, delta)
      let { reasoning, content } = splitter.push(delta.text)
      if (thought === undefined && (splitter.closedAt() !== null || splitter.isAnswering())) {
        thought = count()
        counter.forget()
      }
      if (delta.finish !== undefined) {
        const rest = splitter.end(delta.finish === 'stop')
        reasoning += rest.reasoning
        content += rest.content
      }
      return eventOf(delta.choice, delta, reasoning, content)
    },
    reasoningTokens: () => thought ?? count(),
  }
}
