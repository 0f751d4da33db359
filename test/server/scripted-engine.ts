// An engine for tests of the HTTP layer: the contract of server/engine/types.ts without a model. One central
// step loop serves all sequences, as the real one does; what a request answers comes from a script.

import type {
  Delta,
  Engine,
  EngineInfo,
  EngineStats,
  FinishReason,
  GenerateRequest,
  Grammar,
  Timings,
  TokenLogprob,
} from '../../server/engine/types.js'
import { EngineFailure } from '../../server/failure.js'

/** What one choice answers: pieces of text, one an engine step. */
export type Script = {
  readonly pieces: readonly string[]
  readonly finish?: FinishReason
  readonly stopReason?: string | number
  readonly error?: string
  /** Steps before the first piece. */
  readonly delaySteps?: number
}

export type ScriptedOptions = {
  readonly answer?: (prompt: string, request: GenerateRequest, choice: number) => Script
  /** Of a reward model: its outputs for a prompt. */
  readonly score?: (prompt: string) => readonly number[]
  readonly stepMs?: number
  readonly maxNumSeqs?: number
  readonly maxWaiting?: number
  readonly info?: Partial<EngineInfo>
  /** What loading other weights does. Steps go on meanwhile. */
  readonly reload?: Engine['reload']
}

type Sequence = {
  readonly request: GenerateRequest
  readonly choice: number
  readonly onDelta: (delta: Delta) => void
  readonly script: Script
  next: number
  delay: number
  sent: number
  aborted: boolean
}

export type ScriptedEngine = Engine & {
  /** The text of a grammar that it gave. */
  readonly grammarText: (grammar: Grammar | undefined) => string | undefined
  readonly requests: GenerateRequest[]
  /** Replaces parts of what stats() says. */
  readonly override: { -readonly [K in keyof EngineStats]?: EngineStats[K] }
}

const PLAN = {
  weights: 1000,
  kv: 1000,
  activations: 100,
  total: 2100,
  available: 10000,
  numBlocks: 64,
  blockSize: 16,
  kvTokens: 1024,
  kvBytesPerToken: 1,
  draft: 0,
  draftKv: 0,
  draftKvBytesPerToken: 0,
  quantizes: false,
  unusedTensors: [],
  widenedTensors: [],
  table: 'scripted',
}

const logprobOf = (id: number, top: number): TokenLogprob => ({
  id,
  logprob: -0.5,
  rank: 1,
  top: Array.from({ length: top }, (_, i) => ({ id: (id + i) % 256, logprob: -0.5 - i })),
})

const known = new Map<string, readonly number[]>()
/** The bytes of a piece; remembered, so that benches measure the server and not this. */
const idsOf = (piece: string): readonly number[] => {
  const found = known.get(piece) ?? [...Buffer.from(piece)]
  known.set(piece, found)
  return found
}

const promptText = (ids: ArrayLike<number>): string =>
  Buffer.from(Array.from(ids).filter((id) => id < 256)).toString()

const TIMINGS: Timings = {
  queueSeconds: 0.001,
  prefillSeconds: 0.002,
  decodeSeconds: 0.003,
  cachedTokens: 0,
  preemptions: 0,
  draftedTokens: 0,
  acceptedTokens: 0,
  cacheMiss: { reason: 'never_seen', position: 0 },
}

const LOAD = { openSeconds: 0, packSeconds: 0, prepareSeconds: 0, bytes: 0 }

const INFO: Omit<EngineInfo, 'maxNumSeqs' | 'places'> = {
  model: 'scripted',
  architecture: 'LlamaForCausalLM',
  device: 'test',
  deviceNote: 'test',
  dtype: 'bf16',
  maxModelLen: 1024,
  maxNumBatchedTokens: 512,
  vocabSize: 263,
  bosTokenId: 256,
  eosTokenIds: [260],
  generation: { greedy: false },
  rewardLabels: null,
  rewardKind: 'none',
  rewardOutputs: 0,
  plan: PLAN,
  load: LOAD,
  draft: null,
  ranks: [{ device: 'test', plan: PLAN, load: LOAD }],
  fingerprint: 'fp_test',
}

const finishOf = (
  sequence: Sequence,
  finish: FinishReason,
  ids: readonly number[],
  text: string,
): Delta => {
  const { script, request } = sequence
  return {
    choice: sequence.choice,
    text,
    tokenIds: ids,
    finish,
    ...(script.stopReason !== undefined && { stopReason: script.stopReason }),
    ...(finish === 'error' && {
      error: { code: 'internal' as const, message: script.error ?? 'scripted failure' },
    }),
    timings: { ...TIMINGS, cachedTokens: request.cacheSalt === 'cached' ? 4 : 0 },
  }
}

/** The ids and the text of the next piece, as far as max_tokens lets them. */
const nextPiece = (sequence: Sequence, limit: number) => {
  const piece = sequence.script.pieces[sequence.next++] ?? ''
  const room = limit - sequence.sent
  const all = idsOf(piece)
  if (all.length <= room) return { ids: all, text: piece }
  const ids = all.slice(0, room)
  return { ids, text: Buffer.from(ids).toString() }
}

type Counts = { steps: number; generated: number; aborted: number }

/** Those that have told of their prompt. */
const prompted = new WeakSet<GenerateRequest>()

/** In the first delta of a request, whichever choice it is of. */
const promptLogprobs = (request: GenerateRequest): Pick<Delta, 'promptLogprobs'> => {
  const top = request.sampling?.promptLogprobs
  if (top === undefined || prompted.has(request)) return {}
  prompted.add(request)
  return {
    promptLogprobs: Array.from(request.promptTokenIds, (id, i) =>
      i === 0 ? null : logprobOf(id, top),
    ),
  }
}

/** One step of a sequence; false: it has ended. */
const advance = (sequence: Sequence, counts: Counts): boolean => {
  const { script, request, choice, onDelta } = sequence
  if (sequence.aborted) {
    counts.aborted++
    onDelta(finishOf(sequence, 'abort', [], ''))
    return false
  }
  if (sequence.delay-- > 0) return true
  const sampling = request.sampling ?? {}
  const limit = sampling.maxTokens ?? 16
  const isFirst = sequence.next === 0
  const { ids, text } = nextPiece(sequence, limit)
  sequence.sent += ids.length
  counts.generated += ids.length
  const full = sequence.sent >= limit
  const done = full || sequence.next >= script.pieces.length
  if (!done && !isFirst && sampling.logprobs === undefined) {
    onDelta({ choice, text, tokenIds: ids })
    return true
  }
  const finish = script.finish === 'error' ? 'error' : full ? 'length' : (script.finish ?? 'stop')
  const base = done ? finishOf(sequence, finish, ids, text) : { choice, text, tokenIds: ids }
  onDelta({
    ...base,
    ...(sampling.logprobs !== undefined && {
      logprobs: ids.map((id) => ({
        ...logprobOf(id, sampling.logprobs ?? 0),
        ...(sampling.logprobIds && {
          top: sampling.logprobIds.map((one) => ({ id: one, logprob: -0.5 - (one % 7) })),
        }),
      })),
    }),
    ...promptLogprobs(request),
  })
  return !done
}

const isBackground = ({ request }: Sequence): boolean => request.background === true

/** The central step loop: the first come are the first to run, but for those in the background. */
const createLoop = (stepMs: number, maxNumSeqs: number) => {
  const running: Sequence[] = []
  const waiting: Sequence[] = []
  const counts: Counts = { steps: 0, generated: 0, aborted: 0 }
  let timer: NodeJS.Timeout | undefined
  let isPaused = false
  const step = () => {
    if (isPaused) {
      timer = undefined
      return
    }
    counts.steps++
    const all = [...running, ...waiting]
    const order = [...all.filter((one) => !isBackground(one)), ...all.filter(isBackground)]
    running.splice(0, running.length, ...order.slice(0, maxNumSeqs))
    waiting.splice(0, waiting.length, ...order.slice(maxNumSeqs))
    const alive = running.filter((sequence) => advance(sequence, counts))
    running.length = 0
    running.push(...alive)
    timer = running.length + waiting.length > 0 ? setTimeout(step, stepMs) : undefined
  }
  return {
    counts,
    running: () => running.length,
    waiting: () => waiting.filter((one) => !isBackground(one)).length,
    isPaused: () => isPaused,
    pause: (on: boolean) => {
      isPaused = on
      if (!on && running.length + waiting.length > 0) timer ??= setTimeout(step, stepMs)
    },
    placed: () => [...running, ...waiting].filter((one) => !isBackground(one)).length,
    add: (sequences: readonly Sequence[]) => {
      waiting.push(...sequences)
      timer ??= setTimeout(step, stepMs)
    },
    /** Ends them all. */
    abort: () => {
      clearTimeout(timer)
      timer = undefined
      const left = [...running, ...waiting]
      running.length = 0
      waiting.length = 0
      for (const sequence of left) sequence.onDelta(finishOf(sequence, 'abort', [], ''))
    },
  }
}
type Loop = ReturnType<typeof createLoop>

const statsOf = ({ counts, running, waiting }: Loop): EngineStats => ({
  steps: counts.steps,
  promptTokens: 0,
  generatedTokens: counts.generated,
  cachedTokens: 0,
  queriedTokens: 0,
  preemptions: 0,
  aborted: counts.aborted,
  finishedStop: 0,
  finishedLength: 0,
  failed: 0,
  rejected: 0,
  drafts: {
    grammar: { drafted: 0, accepted: 0 },
    lookup: { drafted: 0, accepted: 0 },
    model: { drafted: 0, accepted: 0 },
  },
  missNeverSeen: 0,
  missEvicted: 0,
  running: running(),
  waiting: waiting(),
  waitingTokens: 0,
  blocksTotal: 64,
  blocksUsed: running(),
  blocksCached: 0,
  rows: counts.generated,
  stepsByRows: [counts.steps, ...Array<number>(13).fill(0)],
  stepSecondsSum: 0,
  lastStepAge: 0,
  lastStepRows: running(),
  lastStepSeqs: running(),
  launchedRows: running(),
  launchedSeqs: running(),
  drafting: false,
  rankLayers: [0],
  failure: null,
})

const pausing = ({ pause, isPaused }: Loop) => ({
  resume: () => pause(false),
  isPaused,
  goesOn: () => false,
})

const echo = (prompt: string): Script => ({ pieces: [...`echo: ${prompt.slice(-20)}`] })

export const createScriptedEngine = (options: ScriptedOptions = {}): ScriptedEngine => {
  const { answer = echo, stepMs = 1, maxNumSeqs = 64, maxWaiting = 256 } = options
  const loop = createLoop(stepMs, maxNumSeqs)
  const requests: GenerateRequest[] = []
  const override: ScriptedEngine['override'] = {}
  const grammars = new Map<Grammar, string>()
  let nextId = 1
  let draining = false
  const isFull = () => loop.placed() >= maxNumSeqs + maxWaiting

  const submit: Engine['submit'] = (request, onDelta) => {
    if (draining) throw new EngineFailure({ code: 'unavailable', message: 'draining' })
    if (isFull() && request.admitted !== true && request.background !== true)
      throw new EngineFailure({ code: 'queue_full', message: 'the queue is full' })
    requests.push(request)
    const prompt = promptText(request.promptTokenIds)
    const mine = Array.from({ length: request.n ?? 1 }, (_, choice): Sequence => {
      const script = answer(prompt, request, choice)
      const delay = script.delaySteps ?? 0
      return { request, choice, onDelta, script, next: 0, delay, sent: 0, aborted: false }
    })
    loop.add(mine)
    return {
      id: nextId++,
      abort: () => {
        for (const sequence of mine) sequence.aborted = true
      },
    }
  }

  return {
    info: { ...INFO, maxNumSeqs, places: maxNumSeqs + maxWaiting, ...options.info },
    requests,
    override,
    submit,
    generate: () => {
      throw new Error('not scripted')
    },
    compileGrammar: async (text) => {
      const grammar = {} as Grammar
      grammars.set(grammar, text)
      return grammar
    },
    grammarText: (grammar) => grammar && grammars.get(grammar),
    score: async ({ promptTokenIds }, { signal } = {}) => {
      await new Promise((done) => setTimeout(done, stepMs))
      if (signal?.aborted) throw new EngineFailure({ code: 'aborted', message: 'aborted' })
      if (!options.score) throw new EngineFailure({ code: 'internal', message: 'not scripted' })
      const timings = { ...TIMINGS, cachedTokens: 8 }
      return { scores: options.score(promptText(promptTokenIds)), timings }
    },
    isFull,
    stats: () => ({ ...statsOf(loop), ...override }),
    pause: async (mode) => {
      if (mode === 'wait') throw new Error('not scripted')
      loop.pause(true)
      if (mode === 'abort') loop.abort()
    },
    ...pausing(loop),
    reload: options.reload ?? (() => Promise.reject(new Error('the script has no other weights'))),
    drain: () => {
      draining = true
    },
    close: async () => {
      draining = true
      loop.abort()
    },
  }
}
