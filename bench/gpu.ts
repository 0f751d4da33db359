// npm run bench -- gpu: docs/gpu-results.md from the results of bench/gpu.sh. Measures nothing.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { writeCounts } from './gpu-counts.js'

const root = fileURLToPath(new URL('..', import.meta.url))

type Fields = Readonly<Record<string, unknown>>
type Measure = {
  readonly by: string
  readonly name: string
  readonly us: number
  readonly value: number
  readonly unit: string
  readonly percent: number
}
/** A result.json of bench/gpu.sh, and the file's name. */
type GpuRun = { readonly file: string; readonly result: Fields }

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const text = (value: unknown): string =>
  typeof value === 'string' || typeof value === 'number' ? String(value) : ''
const numeric = (value: unknown): number => (typeof value === 'number' ? value : 0)
const fields = (value: unknown): Fields => (isFields(value) ? value : {})
const list = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : [])

const phasesOf = (run: GpuRun): readonly Fields[] => list(run.result.phases).filter(isFields)

const measuresOf = (run: GpuRun): readonly Measure[] =>
  phasesOf(run)
    .flatMap((phase) => list(phase.metrics).filter(isFields))
    .map((line) => ({
      by: text(line.by),
      name: text(line.name),
      us: numeric(line.us),
      value: numeric(line.value),
      unit: text(line.unit),
      percent: numeric(line.percent),
    }))

const rounded = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)

/** A bar of at most twenty blocks: 100 % is the limit. */
const bar = (percent: number): string =>
  percent > 0 ? '█'.repeat(Math.max(1, Math.min(20, Math.round(percent / 5)))) : ''

const sections: readonly { readonly title: string; readonly holds: (name: string) => boolean }[] = [
  { title: 'Whole models', holds: (name) => /^(8B|70B|tiny) /.test(name) },
  { title: 'Products', holds: (name) => name.startsWith('gemm ') },
  { title: 'Attention', holds: (name) => name.startsWith('attention ') },
  { title: 'Sampler', holds: (name) => name.startsWith('sample ') },
  { title: 'Ceilings', holds: () => true },
]

const table = (ours: readonly Measure[], peers: readonly Measure[]): readonly string[] => {
  const rows = ours.map((measure) => {
    const others = peers
      .filter(({ name }) => name === measure.name)
      .map(({ by, us }) => `${by} ${(us / measure.us).toFixed(2)}x`)
    const share = measure.percent > 0 ? `${measure.percent.toFixed(1)} %` : ''
    const value = `${rounded(measure.value)} ${measure.unit}`
    return `| ${measure.name} | ${rounded(measure.us)} | ${value} | ${share} | ${bar(measure.percent)} | ${others.join(', ')} |`
  })
  return ['| | us | | of the limit | | faster than |', '|---|---:|---:|---:|---|---|', ...rows]
}

/** What a failure was, and how it went when it was repeated. */
const renderFailure = (phase: Fields): readonly string[] => {
  const repeated = fields(phase.repeated)
  const said = list(phase.said).map(text).filter(Boolean)
  const failing = list(phase.failing).map(text)
  const runs = list(repeated.runs)
    .filter(isFields)
    .map(
      (run) => `${text(run.how)}: ${text(run.status)}${run.reason ? ` (${text(run.reason)})` : ''}`,
    )
  return [
    `**${text(phase.name)}**: ${text(phase.reason)}. ${failing.map((name) => `\`${name}\``).join(', ')}`,
    '',
    ...(said.length > 0 ? ['```', ...said, '```', ''] : []),
    ...(runs.length > 0 ? [`\`${text(repeated.case)}\` once more: ${runs.join('; ')}.`, ''] : []),
  ]
}

const renderRun = (run: GpuRun): readonly string[] => {
  const machine = fields(run.result.run)
  const all = measuresOf(run)
  const ours = all.filter(({ by }) => by === 'ours')
  const peers = all.filter(({ by }) => by !== 'ours')
  const left = new Set(ours)
  const parts = sections.flatMap(({ title, holds }) => {
    const some = [...left].filter(({ name }) => holds(name))
    for (const one of some) left.delete(one)
    return some.length === 0 ? [] : [`### ${title}`, '', ...table(some, peers), '']
  })
  const phases = phasesOf(run)
  const failures = phases.filter((phase) => phase.status === 'failed').flatMap(renderFailure)
  const rows = phases.map((phase) => {
    const ended = phase.reason ? `${text(phase.status)}: ${text(phase.reason)}` : text(phase.status)
    return `| ${text(phase.name)} | ${ended} | ${text(phase.passed)} | ${text(phase.seconds)} |`
  })
  const notes = phases.flatMap((phase) =>
    list(phase.notes).map((note) => `- ${text(phase.name)}: ${text(note)}`),
  )
  return [
    `## ${text(machine.gpu)}, ${text(machine.date).slice(0, 10)}`,
    '',
    `${text(machine.device)}; driver ${text(machine.driver)}, nvcc ${text(machine.nvcc)}, power limit ` +
      `${text(machine.power_limit_w)} W, at most ${text(machine.clock_max_mhz)} MHz; commit ` +
      `${text(machine.commit)}; ${text(run.result.seconds)} s, ended ${text(run.result.ended)}. ` +
      `File: \`bench/results/${run.file}\`.`,
    '',
    ...parts,
    ...(failures.length > 0 ? ['### Failures', '', ...failures] : []),
    ...(notes.length > 0 ? ['### Notes', '', ...notes, ''] : []),
    '### Phases',
    '',
    '| phase | ended | cases passed | seconds |',
    '|---|---|---:|---:|',
    ...rows,
    '',
  ]
}

/** The page; newest run first. */
export const renderGpuPage = (runs: readonly GpuRun[]): string => {
  const head = [
    '# Results on GPUs',
    '',
    'Made by `npm run bench -- gpu` from `bench/results/*-gpu.json`, which `bench/gpu.sh` writes on a',
    'machine with a GPU. Do not edit.',
    '',
  ]
  if (runs.length === 0) {
    return [
      ...head,
      '**There are none: nothing of the CUDA backend has run on a GPU yet.** What has been proved without',
      'one is in [kernels.md](kernels.md) and [cuda.md](cuda.md).',
      '',
    ].join('\n')
  }
  const body = [...runs].reverse().flatMap(renderRun)
  return [...head, ...body].join('\n')
}

const readResult = (file: string): Fields => {
  const parsed: unknown = JSON.parse(readFileSync(file, 'utf8'))
  if (isFields(parsed) && isFields(parsed.run) && Array.isArray(parsed.phases)) return parsed
  throw new Error(`${file} is no result.json of bench/gpu.sh: it has no "run" and "phases"`)
}

const readRuns = (folder: string): readonly GpuRun[] =>
  readdirSync(folder)
    .filter((file) => file.endsWith('-gpu.json'))
    .sort()
    .map((file) => ({ file, result: readResult(join(folder, file)) }))

/** <date>-<time>-<gpu>-gpu.json, as the other results are named. */
const nameOf = (result: Fields): string => {
  const machine = fields(result.run)
  const date = text(machine.date).replace(/[-:]/g, '').replace('T', '-').slice(0, 13)
  const gpu = text(machine.gpu)
    .toLowerCase()
    .replace(/^nvidia /, '')
    .replace(/[^a-z0-9]+/g, '-')
  return `${date}-${gpu}-gpu.json`
}

export const run = async (args: readonly string[]): Promise<void> => {
  const { values } = parseArgs({
    args: [...args],
    options: {
      help: { type: 'boolean' },
      add: { type: 'string' },
      counts: { type: 'boolean' },
      program: { type: 'string', default: join(root, 'build/test/emu/emulated_gpu_bench') },
      results: { type: 'string', default: join(root, 'bench/results') },
      out: { type: 'string', default: join(root, 'docs/gpu-results.md') },
    },
  })
  if (values.help) {
    console.log('npm run bench -- gpu [--add result.json] [--results FOLDER] [--out FILE]')
    console.log('npm run bench -- gpu --counts [--program FILE]\n')
    console.log('Makes docs/gpu-results.md from what bench/gpu.sh has measured; --add takes a new')
    console.log('result.json in first.')
    console.log(
      '--counts counts what products of generated rows cost, by nvcc and a gpu_bench (no GPU),',
    )
    console.log('and writes the tables into docs/kernels.md.')
    return
  }
  if (values.counts) {
    console.log(writeCounts(root, values.program))
    return
  }
  if (values.add) {
    const result = readResult(values.add)
    if (fields(result.run).dry_run === true) {
      throw new Error(`${values.add} comes from a dry run: it has no numbers of a GPU`)
    }
    const file = join(values.results, nameOf(result))
    writeFileSync(file, `${JSON.stringify(result, null, 1)}\n`)
    console.log(file)
  }
  const runs = readRuns(values.results)
  writeFileSync(values.out, renderGpuPage(runs))
  console.log(`${values.out}: ${runs.length} ${runs.length === 1 ? 'run' : 'runs'}`)
}
