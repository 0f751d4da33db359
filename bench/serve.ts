// npm run bench -- serve: a streaming load on any OpenAI-compatible server, reported in the words of
// vLLM's bench. Closed loop (--concurrency) or Poisson arrivals (--request-rate), or both.

import { readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { createTarget, type Outcome, streamOnce, type Target } from './client.js'
import { runLoad } from './load-generator.js'
import { machine } from './machine.js'
import { benchModel, shapes } from './random-model.js'
import { quantile } from './stats.js'

const HELP = `npm run bench -- serve [flags]
  --base-url URL        default http://127.0.0.1:8000/v1
  --model NAME          default: the first of /models
  --api-key KEY
  --endpoint chat|completions
  --num-prompts N       default 64
  --concurrency N       most requests at once; default: no bound with a rate, else 8
  --request-rate R      arrivals a second, Poisson
  --input-len N         words of each prompt, default 100
  --shared-prefix N     of these, how many all prompts share, default 0
  --output-len N        tokens of each answer, default 64 (ignore_eos)
  --dataset FILE        JSON lines with "prompt", instead of random words
  --body JSON           more fields of the request, such as {"reasoning_effort":"high"}
  --goodput LIST        such as ttft:500,tpot:50,e2el:5000 (ms)
  --warmup N            requests before the measurement, default 1
  --seed N              default 1
  --json FILE           where the result goes too

npm run bench -- serve --share FOLDER|160m [--rounds N] [--threads N]
  tokens/s over HTTP beside the same requests in process
npm run bench -- serve --stream-cost
  server CPU per streamed token beside a bare node:http server, on a scripted engine
`

const parse = (args: readonly string[]) =>
  parseArgs({
    args: [...args],
    options: {
      'base-url': { type: 'string', default: 'http://127.0.0.1:8000/v1' },
      model: { type: 'string' },
      'api-key': { type: 'string' },
      endpoint: { type: 'string', default: 'chat' },
      'num-prompts': { type: 'string', default: '64' },
      concurrency: { type: 'string' },
      'request-rate': { type: 'string' },
      'input-len': { type: 'string', default: '100' },
      'shared-prefix': { type: 'string', default: '0' },
      'output-len': { type: 'string', default: '64' },
      dataset: { type: 'string' },
      body: { type: 'string', default: '{}' },
      goodput: { type: 'string', default: '' },
      warmup: { type: 'string', default: '1' },
      seed: { type: 'string', default: '1' },
      json: { type: 'string' },
      share: { type: 'string' },
      rounds: { type: 'string', default: '3' },
      threads: { type: 'string', default: '1' },
      'stream-cost': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  }).values

/** A small generator of its own: the same load everywhere. */
const createRandom = (seed: number) => {
  let state = seed >>> 0
  return (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const SYLLABLES = 'ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu'.split(' ')

const randomWords = (random: () => number, count: number): string =>
  Array.from({ length: count }, () =>
    Array.from(
      { length: 1 + Math.floor(random() * 3) },
      () => SYLLABLES[Math.floor(random() * SYLLABLES.length)],
    ).join(''),
  ).join(' ')

const tpotOf = ({ e2el, ttft, outputTokens }: Outcome): number =>
  outputTokens > 1 ? (e2el - ttft) / (outputTokens - 1) : Number.NaN

const PERCENTILES = [50, 90, 95, 99]

const summary = (name: string, values: readonly number[]): Record<string, number> => {
  const known = values.filter(Number.isFinite)
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length
  const variance = known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / known.length
  return {
    [`mean_${name}_ms`]: mean,
    [`median_${name}_ms`]: quantile(known, 0.5),
    [`std_${name}_ms`]: Math.sqrt(variance),
    ...Object.fromEntries(PERCENTILES.map((p) => [`p${p}_${name}_ms`, quantile(known, p / 100)])),
  }
}

const isGood = (outcome: Outcome, limits: ReadonlyMap<string, number>): boolean => {
  const { ttft, e2el, ttfo } = outcome
  const values: Record<string, number> = {
    ttft,
    e2el,
    tpot: tpotOf(outcome),
    ttfo: ttfo ?? Number.NaN,
  }
  return [...limits].every(([name, limit]) => !((values[name] ?? Number.NaN) > limit))
}

const parseGoodput = (text: string): ReadonlyMap<string, number> =>
  new Map(
    text
      .split(',')
      .filter((part) => part !== '')
      .map((part) => {
        const [name = '', limit] = part.split(':')
        if (!['ttft', 'tpot', 'e2el', 'ttfo'].includes(name) || !(Number(limit) > 0))
          throw new Error(`--goodput ${part}: expected ttft, tpot, e2el or ttfo, then : and ms`)
        return [name, Number(limit)]
      }),
  )

export const report = (
  outcomes: readonly Outcome[],
  seconds: number,
  goodput: ReadonlyMap<string, number>,
) => {
  const good = outcomes.filter(({ ok }) => ok)
  const sum = (pick: (outcome: Outcome) => number) =>
    good.reduce((total, outcome) => total + pick(outcome), 0)
  const input = sum(({ promptTokens }) => promptTokens)
  const output = sum(({ outputTokens }) => outputTokens)
  return {
    completed: good.length,
    failed: outcomes.length - good.length,
    duration: seconds,
    total_input: input,
    total_output: output,
    total_reasoning: sum(({ reasoningTokens }) => reasoningTokens),
    request_throughput: good.length / seconds,
    request_goodput:
      goodput.size > 0 ? good.filter((one) => isGood(one, goodput)).length / seconds : null,
    output_throughput: output / seconds,
    total_token_throughput: (input + output) / seconds,
    ...summary(
      'ttft',
      good.map(({ ttft }) => ttft),
    ),
    ...summary(
      'ttfo',
      good.map(({ ttfo }) => ttfo ?? Number.NaN),
    ),
    ...summary('tpot', good.map(tpotOf)),
    ...summary(
      'itl',
      good.flatMap(({ itl }) => itl),
    ),
    ...summary(
      'e2el',
      good.map(({ e2el }) => e2el),
    ),
    errors: outcomes.flatMap(({ error }) => (error === undefined ? [] : [error])),
  }
}

type Report = ReturnType<typeof report>

const TITLES: readonly (readonly [string, string])[] = [
  ['ttft', 'Time to First Token'],
  ['ttfo', 'Time to First Non-reasoning Token'],
  ['tpot', 'Time per Output Token (excl. 1st token)'],
  ['itl', 'Inter-token Latency'],
  ['e2el', 'End-to-end Latency'],
]

const show = (result: Report): string => {
  const values: Record<string, unknown> = { ...result }
  const line = (name: string, value: unknown) =>
    `${name.padEnd(42)} ${typeof value === 'number' ? value.toFixed(2) : String(value)}`
  return [
    line('Successful requests:', `${result.completed}`),
    line('Failed requests:', `${result.failed}`),
    line('Benchmark duration (s):', result.duration),
    line('Total input tokens:', `${result.total_input}`),
    line('Total generated tokens:', `${result.total_output}`),
    line('Request throughput (req/s):', result.request_throughput),
    ...(result.request_goodput === null
      ? []
      : [line('Request goodput (req/s):', result.request_goodput)]),
    line('Output token throughput (tok/s):', result.output_throughput),
    line('Total token throughput (tok/s):', result.total_token_throughput),
    ...TITLES.flatMap(([key, title]) => [
      `--- ${title}`,
      ...['mean', 'median', 'p99'].map((kind) =>
        line(`${kind} ${key.toUpperCase()} (ms):`, values[`${kind}_${key}_ms`]),
      ),
    ]),
    ...[...new Set(result.errors)].slice(0, 5).map((error) => `error: ${error}`),
  ].join('\n')
}

const firstModel = async (baseUrl: string, apiKey: string | undefined): Promise<string> => {
  const headers: Record<string, string> =
    apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
  const answer = await fetch(`${baseUrl}/models`, { headers })
  if (!answer.ok) throw new Error(`${baseUrl}/models: HTTP ${answer.status}`)
  const { data }: { data: { id: string }[] } = JSON.parse(await answer.text())
  const id = data[0]?.id
  if (id === undefined) throw new Error(`${baseUrl}/models lists no model`)
  return id
}

/** Bodies of requests: random words, or the lines of a file. */
export const makeBodies = (options: {
  readonly model: string
  readonly endpoint: Target['endpoint']
  readonly count: number
  readonly words: number
  readonly shared: number
  readonly tokens: number
  readonly more: object
  readonly prompts?: readonly string[]
  readonly random: () => number
}): object[] => {
  const { random, shared } = options
  const prefix = randomWords(random, shared)
  return Array.from({ length: options.count }, (_, i) => {
    const prompt =
      options.prompts?.[i % options.prompts.length] ??
      `${prefix} ${randomWords(random, options.words - shared)}`.trim()
    return {
      model: options.model,
      max_tokens: options.tokens,
      ...(options.prompts === undefined && { ignore_eos: true }),
      ...(options.endpoint === 'chat'
        ? { messages: [{ role: 'user', content: prompt }] }
        : { prompt }),
      ...options.more,
    }
  })
}

const readPrompts = (path: string): string[] =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line, i) => {
      const { prompt } = JSON.parse(line)
      if (typeof prompt !== 'string') throw new Error(`${path}:${i + 1}: no "prompt"`)
      return prompt
    })

export const run = async (args: readonly string[]): Promise<void> => {
  const flags = parse(args)
  if (flags.help) {
    process.stdout.write(HELP)
    return
  }
  if (flags['stream-cost']) return (await import('./stream-cost.js')).runStreamCost()
  if (flags.share !== undefined) {
    const shape = shapes[flags.share]
    const { runShare } = await import('./http-share.js')
    return runShare({
      folder: shape === undefined ? flags.share : benchModel(shape),
      streams: [1, 32],
      promptTokens: 32,
      outputTokens: 128,
      requests: (streams) => (streams === 1 ? 3 : 2 * streams),
      rounds: Number(flags.rounds),
      threads: Number(flags.threads),
    })
  }
  const random = createRandom(Number(flags.seed))
  const goodput = parseGoodput(flags.goodput)
  const target = createTarget(flags['base-url'], flags['api-key'], flags.endpoint)
  const model = flags.model ?? (await firstModel(target.baseUrl, flags['api-key']))
  const prompts = flags.dataset === undefined ? undefined : readPrompts(flags.dataset)
  const warmup = Number(flags.warmup)
  const bodies = makeBodies({
    model,
    endpoint: target.endpoint,
    count: Number(flags['num-prompts']) + warmup,
    words: Number(flags['input-len']),
    shared: Number(flags['shared-prefix']),
    tokens: Number(flags['output-len']),
    more: JSON.parse(flags.body),
    random,
    ...(prompts && { prompts }),
  })
  for (const body of bodies.splice(0, warmup)) await streamOnce(target, body)
  const rate = flags['request-rate'] === undefined ? undefined : Number(flags['request-rate'])
  const concurrency = Number(flags.concurrency ?? (rate === undefined ? 8 : bodies.length))
  const { outcomes, seconds } = await runLoad(target, { bodies, concurrency, rate, random })
  const result = report(outcomes, seconds, goodput)
  process.stdout.write(`${show(result)}\n`)
  if (flags.json !== undefined) {
    const all = {
      machine: machine(),
      base_url: target.baseUrl,
      model,
      concurrency,
      rate: rate ?? null,
      ...result,
    }
    writeFileSync(flags.json, `${JSON.stringify(all, null, 2)}\n`)
  }
  target.agent.destroy()
  if (result.completed === 0) process.exitCode = 1
}
