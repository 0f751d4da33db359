// npm run bench -- gpu: docs/gpu-results.md from the results of bench/gpu.sh. Measures nothing.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

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
export type GpuRun = { readonly file: string; readonly lines: readonly Fields[] }

const isFields = (value: unknown): value is Fields => typeof value === 'object' && value !== null
const text = (value: unknown): string =>
  typeof value === 'string' || typeof value === 'number' ? String(value) : ''
const numeric = (value: unknown): number => (typeof value === 'number' ? value : 0)

const ofKind = (run: GpuRun, kind: string): readonly Fields[] =>
  run.lines.filter((line) => line.kind === kind)

const measures = (run: GpuRun): readonly Measure[] =>
  ofKind(run, 'measure').map((line) => ({
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

const renderRun = (run: GpuRun): readonly string[] => {
  const [machine = {}] = ofKind(run, 'run')
  const [device = {}] = ofKind(run, 'machine')
  const all = measures(run)
  const ours = all.filter(({ by }) => by === 'ours')
  const peers = all.filter(({ by }) => by !== 'ours')
  const left = new Set(ours)
  const parts = sections.flatMap(({ title, holds }) => {
    const some = [...left].filter(({ name }) => holds(name))
    for (const one of some) left.delete(one)
    return some.length === 0 ? [] : [`### ${title}`, '', ...table(some, peers), '']
  })
  const phases = ofKind(run, 'phase').map(
    (line) => `| ${text(line.name)} | ${text(line.status)} | ${text(line.seconds)} |`,
  )
  const notes = ofKind(run, 'note').map((line) => `- ${text(line.text)}`)
  return [
    `## ${text(machine.gpu)}, ${text(machine.date).slice(0, 10)}`,
    '',
    `${text(device.device)}; driver ${text(machine.driver)}, nvcc ${text(machine.nvcc)}, power limit ` +
      `${text(machine.power_limit_w)} W, at most ${text(machine.clock_max_mhz)} MHz; commit ` +
      `${text(machine.commit)}. File: \`bench/results/${run.file}\`.`,
    '',
    ...parts,
    ...(notes.length > 0 ? ['### Notes', '', ...notes, ''] : []),
    '### Phases',
    '',
    '| phase | ended | seconds |',
    '|---|---|---:|',
    ...phases,
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

const readRuns = (folder: string): readonly GpuRun[] =>
  readdirSync(folder)
    .filter((file) => file.endsWith('-gpu.json'))
    .sort()
    .map((file) => {
      const parsed: unknown = JSON.parse(readFileSync(join(folder, file), 'utf8'))
      return { file, lines: Array.isArray(parsed) ? parsed.filter(isFields) : [] }
    })

export const run = async (args: readonly string[]): Promise<void> => {
  const { values } = parseArgs({
    args: [...args],
    options: {
      help: { type: 'boolean' },
      results: { type: 'string', default: join(root, 'bench/results') },
      out: { type: 'string', default: join(root, 'docs/gpu-results.md') },
    },
  })
  if (values.help) {
    console.log('npm run bench -- gpu [--results FOLDER] [--out FILE]\n')
    console.log('Makes docs/gpu-results.md from what bench/gpu.sh has measured.')
    return
  }
  const runs = readRuns(values.results)
  writeFileSync(values.out, renderGpuPage(runs))
  console.log(`${values.out}: ${runs.length} ${runs.length === 1 ? 'run' : 'runs'}`)
}
