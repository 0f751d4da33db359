// npm run bench -- engine: our engine beside llama.cpp and transformers, and all of them beside what
// the machine allows. --busy: beside other processes that want the processors too.
//
// Every competitor is a process of its own with the same weights. A round asks each of them the same
// case once, in turn, and measures the ceilings; the next round goes the other way round. So drift of
// a shared machine falls on all alike, and ratios are taken within rounds.

import { spawn } from 'node:child_process'
import { count, list, optional, readFlags, text, toggle, UsageError } from './flags.js'
import { buildCpuBench, type Ceilings, type Clock, machine, measureCeilings } from './machine.js'
import { benchGguf } from './peers/gguf.js'
import type { ChildOptions, Task } from './peers/protocol.js'
import { type Running, startLlama, startOurs, startTorch } from './peers/start.js'
import { benchModel } from './random-model.js'
import { type CaseResult, type OursAlone, printReport, type Report, saveReport } from './report.js'
import { type Case, kvBytes, type Shape, shapeNamed, shapes, weightBytes } from './shapes.js'
import { median } from './stats.js'
import { type Competitor, compareNumbers, playCase, progress } from './turns.js'

const flags = {
  shapes: list('LIST', 'what to play', '1b,160m', Object.keys(shapes)),
  threads: list('LIST', 'each shape with each of them', '1,2'),
  rounds: count('at most; two of what takes over 4 seconds, one of what takes over 20', 3),
  cases: list('LIST', 'cases whose name contains one of these', 'decode,prefill'),
  peers: list('LIST', 'competitors beside ours; "none": ours alone', 'llama,torch'),
  isa: optional('NAME', 'our instruction set: plain, avx2, avx512, amx'),
  busy: count('processes beside it that compute all the time', 0, 0),
  'cpu-clock': toggle('tokens per CPU second; for --threads 1 on a busy machine'),
  ours: list(
    'LIST',
    'ours with exact activations, FP8 weights, or two ranks of half the threads too',
    'exact,fp8,ranks',
  ),
  out: text('FOLDER', 'of the JSON file; "none": no file', 'bench/results'),
}

type Settings = {
  readonly rounds: number
  readonly cases: readonly string[]
  readonly peers: readonly string[]
  readonly isa: string | undefined
  readonly ours: readonly string[]
  readonly clock: Clock
}

const maxLength = 2560
const maxSequences = 32

const casesOf = (shape: Shape): readonly Case[] => {
  // About 16 GB of weights a turn.
  const steps = Math.min(64, Math.max(8, Math.round(16e9 / weightBytes(shape, 'bf16'))))
  const decode = (sequences: number, context: number): Case => ({
    name: `decode ${sequences}`,
    task: 'decode',
    ...{ sequences, context, steps },
  })
  const prefill = (tokens: number): Case => ({ name: `prefill ${tokens}`, task: 'prefill', tokens })
  return [decode(1, 128), prefill(128), prefill(512), prefill(2048), decode(8, 16), decode(32, 16)]
}

const startAll = async (
  shape: Shape,
  threads: number,
  settings: Settings,
): Promise<readonly Competitor[]> => {
  const model = benchModel(shape)
  const options: ChildOptions = {
    ...{ model, threads, maxLength, maxSequences, vocab: shape.vocab, dtype: 'bf16' },
    kvBytes: kvBytes(shape) * (maxLength + maxSequences * 256),
    ...(settings.isa !== undefined && { isa: settings.isa }),
  }
  const competitors: Competitor[] = []
  const add = async (
    starting: Promise<Running>,
    ...columns: readonly Omit<Competitor, 'process'>[]
  ): Promise<void> => {
    const process = await starting
    progress(`${process.name}: loaded in ${process.ready.loadSeconds.toFixed(1)} s`)
    competitors.push(...columns.map((column) => ({ ...column, process })))
  }
  const peer = async (...args: Parameters<typeof add>): Promise<void> =>
    add(...args).catch((error: unknown) => {
      console.error(`left out: ${error instanceof Error ? error.message : String(error)}`)
    })

  await add(startOurs('ours', options), { name: 'ours', taskOf: (c) => c })
  const roundable = /amx|bf16/.test(competitors[0]?.process.ready.version ?? '')
  if (settings.ours.includes('exact') && roundable) {
    const name = 'ours exact'
    await add(startOurs(name, { ...options, exactActivations: true }), { name, taskOf: (c) => c })
  }
  if (settings.ours.includes('ranks') && threads % 2 === 0) {
    const starting = startOurs('ours 2 ranks', { ...options, tensorParallelSize: 2 })
    await add(starting, { name: 'ours 2 ranks', taskOf: (c) => c })
  }
  if (settings.ours.includes('fp8')) {
    await add(startOurs('ours fp8', { ...options, dtype: 'fp8' }), {
      name: 'ours fp8',
      taskOf: (c) => (c.name === 'decode 1' ? c : null),
    })
  }
  // A prompt of 2048 tokens takes the peers minutes; theirs of 512 says as much.
  const taskOf = (c: Case): Task | null => (c.task === 'prefill' && c.tokens > 512 ? null : c)
  if (settings.peers.includes('llama')) {
    const starting = async () => startLlama({ ...options, model: benchGguf(model, shape) })
    await peer(starting(), { name: 'llama.cpp', taskOf })
  }
  if (settings.peers.includes('torch')) {
    const linear = (c: Case): Task | null =>
      c.task === 'prefill' && taskOf(c) ? { task: 'linear', tokens: c.tokens } : null
    await peer(startTorch(options), { name: 'torch', taskOf }, { name: 'F.linear', taskOf: linear })
  }
  return competitors
}

const measureOurs = async (ours: Running): Promise<OursAlone> => {
  const { latencies = [] } = await ours.run({ task: 'latency', requests: 50 })
  return { submitToStep: median(latencies), idleCpu: await ours.idleCpu(2) }
}

/** `n` processes that take what they get of a processor, until the result is called. */
const keepBusy = (n: number): (() => void) => {
  const busy = Array.from({ length: n }, () => spawn(process.execPath, ['-e', 'for (;;);']))
  return () => {
    for (const child of busy) child.kill('SIGKILL')
  }
}

const benchShape = async (shape: Shape, threads: number, settings: Settings): Promise<Report> => {
  const cpuBench = buildCpuBench()
  const ceilings = (): Ceilings => measureCeilings(cpuBench, threads, settings.clock)
  const competitors = await startAll(shape, threads, settings)
  const processes = [...new Set(competitors.map((competitor) => competitor.process))]
  try {
    const [ours] = processes
    if (ours === undefined) throw new Error('no engine was started')
    const agreement = await compareNumbers(shape, processes)
    const cases: CaseResult[] = []
    for (const c of casesOf(shape)) {
      if (!settings.cases.some((part) => c.name.includes(part))) continue
      cases.push(await playCase(c, competitors, ceilings, settings.rounds))
    }
    const used = processes.map(({ name, ready, memory }) => ({ name, ...ready, memory: memory() }))
    return {
      date: new Date().toISOString(),
      machine: machine(),
      ...{ shape, threads, clock: settings.clock, competitors: used, agreement, cases },
      alone: await measureOurs(ours),
    }
  } finally {
    for (const process of processes) await process.close()
  }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('engine', 'ours beside peers and beside the limits', flags, args)
  if (!values) return
  const clock: Clock = values['cpu-clock'] ? 'cpu' : 'wall'
  if (clock === 'cpu' && values.threads.join() !== '1')
    throw new UsageError('--cpu-clock needs --threads 1: threads that wait also take time')
  const busy = values.busy
  const reports: Report[] = []
  const endBusy = keepBusy(busy)
  try {
    for (const name of values.shapes) {
      for (const threads of values.threads.map(Number)) {
        if (!(threads >= 1)) throw new UsageError(`--threads: expected numbers, as 1,2`)
        progress(`${name}, ${threads} threads${busy > 0 ? `, beside ${busy} busy processes` : ''}`)
        const report = await benchShape(shapeNamed(name), threads, { ...values, clock })
        printReport(report)
        reports.push(report)
        // Written again after each, so that a run cut short leaves what it had.
        if (values.out !== 'none') console.log(`\nwritten: ${saveReport(values.out, reports)}`)
      }
    }
  } finally {
    endBusy()
  }
}
