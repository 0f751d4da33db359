// A Prometheus histogram for what is measured once per token: prom-client hashes its labels on every
// observation, which costs more than the rest of a token's way through the server.

import type { Metric, Registry } from 'prom-client'

type Series = {
  readonly labels: Record<string, string>
  readonly counts: number[]
  sum: number
  count: number
}

export type FastHistogram = (
  labels: Record<string, string>,
) => (value: number, times: number) => void

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

/** Registers `names` (all the same series) and returns what makes an observer for some labels. */
export const createFastHistogram = (
  registry: Registry,
  names: readonly { readonly name: string; readonly help: string }[],
  buckets: readonly number[],
): FastHistogram => {
  const all: Series[] = []
  const values = (name: string) =>
    all.flatMap((series) => {
      let running = 0
      const rows = buckets.map((le, i) => {
        running += series.counts[i] ?? 0
        return { metricName: `${name}_bucket`, labels: { ...series.labels, le }, value: running }
      })
      return [
        ...rows,
        {
          metricName: `${name}_bucket`,
          labels: { ...series.labels, le: '+Inf' },
          value: series.count,
        },
        { metricName: `${name}_sum`, labels: series.labels, value: series.sum },
        { metricName: `${name}_count`, labels: series.labels, value: series.count },
      ]
    })
  for (const { name, help } of names) {
    const metric = {
      name,
      get: async () => ({ name, help, type: 'histogram', values: values(name), aggregator: 'sum' }),
    }
    // The registry asks a metric only for its name and get().
    registry.registerMetric(metric as unknown as Metric)
  }
  return (labels) => {
    const series: Series = { labels, counts: buckets.map(() => 0), sum: 0, count: 0 }
    all.push(series)
    return (value, times) => {
      const i = first(buckets, value)
      if (i < buckets.length) series.counts[i] = (series.counts[i] ?? 0) + times
      series.sum += value * times
      series.count += times
    }
  }
}
