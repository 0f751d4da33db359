// What the engine bench found: types, tables on the terminal, and the JSON file.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { type Case, type Ceilings, limitOf, weightBytes } from './limits.js'
import type { Shape } from './model.js'
import type { MemoryUse } from './peers/process.js'
import type { Ready, Timing } from './peers/protocol.js'
import { compare, median, quantile } from './stats.js'

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

export type OursAlone = {
  readonly submitToStep: number
  readonly idleCpu: number
  readonly memory: MemoryUse
}

export type Report = {
  readonly date: string
  readonly machine: ReturnType<typeof machine>
  readonly shape: Shape
  readonly threads: number
  readonly competitors: readonly (Ready & { readonly name: string })[]
  readonly agreement: readonly Agreement[]
  readonly cases: readonly CaseResult[]
  readonly alone: OursAlone
}

const firstMatch = (file: string, pattern: RegExp): string => {
  try {
    return readFileSync(file, 'utf8').match(pattern)?.[1] ?? ''
  } catch {
    return ''
  }
}

export const machine = () => {
  const flags = firstMatch('/proc/cpuinfo', /^flags\s*:(.*)$/m).split(' ')
  return {
    cpu: os.cpus()[0]?.model ?? 'unknown',
    isa: ['avx2', 'avx512f', 'avx512_bf16', 'avx512_vnni', 'amx_bf16', 'amx_int8'].filter((name) =>
      flags.includes(name),
    ),
    threads: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    hugePages: firstMatch('/sys/kernel/mm/transparent_hugepage/enabled', /\[(\w+)\]/),
    kernel: os.release(),
    node: process.version,
  }
}

const rateOf = (timing: Timing | undefined): number | undefined =>
  timing === undefined ? undefined : timing.tokens / timing.seconds

const defined = (values: readonly (number | undefined)[]): readonly number[] =>
  values.filter((value) => value !== undefined)

const ratesOf = (result: CaseResult, name: string): readonly (number | undefined)[] =>
  result.rounds.map(({ timings }) => rateOf(timings[name]))

const digits = (value: number): string => {
  if (Number.isNaN(value)) return '-'
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3)
}
const percent = (share: number): string => `${(100 * share).toFixed(0)} %`

/** Columns as wide as their widest cell; the first to the left, the others to the right. */
const table = (rows: readonly (readonly string[])[]): string => {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  )
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
        )
        .join('  '),
    )
    .join('\n')
}

/** Median over the rounds of a competitor's rate, and of its share of that round's limit. */
const against = (report: Report, result: CaseResult, name: string, dtype: 'bf16' | 'fp8') => {
  const limits = result.rounds.map(({ ceilings }) =>
    limitOf(report.shape, result.case, dtype, ceilings),
  )
  const rates = ratesOf(result, name)
  const shares = rates.map((rate, round) =>
    rate === undefined ? undefined : rate / (limits[round]?.rate ?? Number.NaN),
  )
  return {
    rate: median(defined(rates)),
    share: median(defined(shares)),
    limit: median(limits.map(({ rate }) => rate)),
    bounds: [...new Set(limits.map(({ bound }) => bound))].join('/'),
  }
}

const peersOf = (report: Report): readonly string[] =>
  ['llama.cpp', 'torch', 'F.linear'].filter((name) =>
    report.cases.some(({ rounds }) => rounds.some(({ timings }) => name in timings)),
  )

const caseRow = (report: Report, result: CaseResult, peers: readonly string[]) => {
  const { rate, share, limit, bounds } = against(report, result, 'ours', 'bf16')
  const mine = ratesOf(result, 'ours')
  return [
    result.case.name,
    `${digits(limit)} ${bounds}`,
    digits(rate),
    percent(share),
    ...peers.flatMap((name) => {
      const theirs = ratesOf(result, name)
      const count = defined(theirs).length
      if (count === 0) return ['-', '']
      const { ratio, pairs } = compare(mine, theirs)
      const [low, , high] = pairs
      const few = count < result.rounds.length ? `, ${count} of ${result.rounds.length}` : ''
      return [
        digits(median(defined(theirs))),
        `${ratio.toFixed(2)}x (${low.toFixed(2)}-${high.toFixed(2)}${few})`,
      ]
    }),
  ]
}

const spread = (values: readonly number[], unit: string): string =>
  `${digits(median(values))} ${unit} (${digits(quantile(values, 0))}-${digits(quantile(values, 1))})`

type Fp8 = {
  readonly rate: number
  readonly share: number
  readonly speedup: number
  readonly bytes: number
}

const fp8Of = (report: Report): Fp8 | null => {
  const result = report.cases.find(({ case: { name } }) => name === 'decode 1')
  if (result === undefined || defined(ratesOf(result, 'ours fp8')).length === 0) return null
  const { rate, share } = against(report, result, 'ours fp8', 'fp8')
  return {
    rate,
    share,
    speedup: compare(ratesOf(result, 'ours fp8'), ratesOf(result, 'ours')).ratio,
    bytes: weightBytes(report.shape, 'bf16') / weightBytes(report.shape, 'fp8'),
  }
}

/** The share of its CPU time that a competitor got: below 1 the machine was busy with other things. */
const cpuShares = (report: Report): readonly number[] =>
  report.cases.flatMap(({ rounds }) =>
    rounds.flatMap(({ timings }) =>
      Object.values(timings).map(
        ({ cpuSeconds, seconds }) => cpuSeconds / seconds / report.threads,
      ),
    ),
  )

const gb = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`

const aloneLines = (report: Report): readonly string[] => {
  const ours = report.competitors.find(({ name }) => name === 'ours')
  const detail = (key: string): number => Number(ours?.details?.[key] ?? Number.NaN)
  const packed = detail('openSeconds') + detail('packSeconds') + detail('prepareSeconds')
  const { memory, idleCpu, submitToStep } = report.alone
  const used = memory.total - detail('rssBefore')
  const planned = detail('weights') + detail('kv')
  return [
    `load: ${packed.toFixed(2)} s (open ${detail('openSeconds').toFixed(2)}, pack ` +
      `${detail('packSeconds').toFixed(2)}, prepare ${detail('prepareSeconds').toFixed(2)}), ` +
      `${(detail('loadBytes') / 1e9 / packed).toFixed(2)} GB/s`,
    `memory: ${gb(used)} more than the bare process; weights + KV are ${gb(planned)}, ` +
      `so ${((used - planned) / 1e6).toFixed(0)} MB beside them; at the peak of loading ` +
      `${gb(memory.peak - detail('rssBefore'))}`,
    `idle: ${percent(idleCpu)} of a thread`,
    `submit to first scheduled step, idle engine: median ${(submitToStep * 1e6).toFixed(0)} us`,
    ...report.competitors
      .filter(({ name }) => name !== 'ours')
      .map(({ name, loadSeconds }) => `load of ${name}: ${loadSeconds.toFixed(2)} s`),
  ]
}

type Goal = {
  readonly what: string
  readonly value: number | undefined
  readonly accept: number
  readonly aim: number
  readonly unit: 'share' | 'ratio'
}

/** The bars of the 1b shape on one thread. */
const goalsOf = (report: Report): readonly Goal[] => {
  const find = (name: string): CaseResult | undefined =>
    report.cases.find((result) => result.case.name === name)
  const share = (name: string): number | undefined => {
    const result = find(name)
    return result && against(report, result, 'ours', 'bf16').share
  }
  const matrixShare = (name: string): number | undefined => {
    const result = find(name)
    if (result === undefined) return undefined
    const shares = result.rounds.map(({ ceilings, timings }) => {
      const free = { ...ceilings, bandwidth: Number.POSITIVE_INFINITY }
      const rate = rateOf(timings.ours)
      return rate && rate / limitOf(report.shape, result.case, 'bf16', free).rate
    })
    return median(defined(shares))
  }
  const readShare = (name: string): number | undefined => {
    const result = find(name)
    if (result === undefined) return undefined
    const shares = result.rounds.map(({ ceilings, timings }) => {
      const free = { ...ceilings, matrix: Number.POSITIVE_INFINITY }
      const rate = rateOf(timings.ours)
      return rate && rate / limitOf(report.shape, result.case, 'bf16', free).rate
    })
    return median(defined(shares))
  }
  const ratio = (name: string, ...peers: readonly string[]): number | undefined => {
    const result = find(name)
    if (result === undefined) return undefined
    const mine = ratesOf(result, 'ours')
    const ratios = peers
      .map((peer) => compare(mine, ratesOf(result, peer)).ratio)
      .filter((value) => !Number.isNaN(value))
    return ratios.length === 0 ? undefined : Math.min(...ratios)
  }
  const fp8 = fp8Of(report)
  return [
    { what: 'decode 1 / read limit', value: share('decode 1'), accept: 0.8, aim: 0.9 },
    { what: 'decode 1 / llama.cpp', value: ratio('decode 1', 'llama.cpp'), accept: 1.1, aim: 1.3 },
    { what: 'prefill 512 / matrix', value: matrixShare('prefill 512'), accept: 0.25, aim: 0.5 },
    { what: 'prefill 512 / torch', value: ratio('prefill 512', 'torch'), accept: 1.5, aim: 3 },
    { what: 'decode 8 / read limit', value: readShare('decode 8'), accept: 0.7, aim: 0.85 },
    { what: 'decode 32 / read limit', value: readShare('decode 32'), accept: 0.55, aim: 0.7 },
    {
      what: 'decode 8 / better peer',
      value: ratio('decode 8', 'llama.cpp', 'torch'),
      accept: 1.25,
      aim: 1.25,
    },
    {
      what: 'decode 32 / better peer',
      value: ratio('decode 32', 'llama.cpp', 'torch'),
      accept: 1.25,
      aim: 1.25,
    },
    {
      what: 'fp8 decode / ratio of bytes',
      value: fp8 === null ? undefined : fp8.speedup / fp8.bytes,
      accept: 0.88,
      aim: 0.88,
    },
  ].map((goal) => ({ ...goal, unit: goal.accept < 1 ? 'share' : 'ratio' }))
}

const shown = (value: number, unit: Goal['unit']): string =>
  unit === 'share' ? percent(value) : `${value.toFixed(2)}x`

const verdict = ({ value, accept, aim }: Goal): string => {
  if (value === undefined) return 'not measured'
  if (value >= aim) return 'aim reached'
  return value >= accept ? 'accepted' : 'BELOW'
}

export const printReport = (report: Report): void => {
  const { machine: m, shape, threads, cases } = report
  const peers = peersOf(report)
  const all = cases.flatMap(({ rounds }) => rounds.map(({ ceilings }) => ceilings))
  const isa = m.isa.join(' ')
  console.log(
    `\n${m.cpu} (${isa}), ${m.threads} hardware threads, ${m.memoryGiB} GiB, Linux ${m.kernel}, ` +
      `huge pages "${m.hugePages}", Node ${m.node}, ${report.date}`,
  )
  console.log(`shape ${shape.name}, ${threads} thread${threads === 1 ? '' : 's'}, tokens a second`)
  for (const { name, version } of report.competitors) console.log(`  ${name}: ${version}`)
  console.log(
    `measured between the turns: read ${spread(
      all.map(({ bandwidth }) => bandwidth / 1e9),
      'GB/s',
    )}, matrix ${spread(
      all.map(({ matrix }) => matrix / 1e9),
      'GFLOP/s',
    )}`,
  )
  const heads = peers.flatMap((name) => [name, 'ours is'])
  console.log()
  console.log(
    table([
      ['case', 'limit', 'ours', 'of limit', ...heads],
      ...cases.map((result) => caseRow(report, result, peers)),
    ]),
  )
  console.log()
  const fp8 = fp8Of(report)
  if (fp8 !== null) {
    console.log(
      `fp8 weights, decode 1: ${digits(fp8.rate)} (${percent(fp8.share)} of its limit), ` +
        `${fp8.speedup.toFixed(2)}x of BF16; it reads ${fp8.bytes.toFixed(2)}x less`,
    )
  }
  for (const line of aloneLines(report)) console.log(line)
  for (const { name, positions, sameTop, meanDifference, error } of report.agreement) {
    console.log(
      `numbers of ${name}: ${
        error ??
        `same likeliest token at ${sameTop} of ${positions} positions, mean difference of ` +
          `logprobs ${meanDifference.toFixed(4)}`
      }`,
    )
  }
  const shares = cpuShares(report)
  console.log(
    `share of the CPU during turns: median ${percent(median(shares))}, lowest ` +
      `${percent(quantile(shares, 0))}`,
  )
  if (shape.name === '1b' && threads === 1) {
    console.log()
    console.log(
      table([
        ['goal', 'value', 'accept', 'aim', ''],
        ...goalsOf(report).map((goal) => [
          goal.what,
          goal.value === undefined ? '-' : shown(goal.value, goal.unit),
          shown(goal.accept, goal.unit),
          shown(goal.aim, goal.unit),
          verdict(goal),
        ]),
      ]),
    )
  }
}

/** `folder`/<date>-<machine>-engine.json; the path. */
export const saveReport = (folder: string, reports: readonly Report[]): string => {
  const [first] = reports
  const date = (first?.date ?? '').slice(0, 16).replace(/[-:]/g, '').replace('T', '-')
  const name = `${first?.machine.cpu ?? ''} ${first?.machine.threads ?? ''}t`
  const slug = name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
  mkdirSync(folder, { recursive: true })
  const path = join(folder, `${date}-${slug}-engine.json`)
  writeFileSync(path, `${JSON.stringify(reports, null, 1)}\n`)
  return path
}
