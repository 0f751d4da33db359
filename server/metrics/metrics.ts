// Prometheus metrics: vLLM's names, labels, types and buckets, so that its boards show our data, and
// ours. Counters that the engine keeps are read from it when /metrics is asked.

import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Engine, EngineStats, Timings } from '../engine/types.js'
import { createFastHistogram, type FastHistogram, registerSeries } from './fast-histogram.js'

const TTFT = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
  160, 640, 2560,
]
const PER_TOKEN = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
]
const LATENCY = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
]
const HTTP_SECONDS = [0.1, 0.5, 1]
const REASONS = ['stop', 'length', 'abort', 'error'] as const

/** 1, 2, 5, 10, ... up to the longest context. */
const tokenBuckets = (max: number): number[] => {
  const list: number[] = []
  for (let decade = 1; ; decade *= 10) {
    for (const step of [1, 2, 5]) {
      if (step * decade > max) return list
      list.push(step * decade)
    }
  }
}

type RequestOutcome = {
  /** Since the request came. Undefined: nobody waited for it. */
  readonly seconds: number | undefined
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly choices: number
  readonly maxTokens: number
  /** Of the choice that got the most. */
  readonly mostTokens: number
}

type ChoiceOutcome = {
  readonly finish: (typeof REASONS)[number]
  readonly tokens: number
  readonly timings: Timings | undefined
}

/** How many were measured, and the sum of them in seconds. */
type Measured = { readonly count: number; readonly sum: number }

export type ModelMetrics = {
  readonly firstToken: (seconds: number) => void
  readonly nextToken: (seconds: number, tokens: number) => void
  readonly choiceDone: (outcome: ChoiceOutcome) => void
  readonly requestDone: (outcome: RequestOutcome) => void
  readonly rejected: () => void
  /** Since the model was loaded. */
  readonly latencies: () => { readonly firstToken: Measured; readonly nextToken: Measured }
}

type HttpOutcome = {
  readonly handler: string
  readonly method: string
  readonly status: number
  readonly seconds: number
  readonly requestBytes: number
  readonly responseBytes: number
}

type BatchProgress = {
  readonly byStatus: Readonly<Record<string, number>>
  /** Lines of batches in progress without an answer, those that are being asked among them. */
  readonly open: number
  readonly running: number
  /** Lines, since the server started. */
  readonly completed: number
  readonly failed: number
}

/** As they were set. */
type CacheSettings = { readonly kvCacheDtype: string; readonly prefixCache: boolean }

export type Metrics = {
  readonly addModel: (name: string, engine: Engine, cache: CacheSettings) => ModelMetrics
  readonly httpDone: (outcome: HttpOutcome) => void
  /** Reads how far batches are when /metrics is asked. */
  readonly addBatches: (read: () => BatchProgress) => void
  readonly text: () => Promise<string>
  readonly contentType: string
}

const LABELS = ['model_name', 'engine'] as const

const SOURCES = ['grammar', 'lookup', 'model'] as const

const sumOf = ({ drafts }: EngineStats, what: 'drafted' | 'accepted'): number =>
  SOURCES.reduce((sum, source) => sum + drafts[source][what], 0)

/** Engine counters, by the names they get here. */
const COUNTERS: readonly (readonly [string, string, (s: EngineStats) => number])[] = [
  ['vllm:prompt_tokens_total', 'Prompt tokens, counted for each choice.', (s) => s.promptTokens],
  ['vllm:generation_tokens_total', 'Tokens generated.', (s) => s.generatedTokens],
  ['vllm:num_preemptions_total', 'Preemptions.', (s) => s.preemptions],
  [
    'vllm:prefix_cache_queries_total',
    'Tokens looked up in the prefix cache.',
    (s) => s.queriedTokens,
  ],
  ['vllm:prefix_cache_hits_total', 'Tokens found in the prefix cache.', (s) => s.cachedTokens],
  [
    'vllm:gpu_prefix_cache_queries_total',
    'Older name of prefix_cache_queries.',
    (s) => s.queriedTokens,
  ],
  ['vllm:gpu_prefix_cache_hits_total', 'Older name of prefix_cache_hits.', (s) => s.cachedTokens],
  ['vllm:prompt_tokens_cached_total', 'Prompt tokens taken from the cache.', (s) => s.cachedTokens],
  ['vllm:spec_decode_num_draft_tokens_total', 'Tokens drafted.', (s) => sumOf(s, 'drafted')],
  [
    'vllm:spec_decode_num_accepted_tokens_total',
    'Drafted tokens accepted.',
    (s) => sumOf(s, 'accepted'),
  ],
  ['nemotron:engine_steps_total', 'Forward passes.', (s) => s.steps],
  ['nemotron:engine_step_seconds_total', 'Time in forward passes.', (s) => s.stepSecondsSum],
  ['nemotron:requests_aborted_total', 'Requests aborted.', (s) => s.aborted],
  ['nemotron:requests_failed_total', 'Requests failed.', (s) => s.failed],
]

const GAUGES: readonly (readonly [string, string, (s: EngineStats) => number])[] = [
  ['vllm:num_requests_running', 'Requests in execution.', (s) => s.running],
  ['vllm:num_requests_waiting', 'Requests waiting, without lines of batches.', (s) => s.waiting],
  [
    'vllm:kv_cache_usage_perc',
    'KV cache in use, 0 to 1.',
    (s) => s.blocksUsed / Math.max(1, s.blocksTotal),
  ],
  [
    'vllm:gpu_cache_usage_perc',
    'Older name of kv_cache_usage_perc.',
    (s) => s.blocksUsed / Math.max(1, s.blocksTotal),
  ],
  ['nemotron:waiting_tokens', 'Prompt tokens waiting.', (s) => s.waitingTokens],
  ['nemotron:kv_blocks', 'KV blocks.', (s) => s.blocksTotal],
  ['nemotron:kv_blocks_used', 'KV blocks held by sequences.', (s) => s.blocksUsed],
  [
    'nemotron:kv_blocks_cached',
    'Free KV blocks whose content can be reused.',
    (s) => s.blocksCached,
  ],
  ['nemotron:last_step_rows', 'Tokens in the last step.', (s) => s.lastStepRows],
  ['nemotron:last_step_sequences', 'Sequences in the last step.', (s) => s.lastStepSeqs],
  [
    'nemotron:last_step_age_seconds',
    'Time without progress while there was work.',
    (s) => s.lastStepAge,
  ],
]

type Served = {
  readonly labels: { model_name: string; engine: string }
  readonly stats: () => EngineStats
}

const addEngineMetrics = (registry: Registry, served: readonly Served[]): void => {
  const registers = [registry]
  const labelNames = [...LABELS]
  for (const [name, help, read] of COUNTERS) {
    new Counter({
      name,
      help,
      labelNames,
      registers,
      collect() {
        this.reset()
        for (const one of served) this.inc(one.labels, read(one.stats()))
      },
    })
  }
  for (const [name, help, read] of GAUGES) {
    new Gauge({
      name,
      help,
      labelNames,
      registers,
      collect() {
        for (const one of served) this.set(one.labels, read(one.stats()))
      },
    })
  }
  for (const what of ['drafted', 'accepted'] as const) {
    new Counter({
      name: `nemotron:${what}_tokens_total`,
      help: `Guesses of tokens ${what}, by who guessed.`,
      labelNames: [...LABELS, 'source'],
      registers,
      collect() {
        this.reset()
        for (const { labels, stats } of served) {
          const { drafts } = stats()
          for (const source of SOURCES) this.inc({ ...labels, source }, drafts[source][what])
        }
      },
    })
  }
  new Counter({
    name: 'nemotron:prefix_cache_misses_total',
    help: 'Prompts whose cached part ended, by why.',
    labelNames: [...LABELS, 'reason'],
    registers,
    collect() {
      this.reset()
      for (const { labels, stats } of served) {
        const s = stats()
        this.inc({ ...labels, reason: 'never_seen' }, s.missNeverSeen)
        this.inc({ ...labels, reason: 'evicted' }, s.missEvicted)
      }
    },
  })
}

/** vLLM's buckets; the engine counts (kStepRowBounds in addon/engine/engine.h). */
const STEP_ROWS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]

const addIterationTokens = (registry: Registry, served: readonly Served[]): void =>
  registerSeries(registry, 'vllm:iteration_tokens_total', 'Tokens of a step.', STEP_ROWS, () =>
    served.map(({ labels, stats }) => {
      const { rows, steps, stepsByRows } = stats()
      return { labels, counts: stepsByRows, sum: rows, count: steps }
    }),
  )

const addProcessMetrics = (registry: Registry): void => {
  const registers = [registry]
  new Gauge({
    name: 'process_resident_memory_bytes',
    help: 'Resident memory size in bytes.',
    registers,
    collect() {
      this.set(process.memoryUsage.rss())
    },
  })
  new Counter({
    name: 'process_cpu_seconds_total',
    help: 'User and system CPU time in seconds.',
    registers,
    collect() {
      const { user, system } = process.cpuUsage()
      this.reset()
      this.inc((user + system) / 1e6)
    },
  })
  new Gauge({
    name: 'process_start_time_seconds',
    help: 'Start time of the process since the epoch in seconds.',
    registers,
  }).set(Date.now() / 1000 - process.uptime())
}

type Labels = Served['labels']

/** Of the models' requests: seconds, and how many there were of something. */
const requestHistograms = (registry: Registry) => {
  const make = (name: string, help: string, buckets: readonly number[] = LATENCY) =>
    new Histogram({
      name,
      help,
      labelNames: [...LABELS],
      buckets: [...buckets],
      registers: [registry],
    })
  const seconds = {
    ttft: make('vllm:time_to_first_token_seconds', 'Time to first token.', TTFT),
    e2e: make('vllm:e2e_request_latency_seconds', 'Request latency.'),
    queue: make('vllm:request_queue_time_seconds', 'Time in the queue.'),
    inference: make('vllm:request_inference_time_seconds', 'Time in execution.'),
    prefill: make('vllm:request_prefill_time_seconds', 'Time in prefill.'),
    decode: make('vllm:request_decode_time_seconds', 'Time in decode.'),
    perToken: make(
      'vllm:request_time_per_output_token_seconds',
      'Mean time per token after the first.',
      PER_TOKEN,
    ),
    n: make('vllm:request_params_n', 'The n of requests.', [1, 2, 5, 10, 20]),
  }
  const tokens = (buckets: readonly number[]) => ({
    prompt: make(
      'vllm:request_prompt_tokens',
      'Prompt tokens of requests, counted once whatever n is.',
      buckets,
    ),
    generation: make('vllm:request_generation_tokens', 'Generated tokens of choices.', buckets),
    maxGeneration: make(
      'vllm:request_max_num_generation_tokens',
      'Most tokens generated for a choice of a request.',
      buckets,
    ),
    maxTokens: make('vllm:request_params_max_tokens', 'The max_tokens of requests.', buckets),
    computed: make(
      'vllm:request_prefill_kv_computed_tokens',
      'Prompt tokens computed, not taken from the cache.',
      buckets,
    ),
  })
  let counts: ReturnType<typeof tokens> | undefined
  return {
    ...seconds,
    /** Have buckets up to the longest context, known with the first model. */
    tokens: (maxModelLen: number) => {
      counts ??= tokens(tokenBuckets(maxModelLen))
      return counts
    },
  }
}

const modelCounters = (registry: Registry) => {
  const registers = [registry]
  return {
    success: new Counter({
      name: 'vllm:request_success_total',
      help: 'Finished choices, by why they finished.',
      labelNames: [...LABELS, 'finished_reason'],
      registers,
    }),
    rejections: new Counter({
      name: 'vllm:admission_rejections_total',
      help: 'Requests refused because the queue was full.',
      labelNames: [...LABELS],
      registers,
    }),
    rankMemory: new Gauge({
      name: 'nemotron:rank_memory_bytes',
      help: 'What each rank of --tensor-parallel-size holds.',
      labelNames: [...LABELS, 'rank', 'part'],
      registers,
    }),
    cacheInfo: new Gauge({
      name: 'vllm:cache_config_info',
      help: 'The KV cache as configured.',
      labelNames: [
        ...LABELS,
        'block_size',
        'num_gpu_blocks',
        'cache_dtype',
        'enable_prefix_caching',
      ],
      registers,
    }),
  }
}

/** HTTP requests, whatever they asked for. */
const httpMetrics = (registry: Registry): Metrics['httpDone'] => {
  const registers = [registry]
  const requests = new Counter({
    name: 'http_requests_total',
    help: 'HTTP requests.',
    labelNames: ['handler', 'method', 'status'],
    registers,
  })
  const make = (name: string, help: string, labelNames: string[], buckets: number[]) =>
    new Histogram({ name, help, labelNames, buckets, registers })
  const latency = 'HTTP request latency.'
  const byHandler = ['handler', 'method']
  const duration = make('http_request_duration_seconds', latency, byHandler, HTTP_SECONDS)
  const durationHigh = make('http_request_duration_highr_seconds', latency, [], TTFT)
  const SIZES = [256, 4096, 65536, 1048576]
  const requestSize = make('http_request_size_bytes', 'HTTP request bodies.', ['handler'], SIZES)
  const responseSize = make('http_response_size_bytes', 'HTTP answers.', ['handler'], SIZES)
  return ({ handler, method, status, seconds, requestBytes, responseBytes }) => {
    requests.inc({ handler, method, status: `${Math.floor(status / 100)}xx` })
    duration.observe({ handler, method }, seconds)
    durationHigh.observe(seconds)
    requestSize.observe({ handler }, requestBytes)
    responseSize.observe({ handler }, responseBytes)
  }
}

const addBatchMetrics = (registry: Registry, read: () => BatchProgress): void => {
  const registers = [registry]
  new Gauge({
    name: 'nemotron:batches',
    help: 'Batches, by status.',
    labelNames: ['status'],
    registers,
    collect() {
      this.reset()
      for (const [status, count] of Object.entries(read().byStatus)) this.set({ status }, count)
    },
  })
  new Gauge({
    name: 'nemotron:batch_lines_open',
    help: 'Lines of batches in progress without an answer.',
    registers,
    collect() {
      this.set(read().open)
    },
  })
  new Gauge({
    name: 'nemotron:batch_lines_running',
    help: 'Lines of batches that are being asked.',
    registers,
    collect() {
      this.set(read().running)
    },
  })
  new Counter({
    name: 'nemotron:batch_lines_total',
    help: 'Lines of batches that were answered, by how.',
    labelNames: ['outcome'],
    registers,
    collect() {
      const { completed, failed } = read()
      this.reset()
      this.inc({ outcome: 'completed' }, completed)
      this.inc({ outcome: 'failed' }, failed)
    },
  })
}

type ModelParts = ReturnType<typeof modelCounters> & {
  readonly requests: ReturnType<typeof requestHistograms>
  readonly between: ReturnType<FastHistogram>
}

const modelMetrics = (labels: Labels, maxModelLen: number, parts: ModelParts): ModelMetrics => {
  const { requests, success, rejections, between } = parts
  const tokens = requests.tokens(maxModelLen)
  const firstToken = { count: 0, sum: 0 }
  return {
    firstToken: (seconds) => {
      requests.ttft.observe(labels, seconds)
      firstToken.count++
      firstToken.sum += seconds
    },
    nextToken: between.observe,
    choiceDone: ({ finish, tokens: generated, timings }) => {
      success.inc({ ...labels, finished_reason: finish })
      tokens.generation.observe(labels, generated)
      if (timings === undefined) return
      const { queueSeconds, prefillSeconds, decodeSeconds } = timings
      requests.queue.observe(labels, queueSeconds)
      requests.prefill.observe(labels, prefillSeconds)
      requests.decode.observe(labels, decodeSeconds)
      requests.inference.observe(labels, prefillSeconds + decodeSeconds)
      if (generated > 1) requests.perToken.observe(labels, decodeSeconds / (generated - 1))
    },
    requestDone: (outcome) => {
      if (outcome.seconds !== undefined) requests.e2e.observe(labels, outcome.seconds)
      requests.n.observe(labels, outcome.choices)
      tokens.prompt.observe(labels, outcome.promptTokens)
      tokens.maxTokens.observe(labels, outcome.maxTokens)
      tokens.maxGeneration.observe(labels, outcome.mostTokens)
      tokens.computed.observe(labels, outcome.promptTokens - outcome.cachedTokens)
    },
    rejected: () => rejections.inc(labels),
    latencies: () => ({ firstToken: { ...firstToken }, nextToken: between.measured() }),
  }
}

export const createMetrics = (): Metrics => {
  const registry = new Registry()
  const served: Served[] = []
  addEngineMetrics(registry, served)
  addIterationTokens(registry, served)
  addProcessMetrics(registry)
  const perToken = createFastHistogram(
    registry,
    [
      { name: 'vllm:inter_token_latency_seconds', help: 'Time between tokens.' },
      { name: 'vllm:time_per_output_token_seconds', help: 'Older name of inter_token_latency.' },
    ],
    PER_TOKEN,
  )
  const requests = requestHistograms(registry)
  const counters = modelCounters(registry)
  return {
    addModel: (name, engine, { kvCacheDtype, prefixCache }) => {
      const labels = { model_name: name, engine: '0' }
      const { plan, ranks, maxModelLen } = engine.info
      served.push({ labels, stats: engine.stats })
      for (const reason of REASONS) counters.success.inc({ ...labels, finished_reason: reason }, 0)
      counters.rejections.inc(labels, 0)
      for (const [rank, { plan }] of ranks.entries()) {
        counters.rankMemory.set({ ...labels, rank, part: 'weights' }, plan.weights)
        counters.rankMemory.set({ ...labels, rank, part: 'kv_cache' }, plan.kv)
      }
      counters.cacheInfo.set(
        {
          ...labels,
          block_size: plan.blockSize,
          num_gpu_blocks: plan.numBlocks,
          cache_dtype: kvCacheDtype,
          enable_prefix_caching: prefixCache ? 'True' : 'False', // as Python writes them
        },
        1,
      )
      return modelMetrics(labels, maxModelLen, { ...counters, requests, between: perToken(labels) })
    },
    httpDone: httpMetrics(registry),
    addBatches: (read) => addBatchMetrics(registry, read),
    text: () => registry.metrics(),
    contentType: registry.contentType,
  }
}
