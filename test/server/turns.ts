// How long the event loop is held.

import { readFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'

/** Milliseconds for which this thread has computed: on a busy machine it waits for its turn, which is not
 * what is measured. Where the system does not tell, those that have passed. */
const clock = (() => {
  const linux = () =>
    Number(readFileSync('/proc/thread-self/schedstat', 'latin1').split(' ')[0]) / 1e6
  try {
    return linux() > 0 ? linux : () => performance.now()
  } catch {
    return () => performance.now()
  }
})()

/** The longest time between two turns of the event loop while `run` lasts, in milliseconds. */
export const longestTurn = async (run: () => Promise<unknown>): Promise<number> => {
  let longest = 0
  let last = clock()
  let isOver = false
  const turn = () => {
    const now = clock()
    longest = Math.max(longest, now - last)
    last = now
    if (!isOver) setImmediate(turn)
  }
  setImmediate(turn)
  await run()
  isOver = true
  return longest
}

/** longestTurn() of up to four tries, until one holds the loop for less than `ms`. The first run code that has not been
 * compiled yet, and the garbage of suites before them in this process may be collected in any. */
export const longestTurns = async (
  ms: number,
  run: () => Promise<unknown>,
): Promise<readonly number[]> => {
  const held: number[] = []
  while (held.length < 4 && (held.at(-1) ?? ms) >= ms) held.push(await longestTurn(run))
  return held
}
