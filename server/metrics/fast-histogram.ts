// A Prometheus histogram for what is measured once per token: prom-client hashes its labels on every
// observation, which costs more than the rest of a token's way through the server.

import type { Metric, Registry } from 'prom-client'

/** `counts`: how many values fell into each bucket, and into none before it. */
type Series = {
  readonly labels: Record<string, string>
  readonly counts: readonly number[]
  readonly sum: number
  readonly count: number
}

export type FastHistogram = (labels: Record<string, string>) => {
  readonly observe: (value: number, times: number) => void
  readonly measured: () => { readonly count: number; readonly sum: number }
}

const first = (buckets: readonly number[], value: number): number => {
  let low = 0
  let high = buckets.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (value <= (buckets[middle] ?? 0)) high = middle
    else low = middle + 1
  }
  return low
}

/** A histogram whose counts are kept elsewhere. */
export const registerSeries = (
  registry: Registry,
  name: string,
  help: string,
  buckets: readonly number[],
  all: () => readonly Series[],
): void => {
  const bucket = `${name}_bucket`
  const values = ({ labels, counts, sum, count }: Series) => {
    let running = 0
    const rows = buckets.map((le, i) => {
      running += counts[i] ?? 0
      return { metricName: bucket, labels: { ...labels, le }, value: running }
    })
    return [
      ...rows,
      { metricName: bucket, labels: { ...labels, le: '+Inf' }, value: count },
      { metricName: `${name}_sum`, labels, value: sum },
      { metricName: `${name}_count`, labels, value: count },
    ]
  }
  const get = async () => {
    return { name, help, type: 'histogram', values: all().flatMap(values), aggregator: 'sum' }
  }
  // The registry asks a metric only for its name and get().
  registry.registerMetric({ name, get } as unknown as Metric)
}

/** Registers `names` (all the same series) and returns what makes an observer for some labels. */
export const createFastHistogram = (
  registry: Registry,
  names: readonly { readonly name: string; readonly help: string }[],
  buckets: readonly number[],
): FastHistogram => {
  const all: Series[] = []
  for (const { name, help } of names) registerSeries(registry, name, help, buckets, () => all)
  return (labels) => {
    const counts = buckets.map(() => 0)
    const series = { labels, counts, sum: 0, count: 0 }
    all.push(series)
    return {
      observe: (value, times) => {
        const i = first(buckets, value)
        if (i < counts.length) counts[i] = (counts[i] ?? 0) + times
        series.sum += value * times
        series.count += times
      },
      measured: () => ({ count: series.count, sum: series.sum }),
    }
  }
}
