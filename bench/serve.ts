// npm run bench -- serve: a streaming load on any OpenAI-compatible server, reported in the words of
// vLLM's bench. Closed loop (--concurrency) or arrivals by a plan (--request-rate), or both; several of
// either are a sweep.

import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname } from 'node:path'
import { createProgress } from '../server/terminal.js'
import {
  count,
  list,
  maybeNumber,
  numbers,
  optional,
  type Range,
  range,
  readFlags,
  text,
  toggle,
  UsageError,
} from './flags.js'
import { createTarget, findModel, runLoad, streamOnce, type Target } from './load-generator.js'
import { buildCpuBench, machineLine, measureCeilings } from './machine.js'
import { createWriter } from './prompt-writer.js'
import { ARRIVALS, planArrivals, planSeconds } from './serve/arrivals.js'
import { type Conversation, converse, readScripts, requireTexts } from './serve/conversations.js'
import { type Goodput, METRICS, metrics, type Run, runOf } from './serve/figures.js'
import { writePage } from './serve/page.js'
import { makeResult, sweepTable, writeResult } from './serve/result-file.js'
import { servingSeconds, shapes, sizesOf } from './shapes.js'
import { percent, table } from './stats.js'

const flags = {
  'base-url': text('URL', 'of the server, with /v1', 'http://127.0.0.1:8000/v1'),
  model: optional('NAME', 'default: the first of /models'),
  'api-key': optional('KEY', 'sent as a bearer token'),
  endpoint: text('NAME', 'chat or completions', 'chat'),
  'num-prompts': count('conversations of each run; most are one request', 64),
  duration: maybeNumber('S', 'send for so many seconds instead of --num-prompts'),
  concurrency: numbers('N', 'most at once; default: no bound with a rate, else 8'),
  'request-rate': numbers('R', 'arrivals a second; several are a sweep, as of --concurrency'),
  arrivals: text('NAME', `of --request-rate: ${ARRIVALS.join(', ')}`, 'poisson'),
  burst: count('requests that a burst sends at once', 8),
  'input-len': range('tokens of each prompt, the chat template included', '100'),
  'shared-prefix': count('of these, how many prompts have in common', 0, 0),
  prefixes: count('different beginnings of --shared-prefix tokens', 1),
  turns: count('requests of a conversation; each has the answers before it', 1),
  'output-len': range('tokens of each answer (ignore_eos)', '64'),
  dataset: optional(
    'FILE',
    'instead of random words: JSON lines with "prompt", "messages" or ShareGPT\'s "conversations"',
  ),
  body: text('JSON', 'more fields of the request, such as {"reasoning_effort":"high"}', '{}'),
  timeout: maybeNumber('S', 'without a piece of an answer, after which it has failed; default 600'),
  goodput: list('NAME:MS', 'limits, such as ttft:500 tpot:50 e2el:5000', ''),
  shape: optional(
    'NAME',
    "1b, 160m or a model's folder, for the limit; default: what /models says",
  ),
  warmup: count('requests before the measurement', 1, 0),
  seed: count('of the words and of the arrivals', 1, 0),
  json: optional('FILE', 'where the result goes too, for compare-results'),
  html: optional('FILE', 'a page with plots, in one piece'),
  'own-limit': toggle('instead: what this load generator takes from a scripted server'),
  share: optional(
    'SHAPE',
    "instead: tokens/s over HTTP beside the same requests in process, of a shape's model or a folder",
  ),
  rounds: count('of --share and --stream-cost', 3),
  threads: count('of --share', 1),
  'stream-cost': toggle('instead: server CPU per streamed token beside a bare node:http server'),
  'cost-tokens': count('of each of the 32 streams of --stream-cost', 1000),
}

/** A small generator of its own: the same load everywhere. */
const createRandom = (seed: number) => {
  let state = seed >>> 0
  return (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const parseGoodput = (parts: readonly string[]): Goodput =>
  parts.map((part) => {
    const [name = '', limit] = part.split(':')
    const metric = metrics.find((one) => one === name && one !== 'itl')
    if (metric === undefined || !(Number(limit) > 0))
      throw new UsageError(
        `--goodput: expected ttft, ttfo, tpot or e2el, a colon and ms, not '${part}'`,
      )
    return { metric, limit: Number(limit) }
  })

const show = ({ figures, latencies, requests }: Run): string => {
  const lines: readonly (readonly [string, number | null, number])[] = [
    ['Successful requests:', figures.completed, 0],
    ['Failed requests:', figures.failed, 0],
    ['Benchmark duration (s):', figures.duration, 2],
    ['Total input tokens:', figures.total_input, 0],
    ['Total input tokens from the cache:', figures.total_cached, 0],
    ['Total generated tokens:', figures.total_output, 0],
    ['Request throughput (req/s):', figures.request_throughput, 2],
    ['Request goodput (req/s):', figures.request_goodput, 2],
    ['Output token throughput (tok/s):', figures.output_throughput, 2],
    ['Total token throughput (tok/s):', figures.total_token_throughput, 2],
  ]
  const known = lines.flatMap(([name, value, places]) =>
    value === null ? [] : [`${name.padEnd(34)} ${value.toFixed(places)}`],
  )
  const columns = ['mean', 'median', 'p90', 'p95', 'p99']
  const rows = metrics.map((metric) => [
    `${METRICS[metric]} (${metric.toUpperCase()})`,
    ...columns.map((column) => latencies[`${column}_${metric}_ms`]?.toFixed(2) ?? '-'),
  ])
  return [...known, table([['ms', ...columns], ...rows]), ...errorLines(requests)].join('\n')
}

const errorLines = (requests: Run['requests']): readonly string[] =>
  [...new Set(requests.flatMap(({ error }) => error ?? []))].slice(0, 5).map((e) => `error: ${e}`)

/** Above this the generator itself may be what is slow. */
const BUSY = 0.7

const generatorLine = (runs: readonly Run[]): string => {
  const busy = Math.max(...runs.map(({ figures }) => figures.generator_busy))
  const late = Math.max(...runs.map(({ figures }) => figures.p99_late_ms))
  const warning = busy > BUSY ? '; this is the limit of the generator, not of the server' : ''
  const planned = runs.some(({ rate }) => rate !== null)
  return (
    `load generator: ${percent(busy)} of its thread busy${warning}` +
    (planned ? `; sent late, p99: ${late.toFixed(1)} ms (latencies count from the plan)` : '')
  )
}

/** The share of what this machine allows, or why it is not known. */
const limitLine = ({ figures: result }: Run, shape: string | undefined, most: number): string => {
  const named = shape !== undefined && Object.hasOwn(shapes, shape) ? shapes[shape] : undefined
  if (named === undefined && (shape === undefined || !existsSync(`${shape}/config.json`)))
    return 'share of the limit: not known; --shape names the sizes of a model that this machine serves'
  const threads = availableParallelism()
  const ceilings = measureCeilings(buildCpuBench(), threads)
  const work = {
    prompt: result.total_input - result.total_cached,
    output: result.total_output,
    concurrency: Math.min(most, result.completed),
  }
  const seconds = servingSeconds(named ?? sizesOf(shape ?? ''), work, ceilings)
  return (
    `share of the limit: ${percent(seconds / result.duration)}; ${threads} threads could do this work in ` +
    `${seconds.toFixed(2)} s (BF16 weights, ${(ceilings.bandwidth / 1e9).toFixed(1)} GB/s, ` +
    `${(ceilings.matrix / 1e9).toFixed(0)} GFLOP/s)`
  )
}

const parseBody = (text: string): object => {
  try {
    const body = JSON.parse(text)
    if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body
  } catch {}
  throw new UsageError(`--body: expected a JSON object such as {"top_p":0.9}, not '${text}'`)
}

type Values = NonNullable<ReturnType<typeof readFlags<typeof flags>>>

const between = ({ least, most }: Range, random: () => number): number =>
  least + Math.floor(random() * (most - least + 1))

/** Conversation i, without an end. */
const conversationsOf = async (
  values: Values,
  target: Target,
  model: string,
  random: () => number,
): Promise<(i: number) => Conversation> => {
  const more = parseBody(values.body)
  const form = { model, endpoint: target.endpoint }
  const outputTokens = () => ({ max_tokens: between(values['output-len'], random) })
  if (values.dataset !== undefined) {
    const scripts = readScripts(values.dataset)
    if (target.endpoint === 'completions') requireTexts(scripts)
    const first = scripts[0] ?? { turns: [] }
    return (i) =>
      converse(scripts[i % scripts.length] ?? first, {
        ...form,
        fields: { ...outputTokens(), ...more },
      })
  }
  const { turns, 'input-len': length, 'shared-prefix': shared, prefixes: kinds } = values
  if (turns > 1 && target.endpoint === 'completions')
    throw new UsageError('--turns: conversations need --endpoint chat')
  if (shared > length.least)
    throw new UsageError(`--shared-prefix: ${shared} tokens are more than --input-len allows`)
  const messageOf = (content: string) => [{ role: 'user', content }]
  const countTokens = async (prompt: string): Promise<number> => {
    const ask = converse({ turns: [messageOf(prompt)] }, { ...form, fields: { max_tokens: 1 } })
    const { error, promptTokens } = await streamOnce(target, ask([]) ?? {})
    if (error !== undefined) throw new UsageError(`${target.baseUrl}: ${error}`)
    return promptTokens
  }
  const { write, writePrefix } = await createWriter(countTokens, random)
  const beginnings = Array.from({ length: kinds }, () => writePrefix(shared))
  return (i) => {
    const first = write(between(length, random), beginnings[i % kinds])
    const others = Array.from({ length: turns - 1 }, () => write(between(length, random)))
    const script = { turns: [first, ...others].map(messageOf) }
    return converse(script, { ...form, fields: { ignore_eos: true, ...outputTokens(), ...more } })
  }
}

type Asked = { readonly rate: number | undefined; readonly concurrency: number | undefined }

const loadsOf = ({ 'request-rate': rates, concurrency }: Values): readonly Asked[] => {
  if (rates.length > 1 && concurrency.length > 1)
    throw new UsageError('several of --request-rate and of --concurrency: sweep one of them')
  if (rates.length > 0) return rates.map((rate) => ({ rate, concurrency: concurrency[0] }))
  return (concurrency.length > 0 ? concurrency : [8]).map((one) => ({
    ...{ rate: undefined, concurrency: one },
  }))
}

const nameOf = <T extends string>(flag: string, known: readonly T[], given: string): T => {
  const found = known.find((one) => one === given)
  if (found !== undefined) return found
  const others = known.slice(0, -1).join(', ')
  throw new UsageError(`--${flag}: expected ${others} or ${known.at(-1)}, not '${given}'`)
}

const labelOf = ({ rate, concurrency }: Asked): string =>
  rate === undefined ? `${concurrency} at once` : `${rate} a second`

/** Ctrl-C is the signal, for the first time; after that it ends the process, as always. */
const onInterrupt = () => {
  const controller = new AbortController()
  const interrupt = (): void => {
    process.stderr.write('\ninterrupted: this is what there is; once more ends it at once\n')
    process.exitCode = 130
    controller.abort()
  }
  process.once('SIGINT', interrupt)
  return { signal: controller.signal, release: () => process.off('SIGINT', interrupt) }
}

/** One load after another, each with conversations that are new. */
const runLoads = async (
  values: Values,
  target: Target,
  conversation: (i: number) => Conversation,
  random: () => number,
  signal: AbortSignal,
): Promise<readonly Run[]> => {
  const loads = loadsOf(values)
  const arrivals = nameOf('arrivals', ARRIVALS, values.arrivals)
  const goodput = parseGoodput(values.goodput)
  const progress = createProgress(process.stderr, undefined, (n) => n.toFixed(n % 1 === 0 ? 0 : 1))
  const runs: Run[] = []
  let used = values.warmup
  for (const { rate, concurrency } of loads) {
    if (signal.aborted) break
    const total = values.duration === undefined ? values['num-prompts'] : Number.POSITIVE_INFINITY
    const label = labelOf({ rate, concurrency })
    const first = used
    const seconds = values.duration ?? planSeconds(arrivals, rate ?? 1, total)
    const plan = { arrivals, burst: values.burst, duration: seconds, random }
    const loaded = await runLoad(target, {
      conversation: (i) => {
        if (i >= total) return undefined
        used++
        return conversation(first + i)
      },
      concurrency: concurrency ?? Number.POSITIVE_INFINITY,
      ...(rate !== undefined && { arrivals: planArrivals({ ...plan, rate }) }),
      ...(values.duration !== undefined && { duration: values.duration }),
      signal,
      onDone: (requests, at) => {
        if (values.duration === undefined) progress.update(label, requests, total * values.turns)
        else if (at < values.duration) progress.update(`${label}, seconds`, at, values.duration)
      },
    })
    progress.finish()
    runs.push(runOf({ rate, concurrency }, loaded, goodput))
  }
  return runs
}

/** Of another kind of run, a secret, or where the result goes. */
const NO_SETTINGS: readonly string[] = [
  ...['own-limit', 'share', 'rounds', 'threads', 'stream-cost', 'cost-tokens'],
  ...['api-key', 'json', 'html'],
]

/** Before the measurement, not after it. */
const requireFolders = ({ json, html }: Values): void => {
  for (const [flag, path] of Object.entries({ json, html }))
    if (path !== undefined && !existsSync(dirname(path)))
      throw new UsageError(`--${flag}: there is no folder ${dirname(path)}`)
}

const writeFiles = async (values: Values, model: string, runs: readonly Run[]): Promise<void> => {
  const asked = Object.fromEntries(
    Object.entries(values).filter(([name]) => !NO_SETTINGS.includes(name)),
  )
  const url = values['base-url'].replace(/\/+$/, '')
  const result = makeResult({ ...asked, model, 'base-url': url }, runs)
  const { json, html } = values
  if (json !== undefined) writeResult(json, result)
  if (html !== undefined) await writePage(html, [{ name: model, result }])
}

const runServe = async (values: Values): Promise<void> => {
  const endpoint = nameOf('endpoint', ['chat', 'completions'], values.endpoint)
  const random = createRandom(values.seed)
  const target = createTarget(values['base-url'], values['api-key'], endpoint, values.timeout)
  loadsOf(values)
  parseGoodput(values.goodput)
  nameOf('arrivals', ARRIVALS, values.arrivals)
  requireFolders(values)
  const { id: model, root } = await findModel(target.baseUrl, values['api-key'], values.model)
  const conversation = await conversationsOf(values, target, model, random)
  for (let i = 0; i < values.warmup; i++) {
    const { error } = await streamOnce(target, conversation(i)([]) ?? {})
    if (error !== undefined)
      throw new UsageError(`${target.baseUrl}: the first request failed: ${error}`)
  }
  const { signal, release } = onInterrupt()
  const runs = await runLoads(values, target, conversation, random, signal)
  release()
  target.agent.destroy()
  await writeFiles(values, model, runs)
  const [only] = runs
  console.log(`${machineLine()}\n${target.baseUrl}, model ${model}`)
  if (only !== undefined && runs.length === 1) {
    const most = only.concurrency ?? only.figures.completed
    console.log(show(only))
    if (!signal.aborted) console.log(limitLine(only, values.shape ?? root, most))
  } else {
    const errors = errorLines(runs.flatMap(({ requests }) => requests))
    console.log([sweepTable(runs), ...errors].join('\n'))
  }
  console.log(generatorLine(runs))
  if (runs.every(({ figures }) => figures.completed === 0))
    throw new UsageError('no request succeeded')
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('serve', 'a streaming load on an OpenAI-compatible server', flags, args)
  if (!values) return
  if (values['stream-cost']) {
    const { runStreamCost } = await import('./stream-cost.js')
    return runStreamCost({ streams: 32, tokens: values['cost-tokens'], rounds: values.rounds })
  }
  if (values['own-limit']) {
    const { runOwnLimit } = await import('./serve/own-limit.js')
    return runOwnLimit()
  }
  if (values.share === undefined) return runServe(values)
  const { runShare } = await import('./http-share.js')
  await runShare(values.share, values.rounds, values.threads)
}
