// Compiled grammars by their text: the same schema comes with every request of a program.

import type { EngineError } from '../failure.js'
import { EngineFailure } from '../failure.js'
import type { Grammar } from './types.js'

const MAX_GRAMMARS = 64
/** Characters of all texts together. */
const MAX_TEXT = 1 << 24

/**
 * `compile` rejects with an EngineError. What it refused is not kept. Texts are compiled one after another: many at
 * once would take all threads of Node's pool, and every prompt is encoded there.
 */
export const createGrammarCache = (compile: (text: string) => Promise<Grammar>) => {
  /** The longest unused first. */
  const known = new Map<string, Promise<Grammar>>()
  let size = 0
  const forget = (text: string) => {
    if (known.delete(text)) size -= text.length
  }
  let last: Promise<unknown> = Promise.resolve()
  const make = (text: string): Promise<Grammar> => {
    const compiled = last.then(() => compile(text))
    last = compiled.catch(() => undefined)
    const made = compiled.catch((error: EngineError | Error) => {
      if (known.get(text) === made) forget(text)
      throw error instanceof Error ? error : new EngineFailure(error)
    })
    return made
  }
  const keep = (text: string, grammar: Promise<Grammar>) => {
    known.set(text, grammar)
    size += text.length
    for (const oldest of known.keys()) {
      if (known.size <= MAX_GRAMMARS && size <= MAX_TEXT) return
      if (oldest !== text) forget(oldest)
    }
  }
  return {
    get: (text: string): Promise<Grammar> => {
      const found = known.get(text) ?? make(text)
      forget(text)
      keep(text, found)
      return found
    },
  }
}
