// How fast a model gives places back: what a client that found none is told. The engine itself knows
// whether there is one (Engine.isFull).

export type Pace = {
  /** Sequences that entered and have not left. */
  readonly inFlight: () => number
  /** Takes `places`; the returned function gives them back, once. */
  readonly enter: (places: number) => () => void
  /** Whole seconds until a place should be free, from the rate at which places were given back. */
  readonly retryAfter: () => number
}

const WINDOW = 64
const MAX_RETRY_AFTER = 600

/** `now`: seconds. */
export const createPace = (now: () => number = () => performance.now() / 1000): Pace => {
  let inFlight = 0
  let busySince = now()
  const left: number[] = [] // times at which a place was given back while others were taken

  return {
    inFlight: () => inFlight,
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
    retryAfter: () => {
      const oldest = left[0]
      const seconds = oldest === undefined ? now() - busySince : (now() - oldest) / left.length
      return Math.min(MAX_RETRY_AFTER, Math.max(1, Math.ceil(seconds)))
    },
  }
}
