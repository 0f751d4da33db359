// Who gets which delta. Holds the live requests and nothing else: the addon keeps a reference to
// onDeltas for as long as the engine lives, and an engine that nobody holds must be collectable.

import { type PackedNames, unpackDeltas } from './addon.js'
import type { Delta } from './types.js'

type Live = {
  /** The engine: alive while a request is. */
  readonly owner: object
  readonly onDelta: (delta: Delta) => void
  readonly stop: readonly string[]
  choices: number
  readonly onEnd: (() => void)[]
}

/** A listener's fault is its own: it is thrown where nobody else's work is on the stack. */
const callListener = (call: () => void): void => {
  try {
    call()
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}

export const createDispatcher = (names: PackedNames) => {
  const live = new Map<number, Live>()

  const dispatch = (request: number, delta: Delta, stopIndex: number) => {
    const entry = live.get(request)
    if (!entry) return
    const isLast = delta.finish !== undefined && --entry.choices === 0
    if (isLast) live.delete(request)
    const stopString = entry.stop[stopIndex]
    callListener(() =>
      entry.onDelta(stopString === undefined ? delta : { ...delta, stopReason: stopString }),
    )
    if (isLast) for (const onEnd of entry.onEnd) onEnd()
  }

  return {
    add: (
      owner: object,
      request: number,
      choices: number,
      stop: readonly string[],
      onDelta: (delta: Delta) => void,
    ): void => {
      live.set(request, { owner, onDelta, stop, choices, onEnd: [] })
    },
    /** Ids of those that are live. */
    live: (): readonly number[] => [...live.keys()],
    /** Resolves when those of these that are live have ended. */
    ended: async (ids: readonly number[]): Promise<void> => {
      await Promise.all(
        ids.map((id) => {
          const entry = live.get(id)
          return entry && new Promise<void>((done) => entry.onEnd.push(done))
        }),
      )
    },
    onDeltas: (words: Float64Array, count: number, text: string): void =>
      unpackDeltas(words, count, text, names, dispatch),
  }
}
