// When requests are to be sent: a plan that is made before, and that no slow answer moves.

export const ARRIVALS = ['constant', 'poisson', 'burst', 'ramp'] as const
export type Arrivals = (typeof ARRIVALS)[number]

type Plan = {
  readonly arrivals: Arrivals
  /** Requests a second; of a ramp: at its end. */
  readonly rate: number
  /** Requests that a burst sends at once. */
  readonly burst: number
  /** Seconds; a ramp needs them. */
  readonly duration: number
  readonly random: () => number
}

/** Seconds that `requests` take at such a rate; a ramp begins with none, so it takes twice as long. */
export const planSeconds = (arrivals: Arrivals, rate: number, requests: number): number =>
  ((arrivals === 'ramp' ? 2 : 1) * requests) / rate

/** Seconds from the start to each request in turn, without an end. */
export function* planArrivals({ arrivals, rate, burst, duration, random }: Plan) {
  let poisson = 0
  for (let i = 0; ; i++) {
    poisson += -Math.log(1 - random()) / rate
    if (arrivals === 'constant') yield i / rate
    else if (arrivals === 'poisson') yield poisson
    else if (arrivals === 'burst') yield (Math.floor(i / burst) * burst) / rate
    // After t seconds rate t^2 / (2 duration) requests have been sent.
    else yield Math.sqrt((2 * duration * i) / rate)
  }
}
