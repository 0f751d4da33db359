// Many streamed requests on one target: closed loop, or Poisson arrivals.

import { type Outcome, streamOnce, type Target } from './client.js'

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

export type Load = {
  readonly bodies: readonly object[]
  readonly concurrency: number
  /** Requests a second; undefined: as fast as the concurrency allows. */
  readonly rate: number | undefined
  readonly random: () => number
}

/** Sends them all; the wait for a free place is part of a request's latency only on the server. */
export const runLoad = async (target: Target, load: Load) => {
  const outcomes: Outcome[] = []
  const start = performance.now()
  let next = 0
  let due = start
  const worker = async () => {
    for (;;) {
      const body = load.bodies[next]
      if (body === undefined) return
      next++
      if (load.rate !== undefined) {
        due += (-Math.log(1 - load.random()) / load.rate) * 1000
        await sleep(Math.max(0, due - performance.now()))
      }
      outcomes.push(await streamOnce(target, body))
    }
  }
  const workers = Math.min(load.concurrency, load.bodies.length)
  await Promise.all(Array.from({ length: workers }, worker))
  return { outcomes, seconds: (performance.now() - start) / 1000 }
}
