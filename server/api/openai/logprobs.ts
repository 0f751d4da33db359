// Logprobs in OpenAI's two forms and in vLLM's for prompts.

import type { TokenLogprob } from '../../engine/types.js'
import type { Tokenizer } from '../../tokenizer/types.js'

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A token as text; a piece of a character as OpenAI writes it: `bytes:\xe2\x80`. */
export const tokenText = (tokenizer: Tokenizer, id: number): string => {
  const bytes = tokenizer.bytes(id)
  try {
    return utf8.decode(bytes)
  } catch {
    return `bytes:${Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`
  }
}

/** JSON has no infinity: the smallest value that clients accept stands for an impossible token. */
const finite = (logprob: number): number => (Number.isFinite(logprob) ? logprob : -9999)

type ChatLogprob = {
  readonly token: string
  readonly logprob: number
  readonly bytes: readonly number[]
  readonly top_logprobs: readonly {
    readonly token: string
    readonly logprob: number
    readonly bytes: readonly number[]
  }[]
}

export const chatLogprobs = (
  entries: readonly TokenLogprob[],
  tokenizer: Tokenizer,
): ChatLogprob[] => {
  const one = (id: number, logprob: number) => ({
    token: tokenText(tokenizer, id),
    logprob: finite(logprob),
    bytes: Array.from(tokenizer.bytes(id)),
  })
  return entries.map((entry) => ({
    ...one(entry.id, entry.logprob),
    top_logprobs: entry.top.map((top) => one(top.id, top.logprob)),
  }))
}

export type CompletionLogprobs = {
  readonly tokens: string[]
  readonly token_logprobs: (number | null)[]
  readonly top_logprobs: (Record<string, number> | null)[]
  readonly text_offset: number[]
}

/** Where tokens begin in the text, in characters; a piece of one begins where the character does. */
type Offsets = { readonly next: (bytes: Uint8Array) => number }

export const createOffsets = (): Offsets => {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  let characters = 0
  return {
    next: (bytes) => {
      const at = characters
      for (const _ of decoder.decode(bytes, { stream: true })) characters++
      return at
    },
  }
}

export const noLogprobs = (): CompletionLogprobs => ({
  tokens: [],
  token_logprobs: [],
  top_logprobs: [],
  text_offset: [],
})

/**
 * Adds to `out`, one entry a token, in slices. `shown`: does it stand in the text? The chosen token is
 * always among the top.
 */
export function* addLogprobs(
  out: CompletionLogprobs,
  entries: Iterable<TokenLogprob | null>,
  ids: readonly number[],
  tokenizer: Tokenizer,
  offsets: Offsets,
  shown: (id: number, position: number) => boolean,
): Generator<string, void> {
  let i = 0
  for (const entry of entries) {
    yield ''
    const id = entry?.id ?? ids[i] ?? 0
    const text = tokenText(tokenizer, id)
    out.tokens.push(text)
    out.text_offset.push(offsets.next(shown(id, i++) ? tokenizer.bytes(id) : new Uint8Array()))
    out.token_logprobs.push(entry ? finite(entry.logprob) : null)
    if (entry === null) {
      out.top_logprobs.push(null)
      continue
    }
    const top: Record<string, number> = {}
    for (const one of entry.top) top[tokenText(tokenizer, one.id)] ??= finite(one.logprob)
    top[text] ??= finite(entry.logprob)
    out.top_logprobs.push(top)
  }
}

type PromptLogprob = Record<
  string,
  { readonly logprob: number; readonly rank: number; readonly decoded_token: string }
>

/** vLLM's form: by token id, the prompt's own token first. In slices. */
export function* promptLogprobs(
  entries: Iterable<TokenLogprob | null>,
  tokenizer: Tokenizer,
): Generator<string, (PromptLogprob | null)[]> {
  const one = (id: number, logprob: number, rank: number) => ({
    logprob: finite(logprob),
    rank,
    decoded_token: tokenText(tokenizer, id),
  })
  const all: (PromptLogprob | null)[] = []
  for (const entry of entries) {
    yield ''
    const out: PromptLogprob = {}
    if (entry) out[entry.id] = one(entry.id, entry.logprob, entry.rank)
    entry?.top.forEach((top, i) => {
      out[top.id] ??= one(top.id, top.logprob, i + 1)
    })
    all.push(entry && out)
  }
  return all
}
