// One choice of a text completion while it grows: the echoed prompt, the text, the logprobs.

import { type CompletionLogprobs, completionLogprobs, joinCompletionLogprobs } from './logprobs.js'
import type { Delta, Tokenizer, TokenLogprob } from './types.js'

export type CompletionText = {
  readonly push: (delta: Delta) => {
    readonly text: string
    readonly logprobs: CompletionLogprobs | null
  }
  /** All so far. */
  readonly logprobs: () => CompletionLogprobs | null
}

export type CompletionTextOptions = {
  readonly tokenizer: Tokenizer
  readonly echo: { readonly ids: readonly number[]; readonly text: string } | undefined
  readonly logprobs: boolean
}

export const createCompletionText = (options: CompletionTextOptions): CompletionText => {
  const { tokenizer, echo } = options
  let offset = 0
  let begun = false
  let all: CompletionLogprobs | null = null

  const score = (entries: readonly (TokenLogprob | null)[], ids: readonly number[]) => {
    const { logprobs, end } = completionLogprobs(entries, ids, tokenizer, offset)
    offset = end
    return logprobs
  }

  return {
    push: (delta) => {
      const isFirst = !begun
      begun = true
      const text = isFirst && echo ? echo.text + delta.text : delta.text
      if (!options.logprobs) return { text, logprobs: null }
      const prompt = isFirst && echo ? score(delta.promptLogprobs ?? [], echo.ids) : null
      const output = delta.logprobs?.length ? score(delta.logprobs, delta.tokenIds) : null
      const now = prompt && output ? joinCompletionLogprobs(prompt, output) : (prompt ?? output)
      if (now) all = all ? joinCompletionLogprobs(all, now) : now
      return { text, logprobs: now }
    },
    logprobs: () => all,
  }
}
