// What the engine bench found (plain data: the JSON file is this), the figures derived from it, and its
// tables on the terminal.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Ceilings, type Clock, type Machine, machineLine } from './machine.js'
import type { Ready, Timing } from './peers/protocol.js'
import type { MemoryUse } from './peers/start.js'
import { type Arithmetic, type Case, limitOf, once, type Shape } from './shapes.js'
import { compare, digits, median, percent, quantile, spread, table, times } from './stats.js'

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
type Process = Ready & { readonly name: string; readonly memory: MemoryUse }

export type Report = {
  readonly date: string
  readonly machine: Machine
  readonly shape: Shape
  readonly threads: number
  readonly clock: Clock
  readonly competitors: readonly Process[]
  readonly agreement: readonly Agreement[]
  readonly cases: readonly CaseResult[]
  readonly alone: OursAlone
}

/** What a competitor's products cost: its instruction set and its choice are in its version. */
const arithmeticOf = (report: Report, name: string): Arithmetic => {
  const version = report.competitors.find((competitor) => competitor.name === name)?.version ?? ''
  const exact = /amx|bf16/.test(version) && !version.includes('rounded')
  if (name === 'ours fp8') return { weights: 'fp8', passes: 1 }
  return { weights: 'bf16', passes: exact ? 2 : 1 }
}

type Rates = readonly (number | undefined)[]
const defined = (values: Rates): readonly number[] => values.filter((value) => value !== undefined)

/** Tokens a second, round by round. */
const ratesOf = (report: Report, result: CaseResult, name: string): Rates =>
  result.rounds.map(({ timings }) => {
    const timing = timings[name]
    if (timing === undefined) return undefined
    return timing.tokens / (report.clock === 'cpu' ? timing.cpuSeconds : timing.seconds)
  })

const limitsOf = (report: Report, result: CaseResult, arithmetic: Arithmetic) =>
  result.rounds.map(({ ceilings }) => limitOf(report.shape, result.case, arithmetic, ceilings))

const limitCell = (report: Report, result: CaseResult, arithmetic: Arithmetic): string => {
  const limits = limitsOf(report, result, arithmetic)
  const bounds = [...new Set(limits.map(({ bound }) => bound))].join('/')
  return `${digits(median(limits.map(({ rate }) => rate)))} ${bounds}`
}

/** Median over the rounds of the share of that round's limit. */
const shareOf = (report: Report, result: CaseResult, rates: Rates, arithmetic: Arithmetic) => {
  const limits = limitsOf(report, result, arithmetic)
  return percent(median(defined(rates.map((rate, i) => rate && rate / (limits[i]?.rate ?? 0)))))
}

const peersOf = (report: Report): readonly string[] =>
  ['llama.cpp', 'torch', 'F.linear'].filter((name) =>
    report.cases.some(({ rounds }) => rounds.some(({ timings }) => name in timings)),
  )

const oursOf = (report: Report): readonly string[] =>
  report.competitors.map(({ name }) => name).filter((name) => name.startsWith('ours'))

/** What its own arithmetic allows, its rate, and the shares of the limit and of that. */
const oursCells = (report: Report, result: CaseResult, name: string): readonly string[] => {
  const rates = ratesOf(report, result, name)
  if (defined(rates).length === 0) return ['-', '', '', '']
  const own = arithmeticOf(report, name)
  const shares = [once, own].map((arithmetic) => shareOf(report, result, rates, arithmetic))
  return [digits(median(defined(rates))), ...shares, limitCell(report, result, own)]
}

const peerCells = (report: Report, result: CaseResult, name: string): readonly string[] => {
  const theirs = ratesOf(report, result, name)
  const turns = defined(theirs).length
  if (turns === 0) return ['-', '']
  const few = turns < result.rounds.length ? `, ${turns} turns` : ''
  const ratio = times(compare(ratesOf(report, result, 'ours'), theirs))
  return [digits(median(defined(theirs))), `${ratio}${few}`]
}

/** What the machine allows, and what ours makes of it. */
const limitTable = (report: Report): string =>
  table([
    ['case', 'limit', ...oursOf(report).flatMap((name) => [name, 'of it', 'of', 'its own'])],
    ...report.cases.map((result) => [
      result.case.name,
      limitCell(report, result, once),
      ...oursOf(report).flatMap((name) => oursCells(report, result, name)),
    ]),
  ])

const peerTable = (report: Report): string =>
  table([
    ['case', 'ours', ...peersOf(report).flatMap((name) => [name, 'ours is'])],
    ...report.cases.map((result) => [
      result.case.name,
      digits(median(defined(ratesOf(report, result, 'ours')))),
      ...peersOf(report).flatMap((name) => peerCells(report, result, name)),
    ]),
  ])

const gb = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`

const headLines = (report: Report): readonly string[] => {
  const { shape, threads, clock } = report
  const ceilings = report.cases.flatMap(({ rounds }) => rounds.map((round) => round.ceilings))
  const read = ceilings.map(({ bandwidth }) => bandwidth / 1e9)
  const matrix = ceilings.map(({ matrix }) => matrix / 1e9)
  return [
    machineLine(report.machine),
    `shape ${shape.name}, threads: ${threads}, tokens per ${clock === 'cpu' ? 'CPU ' : ''}second`,
    ...report.competitors.map(
      ({ name, version, loadSeconds, memory: { total, anonymous, huge } }) =>
        `  ${name}: ${version}; loaded in ${loadSeconds.toFixed(2)} s, ${gb(total)}, ` +
        `${percent(huge / anonymous)} of its own memory in huge pages`,
    ),
    `measured between the turns: read ${spread(read, 'GB/s')}, matrix ${spread(matrix, 'GFLOP/s')}`,
  ]
}

const aloneLines = (report: Report): readonly string[] => {
  const ours = report.competitors.find(({ name }) => name === 'ours')
  const detail = (key: string): number => Number(ours?.details?.[key] ?? Number.NaN)
  const phases = ['openSeconds', 'packSeconds', 'prepareSeconds'].map(detail)
  const seconds = phases.reduce((sum, phase) => sum + phase, 0)
  const kernel = detail('kernelSeconds') / report.threads
  const { idleCpu, submitToStep } = report.alone
  const { total = Number.NaN, peak = Number.NaN } = ours?.memory ?? {}
  const used = total - detail('rssBefore')
  const planned = detail('weights') + detail('kv')
  return [
    `load: ${seconds.toFixed(2)} s (open, pack, prepare: ${phases.map((s) => s.toFixed(2)).join(', ')}), ` +
      `${digits(detail('bytes') / 1e9 / seconds)} GB/s; a thread was ${kernel.toFixed(2)} s in the kernel, for pages`,
    `memory: ${gb(used)} more than the bare process; weights + KV are ${gb(planned)}, so ` +
      `${((used - planned) / 1e6).toFixed(0)} MB beside them; at the peak of loading ${gb(peak - detail('rssBefore'))}`,
    `idle: ${percent(idleCpu)} of a thread`,
    `submit to first scheduled step, idle engine: median ${(submitToStep * 1e6).toFixed(0)} us`,
  ]
}

const agreementLine = ({ name, positions, sameTop, meanDifference, error }: Agreement): string =>
  `numbers of ${name}: ${
    error ??
    `same likeliest token at ${sameTop} of ${positions} positions, mean difference of logprobs ${meanDifference.toFixed(4)}`
  }`

/** CPU time over wall time of the turns: below 1 the machine was busy with other things. */
const cpuShares = (report: Report): readonly number[] =>
  report.cases.flatMap(({ rounds }) =>
    rounds.flatMap(({ timings }) =>
      Object.values(timings).map((one) => one.cpuSeconds / one.seconds / report.threads),
    ),
  )

export const printReport = (report: Report): void => {
  const shares = cpuShares(report)
  const peers = peersOf(report).length > 0 ? [peerTable(report), ''] : []
  const lines = [
    '',
    ...headLines(report),
    '',
    limitTable(report),
    '',
    ...peers,
    ...aloneLines(report),
    ...report.agreement.map(agreementLine),
    `share of the CPU during turns: median ${percent(median(shares))}, lowest ${percent(quantile(shares, 0))}`,
  ]
  console.log(lines.join('\n'))
}

/** `folder`/<date>-<machine>-engine.json, as in 20261121-2142-amd-epyc-2t-engine.json; the path. */
export const saveReport = (folder: string, reports: readonly Report[]): string => {
  const [first] = reports
  if (first === undefined) throw new Error('nothing was measured')
  const date = first.date.slice(0, 16).replace(/[-:]/g, '').replace('T', '-')
  const { cpu, threads } = first.machine
  const slug = `${cpu} ${threads}t`.toLowerCase().replace(/[^a-z0-9]+/g, '-')
  mkdirSync(folder, { recursive: true })
  const path = join(folder, `${date}-${slug.replace(/^-|-$/g, '')}-engine.json`)
  writeFileSync(path, `${JSON.stringify(reports, null, 1)}\n`)
  return path
}
