// One choice of a chat answer while it grows: its text split into thinking and answer, its ids counted.

import type { Delta, Tokenizer } from '../engine/types.js'
import { createSplitter, type Piece, type Start } from './think-splitter.js'

export type Choice = {
  /** The next piece of the answer; on the delta that finishes, the rest too. */
  readonly push: (delta: Delta) => Piece
  readonly reasoningTokens: () => number
}

export type ChoiceOptions = {
  /** undefined: nothing is split, all text is content. */
  readonly start: Start | undefined
  readonly tokenizer: Tokenizer
  readonly skipSpecial: boolean
}

export const createChoice = ({ start, tokenizer, skipSpecial }: ChoiceOptions): Choice => {
  if (start === undefined)
    return {
      push: (delta) => ({ reasoning: '', content: delta.text }),
      reasoningTokens: () => 0,
    }
  const splitter = createSplitter(start)
  const starts: number[] = [] // where each token's bytes begin, while thinking lasts
  let bytes = 0
  let thought: number | undefined

  /** Tokens that begin before the end of the closing tag: the same however the deltas were cut. */
  const count = (): number => {
    const end = splitter.closedAt()
    if (end !== null) return starts.filter((at) => at < end).length
    return splitter.isThinking() ? starts.length : 0
  }

  const note = (ids: readonly number[]) => {
    for (const id of ids) {
      starts.push(bytes)
      bytes += skipSpecial && tokenizer.isSpecial(id) ? 0 : tokenizer.bytes(id).length
    }
  }

  return {
    push: (delta) => {
      if (thought === undefined) note(delta.tokenIds)
      const piece = splitter.push(delta.text)
      if (thought === undefined && (splitter.closedAt() !== null || splitter.isAnswering())) {
        thought = count()
        starts.length = 0
      }
      if (delta.finish === undefined) return piece
      const rest = splitter.end(delta.finish === 'stop')
      return {
        reasoning: piece.reasoning + rest.reasoning,
        content: piece.content + rest.content,
      }
    },
    reasoningTokens: () => thought ?? count(),
  }
}
