// npm run bench -- serve: a streaming load on any OpenAI-compatible server, reported in the words of
// vLLM's bench. Closed loop (--concurrency) or Poisson arrivals (--request-rate), or both.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { count, list, maybeNumber, optional, readFlags, text, toggle, UsageError } from './flags.js'
import {
  createTarget,
  findModel,
  type Outcome,
  runLoad,
  streamOnce,
  type Target,
} from './load-generator.js'
import { buildCpuBench, machine, machineLine, measureCeilings } from './machine.js'
import { createWriter } from './prompt-writer.js'
import { servingSeconds, shapes, sizesOf } from './shapes.js'
import { percent, quantile, table } from './stats.js'

const flags = {
  'base-url': text('URL', 'of the server, with /v1', 'http://127.0.0.1:8000/v1'),
  model: optional('NAME', 'default: the first of /models'),
  'api-key': optional('KEY', 'sent as a bearer token'),
  endpoint: text('NAME', 'chat or completions', 'chat'),
  'num-prompts': count('requests to send', 64),
  duration: maybeNumber('S', 'send for so many seconds instead of --num-prompts requests'),
  concurrency: maybeNumber('N', 'most requests at once; default: no bound with a rate, else 8'),
  'request-rate': maybeNumber('R', 'arrivals a second, Poisson'),
  'input-len': count('tokens of each prompt, the chat template included', 100),
  'shared-prefix': count('of these, how many all prompts begin with', 0, 0),
  'output-len': count('tokens of each answer (ignore_eos)', 64),
  dataset: optional('FILE', 'JSON lines with "prompt", instead of random words'),
  body: text('JSON', 'more fields of the request, such as {"reasoning_effort":"high"}', '{}'),
  goodput: list('LIST', 'limits in ms, such as ttft:500,tpot:50,e2el:5000', ''),
  shape: optional(
    'NAME',
    "1b, 160m or a model's folder, for the limit; default: what /models says",
  ),
  warmup: count('requests before the measurement', 1, 0),
  seed: count('of the words and of the arrivals', 1, 0),
  json: optional('FILE', 'where the result goes too'),
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

const METRICS = {
  ttft: 'Time to First Token',
  ttfo: 'Time to First Non-reasoning Token',
  tpot: 'Time per Output Token (excl. 1st token)',
  itl: 'Inter-token Latency',
  e2el: 'End-to-end Latency',
} as const
type Metric = keyof typeof METRICS
const metrics = Object.keys(METRICS) as readonly Metric[]
const PERCENTILES = [50, 90, 95, 99]

const valuesOf = (metric: Metric, one: Outcome): readonly number[] => {
  if (metric === 'itl') return one.itl
  if (metric !== 'tpot') return [one[metric]]
  return one.outputTokens > 1 ? [(one.e2el - one.ttft) / (one.outputTokens - 1)] : []
}

const summary = (name: Metric, outcomes: readonly Outcome[]): Record<string, number> => {
  const known = outcomes.flatMap((one) => valuesOf(name, one)).filter(Number.isFinite)
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length
  const variance = known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / known.length
  return {
    [`mean_${name}_ms`]: mean,
    [`median_${name}_ms`]: quantile(known, 0.5),
    [`std_${name}_ms`]: Math.sqrt(variance),
    ...Object.fromEntries(PERCENTILES.map((p) => [`p${p}_${name}_ms`, quantile(known, p / 100)])),
  }
}

type Goodput = readonly { readonly metric: Metric; readonly limit: number }[]

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

const report = (outcomes: readonly Outcome[], seconds: number, goodput: Goodput) => {
  const good = outcomes.filter(({ error }) => error === undefined)
  const isGood = (one: Outcome): boolean =>
    goodput.every(({ metric, limit }) => !valuesOf(metric, one).some((value) => value > limit))
  const sum = (pick: (outcome: Outcome) => number) =>
    good.reduce((total, outcome) => total + pick(outcome), 0)
  const input = sum(({ promptTokens }) => promptTokens)
  const output = sum(({ outputTokens }) => outputTokens)
  return {
    completed: good.length,
    failed: outcomes.length - good.length,
    duration: seconds,
    total_input: input,
    total_cached: sum(({ cachedTokens }) => cachedTokens),
    total_output: output,
    total_reasoning: sum(({ reasoningTokens }) => reasoningTokens),
    request_throughput: good.length / seconds,
    request_goodput: goodput.length > 0 ? good.filter(isGood).length / seconds : null,
    output_throughput: output / seconds,
    total_token_throughput: (input + output) / seconds,
    ...Object.assign({}, ...metrics.map((metric) => summary(metric, good))),
    errors: outcomes.flatMap(({ error }) => (error === undefined ? [] : [error])),
  }
}
type Report = ReturnType<typeof report>

const show = (result: Report): string => {
  const lines: readonly (readonly [string, number | null, number])[] = [
    ['Successful requests:', result.completed, 0],
    ['Failed requests:', result.failed, 0],
    ['Benchmark duration (s):', result.duration, 2],
    ['Total input tokens:', result.total_input, 0],
    ['Total generated tokens:', result.total_output, 0],
    ['Request throughput (req/s):', result.request_throughput, 2],
    ['Request goodput (req/s):', result.request_goodput, 2],
    ['Output token throughput (tok/s):', result.output_throughput, 2],
    ['Total token throughput (tok/s):', result.total_token_throughput, 2],
  ]
  const known = lines.flatMap(([name, value, places]) =>
    value === null ? [] : [`${name.padEnd(34)} ${value.toFixed(places)}`],
  )
  const columns = ['mean', 'median', 'p90', 'p95', 'p99']
  const rows = metrics.map((metric) => [
    `${METRICS[metric]} (${metric.toUpperCase()})`,
    ...columns.map((column) => Number(result[`${column}_${metric}_ms`]).toFixed(2)),
  ])
  const errors = [...new Set(result.errors)].slice(0, 5)
  return [...known, table([['ms', ...columns], ...rows]), ...errors.map((e) => `error: ${e}`)].join(
    '\n',
  )
}

/** The share of what this machine allows, or why it is not known. */
const limitLine = (result: Report, shape: string | undefined, concurrency: number): string => {
  const named = shape !== undefined && Object.hasOwn(shapes, shape) ? shapes[shape] : undefined
  if (named === undefined && (shape === undefined || !existsSync(`${shape}/config.json`)))
    return 'share of the limit: not known; --shape names the sizes of a model that this machine serves'
  const threads = availableParallelism()
  const ceilings = measureCeilings(buildCpuBench(), threads)
  const work = {
    prompt: result.total_input - result.total_cached,
    output: result.total_output,
    concurrency: Math.min(concurrency, result.completed),
  }
  const seconds = servingSeconds(named ?? sizesOf(shape ?? ''), work, ceilings)
  return (
    `share of the limit: ${percent(seconds / result.duration)}; ${threads} threads could do this work in ` +
    `${seconds.toFixed(2)} s (BF16 weights, ${(ceilings.bandwidth / 1e9).toFixed(1)} GB/s, ` +
    `${(ceilings.matrix / 1e9).toFixed(0)} GFLOP/s)`
  )
}

const readPrompts = (path: string): readonly string[] => {
  if (!existsSync(path)) throw new UsageError(`--dataset: there is no file ${path}`)
  const lines = readFileSync(path, 'utf8').split('\n')
  return lines.flatMap((line, i) => {
    if (line.trim() === '') return []
    try {
      const { prompt } = JSON.parse(line)
      if (typeof prompt === 'string') return [prompt]
    } catch {}
    throw new UsageError(`--dataset: ${path}:${i + 1} is no JSON object with a text "prompt"`)
  })
}

const parseBody = (text: string): object => {
  try {
    const body = JSON.parse(text)
    if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body
  } catch {}
  throw new UsageError(`--body: expected a JSON object such as {"top_p":0.9}, not '${text}'`)
}

type Values = NonNullable<ReturnType<typeof readFlags<typeof flags>>>

/** The body of request i. */
const bodiesOf = async (values: Values, target: Target, model: string, random: () => number) => {
  const more = { max_tokens: values['output-len'], ...parseBody(values.body) }
  const make = (prompt: string, fields: object) => ({
    model,
    ...(target.endpoint === 'chat'
      ? { messages: [{ role: 'user', content: prompt }] }
      : { prompt }),
    ...fields,
  })
  if (values.dataset !== undefined) {
    const prompts = readPrompts(values.dataset)
    return (i: number) => make(prompts[i % prompts.length] ?? '', more)
  }
  const countTokens = async (prompt: string): Promise<number> => {
    const { error, promptTokens } = await streamOnce(target, make(prompt, { max_tokens: 1 }))
    if (error !== undefined) throw new UsageError(error)
    return promptTokens
  }
  const writer = await createWriter(countTokens, random)
  const write = writer(values['input-len'], values['shared-prefix'])
  return () => make(write(), { ignore_eos: true, ...more })
}

const runServe = async (values: Values): Promise<void> => {
  const { endpoint, warmup, duration, shape } = values
  if (endpoint !== 'chat' && endpoint !== 'completions')
    throw new UsageError(`--endpoint: expected chat or completions, not '${endpoint}'`)
  const random = createRandom(values.seed)
  const goodput = parseGoodput(values.goodput)
  const target = createTarget(values['base-url'], values['api-key'], endpoint)
  const { id: model, root } = await findModel(target.baseUrl, values['api-key'], values.model)
  const bodyOf = await bodiesOf(values, target, model, random)
  for (let i = 0; i < warmup; i++) await streamOnce(target, bodyOf(i))
  const total = duration === undefined ? values['num-prompts'] : Number.POSITIVE_INFINITY
  const rate = values['request-rate']
  const most = rate === undefined ? 8 : duration === undefined ? total : Math.ceil(rate * duration)
  const concurrency = values.concurrency ?? Math.min(most, total)
  const { outcomes, seconds } = await runLoad(target, {
    body: (i) => (i < total ? bodyOf(warmup + i) : undefined),
    concurrency,
    ...(rate !== undefined && { rate }),
    ...(duration !== undefined && { duration }),
    random,
  })
  const result = report(outcomes, seconds, goodput)
  console.log(`${machineLine()}\n${target.baseUrl}, model ${model}, at most ${concurrency} at once`)
  console.log(`${show(result)}\n${limitLine(result, shape ?? root, concurrency)}`)
  if (values.json !== undefined) {
    const settings = { base_url: target.baseUrl, model, concurrency, rate: rate ?? null }
    const all = { machine: machine(), ...settings, ...result }
    writeFileSync(values.json, `${JSON.stringify(all, null, 2)}\n`)
  }
  target.agent.destroy()
  if (result.completed === 0) throw new UsageError('no request succeeded')
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('serve', 'a streaming load on an OpenAI-compatible server', flags, args)
  if (!values) return
  if (values['stream-cost']) {
    const { runStreamCost } = await import('./stream-cost.js')
    return runStreamCost({ streams: 32, tokens: values['cost-tokens'], rounds: values.rounds })
  }
  if (values.share === undefined) return runServe(values)
  const { runShare } = await import('./http-share.js')
  await runShare(values.share, values.rounds, values.threads)
}
