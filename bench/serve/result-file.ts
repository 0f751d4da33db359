// The file of a result, and two of them beside each other.

import { readFileSync, writeFileSync } from 'node:fs'
import { z } from 'zod'
import { faultText } from '../../server/check.js'
import { UsageError } from '../flags.js'
import { machine } from '../machine.js'
import { digits, table } from '../stats.js'
import { RESULT_VERSION, type Result, type Run } from './figures.js'

const KIND = 'nemotron-server bench serve'

export const makeResult = (settings: Result['settings'], runs: readonly Run[]): Result => ({
  ...{ kind: KIND, version: RESULT_VERSION, date: new Date().toISOString(), machine: machine() },
  ...{ settings, runs },
})

export const writeResult = (path: string, result: Result): void =>
  writeFileSync(path, `${JSON.stringify(result)}\n`)

const Milliseconds = z.record(z.string(), z.number().nullable())
/** What is read of a result. */
const Read = z.looseObject({
  runs: z.array(
    z.looseObject({
      figures: z.looseObject({
        ...{ completed: z.number(), failed: z.number(), request_throughput: z.number() },
        ...{ output_throughput: z.number(), request_goodput: z.number().nullable() },
      }),
      latencies: Milliseconds,
      curves: z.record(z.string(), z.array(z.array(z.number()))),
      requests: z.array(z.looseObject({ at: z.number() })),
      chunks_each_second: z.array(z.number()),
    }),
  ),
  settings: z.record(z.string(), z.unknown()),
  machine: z.looseObject({ cpu: z.string(), threads: z.number() }),
})

const contentOf = (path: string): { kind?: unknown; version?: unknown } => {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new UsageError(`${path}: ${error instanceof Error ? error.message : error}`)
  }
  try {
    const content = JSON.parse(text)
    if (typeof content === 'object' && content !== null) return content
  } catch {}
  throw new UsageError(`${path} is no JSON object; \`bench -- serve --json ${path}\` writes one`)
}

/** Throws where the file is no result, is one of another version, or has no answered request. */
export const readResult = (path: string): Result => {
  const content = contentOf(path)
  if (content.kind !== KIND)
    throw new UsageError(`${path} is no result of \`npm run bench -- serve --json FILE\``)
  if (content.version !== RESULT_VERSION)
    throw new UsageError(
      `${path} has version ${content.version} of results, this bench reads version ${RESULT_VERSION}; measure again`,
    )
  const { error } = Read.safeParse(content)
  if (error) throw new UsageError(`${path} is no whole result: ${faultText(error, content)}`)
  const result = content as Result
  if (!result.runs.some(({ figures }) => figures.completed > 0))
    throw new UsageError(`${path} has no answered request`)
  return result
}

const nameOf = ({ rate, concurrency }: Run): string =>
  rate !== null ? `${rate}/s` : `${concurrency} at once`

type Row = readonly [name: string, (run: Run) => number | null, best: 'more' | 'less']
const ROWS: readonly Row[] = [
  ['requests/s', (run) => run.figures.request_throughput, 'more'],
  ['goodput/s', (run) => run.figures.request_goodput, 'more'],
  ['output tok/s', (run) => run.figures.output_throughput, 'more'],
  ...(['ttft', 'tpot', 'itl', 'e2el'] as const).flatMap((metric): readonly Row[] =>
    ['median', 'p99'].map((column) => [
      `${column} ${metric.toUpperCase()} ms`,
      (run) => run.latencies[`${column}_${metric}_ms`] ?? null,
      'less',
    ]),
  ),
  ['failed', (run) => run.figures.failed, 'less'],
]

const shown = (value: number | null): string =>
  value === null ? '-' : Number.isInteger(value) ? String(value) : digits(value)

/** Settings that differ, where results went is none of them. */
const differences = (a: Result, b: Result): readonly string[] => {
  const names = [...new Set([...Object.keys(a.settings), ...Object.keys(b.settings)])]
  const said = (value: unknown): string => JSON.stringify(value) ?? 'not set'
  const pairs = names.map((name) => [name, said(a.settings[name]), said(b.settings[name])] as const)
  const machines = [a, b].map(({ machine }) => `${machine.cpu}, ${machine.threads} threads`)
  return [
    ...pairs.filter(([, one, other]) => one !== other),
    ...(machines[0] === machines[1] ? [] : [['machine', machines[0] ?? '', machines[1] ?? '']]),
  ].map(([name, one, other]) => `  ${name}: ${one} and ${other}`)
}

/** A table for each load that both have; `B is` is the second over the first. */
export const compareResults = (a: Result, b: Result): string => {
  const pairs = a.runs.flatMap((one) => {
    const other = b.runs.find((run) => nameOf(run) === nameOf(one))
    return other === undefined ? [] : [[one, other] as const]
  })
  if (pairs.length === 0) {
    const [loads, others] = [a, b].map(({ runs }) => runs.map(nameOf).join(', '))
    throw new UsageError(`no load is in both results: the first has ${loads}, the second ${others}`)
  }
  const tables = pairs.map(([one, other]) => {
    const rows = ROWS.map(([name, read, best]) => {
      const [mine, its] = [read(one), read(other)]
      const ratio = mine === null || its === null || mine === 0 ? null : its / mine
      const better = ratio !== null && ratio !== 1 && ratio > 1 === (best === 'more')
      const word = ratio === null || ratio === 1 ? '' : better ? 'better' : 'worse'
      return [name, shown(mine), shown(its), ratio === null ? '-' : `${ratio.toFixed(2)}x`, word]
    })
    return table([[nameOf(one), 'A', 'B', 'B is', ''], ...rows])
  })
  const differ = differences(a, b)
  const head = differ.length > 0 ? [['these settings differ, A and B:', ...differ].join('\n')] : []
  return [...head, ...tables].join('\n\n')
}

/** One line a run. */
export const sweepTable = (runs: readonly Run[]): string => {
  const columns = ROWS.filter(([, read]) => runs.some((run) => read(run) !== null))
  return table([
    ['load', ...columns.map(([name]) => name)],
    ...runs.map((run) => [nameOf(run), ...columns.map(([, read]) => shown(read(run)))]),
  ])
}
