// One choice of a text completion while it grows: the echoed prompt, the text, the logprobs.

import type { Delta, Tokenizer } from '../../engine/types.js'
import {
  addLogprobs,
  type CompletionLogprobs,
  createOffsets,
  tokenText,
} from '../../generation/logprobs.js'

export type CompletionText = {
  /** The text of a delta, the echo before the first. */
  readonly text: (delta: Delta) => string
  /** Adds the logprobs of a delta to `out`, in slices; of every delta, in their order. */
  readonly logprobs: (delta: Delta, out: CompletionLogprobs) => Generator<string, void>
}

export type Echo = {
  readonly ids: readonly number[]
  readonly text: string
  /** Given as text: names in it stand in the echo, a BOS that we put in front does not. */
  readonly raw: boolean
}

export type CompletionTextOptions = {
  readonly tokenizer: Tokenizer
  readonly echo: Echo | undefined
  readonly skipSpecial: boolean
}

export const createCompletionText = (options: CompletionTextOptions): CompletionText => {
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
    text: (delta) => {
      const isFirst = !begun
      begun = true
      return isFirst && echo ? echo.text + delta.text : delta.text
    },
    logprobs: function* (delta, out) {
      const isFirst = !counted
      counted = true
      if (isFirst && echo)
        yield* addLogprobs(out, delta.promptLogprobs ?? [], echo.ids, tokenizer, offsets, inEcho)
      yield* addLogprobs(out, delta.logprobs ?? [], delta.tokenIds, tokenizer, offsets, inAnswer)
    },
  }
}
