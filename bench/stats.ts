// Order statistics (a shared machine's timings have outliers on one side, so no means), and how figures
// are shown.

export const quantile = (values: readonly number[], share: number): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const at = share * (sorted.length - 1)
  const low = sorted[Math.floor(at)] ?? Number.NaN
  const high = sorted[Math.ceil(at)] ?? Number.NaN
  return low + (high - low) * (at - Math.floor(at))
}

export const median = (values: readonly number[]): number => quantile(values, 0.5)

type Comparison = {
  /** Median of ours over median of theirs. */
  readonly ratio: number
  /** Ratios within one round: the lowest and the highest. */
  readonly range: readonly [number, number]
}

/** Two figures measured round by round; a round where one is missing has no pair. */
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
    range: [quantile(ratios, 0), quantile(ratios, 1)],
  }
}

export const digits = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value.toPrecision(3)
export const percent = (share: number): string => `${(100 * share).toFixed(0)} %`

/** 1.32x (1.25-1.41): the ratio of the medians, then the lowest and the highest of one round. */
export const times = ({ ratio, range }: Comparison): string =>
  `${ratio.toFixed(2)}x (${range.map((value) => value.toFixed(2)).join('-')})`

export const spread = (values: readonly number[], unit: string): string =>
  `${digits(median(values))} ${unit} (${digits(quantile(values, 0))}-${digits(quantile(values, 1))})`

/** Columns as wide as their widest cell; the first to the left, the others to the right. */
export const table = (rows: readonly (readonly string[])[]): string => {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  )
  const padded = (cell: string, column: number): string =>
    column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)
  return rows.map((row) => row.map(padded).join('  ').trimEnd()).join('\n')
}
