// npm run bench -- reward: what scoring costs. N candidates of one prompt, scored in one batch, beside
// one pass over the prompt and all their tokens; and prompts scored one after another, beside what the
// machine allows. In process, so nothing but the engine is measured.

import { openEngine } from '../server/engine/engine.js'
import { scoreBatch } from '../server/scoring/scoring.js'
import { count, readFlags, text } from './flags.js'
import { buildCpuBench, machineLine, measureCeilings } from './machine.js'
import { benchModel, randomPrompt } from './random-model.js'
import { limitOf, once, shapeNamed, shapes } from './shapes.js'
import { compare, median, percent, times } from './stats.js'

const flags = {
  shape: text('NAME', `of: ${Object.keys(shapes).join(', ')}`, '160m'),
  threads: count('of the engine', 2),
  rounds: count('of each measurement', 5),
  prompt: count('tokens of the prompt that all candidates share', 2000),
  candidates: count('scored together', 16),
  answer: count('tokens of each candidate', 100),
}

const GOAL = 1.3

const timed = async (work: Promise<unknown>): Promise<number> => {
  const start = performance.now()
  await work
  return (performance.now() - start) / 1000
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('reward', 'scoring beside one pass and the limit', flags, args)
  if (!values) return
  const { threads, prompt, candidates, answer } = values
  const shape = shapeNamed(values.shape)
  const engine = await openEngine({
    ...{
      model: benchModel(shape),
      device: 'cpu',
      threads,
      rewardRows: [0],
      kvCacheMemory: 1 << 30,
    },
    maxModelLen: Math.max(prompt + candidates * answer, 1024) + 16,
  })
  const cpuBench = buildCpuBench()
  let seed = 1
  const tokens = (length: number) => randomPrompt(length, shape.vocab, seed++)
  const score = (prompts: readonly (readonly number[])[]) => {
    const all = prompts.map((ids, response) => ({ ids, input: 0, response }))
    return timed(scoreBatch(engine, all, {}))
  }
  const batchOf = (length: number, many: number, more: number) => {
    const shared = tokens(length)
    return Array.from({ length: many }, () => [...shared, ...tokens(more)])
  }
  await score(batchOf(64, 2, 16))
  const all = prompt + candidates * answer
  const [batch, onePass, rates, limits]: [number[], number[], number[], number[]] = [[], [], [], []]
  for (let round = 0; round < values.rounds; round++) {
    batch.push(await score(batchOf(prompt, candidates, answer)))
    onePass.push(await score([tokens(all)]))
    rates.push(prompt / (await score([tokens(prompt)])))
    const ceilings = measureCeilings(cpuBench, threads)
    const one = { name: 'prefill', task: 'prefill', tokens: prompt } as const
    limits.push(limitOf(shape, one, once, ceilings).rate)
  }
  const { maxNumBatchedTokens, device } = engine.info
  await engine.close()
  const beside = compare(batch, onePass)
  const share = compare(rates, limits)
  const perSecond = (work: number) => (work / median(batch)).toFixed(0)
  console.log(
    `${machineLine()}\n${shape.name}, ${device}, ${maxNumBatchedTokens} tokens a step at most`,
  )
  console.log(
    `${candidates} candidates of ${answer} tokens on a prompt of ${prompt}: ${median(batch).toFixed(3)} s, one ` +
      `pass over ${all} tokens: ${median(onePass).toFixed(3)} s, ${times(beside)}, goal <= ${GOAL}x ` +
      `${beside.ratio <= GOAL ? 'met' : 'missed'}`,
  )
  console.log(
    `prompts of ${prompt} scored: ${median(rates).toFixed(0)} tok/s, limit ${median(limits).toFixed(0)} tok/s, ` +
      `share ${percent(share.ratio)} (${share.range.map(percent).join(' to ')}); candidates: ` +
      `${perSecond(all)} computed tok/s, ${perSecond(candidates * (prompt + answer))} prompt tok/s`,
  )
}
