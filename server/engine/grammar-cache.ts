// Compiled grammars by their text: the same schema comes with every request of a program.

import type { EngineError } from '../failure.js'
import { EngineFailure } from '../failure.js'
import { createLine } from '../line.js'
import type { Grammar } from './types.js'

const MAX_GRAMMARS = 64
/** Characters of all texts together. */
const MAX_TEXT = 1 << 24

/**
 * `compile` rejects with an EngineError. What it refused is not kept. Texts are compiled one after another: many at
 * once would take all threads of Node's pool, and every prompt is encoded there. Too many are refused: queue_full.
 */
export const createGrammarCache = (compile: (text: string) => Promise<Grammar>) => {
  /** The longest unused first. */
  const known = new Map<string, Promise<Grammar>>()
  let size = 0
  const forget = (text: string) => {
    if (known.delete(text)) size -= text.length
  }
  const line = createLine(
    (waiting) =>
      new EngineFailure({
        code: 'queue_full',
        message: `${waiting} grammars are waiting to be compiled`,
      }),
  )
  let last: Promise<unknown> = Promise.resolve()
  /** Once something was compiled: what is refused pushes nothing out. */
  const trim = (newest: string) => {
    for (const oldest of known.keys()) {
      if (known.size <= MAX_GRAMMARS && size <= MAX_TEXT) return
      if (oldest !== newest) forget(oldest)
    }
  }
  const make = (text: string): Promise<Grammar> => {
    const compiled = line(() => {
      const mine = last.then(() => compile(text))
      last = mine.catch(() => undefined)
      return mine
    })
    const made = compiled.then(
      (grammar) => {
        trim(text)
        return grammar
      },
      (error: EngineError | Error) => {
        if (known.get(text) === made) forget(text)
        throw error instanceof Error ? error : new EngineFailure(error)
      },
    )
    return made
  }
  return {
    get: (text: string): Promise<Grammar> => {
      const found = known.get(text) ?? make(text)
      forget(text)
      known.set(text, found)
      size += text.length
      return found
    },
  }
}
