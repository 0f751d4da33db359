// What a run found: plain data (the result file is this), in the words of vLLM's bench.

import { quantile } from '../stats.js'

/** Milliseconds. With planned arrivals they count from the moment that the plan names, not from sending. */
export type Outcome = {
  /** Why it failed; undefined: it did not. */
  readonly error: string | undefined
  /** Since the start of the run. */
  readonly planned: number
  /** How much later than planned it was sent. */
  readonly late: number
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly outputTokens: number
  readonly reasoningTokens: number
  readonly ttft: number
  /** To the first token that is not thinking. */
  readonly ttfo: number
  readonly e2el: number
  /** Gaps between chunks that brought text. */
  readonly itl: readonly number[]
}

export const METRICS = {
  ttft: 'Time to First Token',
  ttfo: 'Time to First Non-reasoning Token',
  tpot: 'Time per Output Token (excl. 1st token)',
  itl: 'Inter-token Latency',
  e2el: 'End-to-end Latency',
} as const
export type Metric = keyof typeof METRICS
export const metrics = Object.keys(METRICS) as readonly Metric[]

export type Goodput = readonly { readonly metric: Metric; readonly limit: number }[]

const PERCENTILES = [50, 90, 95, 99]
/** Points of a curve of percentiles. */
const CURVE = [...Array.from({ length: 100 }, (_, i) => i), 99.5, 99.9, 100]

const tpotOf = ({ outputTokens, e2el, ttft }: Outcome): number =>
  outputTokens > 1 ? (e2el - ttft) / (outputTokens - 1) : Number.NaN

const valuesOf = (metric: Metric, one: Outcome): readonly number[] =>
  (metric === 'itl' ? one.itl : [metric === 'tpot' ? tpotOf(one) : one[metric]]).filter(
    Number.isFinite,
  )

const summary = (name: Metric, known: readonly number[]): Record<string, number> => {
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length
  const variance = known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / known.length
  return {
    [`mean_${name}_ms`]: mean,
    [`median_${name}_ms`]: quantile(known, 0.5),
    [`std_${name}_ms`]: Math.sqrt(variance),
    ...Object.fromEntries(PERCENTILES.map((p) => [`p${p}_${name}_ms`, quantile(known, p / 100)])),
  }
}

const curveOf = (values: readonly number[]): readonly (readonly [number, number])[] => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted.length === 0 ? [] : CURVE.map((p) => [p, quantile(sorted, p / 100)] as const)
}

const thousandth = (value: number): number | null =>
  Number.isFinite(value) ? Math.round(value * 1000) / 1000 : null

export type Loaded = {
  readonly outcomes: readonly Outcome[]
  readonly seconds: number
  /** Chunks with text that came in each second. */
  readonly chunks: readonly number[]
  /** Share of the time in which the load generator's own thread was busy. */
  readonly busy: number
}

const figuresOf = ({ outcomes, seconds, busy }: Loaded, goodput: Goodput) => {
  const good = outcomes.filter(({ error }) => error === undefined)
  const isWithin = (one: Outcome, { metric, limit }: Goodput[number]): boolean => {
    const values = valuesOf(metric, one)
    // What was not measured is within no limit. An answer of one token has no time per token.
    if (values.length === 0) return metric === 'tpot' && one.outputTokens <= 1
    return values.every((value) => value <= limit)
  }
  const isGood = (one: Outcome): boolean => goodput.every((limit) => isWithin(one, limit))
  const sum = (pick: (outcome: Outcome) => number) =>
    good.reduce((total, outcome) => total + pick(outcome), 0)
  const input = sum(({ promptTokens }) => promptTokens)
  const output = sum(({ outputTokens }) => outputTokens)
  const late = outcomes.map((one) => one.late)
  return {
    completed: good.length,
    failed: outcomes.length - good.length,
    duration: seconds,
    total_input: input,
    total_cached: sum(({ cachedTokens }) => cachedTokens),
    total_output: output,
    total_reasoning: sum(({ reasoningTokens }) => reasoningTokens),
    request_throughput: good.length / seconds,
    request_goodput: goodput.length > 0 ? good.filter(isGood).length / seconds : null,
    output_throughput: output / seconds,
    total_token_throughput: (input + output) / seconds,
    generator_busy: busy,
    p99_late_ms: outcomes.length > 0 ? quantile(late, 0.99) : 0,
  }
}

/** One load at one rate. */
export type Run = {
  /** Requests a second; null: as fast as the concurrency allows. */
  readonly rate: number | null
  /** null: no bound. */
  readonly concurrency: number | null
  readonly figures: ReturnType<typeof figuresOf>
  /** mean_ttft_ms, p99_itl_ms and so on; null: nothing was measured. */
  readonly latencies: Readonly<Record<string, number | null>>
  /** By metric: percentile and milliseconds. */
  readonly curves: Readonly<Record<Metric, readonly (readonly [number, number])[]>>
  readonly requests: readonly {
    /** Seconds since the start, as planned. */
    readonly at: number
    readonly late_ms: number | null
    readonly ttft_ms: number | null
    readonly tpot_ms: number | null
    readonly e2el_ms: number | null
    readonly input: number
    readonly cached: number
    readonly output: number
    readonly error?: string
  }[]
  readonly chunks_each_second: readonly number[]
}

/** Raised when a file of before cannot be read as one of now. */
export const RESULT_VERSION = 1

export type Result = {
  readonly kind: 'nemotron-server bench serve'
  readonly version: typeof RESULT_VERSION
  readonly date: string
  readonly machine: { readonly cpu: string; readonly threads: number; readonly memoryGiB: number }
  /** As the command was given. */
  readonly settings: Readonly<Record<string, unknown>>
  readonly runs: readonly Run[]
}

export const runOf = (
  load: { readonly rate: number | undefined; readonly concurrency: number | undefined },
  loaded: Loaded,
  goodput: Goodput,
): Run => {
  const good = loaded.outcomes.filter(({ error }) => error === undefined)
  const values = metrics.map((metric) => {
    const known = good.flatMap((one) => valuesOf(metric, one))
    return { metric, known }
  })
  const latencies = values.flatMap(({ metric, known }) => Object.entries(summary(metric, known)))
  return {
    rate: load.rate ?? null,
    concurrency: load.concurrency ?? null,
    figures: figuresOf(loaded, goodput),
    latencies: Object.fromEntries(latencies.map(([name, ms]) => [name, thousandth(ms)])),
    curves: Object.fromEntries(
      values.map(({ metric, known }) => [metric, curveOf(known)]),
    ) as Run['curves'],
    requests: loaded.outcomes.map((one) => ({
      at: one.planned / 1000,
      late_ms: thousandth(one.late),
      ttft_ms: thousandth(one.ttft),
      tpot_ms: thousandth(tpotOf(one)),
      e2el_ms: thousandth(one.e2el),
      input: one.promptTokens,
      cached: one.cachedTokens,
      output: one.outputTokens,
      ...(one.error !== undefined && { error: one.error }),
    })),
    chunks_each_second: loaded.chunks,
  }
}
