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
    if (delta.finish && --entry.choices === 0) live.delete(request)
    const stopString = entry.stop[stopIndex]
    callListener(() =>
      entry.onDelta(stopString === undefined ? delta : { ...delta, stopReason: stopString }),
    )
  }

  return {
    add: (
      owner: object,
      request: number,
      choices: number,
      stop: readonly string[],
      onDelta: (delta: Delta) => void,
    ): void => {
      live.set(request, { owner, onDelta, stop, choices })
    },
    onDeltas: (words: Float64Array, count: number, text: string): void =>
      unpackDeltas(words, count, text, names, dispatch),
  }
}
