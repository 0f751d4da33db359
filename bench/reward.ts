// npm run bench -- reward: what scoring costs. N candidates of one prompt, scored in one batch, beside
// one pass over the prompt and all their tokens; and prompts scored one after another, beside what the
// machine allows. In process, so nothing but the engine is measured.

import { parseArgs } from 'node:util'
import { openEngine } from '../server/engine/engine.js'
import type { Engine } from '../server/engine/types.js'
import { scoreBatch } from '../server/scoring/scoring.js'
import { limitOf, once } from './limits.js'
import { benchModel, type Shape, shapes } from './random-model.js'
import { buildCpuBench, measureCeilings } from './ceilings.js'
import { randomPrompt } from './peers/protocol.js'
import { compare, median } from './stats.js'

const help = `npm run bench -- reward [--flags]
  --shape 160m            of: ${Object.keys(shapes).join(', ')}
  --threads 2
  --rounds 5
  --prompt 2000           tokens of the prompt that all candidates share
  --candidates 16
  --answer 100            tokens of each candidate`

const GOAL = 1.3

type Settings = {
  readonly prompt: number
  readonly candidates: number
  readonly answer: number
}

const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

const measure = async (engine: Engine, shape: Shape, settings: Settings, seed: number) => {
  const tokens = (count: number, n: number) => randomPrompt(count, shape.vocab, 1000 * seed + n)
  const score = (prompts: readonly (readonly number[])[]) =>
    scoreBatch(
      engine,
      prompts.map((ids, response) => ({ ids, input: 0, response })),
      {},
    )
  const { prompt, candidates, answer } = settings
  const shared = tokens(prompt, 1)
  const batch = Array.from({ length: candidates }, (_, i) => [
    ...shared,
    ...tokens(answer, 100 + i),
  ])
  const onePass = tokens(prompt + candidates * answer, 2)
  const single = tokens(prompt, 3)
  return {
    batch: await timed(() => score(batch)),
    onePass: await timed(() => score([onePass])),
    single: await timed(() => score([single])),
  }
}

const readFlags = (args: readonly string[]) => {
  const text = (value: string) => ({ type: 'string', default: value }) as const
  const { values } = parseArgs({
    args: [...args],
    options: {
      help: { type: 'boolean', default: false },
      shape: text('160m'),
      threads: text('2'),
      rounds: text('5'),
      prompt: text('2000'),
      candidates: text('16'),
      answer: text('100'),
    },
  })
  return values
}

export const run = async (args: readonly string[]): Promise<void> => {
  const flags = readFlags(args)
  const shape = shapes[flags.shape]
  if (flags.help || shape === undefined) {
    console.log(help)
    return
  }
  const threads = Number(flags.threads)
  const settings = {
    prompt: Number(flags.prompt),
    candidates: Number(flags.candidates),
    answer: Number(flags.answer),
  }
  const { prompt, candidates, answer } = settings
  const all = prompt + candidates * answer
  const engine = await openEngine({
    model: benchModel(shape),
    device: 'cpu',
    threads,
    rewardRow: 0,
    kvCacheMemory: 1 << 30,
  })
  const cpuBench = buildCpuBench()
  const limitCase = { name: 'prefill', kind: 'prefill', tokens: prompt } as const
  const seconds: { batch: number[]; onePass: number[]; single: number[] } = {
    batch: [],
    onePass: [],
    single: [],
  }
  const limits: number[] = []
  await measure(engine, shape, { prompt: 64, candidates: 2, answer: 16 }, 0)
  for (let round = 1; round <= Number(flags.rounds); round++) {
    const taken = await measure(engine, shape, settings, round)
    for (const key of ['batch', 'onePass', 'single'] as const) seconds[key].push(taken[key])
    const ceilings = measureCeilings(cpuBench, threads, 'wall')
    limits.push(limitOf(shape, limitCase, once, ceilings).rate)
  }
  const { maxNumBatchedTokens, device } = engine.info
  await engine.close()
  const { ratio, pairs } = compare(seconds.batch, seconds.onePass)
  const rate = seconds.single.map((one) => prompt / one)
  const share = compare(rate, limits)
  const perCent = (value: number) => `${(100 * value).toFixed(0)} %`
  console.log(`${shape.name}, ${device}, ${maxNumBatchedTokens} tokens a step at most`)
  console.log(
    `${candidates} candidates of ${answer} tokens on a prompt of ${prompt}: ${median(seconds.batch).toFixed(3)} s, ` +
      `one pass over ${all} tokens: ${median(seconds.onePass).toFixed(3)} s, ` +
      `${ratio.toFixed(2)}x (${pairs[0].toFixed(2)}-${pairs[2].toFixed(2)}), ` +
      `goal <= ${GOAL}x ${ratio <= GOAL ? 'met' : 'missed'}`,
  )
  console.log(
    `prompts of ${prompt} scored: ${median(rate).toFixed(0)} tok/s, ` +
      `limit ${median(limits).toFixed(0)} tok/s, share ${perCent(share.ratio)} (${perCent(share.pairs[0])} to ${perCent(share.pairs[2])}); ` +
      `candidates: ${(all / median(seconds.batch)).toFixed(0)} computed tok/s, ` +
      `${((candidates * (prompt + answer)) / median(seconds.batch)).toFixed(0)} prompt tok/s`,
  )
}
