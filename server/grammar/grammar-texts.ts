// Grammar text that is asked for: made in a thread of its own, since the worst schema takes more than a second.
// The same question again is answered from memory.

import { createLine } from '../line.js'
import { grammarsWait, RequestError } from '../request-error.js'
import { createThread } from '../thread.js'
import type { AnswerForm } from './answer-grammar.js'
import { checkSize } from './schema-source.js'

/** Characters of the questions and grammars that are remembered. */
const MAX_REMEMBERED = 16 << 20

/** Of grammar-worker.ts. */
export type MadeGrammar =
  | { readonly text: string }
  | { readonly refused: { readonly message: string; readonly param: string | null } }

/** Equal for equal questions; JSON of the form and of the field. A schema that is too large is refused before it is
 * written, and so is what JSON cannot say: it has no end. */
const keyOf = (form: AnswerForm, param: string): string => {
  if (form.kind === 'schema') checkSize(form.schema, param, `The schema in '${param}'`)
  return JSON.stringify([form, param])
}

/** `param`: the field that asks, for errors. */
export const createGrammarTexts = (idleMs?: number) => {
  const remembered = new Map<string, Promise<string>>()
  const sizes = new Map<string, number>()
  let size = 0
  const ask = createThread<string, MadeGrammar>({
    file: 'dist/server/grammar/grammar-worker.js',
    failed: 'a grammar was not made',
    ...(idleMs !== undefined && { idleMs }),
  })

  const line = createLine((_, waitMs) => grammarsWait(waitMs))

  const forget = (key: string): void => {
    remembered.delete(key)
    size -= sizes.get(key) ?? 0
    sizes.delete(key)
  }
  const count = (key: string, length: number): void => {
    if (!remembered.has(key)) return
    sizes.set(key, length)
    size += length
    for (const oldest of remembered.keys()) {
      if (size <= MAX_REMEMBERED) break
      forget(oldest)
    }
  }
  const make = async (key: string): Promise<string> => {
    try {
      const made = await line(() => ask(key))
      if ('refused' in made) throw new RequestError(made.refused.message, made.refused)
      count(key, key.length + made.text.length)
      return made.text
    } catch (error) {
      remembered.delete(key)
      throw error
    }
  }

  return (form: AnswerForm, param: string): Promise<string> => {
    const key = keyOf(form, param)
    const text = remembered.get(key) ?? make(key)
    // The last asked for is the last to go.
    remembered.delete(key)
    remembered.set(key, text)
    return text
  }
}
