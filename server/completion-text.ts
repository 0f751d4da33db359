// One choice of a text completion while it grows: the echoed prompt, the text, the logprobs.

import {
  type CompletionLogprobs,
  completionLogprobs,
  createOffsets,
  joinCompletionLogprobs,
  tokenText,
} from './logprobs.js'
import type { Delta, Tokenizer } from './types.js'

export type CompletionText = {
  readonly push: (delta: Delta) => {
    readonly text: string
    readonly logprobs: CompletionLogprobs | null
  }
  /** All so far. */
  readonly logprobs: () => CompletionLogprobs | null
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
  readonly logprobs: boolean
  readonly skipSpecial: boolean
}

export const createCompletionText = (options: CompletionTextOptions): CompletionText => {
  const { tokenizer, echo } = options
  const offsets = createOffsets()
  let begun = false
  let all: CompletionLogprobs | null = null

  const inAnswer = (id: number) => !(options.skipSpecial && tokenizer.isSpecial(id))
  const inEcho = (id: number, position: number) =>
    echo?.raw !== true
      ? inAnswer(id)
      : position > 0 || id !== tokenizer.bosId || echo.text.startsWith(tokenText(tokenizer, id))

  return {
    push: (delta) => {
      const isFirst = !begun
      begun = true
      const text = isFirst && echo ? echo.text + delta.text : delta.text
      if (!options.logprobs) return { text, logprobs: null }
      const prompt =
        isFirst && echo
          ? completionLogprobs(delta.promptLogprobs ?? [], echo.ids, tokenizer, offsets, inEcho)
          : null
      const output = delta.logprobs?.length
        ? completionLogprobs(delta.logprobs, delta.tokenIds, tokenizer, offsets, inAnswer)
        : null
      const now = prompt && output ? joinCompletionLogprobs(prompt, output) : (prompt ?? output)
      if (now) all = all ? joinCompletionLogprobs(all, now) : now
      return { text, logprobs: now }
    },
    logprobs: () => all,
  }
}
