// npm run bench -- engine: our engine beside llama.cpp and transformers, and all of them beside what
// the machine allows.
//
// Every competitor is a process of its own with the same weights. A round asks each of them the same
// case once, in turn, and measures the ceilings; the next round goes the other way round. So drift of
// a shared machine falls on all alike, and ratios are taken within rounds.

import { parseArgs } from 'node:util'
import { buildCpuBench, measureCeilings } from './ceilings.js'
import { type Case, type Ceilings, kvBytes, weightBytes } from './limits.js'
import { machine } from './machine.js'
import { benchGguf } from './peers/gguf.js'
import type { Running } from './peers/process.js'
import { type ChildOptions, randomPrompt, type Task, type Timing } from './peers/protocol.js'
import { startLlama, startOurs, startTorch } from './peers/start.js'
import { benchModel, type Shape, shapes } from './random-model.js'
import { printReport, saveReport } from './report.js'
import type { Agreement, CaseResult, Clock, OursAlone, Report, Round } from './results.js'
import { median } from './stats.js'

const help = `npm run bench -- engine [--flags]
  --shapes 1b,160m        of: ${Object.keys(shapes).join(', ')}
  --threads 1,2           each shape with each of them
  --rounds 3              at most; fewer of what takes long: two over 4 seconds, one over 20
  --cases decode,prefill  cases whose name contains one of these; default all
  --peers llama,torch     competitors beside ours; "none": ours alone
  --isa NAME              our instruction set: plain, avx2, avx512, amx
  --clock wall            cpu: tokens per CPU second; for --threads 1 on a busy machine
  --ours exact,rounded,fp8  ours with activations rounded to BF16 (where the processor multiplies
                          BF16), and with FP8 weights
  --out bench/results     folder of the JSON file; "none": no file`

type Settings = {
  readonly rounds: number
  readonly cases: readonly string[]
  readonly peers: readonly string[]
  readonly isa: string | undefined
  readonly ours: readonly string[]
  readonly clock: Clock
}

/** One column of the table: a process, and the tasks that it plays. */
type Competitor = {
  readonly name: string
  readonly process: Running
  readonly taskOf: (c: Case) => Task | null
}

const maxLength = 2560
const maxSequences = 32

const casesOf = (shape: Shape): readonly Case[] => {
  // About 16 GB of weights a turn.
  const steps = Math.min(64, Math.max(8, Math.round(16e9 / weightBytes(shape, 'bf16'))))
  const decode = (sequences: number, context: number): Case => ({
    name: `decode ${sequences}`,
    kind: 'decode',
    sequences,
    context,
    steps,
  })
  const prefill = (tokens: number): Case => ({ name: `prefill ${tokens}`, kind: 'prefill', tokens })
  return [decode(1, 128), prefill(128), prefill(512), prefill(2048), decode(8, 16), decode(32, 16)]
}

const taskOf = (c: Case): Task =>
  c.kind === 'decode'
    ? { task: 'decode', sequences: c.sequences, context: c.context, steps: c.steps }
    : { task: 'prefill', tokens: c.tokens }

/** Turns of a case, by how long the last one took. */
const turnsOf = (seconds: number, rounds: number): number =>
  Math.min(rounds, seconds > 20 ? 1 : seconds > 4 ? 2 : rounds)

const started = performance.now()
const progress = (text: string): void => {
  const seconds = Math.round((performance.now() - started) / 1000)
  process.stderr.write(`[${seconds} s] ${text}\n`)
}

/** Fills caches and code paths without the cost of a whole turn. */
const warmUpOf = (task: Task): Task => {
  if (task.task === 'decode') return { ...task, steps: 1 }
  return task.task === 'prefill' || task.task === 'linear' ? { ...task, tokens: 64 } : task
}

const startAll = async (
  shape: Shape,
  threads: number,
  settings: Settings,
): Promise<readonly Competitor[]> => {
  const model = benchModel(shape)
  const options: ChildOptions = {
    model,
    threads,
    maxLength,
    maxSequences,
    vocab: shape.vocab,
    kvBytes: kvBytes(shape) * (maxLength + maxSequences * 256),
    dtype: 'bf16',
    ...(settings.isa === undefined ? {} : { isa: settings.isa }),
  }
  const competitors: Competitor[] = []
  const add = async (
    start: () => Promise<Running>,
    ...columns: readonly Omit<Competitor, 'process'>[]
  ): Promise<void> => {
    const process = await start()
    progress(`${process.name}: loaded in ${process.ready.loadSeconds.toFixed(1)} s`)
    competitors.push(...columns.map((column) => ({ ...column, process })))
  }
  const peer = async (...args: Parameters<typeof add>): Promise<void> =>
    add(...args).catch((error: unknown) => {
      console.error(`left out: ${error instanceof Error ? error.message : String(error)}`)
    })

  // A prompt of 2048 tokens takes the peers minutes; theirs of 512 says as much.
  const peerTaskOf = (c: Case): Task | null =>
    c.kind === 'prefill' && c.tokens > 512 ? null : taskOf(c)

  await add(() => startOurs('ours', options), { name: 'ours', taskOf })
  const roundable = /amx|bf16/.test(competitors[0]?.process.ready.version ?? '')
  if (settings.ours.includes('rounded') && roundable) {
    await add(() => startOurs('ours rounded', { ...options, roundActivations: true }), {
      name: 'ours rounded',
      taskOf,
    })
  }
  if (settings.ours.includes('fp8')) {
    await add(() => startOurs('ours fp8', { ...options, dtype: 'fp8' }), {
      name: 'ours fp8',
      taskOf: (c) => (c.name === 'decode 1' ? taskOf(c) : null),
    })
  }
  if (settings.peers.includes('llama')) {
    const gguf = benchGguf(model, shape)
    await peer(() => startLlama({ ...options, model: gguf }), {
      name: 'llama.cpp',
      taskOf: peerTaskOf,
    })
  }
  if (settings.peers.includes('torch')) {
    await peer(
      () => startTorch(options),
      { name: 'torch', taskOf: peerTaskOf },
      {
        name: 'F.linear',
        taskOf: (c) =>
          c.kind === 'prefill' && peerTaskOf(c) ? { task: 'linear', tokens: c.tokens } : null,
      },
    )
  }
  return competitors
}

/** Same weights, same numbers? Each process says what it makes of one prompt. */
const compareNumbers = async (
  shape: Shape,
  processes: readonly Running[],
): Promise<readonly Agreement[]> => {
  // Not longer than llama.cpp's whole distributions fit.
  const prompt = randomPrompt(Math.min(256, Math.round(4e6 / shape.vocab)), shape.vocab, 99)
  const [ours, ...others] = await Promise.all(
    processes.map(async (process) => ({
      name: process.name,
      ...(await process.run({ task: 'check', prompt })),
    })),
  )
  return others.map(({ name, top = [], logprobs = [], error }) => ({
    name,
    positions: prompt.length - 1,
    sameTop: top.filter((id, index) => id === ours?.top?.[index]).length,
    meanDifference:
      logprobs.reduce((sum, value, i) => sum + Math.abs(value - (ours?.logprobs?.[i] ?? 0)), 0) /
      logprobs.length,
    ...(error === undefined ? {} : { error }),
  }))
}

const playCase = async (
  c: Case,
  competitors: readonly Competitor[],
  ceilings: () => Ceilings,
  settings: Settings,
): Promise<CaseResult> => {
  const players = competitors.flatMap(({ name, process, taskOf }) => {
    const task = taskOf(c)
    return task === null ? [] : [{ name, process, task }]
  })
  const turns = new Map<string, Timing[]>(players.map(({ name }) => [name, []]))
  const failed = new Map<string, string>()
  for (const { name, process, task } of players) {
    const { error } = await process.run(warmUpOf(task))
    if (error !== undefined) failed.set(name, error)
  }
  const rounds: Round[] = []
  for (let round = 0; round < settings.rounds; round++) {
    const timings: Record<string, Timing> = {}
    const measured = ceilings()
    for (const { name, process, task } of round % 2 === 0 ? players : players.toReversed()) {
      const played = turns.get(name) ?? []
      const last = played.at(-1)?.seconds ?? 0
      if (failed.has(name) || played.length >= turnsOf(last, settings.rounds)) continue
      const { timing, error } = await process.run(task)
      if (error !== undefined) failed.set(name, error)
      if (timing === undefined) continue
      played.push(timing)
      timings[name] = timing
    }
    if (Object.keys(timings).length === 0) break
    rounds.push({ ceilings: measured, timings })
    progress(`${c.name}, round ${round + 1}: ${Object.keys(timings).join(', ')}`)
  }
  for (const [name, why] of failed) console.error(`${c.name}: ${name}: ${why}`)
  return { case: c, rounds }
}

const measureOurs = async (ours: Running): Promise<OursAlone> => {
  const { latencies = [] } = await ours.run({ task: 'latency', requests: 50 })
  return {
    submitToStep: median(latencies),
    idleCpu: await ours.idleCpu(2),
  }
}

const benchShape = async (shape: Shape, threads: number, settings: Settings): Promise<Report> => {
  const cpuBench = buildCpuBench()
  const competitors = await startAll(shape, threads, settings)
  const processes = [...new Set(competitors.map((competitor) => competitor.process))]
  try {
    const agreement = await compareNumbers(shape, processes)
    const cases: CaseResult[] = []
    for (const c of casesOf(shape)) {
      if (!settings.cases.some((part) => c.name.includes(part))) continue
      const ceilings = (): Ceilings => measureCeilings(cpuBench, threads, settings.clock)
      cases.push(await playCase(c, competitors, ceilings, settings))
    }
    const [ours] = processes
    if (ours === undefined) throw new Error('no engine was started')
    return {
      date: new Date().toISOString(),
      machine: machine(),
      shape,
      threads,
      clock: settings.clock,
      competitors: processes.map(({ name, ready, memory }) => ({
        name,
        ...ready,
        memory: memory(),
      })),
      agreement,
      cases,
      alone: await measureOurs(ours),
    }
  } finally {
    for (const process of processes) await process.close()
  }
}

const list = (text: string): readonly string[] => text.split(',').filter((part) => part !== '')

export const run = async (args: readonly string[]): Promise<void> => {
  const { values } = parseArgs({
    args: [...args],
    options: {
      help: { type: 'boolean', default: false },
      shapes: { type: 'string', default: '1b,160m' },
      threads: { type: 'string', default: '1,2' },
      rounds: { type: 'string', default: '3' },
      cases: { type: 'string', default: 'decode,prefill' },
      peers: { type: 'string', default: 'llama,torch' },
      isa: { type: 'string' },
      clock: { type: 'string', default: 'wall' },
      ours: { type: 'string', default: 'exact,rounded,fp8' },
      out: { type: 'string', default: 'bench/results' },
    },
  })
  if (values.help) {
    console.log(help)
    return
  }
  const settings: Settings = {
    rounds: Number(values.rounds),
    cases: list(values.cases),
    peers: list(values.peers),
    isa: values.isa,
    ours: list(values.ours),
    clock: values.clock === 'cpu' ? 'cpu' : 'wall',
  }
  if (settings.clock === 'cpu' && values.threads !== '1') {
    throw new Error(
      '--clock cpu is for --threads 1: threads that wait for each other also take time',
    )
  }
  const reports: Report[] = []
  for (const name of list(values.shapes)) {
    const shape = shapes[name]
    if (shape === undefined) throw new Error(`no shape ${name}; there are ${Object.keys(shapes)}`)
    for (const threads of list(values.threads).map(Number)) {
      progress(`${name}, ${threads} threads`)
      const report = await benchShape(shape, threads, settings)
      printReport(report)
      reports.push(report)
      // Written again after each, so that a run cut short leaves what it had.
      if (values.out !== 'none') console.log(`\nwritten: ${saveReport(values.out, reports)}`)
    }
  }
}
