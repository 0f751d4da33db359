// npm run bench -- packed: weights of a few bits. GGUF files of packed types, ours beside llama.cpp on the same file, and
// weights that are quantised while loading; each beside the same shape in BF16 and beside the bytes' limit.
//
// The competitors play in turns, as in the engine bench. Of each form there are four processes at most, so that every
// one of them has its memory: ours in BF16, ours, ours with activations of 8 bits (as llama.cpp has them), llama.cpp.

import { statSync } from 'node:fs'
import { loadavg } from 'node:os'
import { count, list, readFlags, UsageError } from './flags.js'
import { buildCpuBench, type Ceilings, machineLine, measureCeilings } from './machine.js'
import { benchGguf, type Mix, stepBytes } from './peers/gguf.js'
import type { ChildOptions } from './peers/protocol.js'
import { type Running, startLlama, startOurs } from './peers/start.js'
import { benchModel } from './random-model.js'
import type { CaseResult } from './report.js'
import { type Case, kvBytes, limitOf, type Shape, shapeNamed, shapes } from './shapes.js'
import { compare, digits, median, percent, table, times } from './stats.js'
import { type Competitor, compareNumbers, playCase, progress } from './turns.js'

const mixes: readonly string[] = ['Q4_K', 'Q8_0', 'dynamic', 'IQ3_S'] satisfies readonly Mix[]
const quantised: readonly string[] = ['int4', 'int8']

const flags = {
  shapes: list('LIST', 'what to play', '1b,160m', Object.keys(shapes)),
  threads: list('LIST', 'each shape with each of them', '1,2'),
  forms: list(
    'LIST',
    'types of GGUF files, and dtypes that quantise at load',
    'Q4_K,Q8_0,dynamic,int4,int8',
    [...mixes, ...quantised],
  ),
  rounds: count('at most; two of what takes over 4 seconds, one of what takes over 20', 3),
  activations: list('LIST', 'kinds of ours', 'rounded,int8', ['rounded', 'int8']),
  peers: list('LIST', 'competitors beside ours; "none": ours alone', 'llama', ['llama', 'none']),
}

const maxLength = 1024

/** Ours as it packs them: codes, and a half float for each 32; the ends stay BF16. */
const quantisedBytes = (s: Shape, bits: number): number => {
  const perLayer = 2 * s.heads * s.headDim + 2 * s.kvHeads * s.headDim + 3 * s.ffn
  return s.layers * s.hidden * perLayer * ((bits + 0.5) / 8) + 2 * s.vocab * s.hidden
}

type Form = {
  readonly name: string
  /** Of the weights that a step reads. */
  readonly bytes: number
  /** A GGUF file; undefined: the folder is quantised. */
  readonly file?: string
}

const formOf = (name: string, shape: Shape): Form => {
  if (quantised.includes(name))
    return { name, bytes: quantisedBytes(shape, name === 'int4' ? 4 : 8) }
  const mix = name as Mix
  return { name, bytes: stepBytes(shape, mix), file: benchGguf(benchModel(shape), shape, mix) }
}

const casesOf = (bytes: number): readonly Case[] => [
  {
    ...{ name: 'decode 1', task: 'decode', sequences: 1, context: 128 },
    steps: Math.min(128, Math.max(8, Math.round(16e9 / bytes))),
  },
  { name: 'prefill 512', task: 'prefill', tokens: 512 },
]

type Rates = readonly (number | undefined)[]
const ratesOf = ({ rounds }: CaseResult, name: string): Rates =>
  rounds.map(({ timings }) => timings[name] && timings[name].tokens / timings[name].seconds)
const middle = (rates: Rates): number => median(rates.filter((rate) => rate !== undefined))

const GOALS: Readonly<Record<string, { readonly limit?: number; readonly peer: number }>> = {
  'decode 1': { limit: 0.9, peer: 1.1 },
  'prefill 512': { peer: 1.1 },
}

const INT8 = 'ours int8'

/** Of one of ours. */
const rowOf = (shape: Shape, form: Form, result: CaseResult, player: string): readonly string[] => {
  const ours = ratesOf(result, player)
  const peer = ratesOf(result, 'llama.cpp')
  const shares = ours.flatMap((rate, i) => {
    const ceilings = result.rounds[i]?.ceilings
    if (rate === undefined || ceilings === undefined) return []
    return [rate / limitOf(shape, result.case, { weights: form.bytes, passes: 1 }, ceilings).rate]
  })
  const beside = peer.some((rate) => rate !== undefined) ? compare(ours, peer) : undefined
  const goal = GOALS[result.case.name]
  const met =
    median(shares) >= (goal?.limit ?? 0) && (beside?.ratio ?? Infinity) >= (goal?.peer ?? 0)
  return [
    `${form.name} ${result.case.name}${player === INT8 ? ', 8 bits' : ''}`,
    digits(middle(ours)),
    percent(median(shares)),
    times(compare(ours, ratesOf(result, 'bf16'))),
    ...(beside ? [digits(middle(peer)), times(beside)] : ['-', '']),
    met ? 'met' : 'missed',
  ]
}

const loadLine = (form: Form, one: Running): string => {
  const { details = {}, loadSeconds } = one.ready
  const seconds = ['openSeconds', 'packSeconds', 'prepareSeconds'].reduce(
    (sum, phase) => sum + Number(details[phase]),
    0,
  )
  const rate = Number(details.bytes) / 1e9 / seconds
  const kept = Number(details.weights) / 1e9
  const stored = form.file ? `a file of ${(statSync(form.file).size / 1e9).toFixed(2)} GB` : 'BF16'
  return (
    `${form.name}: ${stored}, ${kept.toFixed(2)} GB in memory; loaded in ${seconds.toFixed(2)} s ` +
    `(${digits(rate)} GB/s), with the process ${loadSeconds.toFixed(2)} s`
  )
}

const playForm = async (
  shape: Shape,
  form: Form,
  options: ChildOptions,
  bf16: Running,
  ceilings: () => Ceilings,
  settings: {
    readonly rounds: number
    readonly peers: readonly string[]
    readonly activations: readonly string[]
  },
): Promise<readonly string[][]> => {
  const started: Running[] = []
  const add = async (starting: Promise<Running>): Promise<void> => {
    started.push(await starting)
  }
  const { file, name } = form
  try {
    const own =
      file === undefined ? { dtype: name as 'int4' } : { model: file, dtype: 'auto' as const }
    if (settings.activations.includes('rounded'))
      await add(startOurs('ours', { ...options, ...own }))
    if (settings.activations.includes('int8'))
      await add(startOurs(INT8, { ...options, ...own, int8Activations: true }))
    if (file !== undefined && settings.peers.includes('llama'))
      await add(startLlama({ ...options, model: file })).catch((error: unknown) => {
        console.error(`left out: ${error instanceof Error ? error.message : String(error)}`)
      })
    const [ours] = started
    if (ours === undefined) throw new Error('no engine was started')
    console.log(loadLine(form, ours))
    for (const { name, sameTop, positions, meanDifference, error } of await compareNumbers(
      shape,
      started,
    )) {
      const same = `the same likeliest token at ${sameTop} of ${positions} positions`
      console.log(
        `  ${name}: ${error ?? `${same}, mean difference of logprobs ${meanDifference.toFixed(4)}`}`,
      )
    }
    const players: readonly Competitor[] = [
      { name: 'bf16', process: bf16, taskOf: (c) => c },
      ...started.map((process): Competitor => ({ name: process.name, process, taskOf: (c) => c })),
    ]
    const rows: string[][] = []
    for (const c of casesOf(form.bytes)) {
      const result = await playCase(c, players, ceilings, settings.rounds)
      for (const { name: player } of started.filter((one) => one.name.startsWith('ours')))
        rows.push([...rowOf(shape, form, result, player)])
    }
    return rows
  } finally {
    for (const one of started) await one.close()
  }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('packed', 'weights of a few bits beside llama.cpp', flags, args)
  if (!values) return
  const cpuBench = buildCpuBench()
  for (const name of values.shapes) {
    const shape = shapeNamed(name)
    const narrow = [shape.hidden, shape.ffn].find((size) => size % 256 !== 0)
    if (narrow !== undefined)
      throw new UsageError(
        `--shapes ${name}: rows of ${narrow} values; packed types take a multiple of 256`,
      )
    for (const threads of values.threads.map(Number)) {
      if (!(threads >= 1)) throw new UsageError(`--threads: expected numbers, as 1,2`)
      const options: ChildOptions = {
        ...{ model: benchModel(shape), threads, maxLength, maxSequences: 1 },
        ...{ vocab: shape.vocab, dtype: 'bf16', kvBytes: kvBytes(shape) * (maxLength + 256) },
      }
      const load = loadavg()[0] ?? Number.NaN
      console.log(`${machineLine()}\nshape ${name}, threads: ${threads}, load ${load.toFixed(2)}`)
      const measured: Ceilings[] = []
      const ceilings = (): Ceilings => {
        const found = measureCeilings(cpuBench, threads)
        measured.push(found)
        return found
      }
      const bf16 = await startOurs('bf16', options)
      const rows: (readonly string[])[] = [
        ['tok/s', 'ours', 'of the limit', 'of BF16', 'llama.cpp', 'ours is', 'goal'],
      ]
      try {
        for (const form of values.forms) {
          progress(`${name}, ${threads} threads: ${form}`)
          rows.push(
            ...(await playForm(shape, formOf(form, shape), options, bf16, ceilings, values)),
          )
        }
      } finally {
        await bf16.close()
      }
      const read = median(measured.map(({ bandwidth }) => bandwidth / 1e9))
      console.log(`${table(rows)}\nread ${digits(read)} GB/s between the turns\n`)
    }
  }
}
