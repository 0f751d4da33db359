// The engine bench's tables on the terminal, and its JSON file.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Arithmetic, limitOf, once } from './limits.js'
import { machineSlug } from './machine.js'
import {
  against,
  arithmeticOf,
  type CaseResult,
  cpuShares,
  defined,
  fp8Of,
  type Goal,
  goalsOf,
  type Report,
  ratesOf,
  shareOfLimit,
} from './results.js'
import { median, quantile } from './stats.js'

const digits = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toPrecision(3))
const percent = (share: number): string => `${(100 * share).toFixed(0)} %`
const times = (ratio: number): string => `${ratio.toFixed(2)}x`
const gb = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`
const spread = (values: readonly number[], unit: string): string =>
  `${digits(median(values))} ${unit} (${digits(quantile(values, 0))}-${digits(quantile(values, 1))})`

/** Columns as wide as their widest cell; the first to the left, the others to the right. */
const table = (rows: readonly (readonly string[])[]): string => {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  )
  const padded = (cell: string, column: number): string => {
    const width = widths[column] ?? 0
    return column === 0 ? cell.padEnd(width) : cell.padStart(width)
  }
  return rows.map((row) => row.map(padded).join('  ').trimEnd()).join('\n')
}

const peersOf = (report: Report): readonly string[] =>
  ['llama.cpp', 'torch', 'F.linear'].filter((name) =>
    report.cases.some(({ rounds }) => rounds.some(({ timings }) => name in timings)),
  )

const oursOf = (report: Report): readonly string[] =>
  ['ours', 'ours rounded'].filter((name) =>
    report.competitors.some((competitor) => competitor.name === name),
  )

/** The limit of `name`'s own arithmetic, its rate, and the share. */
const oursCells = (report: Report, result: CaseResult, name: string): readonly string[] => {
  const rates = defined(ratesOf(report, result, name))
  if (rates.length === 0) return ['-', '', '']
  const arithmetic = arithmeticOf(report, name)
  return [
    limitCell(report, result, arithmetic),
    digits(median(rates)),
    percent(shareOfLimit(report, result, name, arithmetic)),
  ]
}

const limitCell = (report: Report, result: CaseResult, arithmetic: Arithmetic): string => {
  const limits = result.rounds.map(({ ceilings }) =>
    limitOf(report.shape, result.case, arithmetic, ceilings),
  )
  const bounds = [...new Set(limits.map(({ bound }) => bound))].join('/')
  return `${digits(median(limits.map(({ rate }) => rate)))} ${bounds}`
}

const peerCells = (report: Report, result: CaseResult, name: string): readonly string[] => {
  const theirs = defined(ratesOf(report, result, name))
  if (theirs.length === 0) return ['-', '']
  const { ratio, pairs } = against(report, result, 'ours', name)
  const few = theirs.length < result.rounds.length ? `, ${theirs.length} turns` : ''
  const range = `${pairs[0].toFixed(2)}-${pairs[2].toFixed(2)}${few}`
  return [digits(median(theirs)), `${times(ratio)} (${range})`]
}

/** What the machine allows, and what ours makes of it. */
const limitTable = (report: Report): string => {
  const ours = oursOf(report)
  return table([
    ['case', 'limit', ...ours.flatMap((name) => [`possible for ${name}`, name, 'of it'])],
    ...report.cases.map((result) => [
      result.case.name,
      limitCell(report, result, once),
      ...ours.flatMap((name) => oursCells(report, result, name)),
    ]),
  ])
}

const peerTable = (report: Report): string => {
  const peers = peersOf(report)
  return table([
    ['case', 'ours', ...peers.flatMap((name) => [name, 'ours is'])],
    ...report.cases.map((result) => [
      result.case.name,
      digits(median(defined(ratesOf(report, result, 'ours')))),
      ...peers.flatMap((name) => peerCells(report, result, name)),
    ]),
  ])
}

const headLines = (report: Report): readonly string[] => {
  const { machine: m, shape, threads, clock } = report
  const ceilings = report.cases.flatMap(({ rounds }) => rounds.map((round) => round.ceilings))
  const read = spread(
    ceilings.map(({ bandwidth }) => bandwidth / 1e9),
    'GB/s',
  )
  const matrix = spread(
    ceilings.map(({ matrix }) => matrix / 1e9),
    'GFLOP/s',
  )
  return [
    `${m.cpu} (${m.isa.join(' ')}), ${m.threads} hardware threads, ${m.memoryGiB} GiB, ` +
      `Linux ${m.kernel}, huge pages "${m.hugePages}", Node ${m.node}, ${report.date}`,
    `shape ${shape.name}, ${threads} thread${threads === 1 ? '' : 's'}, tokens per ` +
      `${clock === 'cpu' ? 'CPU ' : ''}second`,
    ...report.competitors.map(
      ({ name, version, loadSeconds, memory: { total, anonymous, huge } }) =>
        `  ${name}: ${version}; loaded in ${loadSeconds.toFixed(2)} s, ${gb(total)}, ` +
        `${percent(huge / anonymous)} of its own memory in huge pages`,
    ),
    `measured between the turns: read ${read}, matrix ${matrix}`,
  ]
}

const fp8Lines = (report: Report): readonly string[] => {
  const fp8 = fp8Of(report)
  if (fp8 === undefined) return []
  return [
    `fp8 weights, decode 1: ${digits(fp8.rate)} (${percent(fp8.share)} of its limit), ` +
      `${times(fp8.speedup)} of BF16 where ${times(fp8.bytes)} fewer bytes are read: ` +
      `${percent(fp8.speedup / fp8.bytes)}`,
  ]
}

const aloneLines = (report: Report): readonly string[] => {
  const ours = report.competitors.find(({ name }) => name === 'ours')
  const detail = (key: string): number => Number(ours?.details?.[key] ?? Number.NaN)
  const [open, pack, prepare] = ['openSeconds', 'packSeconds', 'prepareSeconds'].map(detail)
  const seconds = (open ?? 0) + (pack ?? 0) + (prepare ?? 0)
  const kernel = detail('kernelSeconds') / (report.threads > 1 ? report.threads : 1)
  const { idleCpu, submitToStep } = report.alone
  const { total = Number.NaN, peak = Number.NaN } = ours?.memory ?? {}
  const used = total - detail('rssBefore')
  const planned = detail('weights') + detail('kv')
  return [
    `load: ${seconds.toFixed(2)} s (open ${open?.toFixed(2)}, pack ${pack?.toFixed(2)}, prepare ` +
      `${prepare?.toFixed(2)}), ${digits(detail('loadBytes') / 1e9 / seconds)} GB/s; a thread was ` +
      `${kernel.toFixed(2)} s in the kernel, for pages`,
    `memory: ${gb(used)} more than the bare process; weights + KV are ${gb(planned)}, ` +
      `so ${((used - planned) / 1e6).toFixed(0)} MB beside them; at the peak of loading ` +
      `${gb(peak - detail('rssBefore'))}`,
    `idle: ${percent(idleCpu)} of a thread`,
    `submit to first scheduled step, idle engine: median ${(submitToStep * 1e6).toFixed(0)} us`,
  ]
}

const agreementLines = (report: Report): readonly string[] =>
  report.agreement.map(({ name, positions, sameTop, meanDifference, error }) =>
    error === undefined
      ? `numbers of ${name}: same likeliest token at ${sameTop} of ${positions} positions, ` +
        `mean difference of logprobs ${meanDifference.toFixed(4)}`
      : `numbers of ${name}: ${error}`,
  )

const shown = (goal: Goal, value: number | undefined): string => {
  if (value === undefined) return '-'
  return goal.accept < 1 ? percent(value) : times(value)
}

const verdict = ({ value, accept, aim }: Goal): string => {
  if (value === undefined) return 'not measured'
  if (value >= aim) return 'aim reached'
  return value >= accept ? 'accepted' : 'BELOW'
}

export const printReport = (report: Report): void => {
  const shares = cpuShares(report)
  const print = (...lines: readonly string[]): void => console.log(lines.join('\n'))
  print('', ...headLines(report), '')
  print(limitTable(report), '')
  if (peersOf(report).length > 0) print(peerTable(report), '')
  print(
    ...fp8Lines(report),
    ...aloneLines(report),
    ...agreementLines(report),
    `share of the CPU during turns: median ${percent(median(shares))}, lowest ` +
      `${percent(quantile(shares, 0))}`,
  )
  if (report.shape.name !== '1b' || report.threads !== 1) return
  for (const name of oursOf(report)) {
    const rows = goalsOf(report, name).map((goal) => [
      goal.what,
      shown(goal, goal.value),
      shown(goal, goal.possible),
      shown(goal, goal.accept),
      shown(goal, goal.aim),
      verdict(goal),
    ])
    print('', table([[`goal of ${name}`, 'value', 'possible', 'accept', 'aim', ''], ...rows]))
  }
}

/** `folder`/<date>-<machine>-engine.json; the path. */
export const saveReport = (folder: string, reports: readonly Report[]): string => {
  const [first] = reports
  if (first === undefined) throw new Error('nothing was measured')
  const date = first.date.slice(0, 16).replace(/[-:]/g, '').replace('T', '-')
  mkdirSync(folder, { recursive: true })
  const path = join(folder, `${date}-${machineSlug(first.machine)}-engine.json`)
  writeFileSync(path, `${JSON.stringify(reports, null, 1)}\n`)
  return path
}
