// Our engine through its typed API, in a process of its own like every competitor.

import { openEngine } from '../../server/engine/engine.js'
import type { Delta, Engine, TokenLogprob } from '../../server/engine/types.js'
import { randomPrompt } from '../random-model.js'
import { type Competitor, seconds, serveTasks, stopwatch, timeSteps } from './child.js'
import type { Answer, ChildOptions, Timing } from './protocol.js'

/** Submits and resolves with the last delta; `onDelta` sees all of them. */
const generate = (
  engine: Engine,
  promptTokenIds: readonly number[],
  maxTokens: number,
  onDelta: (delta: Delta) => void = () => {},
  promptLogprobs?: number,
): Promise<Delta> =>
  new Promise((resolve, reject) => {
    const sampling = {
      ...{ maxTokens, temperature: 0, ignoreEos: true },
      ...(promptLogprobs !== undefined && { promptLogprobs }),
    }
    engine.submit({ promptTokenIds, sampling }, (delta) => {
      onDelta(delta)
      if (delta.error !== undefined) reject(new Error(delta.error.message))
      else if (delta.finish !== undefined) resolve(delta)
    })
  })

const load = async (options: ChildOptions): Promise<Competitor> => {
  const rssBefore = process.memoryUsage.rss()
  const cpuBefore = process.cpuUsage()
  const start = seconds()
  const engine = await openEngine({
    model: options.model,
    device: 'cpu',
    threads: options.threads,
    maxModelLen: options.maxLength,
    maxNumSeqs: options.maxSequences,
    kvCacheMemory: options.kvBytes,
    dtype: options.dtype,
    exactActivations: options.exactActivations ?? false,
    int8Activations: options.int8Activations ?? false,
    tensorParallelSize: options.tensorParallelSize ?? 1,
    ...(options.isa !== undefined && { isa: options.isa }),
  })
  const loadSeconds = seconds() - start
  const kernelSeconds = process.cpuUsage(cpuBefore).system / 1e6
  let seed = 1
  const prompt = (length: number): readonly number[] => randomPrompt(length, options.vocab, seed++)

  const decode = async (count: number, context: number, steps: number): Promise<Timing> => {
    const { arrived, timing } = timeSteps(count, steps)
    const streams = Array.from({ length: count }, (_, stream) =>
      generate(engine, prompt(context), steps + 1, ({ tokenIds }) => {
        for (const _ of tokenIds) arrived(stream)
      }),
    )
    const ends = await Promise.all(streams)
    const seen = await timing
    // On a busy machine several steps' deltas may be seen at once: then the engine's own clock holds.
    const own = Math.min(...ends.map(({ timings }) => timings?.decodeSeconds ?? 0))
    return { ...seen, seconds: Math.max(seen.seconds, own) }
  }
  const prefill = async (tokens: number): Promise<Timing> => {
    const ids = prompt(tokens)
    const watch = stopwatch()
    await generate(engine, ids, 1)
    return { tokens, ...watch() }
  }
  const check = async (ids: readonly number[]): Promise<Answer> => {
    let found: readonly (TokenLogprob | null)[] = []
    const keep = ({ promptLogprobs }: Delta): void => {
      if (promptLogprobs) found = [...promptLogprobs].slice(1)
    }
    await generate(engine, ids, 1, keep, 1)
    return {
      top: found.map((token) => token?.top[0]?.id ?? -1),
      logprobs: found.map((token) => token?.logprob ?? Number.NaN),
    }
  }
  const latency = async (requests: number): Promise<readonly number[]> => {
    const latencies: number[] = []
    for (let request = 0; request < requests; request++) {
      // Long enough for spinning threads to have gone to sleep.
      await new Promise((resolve) => setTimeout(resolve, 20))
      const { timings } = await generate(engine, prompt(1), 1)
      if (timings !== undefined) latencies.push(timings.queueSeconds)
    }
    return latencies
  }
  const { plan, load: phases, device } = engine.info
  const details = { ...phases, rssBefore, weights: plan.weights, kv: plan.kv, kernelSeconds }
  return { version: device, loadSeconds, details, decode, prefill, check, latency }
}

await serveTasks(load)
