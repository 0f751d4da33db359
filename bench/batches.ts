// npm run bench -- batches: lines of a batch a second beside the engine asked for the same by itself; and the
// time to the first token of those who ask over HTTP, with a batch running and without.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { openEngine } from '../server/engine/engine.js'
import { count, readFlags, text } from './flags.js'
import { machineLine } from './machine.js'
import { benchModel, randomPrompt } from './random-model.js'
import { serveHere } from './serve-here.js'
import { shapeNamed, shapes } from './shapes.js'
import { percent, quantile } from './stats.js'

const flags = {
  shape: text('NAME', `of: ${Object.keys(shapes).join(', ')}`, '160m'),
  threads: count('of the engine', 2),
  lines: count('of the batch', 1000),
  prompt: count('tokens of a line', 64),
  output: count('tokens of an answer', 32),
  asks: count('requests over HTTP, with the batch and without', 100),
}

const GOAL_RATE = 0.95
const GOAL_TTFT = 1.3
const ENGINE = { maxNumSeqs: 32, kvCacheMemory: 512 << 20 }

type Load = {
  readonly prompts: readonly (readonly number[])[]
  readonly output: number
  readonly threads: number
  readonly folder: string
}

/** Seconds, and of the processor. */
type Cost = { readonly wall: number; readonly cpu: number }

const startCost = (): (() => Cost) => {
  const start = performance.now()
  const before = process.cpuUsage()
  return () => {
    const { user, system } = process.cpuUsage(before)
    return { wall: (performance.now() - start) / 1000, cpu: (user + system) / 1e6 }
  }
}

/** Of the engine, asked for all at once. */
const offline = async ({ prompts, output, threads, folder }: Load): Promise<Cost> => {
  const engine = await openEngine({
    ...{ model: folder, device: 'cpu', threads, maxModelLen: 2048, ...ENGINE },
    ...{ maxWaiting: prompts.length, maxWaitingTokens: 1 << 24 },
  })
  const sampling = { maxTokens: output, temperature: 0, ignoreEos: true }
  const answer = async (promptTokenIds: readonly number[]) => {
    for await (const { error } of engine.generate({ promptTokenIds, sampling }))
      if (error) throw new Error(error.message)
  }
  const cost = startCost()
  await Promise.all(prompts.map(answer))
  const spent = cost()
  await engine.close()
  return spent
}

const openServer = async ({ threads, folder }: Load) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'nemotron-batches-'))
  const serving = await serveHere(folder, {
    ...{ threads, data_dir: dataDir, max_model_len: 2048 },
    ...{ max_num_seqs: ENGINE.maxNumSeqs, kv_cache_memory: '512MiB' },
  })
  const ask = async (path: string, init?: RequestInit) => {
    const response = await fetch(`${serving.url}/v1/${path}`, init)
    if (response.status !== 200) throw new Error(`${path}: ${await response.text()}`)
    return response
  }
  const post = (path: string, body: object) =>
    ask(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
  return {
    ask,
    post,
    close: async () => {
      await serving.drain()
      rmSync(dataDir, { recursive: true })
    },
  }
}
type Server = Awaited<ReturnType<typeof openServer>>

const lineBody = (prompt: readonly number[], output: number) => ({
  ...{ model: 'm', prompt, max_tokens: output, temperature: 0, ignore_eos: true },
})

type Batch = {
  readonly id: string
  readonly status: string
  readonly request_counts: { readonly completed: number }
}

const read = async <T>(response: Promise<Response>): Promise<T> =>
  (await (await response).json()) as T

/** The id of a batch of these lines. */
const startBatch = async ({ ask, post }: Server, { prompts, output }: Load): Promise<string> => {
  const lines = prompts.map((prompt, i) =>
    JSON.stringify({
      ...{ custom_id: `line-${i}`, method: 'POST', url: '/v1/completions' },
      body: lineBody(prompt, output),
    }),
  )
  const form = new FormData()
  form.set('purpose', 'batch')
  form.set('file', new Blob([lines.join('\n')]), 'lines.jsonl')
  const file = await read<{ readonly id: string }>(ask('files', { method: 'POST', body: form }))
  const { id } = await read<Batch>(
    post('batches', {
      ...{ input_file_id: file.id, endpoint: '/v1/completions', completion_window: '24h' },
    }),
  )
  return id
}

const stateOf = ({ ask }: Server, id: string) => read<Batch>(ask(`batches/${id}`))

/** Until it is over. */
const timeBatch = async (server: Server, load: Load): Promise<Cost> => {
  const cost = startCost()
  const id = await startBatch(server, load)
  for (;;) {
    const { status, request_counts: counts } = await stateOf(server, id)
    const spent = cost()
    if (status === 'completed' && counts.completed === load.prompts.length) return spent
    if (!['validating', 'in_progress', 'finalizing'].includes(status))
      throw new Error(`the batch is ${status}: ${JSON.stringify(counts)}`)
    // Asked seldom while it is long: whoever polls takes the time of the engine, which has all cores.
    await sleep(Math.max(20, 1000 * (1 - counts.completed / load.prompts.length)))
  }
}

/** Milliseconds to the first token, one request after another. */
const firstTokens = async ({ post }: Server, prompts: Load['prompts']): Promise<number[]> => {
  const times: number[] = []
  for (const prompt of prompts) {
    const start = performance.now()
    const { body } = await post('completions', { ...lineBody(prompt, 2), stream: true })
    let isFirst = true
    for await (const _ of body ?? []) {
      if (isFirst) times.push(performance.now() - start)
      isFirst = false
    }
    await sleep(20)
  }
  return times
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('batches', 'a batch beside the engine alone', flags, args)
  if (!values) return
  const { threads, lines, prompt, output, asks } = values
  const shape = shapeNamed(values.shape)
  let seed = 1
  const prompts = (many: number) =>
    Array.from({ length: many }, () => randomPrompt(prompt, shape.vocab, seed++))
  const load = (many: number): Load => ({
    ...{ prompts: prompts(many), output, threads, folder: benchModel(shape) },
  })
  const alone = await offline(load(lines))
  const server = await openServer(load(1))
  const measure = async () => {
    const batch = await timeBatch(server, load(lines))
    await firstTokens(server, prompts(5))
    const start = performance.now()
    const idle = await firstTokens(server, prompts(asks))
    // So many lines that they do not end before the requests do.
    const most = 10 * ((performance.now() - start) / 1000) + 5
    const id = await startBatch(
      server,
      load(Math.ceil((most * lines) / Math.min(batch.wall, alone.wall))),
    )
    while ((await stateOf(server, id)).status === 'validating') await sleep(50)
    await sleep(500)
    const busy = await firstTokens(server, prompts(asks))
    const { status } = await stateOf(server, id)
    if (status !== 'in_progress') throw new Error(`the batch was ${status} before the requests`)
    await server.post(`batches/${id}/cancel`, {})
    return { batch, idle, busy }
  }
  const { batch, idle, busy } = await measure().finally(server.close)
  const milliseconds = ({ cpu }: Cost) => `${((1000 * cpu) / lines).toFixed(1)} ms`
  const share = alone.wall / batch.wall
  const [before, beside] = [quantile(idle, 0.95), quantile(busy, 0.95)]
  const ratio = beside / before
  console.log(
    [
      machineLine(),
      `${shape.name}, ${threads} threads, ${prompt} tokens a line, ${output} an answer`,
      `${lines} lines: ${(lines / batch.wall).toFixed(1)} a second, the engine alone ${(lines / alone.wall).toFixed(1)}, ` +
        `${percent(share)}, goal >= ${percent(GOAL_RATE)} ${share >= GOAL_RATE ? 'met' : 'missed'}`,
      `CPU a line: ${milliseconds(batch)}, the engine alone ${milliseconds(alone)}`,
      `p95 to the first token over HTTP: idle ${before.toFixed(1)} ms, beside a batch ${beside.toFixed(1)} ms, ` +
        `${ratio.toFixed(2)}x, goal <= ${GOAL_TTFT}x ${ratio <= GOAL_TTFT ? 'met' : 'missed'}`,
    ].join('\n'),
  )
}
