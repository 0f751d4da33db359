// Admission: how many requests of a model are on their way, and how fast they leave.

export type Gate = {
  /** Sequences that entered and have not left. */
  readonly inFlight: () => number
  readonly full: () => boolean
  /** Takes `places`; the returned function gives them back, once. */
  readonly enter: (places: number) => () => void
  /** Whole seconds until a place should be free, from the rate at which places were given back. */
  readonly retryAfter: () => number
}

const WINDOW = 64
const MAX_RETRY_AFTER = 600

/** `limit`: sequences that may run plus those that may wait. `now`: seconds. */
export const createGate = (
  limit: number,
  now: () => number = () => performance.now() / 1000,
): Gate => {
  let inFlight = 0
  let busySince = 0
  const left: number[] = [] // times at which a place was given back while others were taken

  const retryAfter = (): number => {
    const oldest = left[0]
    const seconds = oldest === undefined ? now() - busySince : (now() - oldest) / left.length
    return Math.min(MAX_RETRY_AFTER, Math.max(1, Math.ceil(seconds)))
  }

  return {
    inFlight: () => inFlight,
    full: () => inFlight >= limit,
    enter: (places) => {
      if (inFlight === 0) {
        // An idle stretch says nothing about how fast work is done.
        left.length = 0
        busySince = now()
      }
      inFlight += places
      let taken = true
      return () => {
        if (!taken) return
        taken = false
        inFlight -= places
        for (let i = 0; i < places; i++) left.push(now())
        if (left.length > WINDOW) left.splice(0, left.length - WINDOW)
      }
    },
    retryAfter,
  }
}
