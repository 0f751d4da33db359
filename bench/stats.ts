// Order statistics: a shared machine's timings have outliers on one side, so no means.

export const quantile = (values: readonly number[], share: number): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const at = share * (sorted.length - 1)
  const low = sorted[Math.floor(at)] ?? Number.NaN
  const high = sorted[Math.ceil(at)] ?? Number.NaN
  return low + (high - low) * (at - Math.floor(at))
}

export const median = (values: readonly number[]): number => quantile(values, 0.5)

export type Comparison = {
  /** Median of ours over median of theirs. */
  readonly ratio: number
  /** Ratios within one round: lowest, median, highest. */
  readonly pairs: readonly [number, number, number]
}

/** Two rates measured round by round; a round where one is missing has no pair. */
export const compare = (
  ours: readonly (number | undefined)[],
  theirs: readonly (number | undefined)[],
): Comparison => {
  const pairs = ours.flatMap((mine, round) => {
    const other = theirs[round]
    return mine === undefined || other === undefined ? [] : [{ mine, other }]
  })
  const ratios = pairs.map(({ mine, other }) => mine / other)
  return {
    ratio: median(pairs.map(({ mine }) => mine)) / median(pairs.map(({ other }) => other)),
    pairs: [quantile(ratios, 0), median(ratios), quantile(ratios, 1)],
  }
}
