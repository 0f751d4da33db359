// What HTTP leaves of the engine's speed: tokens a second through /v1/completions (client and server
// in two processes, as in life) beside the same requests in process. Rounds alternate.

import { openEngine } from '../server/engine/engine.js'
import { createTarget, runLoad, streamOnce } from './load-generator.js'
import { machineLine } from './machine.js'
import { benchModel } from './random-model.js'
import { ownLimits } from './serve/own-limit.js'
import { startServerProcess } from './server-process.js'
import { shapes } from './shapes.js'
import { nodeArgs } from './source.js'
import { compare, median, percent } from './stats.js'

const STREAMS = [1, 256]
/** What HTTP must leave of the engine's rate, at each of these. */
const GOALS = [0.99, 0.97]
/** Times the server's rate that the load generator must be able to take. */
const GENERATOR_GOAL = 5
const PROMPT_TOKENS = 32
const OUTPUT_TOKENS = 96
const KV_BYTES = 640 << 20

/** Tokens a second, by how many requests run at once. */
type Rates = readonly number[]

/** Starts with a short prompt that warms up. */
const prompts = (streams: number): number[][] =>
  Array.from({ length: streams === 1 ? 3 : streams }, (_, i) =>
    Array.from({ length: PROMPT_TOKENS }, (_, j) => 1 + ((i * 7919 + j * 31) % 250)),
  )

const inProcess = async (folder: string, threads: number): Promise<Rates> => {
  const maxNumSeqs = Math.max(...STREAMS)
  const options = {
    model: folder,
    kvCacheMemory: KV_BYTES,
    threads,
    maxNumSeqs,
    prefixCache: false,
  }
  const engine = await openEngine(options)
  const one = async (promptTokenIds: number[], maxTokens: number): Promise<number> => {
    const sampling = { maxTokens, temperature: 0, ignoreEos: true }
    let tokens = 0
    for await (const delta of engine.generate({ promptTokenIds, sampling }))
      tokens += delta.tokenIds.length
    return tokens
  }
  const rates: number[] = []
  for (const streams of STREAMS) {
    const work = prompts(streams)
    await one([1, 2, 3], 8)
    const start = performance.now()
    let tokens = 0
    const worker = async (): Promise<void> => {
      for (let prompt = work.pop(); prompt; prompt = work.pop()) {
        const made = await one(prompt, OUTPUT_TOKENS)
        tokens += made
      }
    }
    await Promise.all(Array.from({ length: streams }, worker))
    rates.push(tokens / ((performance.now() - start) / 1000))
  }
  await engine.close()
  return rates
}

const overHttp = async (folder: string, threads: number): Promise<Rates> => {
  const server = await startServerProcess(process.execPath, [
    ...[...nodeArgs('server/cli.ts'), 'serve', '--model', folder, '--served-model-name', 'm'],
    ...['--port', '0', '--kv-cache-memory', String(KV_BYTES), '--threads', String(threads)],
    ...['--max-num-seqs', String(Math.max(...STREAMS))],
  ])
  const target = createTarget(server.url, undefined, 'completions')
  const body = (prompt: number[], max_tokens: number) => ({
    ...{ model: 'm', prompt, max_tokens, temperature: 0, ignore_eos: true },
    cache_salt: String(Math.random()),
  })
  const rates: number[] = []
  for (const concurrency of STREAMS) {
    await streamOnce(target, body([1, 2, 3], 8))
    const work = prompts(concurrency).map((prompt) => body(prompt, OUTPUT_TOKENS))
    const conversation = (i: number) => {
      const only = work[i]
      return only && ((answers: readonly string[]) => (answers.length === 0 ? only : undefined))
    }
    const { outcomes, seconds } = await runLoad(target, { conversation, concurrency })
    const failed = outcomes.find(({ error }) => error !== undefined)
    if (failed !== undefined) throw new Error(`a request over HTTP: ${failed.error}`)
    rates.push(outcomes.reduce((sum, { outputTokens }) => sum + outputTokens, 0) / seconds)
  }
  target.agent.destroy()
  await server.stop()
  return rates
}

/** `model`: the name of a shape, or a folder. */
export const runShare = async (model: string, rounds: number, threads: number): Promise<void> => {
  const shape = Object.hasOwn(shapes, model) ? shapes[model] : undefined
  const folder = shape === undefined ? model : benchModel(shape)
  const http: Rates[] = []
  const direct: Rates[] = []
  for (let round = 0; round < rounds; round++) {
    direct.push(await inProcess(folder, threads))
    http.push(await overHttp(folder, threads))
  }
  console.log(`${machineLine()}\n${model}, engine threads: ${threads}`)
  for (const [i, streams] of STREAMS.entries()) {
    const [ours, bare] = [http, direct].map((all) => all.map((rates) => rates[i] ?? Number.NaN))
    const { ratio, range } = compare(ours ?? [], bare ?? [])
    console.log(
      `${String(streams).padStart(3)} streams: HTTP ${median(ours ?? []).toFixed(1)} tok/s, in process ` +
        `${median(bare ?? []).toFixed(1)} tok/s, share ${(100 * ratio).toFixed(1)} % ` +
        `(${range.map(percent).join(' to ')}), goal ${percent(GOALS[i] ?? 1)}`,
    )
  }
  // By itself, so that what it takes is its own limit and not the engine's.
  const limits = await ownLimits()
  for (const [i, streams] of STREAMS.entries()) {
    const limit = limits.find((one) => one.streams === streams)?.tokensPerSecond ?? Number.NaN
    const served = median(http.map((rates) => rates[i] ?? Number.NaN))
    console.log(
      `${String(streams).padStart(3)} streams: the load generator takes ${limit.toFixed(0)} tok/s, ` +
        `${(limit / served).toFixed(1)}x the server's, goal ${GENERATOR_GOAL}x`,
    )
  }
}
