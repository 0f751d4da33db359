// What HTTP leaves of the engine's speed: tokens a second through /v1/completions (client and server
// in two processes, as in life) beside the same requests in process. Rounds alternate.

import { spawn } from 'node:child_process'
import { openEngine } from '../server/engine/engine.js'
import { packagePath } from '../server/version.js'
import { createTarget } from './client.js'
import { runLoad } from './load-generator.js'
import { median } from './stats.js'

export type ShareOptions = {
  readonly folder: string
  readonly streams: readonly number[]
  readonly promptTokens: number
  readonly outputTokens: number
  readonly requests: (streams: number) => number
  readonly rounds: number
  readonly threads: number
}

const KV_BYTES = 256 << 20

const prompts = (options: ShareOptions, count: number): number[][] =>
  Array.from({ length: count }, (_, i) =>
    Array.from({ length: options.promptTokens }, (_, j) => 1 + ((i * 7919 + j * 31) % 250)),
  )

const inProcess = async (options: ShareOptions): Promise<Map<number, number>> => {
  const { folder, threads, outputTokens } = options
  const engine = await openEngine({
    model: folder,
    kvCacheMemory: KV_BYTES,
    threads,
    prefixCache: false,
  })
  const one = async (promptTokenIds: number[], maxTokens: number): Promise<number> => {
    let tokens = 0
    const sampling = { maxTokens, temperature: 0, ignoreEos: true }
    for await (const delta of engine.generate({ promptTokenIds, sampling }))
      tokens += delta.tokenIds.length
    return tokens
  }
  const rates = new Map<number, number>()
  for (const streams of options.streams) {
    const work = prompts(options, options.requests(streams))
    await one([1, 2, 3], 8)
    const start = performance.now()
    let tokens = 0
    const worker = async () => {
      for (let prompt = work.pop(); prompt; prompt = work.pop()) {
        const got = await one(prompt, outputTokens)
        tokens += got
      }
    }
    await Promise.all(Array.from({ length: streams }, worker))
    rates.set(streams, tokens / ((performance.now() - start) / 1000))
  }
  await engine.close()
  return rates
}

const overHttp = async (options: ShareOptions): Promise<Map<number, number>> => {
  const server = spawn(
    process.execPath,
    [
      '--import',
      'tsx',
      packagePath('server/cli.ts'),
      'serve',
      '--model',
      options.folder,
      '--served-model-name',
      'm',
      '--port',
      '0',
      '--kv-cache-memory',
      String(KV_BYTES),
      '--threads',
      String(options.threads),
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  const url = await new Promise<string>((resolve, reject) => {
    let text = ''
    server.stderr.on('data', (chunk) => {
      text += chunk
      const found = /^at (\S+\/v1)/m.exec(text)?.[1]
      if (found !== undefined) resolve(found)
    })
    server.once('close', () => reject(new Error(`the server did not start: ${text}`)))
  })
  const target = createTarget(url, undefined, 'completions')
  const rates = new Map<number, number>()
  const body = (prompt: number[], max_tokens: number) => ({
    model: 'm',
    prompt,
    max_tokens,
    temperature: 0,
    ignore_eos: true,
    cache_salt: String(Math.random()),
  })
  const load = { rate: undefined, random: Math.random }
  for (const streams of options.streams) {
    await runLoad(target, { ...load, bodies: [body([1, 2, 3], 8)], concurrency: 1 })
    const bodies = prompts(options, options.requests(streams)).map((prompt) =>
      body(prompt, options.outputTokens),
    )
    const { outcomes, seconds } = await runLoad(target, { ...load, bodies, concurrency: streams })
    const tokens = outcomes.reduce((sum, { outputTokens }) => sum + outputTokens, 0)
    rates.set(streams, tokens / seconds)
  }
  target.agent.destroy()
  server.kill('SIGTERM')
  await new Promise((done) => server.once('close', done))
  return rates
}

export const runShare = async (options: ShareOptions): Promise<void> => {
  const ours: Map<number, number>[] = []
  const bare: Map<number, number>[] = []
  for (let round = 0; round < options.rounds; round++) {
    bare.push(await inProcess(options))
    ours.push(await overHttp(options))
  }
  for (const streams of options.streams) {
    const http = ours.map((rates) => rates.get(streams) ?? 0)
    const direct = bare.map((rates) => rates.get(streams) ?? 0)
    const shares = http.map((rate, i) => rate / (direct[i] ?? Number.NaN))
    process.stdout.write(
      `${String(streams).padStart(3)} streams: HTTP ${median(http).toFixed(1)} tok/s, in process ` +
        `${median(direct).toFixed(1)} tok/s, share ${(100 * (median(http) / median(direct))).toFixed(1)} % ` +
        `(rounds ${shares.map((share) => (100 * share).toFixed(0)).join(', ')})\n`,
    )
  }
}
