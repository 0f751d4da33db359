// Work that is done one piece after another. What would wait too long is refused, so that no flood of it grows
// without a bound.

import { performance } from 'node:perf_hooks'

/** Pieces of work that may wait at once. */
export const MOST_WAITING = 128
/** A wait that is longer, by what the last pieces took, is refused. */
export const LONGEST_WAIT_MS = 10_000

/** `refuse` makes the error for a piece that finds so many waiting; milliseconds. */
export const createLine = (
  refuse: (waiting: number, waitMs: number) => Error,
  now: () => number = () => performance.now(),
) => {
  let waiting = 0
  /** Milliseconds that a piece takes, by the last ones. */
  let cost = 0
  let lastEnd = 0
  return async <T>(work: () => Promise<T>): Promise<T> => {
    const wait = waiting * cost
    if (waiting >= MOST_WAITING || wait > LONGEST_WAIT_MS) throw refuse(waiting, wait)
    waiting++
    const came = now()
    try {
      return await work()
    } finally {
      waiting--
      const end = now()
      cost += (end - Math.max(came, lastEnd) - cost) / 4
      lastEnd = end
    }
  }
}
