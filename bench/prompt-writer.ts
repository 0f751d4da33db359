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

  /** A function that writes prompts of `length` tokens whose first `shared` are always the same. */
  return (length: number, shared: number): (() => string) => {
    if (length <= empty)
      throw new UsageError(
        `--input-len: the template alone takes ${empty} tokens, ${length} are too few`,
      )
    if (shared > length)
      throw new UsageError(`--shared-prefix: ${shared} tokens are more than --input-len ${length}`)
    const inPrefix = Math.max(0, shared - empty)
    const prefix = compose(inPrefix)
    return () => prefix + compose(length - empty - inPrefix)
  }
}
