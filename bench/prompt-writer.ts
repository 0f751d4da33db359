// Random prompts of so many tokens, for a server whose tokenizer is not known. Words between spaces are
// tokens of their own in every tokenizer in use, so a prompt costs the template plus its words; what a
// word costs is asked from the server once.

import { UsageError } from './flags.js'

const WORDS =
  'a the of and to in is you that it he was for on are as with his they at be this'.split(' ')
const REPEATS = 32

type Word = { readonly text: string; readonly tokens: number }

/** `countTokens`: of a prompt, template included, as the server says. */
export const createWriter = async (
  countTokens: (prompt: string) => Promise<number>,
  random: () => number,
) => {
  const repeated = (word: string, times: number): string => ` ${word}`.repeat(times)
  const empty =
    2 * (await countTokens(repeated('the', 1))) - (await countTokens(repeated('the', 2)))
  const words = await Promise.all(
    WORDS.map(async (text): Promise<Word> => {
      const tokens = (await countTokens(repeated(text, REPEATS))) - empty
      return { text, tokens: Math.max(1, Math.round(tokens / REPEATS)) }
    }),
  )
  const cheapest = words.reduce((best, word) => (word.tokens < best.tokens ? word : best))

  /** Words of `tokens` tokens together; where no word is one token, the last ones may be missing. */
  const compose = (tokens: number): string => {
    let text = ''
    for (let left = tokens; left >= cheapest.tokens; ) {
      const drawn = words[Math.floor(random() * words.length)] ?? cheapest
      const word = drawn.tokens <= left ? drawn : cheapest
      text += ` ${word.text}`
      left -= word.tokens
    }
    return text
  }

  /** A text of `tokens` tokens, the template included, that begins with `prefix`. */
  const write = (tokens: number, prefix = ''): string => {
    if (tokens <= empty)
      throw new UsageError(
        `--input-len: the template alone takes ${empty} tokens, ${tokens} are too few`,
      )
    return prefix + compose(tokens - empty - prefixTokens(prefix))
  }
  const known = new Map<string, number>()
  const prefixTokens = (prefix: string): number => known.get(prefix) ?? 0
  /** A beginning for several texts, the template's tokens included. */
  const writePrefix = (tokens: number): string => {
    const own = Math.max(0, tokens - empty)
    const prefix = compose(own)
    known.set(prefix, own)
    return prefix
  }
  return { write, writePrefix }
}
