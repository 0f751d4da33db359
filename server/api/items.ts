// Items that say their type, as OpenAI's dialects of items take them.

import { z } from 'zod'
import { idle } from '../list.js'

/** What an item has when it comes back from an answer. */
export const answered = { id: idle(), status: idle() }

/** A message may leave its type out. */
export const itemOf = <T extends z.ZodType>(item: T) =>
  z.preprocess(
    (given) =>
      typeof given === 'object' && given !== null && 'role' in given && !('type' in given)
        ? { ...given, type: 'message' }
        : given,
    item,
  )

/** What is wrong with a type that is not among those known. `why`: of types that there are elsewhere. */
export const typeErrors =
  (why: (type: string) => string | undefined) =>
  (...known: readonly string[]) =>
  ({ input }: { readonly input?: unknown }): string => {
    const type = (input as { readonly type?: unknown } | undefined)?.type
    const expected = known.map((one) => `"${one}"`).join(', ')
    if (typeof type !== 'string') return `expected one of ${expected}`
    return `type ${JSON.stringify(type.slice(0, 100))} is not supported: ${why(type) ?? `there are ${expected}`}`
  }
