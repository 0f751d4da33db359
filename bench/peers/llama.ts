// llama.cpp through node-llama-cpp, in its own process: its tuned setting is no mmap and huge pages
// for malloc (the parent sets GLIBC_TUNABLES), and flash attention. The package is installed into
// bench/.cache on demand, so its types are written down here as far as they are used.

import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { cacheFolder } from '../machine.js'
import { randomPrompt } from '../random-model.js'
import { type Competitor, seconds, serveTasks, stopwatch, timeSteps } from './child.js'
import type { Answer, ChildOptions, Timing } from './protocol.js'

type Sequence = {
  readonly nextTokenIndex: number
  readonly clearHistory: () => Promise<void>
  readonly eraseContextTokenRanges: (ranges: { start: number; end: number }[]) => Promise<void>
  readonly evaluateWithoutGeneratingNewTokens: (tokens: number[]) => Promise<void>
  readonly evaluate: (tokens: number[], options: object) => AsyncGenerator<number, void, void>
  readonly controlledEvaluate: (
    tokens: [number, { generateNext: { token: boolean; probabilities: boolean } }][],
  ) => Promise<({ next: { token?: number; probabilities?: Map<number, number> } } | undefined)[]>
}
type Model = {
  readonly createContext: (options: object) => Promise<{ readonly getSequence: () => Sequence }>
}
type NodeLlamaCpp = {
  readonly getLlama: (options: object) => Promise<{
    readonly loadModel: (options: object) => Promise<Model>
    readonly llamaCppRelease: { readonly release: string }
  }>
}

const greedy = { temperature: 0, yieldEogToken: true }

/** One context of one sequence, one of many: made when first needed, kept for all rounds. */
const createContexts = (model: Model, options: ChildOptions) => {
  const contexts = new Map<number, readonly Sequence[]>()
  return async (count: number): Promise<readonly Sequence[]> => {
    const known = contexts.get(count)
    if (known !== undefined) return known
    const context = await model.createContext({
      sequences: count,
      contextSize: count === 1 ? options.maxLength : 256,
      batchSize: 512,
      threads: options.threads,
      flashAttention: true, // 1.2x in prefill, no loss in decode
    })
    const made = Array.from({ length: count }, () => context.getSequence())
    contexts.set(count, made)
    return made
  }
}

const load = async (options: ChildOptions): Promise<Competitor> => {
  const entry = join(cacheFolder, 'node-llama-cpp/node_modules/node-llama-cpp/dist/index.js')
  const { getLlama }: NodeLlamaCpp = await import(pathToFileURL(entry).href)
  const llama = await getLlama({
    ...{ gpu: false, build: 'never', skipDownload: true, logLevel: 'error' },
    maxThreads: options.threads,
  })
  const start = seconds()
  const model = await llama.loadModel({ modelPath: options.model, useMmap: false, gpuLayers: 0 })
  const loadSeconds = seconds() - start

  const sequencesOf = createContexts(model, options)
  const emptySequence = async (): Promise<Sequence> => {
    const [sequence] = await sequencesOf(1)
    if (sequence === undefined) throw new Error('no sequence')
    await sequence.clearHistory()
    return sequence
  }
  let seed = 1
  const prompt = (length: number): number[] => randomPrompt(length, options.vocab, seed++)

  const decode = async (count: number, context: number, steps: number): Promise<Timing> => {
    const sequences = await sequencesOf(count)
    // All tokens but the last stay in the cache from round to round.
    const kept = context - 1
    for (const sequence of sequences) {
      if (sequence.nextTokenIndex === kept) continue
      await sequence.clearHistory()
      await sequence.evaluateWithoutGeneratingNewTokens(prompt(kept))
    }
    const { arrived, timing } = timeSteps(count, steps)
    const generate = async (sequence: Sequence, index: number): Promise<void> => {
      let left = steps + 1
      for await (const _ of sequence.evaluate(prompt(1), greedy)) {
        arrived(index)
        if (--left === 0) return
      }
    }
    await Promise.all(sequences.map(generate))
    for (const sequence of sequences) {
      await sequence.eraseContextTokenRanges([{ start: kept, end: sequence.nextTokenIndex }])
    }
    return timing
  }
  const prefill = async (tokens: number): Promise<Timing> => {
    const sequence = await emptySequence()
    const stream = sequence.evaluate(prompt(tokens), greedy)
    const watch = stopwatch()
    await stream.next()
    const taken = watch()
    await stream.return()
    return { tokens, ...taken }
  }
  const check = async (tokens: readonly number[]): Promise<Answer> => {
    const sequence = await emptySequence()
    const outputs = await sequence.controlledEvaluate(
      tokens.slice(0, -1).map((id) => [id, { generateNext: { token: true, probabilities: true } }]),
    )
    return {
      top: outputs.map((output) => output?.next.token ?? -1),
      logprobs: outputs.map((output, index) =>
        Math.log(output?.next.probabilities?.get(tokens[index + 1] ?? -1) ?? 0),
      ),
    }
  }
  return { version: llama.llamaCppRelease.release, loadSeconds, decode, prefill, check }
}

await serveTasks(load)
