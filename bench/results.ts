// What the engine bench found, and the figures derived from it. Plain data: the JSON file is this.

import { type Arithmetic, type Case, type Ceilings, limitOf, once, weightBytes } from './limits.js'
import type { Machine } from './machine.js'
import type { MemoryUse } from './peers/process.js'
import type { Ready, Timing } from './peers/protocol.js'
import type { Shape } from './random-model.js'
import { type Comparison, compare, median } from './stats.js'

export type Round = {
  readonly ceilings: Ceilings
  /** By competitor; one that sat out is not in it. */
  readonly timings: Readonly<Record<string, Timing>>
}
export type CaseResult = { readonly case: Case; readonly rounds: readonly Round[] }

/** How close another engine's numbers are to ours on one prompt. */
export type Agreement = {
  readonly name: string
  readonly positions: number
  readonly sameTop: number
  readonly meanDifference: number
  readonly error?: string
}

export type OursAlone = { readonly submitToStep: number; readonly idleCpu: number }

/** A process, and its memory after the last round. */
export type Competitor = Ready & { readonly name: string; readonly memory: MemoryUse }

/** cpu: tokens per CPU second, for one thread on a machine that is not quiet. */
export type Clock = 'wall' | 'cpu'

export type Report = {
  readonly date: string
  readonly machine: Machine
  readonly shape: Shape
  readonly threads: number
  readonly clock: Clock
  readonly competitors: readonly Competitor[]
  readonly agreement: readonly Agreement[]
  readonly cases: readonly CaseResult[]
  readonly alone: OursAlone
}

/** What the competitor's products cost: its instruction set and its choice are in its version. */
export const arithmeticOf = (report: Report, name: string): Arithmetic => {
  const version = report.competitors.find((competitor) => competitor.name === name)?.version ?? ''
  const exact = /amx|bf16/.test(version) && !version.includes('rounded')
  return { dtype: name === 'ours fp8' ? 'fp8' : 'bf16', passes: exact ? 2 : 1 }
}

type Rates = readonly (number | undefined)[]

export const defined = (values: Rates): readonly number[] =>
  values.filter((value) => value !== undefined)

/** Tokens a second, round by round. */
export const ratesOf = (report: Report, result: CaseResult, name: string): Rates =>
  result.rounds.map(({ timings }) => {
    const timing = timings[name]
    if (timing === undefined) return undefined
    return timing.tokens / (report.clock === 'cpu' ? timing.cpuSeconds : timing.seconds)
  })

export const against = (
  report: Report,
  result: CaseResult,
  ours: string,
  theirs: string,
): Comparison => compare(ratesOf(report, result, ours), ratesOf(report, result, theirs))

/** Median over the rounds of the share of that round's limit; by one ceiling alone when named. */
export const shareOfLimit = (
  report: Report,
  result: CaseResult,
  name: string,
  arithmetic: Arithmetic,
  by?: keyof Ceilings,
): number => {
  const shares = ratesOf(report, result, name).map((rate, round) => {
    const measured = result.rounds[round]?.ceilings
    if (rate === undefined || measured === undefined) return undefined
    const endless = { bandwidth: Number.POSITIVE_INFINITY, matrix: Number.POSITIVE_INFINITY }
    const ceilings = by === undefined ? measured : { ...endless, [by]: measured[by] }
    return rate / limitOf(report.shape, result.case, arithmetic, ceilings).rate
  })
  return median(defined(shares))
}

export const findCase = (report: Report, name: string): CaseResult | undefined =>
  report.cases.find((result) => result.case.name === name)

export type Fp8 = {
  readonly rate: number
  readonly share: number
  /** Of BF16's decode rate. */
  readonly speedup: number
  /** BF16's bytes a step over FP8's. */
  readonly bytes: number
}

export const fp8Of = (report: Report): Fp8 | undefined => {
  const result = findCase(report, 'decode 1')
  if (result === undefined) return undefined
  const rates = defined(ratesOf(report, result, 'ours fp8'))
  if (rates.length === 0) return undefined
  return {
    rate: median(rates),
    share: shareOfLimit(report, result, 'ours fp8', { dtype: 'fp8', passes: 1 }),
    speedup: against(report, result, 'ours fp8', 'ours').ratio,
    bytes: weightBytes(report.shape, 'bf16') / weightBytes(report.shape, 'fp8'),
  }
}

/** CPU time over wall time of the turns: below 1 the machine was busy with other things. */
export const cpuShares = (report: Report): readonly number[] =>
  report.cases.flatMap(({ rounds }) =>
    rounds.flatMap(({ timings }) =>
      Object.values(timings).map(
        ({ cpuSeconds, seconds }) => cpuSeconds / seconds / report.threads,
      ),
    ),
  )

export type Goal = {
  readonly what: string
  readonly value: number | undefined
  /** The value at the machine's limit for this arithmetic. */
  readonly possible: number | undefined
  readonly accept: number
  readonly aim: number
}

/** The bars of the 1b shape on one thread (docs/benchmarks.md), for "ours" or "ours rounded". */
export const goalsOf = (report: Report, ours: string): readonly Goal[] => {
  type Values = Pick<Goal, 'value' | 'possible'>
  const atLimit = (value: number, result: CaseResult): number =>
    value / shareOfLimit(report, result, ours, arithmeticOf(report, ours))
  const share = (name: string, by: keyof Ceilings): Values => {
    const result = findCase(report, name)
    if (result === undefined) return { value: undefined, possible: undefined }
    const value = shareOfLimit(report, result, ours, once, by)
    return { value, possible: atLimit(value, result) }
  }
  /** Against the best of the peers. */
  const ratio = (name: string, ...peers: readonly string[]): Values => {
    const result = findCase(report, name)
    const ratios = peers
      .map((peer) => (result ? against(report, result, ours, peer).ratio : Number.NaN))
      .filter((value) => !Number.isNaN(value))
    if (result === undefined || ratios.length === 0)
      return { value: undefined, possible: undefined }
    const value = Math.min(...ratios)
    return { value, possible: atLimit(value, result) }
  }
  const fp8 = fp8Of(report)
  const goal = (what: string, values: Values, accept: number, aim = accept): Goal => ({
    what,
    ...values,
    accept,
    aim,
  })
  const goals = [
    goal('decode 1 / read limit', share('decode 1', 'bandwidth'), 0.8, 0.9),
    goal('decode 1 / llama.cpp', ratio('decode 1', 'llama.cpp'), 1.1, 1.3),
    goal('prefill 512 / matrix limit', share('prefill 512', 'matrix'), 0.25, 0.5),
    goal('prefill 512 / torch', ratio('prefill 512', 'torch'), 1.5, 3),
    goal('decode 8 / read limit', share('decode 8', 'bandwidth'), 0.7, 0.85),
    goal('decode 8 / better peer', ratio('decode 8', 'llama.cpp', 'torch'), 1.25),
    goal('decode 32 / read limit', share('decode 32', 'bandwidth'), 0.55, 0.7),
    goal('decode 32 / better peer', ratio('decode 32', 'llama.cpp', 'torch'), 1.25),
  ]
  if (ours !== 'ours') return goals
  const value = fp8 && fp8.speedup / fp8.bytes
  return [...goals, goal('fp8 decode / ratio of bytes', { value, possible: undefined }, 0.88)]
}
