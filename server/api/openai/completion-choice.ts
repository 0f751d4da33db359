// One choice of a text completion while it grows: the echoed prompt, the text, the logprobs.

import type { AnswerEvent } from '../../generation/answer-event.js'
import type { Tokenizer } from '../../tokenizer/types.js'
import { addLogprobs, type CompletionLogprobs, createOffsets, tokenText } from './logprobs.js'

export type CompletionChoice = {
  /** The text of an event, the echo before the first. */
  readonly text: (event: AnswerEvent) => string
  /** Adds the logprobs of an event to `out`, in slices; of every event, in their order. */
  readonly logprobs: (event: AnswerEvent, out: CompletionLogprobs) => Generator<string, void>
}

type Echo = {
  readonly ids: readonly number[]
  readonly text: string
  /** The prompt was text. Control-token names written in it are echoed; a BOS that we added is not. */
  readonly raw: boolean
}

type CompletionChoiceOptions = {
  readonly tokenizer: Tokenizer
  readonly echo: Echo | undefined
  readonly skipSpecial: boolean
}

export const createCompletionChoice = (options: CompletionChoiceOptions): CompletionChoice => {
  const { tokenizer, echo } = options
  const offsets = createOffsets()
  let begun = false
  let counted = false

  const inAnswer = (id: number) => !(options.skipSpecial && tokenizer.isSpecial(id))
  const inEcho = (id: number, position: number) =>
    echo?.raw !== true
      ? inAnswer(id)
      : position > 0 || id !== tokenizer.bosId || echo.text.startsWith(tokenText(tokenizer, id))

  return {
    text: (event) => {
      const isFirst = !begun
      begun = true
      return isFirst && echo ? echo.text + event.text : event.text
    },
    logprobs: function* (event, out) {
      const isFirst = !counted
      counted = true
      if (isFirst && echo)
        yield* addLogprobs(out, event.promptLogprobs ?? [], echo.ids, tokenizer, offsets, inEcho)
      yield* addLogprobs(out, event.logprobs ?? [], event.tokenIds, tokenizer, offsets, inAnswer)
    },
  }
}
