// The addon as TypeScript sees it: finding it, its functions, and the unpacking of its deltas.

import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { EngineError, EngineErrorCode } from '../failure.js'
import { EngineFailure, messageOf } from '../failure.js'
import { packagePath } from '../version.js'
import type {
  Delta,
  DraftInfo,
  EngineInfo,
  EngineOptions,
  EngineStats,
  FinishReason,
  GenerateRequest,
  GenerationDefaults,
  Grammar,
  LoadProgress,
  MemoryPlan,
  Sampling,
  Timings,
  TokenLogprob,
} from './types.js'

/** As Partial, for a reader to whom undefined and absent are the same. */
type Loose<T> = { readonly [K in keyof T]?: T[K] | undefined }

/** As the addon takes it; see read_engine_options in addon/napi/convert.cc. */
type NativeOptions = Loose<
  Omit<EngineOptions, 'model' | 'dtype' | 'rewardRows' | 'onProgress' | 'onPlan'>
> & {
  readonly model: string
  readonly dtype: 'stored' | 'fp8' | 'int4' | 'int8'
  readonly stopIds: Int32Array
  readonly rewardRows: Int32Array
  /** The bytes of all tokens, one after another; where each ends; which are special. */
  readonly tokenBytes: Uint8Array
  readonly tokenEnds: Uint32Array
  readonly tokenSpecial: Uint8Array
}

type OwnFields =
  | 'seed'
  | 'stopScope'
  | 'thinkingOpen'
  | 'mayThink'
  | 'stopTokenIds'
  | 'allowedTokenIds'
  | 'logprobIds'
  | 'badWordIds'
  | 'logitBias'

/** With a thinking budget or a grammar. */
export type NativeThinking = {
  /** Whether the prompt ends inside a block. */
  readonly thinkOpen: boolean
  /** The texts that begin and end a block. */
  readonly thinkBegin: string
  readonly thinkEnd: string
  /** The ids that end a block by force. */
  readonly thinkClose: Int32Array
}

export type NativeSampling = Loose<Omit<Sampling, OwnFields>> &
  Loose<NativeThinking> & {
    readonly seed: bigint
    /** As StopScope of output_text.h. */
    readonly stopScope: number
    readonly stopTokenIds?: Int32Array | undefined
    readonly allowedTokenIds?: Int32Array | undefined
    readonly logprobIds?: Int32Array | undefined
    readonly badWordIds?: readonly Int32Array[] | undefined
    /** Ids, and what is added to the logit of each. */
    readonly logitBiasIds?: Int32Array | undefined
    readonly logitBias?: Float32Array | undefined
  }

type NativeRequest = Loose<Omit<GenerateRequest, 'promptTokenIds' | 'sampling' | 'since'>> & {
  /** A pause of later ones does not hold it. */
  readonly goesOn: boolean
  readonly id: number
  readonly kind: 'generate' | 'score'
  readonly prompt: Int32Array
  readonly sampling: NativeSampling | undefined
}

export type NativeConfig = {
  readonly architecture: string
  readonly hidden: number
  readonly vocab: number
  readonly layers: number
  readonly qHeads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly intermediate: number
  readonly maxPosition: number
  readonly ropeTheta: number
  readonly ropeScaling: 'none' | 'llama3' | 'yarn' | 'divided'
  readonly tied: boolean
  readonly dtype: string
  readonly quantization: 'none' | 'modelopt_fp8' | 'compressed_fp8' | 'vllm_fp8'
  readonly kvScales: boolean
  readonly reward: 'none' | 'lm_head_rows' | 'classification'
  readonly rewardLabels: readonly string[]
  readonly rewardOutputs: number
  /** -1: none. */
  readonly bosId: number
  readonly eosIds: readonly number[]
  readonly generation: GenerationDefaults
}

export type NativeInfo = {
  readonly config: NativeConfig
  readonly plan: MemoryPlan
  readonly load: EngineInfo['load']
  readonly ranks: EngineInfo['ranks']
  readonly draft:
    | (Omit<DraftInfo, 'model' | 'architecture'> & { readonly config: NativeConfig })
    | null
  readonly device: string
  readonly deviceNote: string
  readonly maxModelLen: number
  readonly maxNumSeqs: number
  readonly places: number
  readonly maxNumBatchedTokens: number
}

type NativeEngine = {
  readonly submit: (request: NativeRequest) => EngineError | undefined
  /** Rejects with an EngineError. */
  readonly compileGrammar: (text: string) => Promise<Grammar>
  readonly isFull: () => boolean
  readonly abort: (id: number) => void
  readonly stats: () => EngineStats
  readonly pause: (pause: 'none' | 'later' | 'all') => void
  /** While it is on, whatever the pause is. */
  readonly stopSteps: (on: boolean) => void
  /** Rejects with an EngineError. */
  readonly reload: (folder: string) => Promise<void>
  readonly drain: () => void
  readonly close: () => Promise<void>
  /** Before close(). */
  readonly info: () => NativeInfo
}

type NativeListeners = {
  readonly onProgress: (phase: LoadProgress['phase'], bytesDone: number, bytesTotal: number) => void
  readonly onPlan: (plan: MemoryPlan) => void
  /** `words` is used again by the next call. */
  readonly onDeltas: (words: Float64Array, count: number, text: string) => void
}

export type NativeModelInfo = {
  readonly config: NativeConfig
  readonly parameters: number
  readonly bytes: number
  readonly tensors: number
  /** A hash of names, types and shapes of the tensors. */
  readonly layout: string
  readonly gpus: readonly GpuFit[]
  /** On the CPU, by what becomes of the weights. */
  readonly cpu: readonly CpuNeed[]
  /** As MemoryPlan's. */
  readonly widened: MemoryPlan['widenedTensors']
}

/** What is left for KV cache on each of `ranks` GPUs of a kind; see models/gpu_fit.h. */
export type GpuFit = {
  readonly gpu: string
  readonly gpuBytes: number
  readonly ranks: number
  readonly format: 'stored' | 'fp8' | 'int4'
  readonly weights: number
  /** 0: the weights do not fit. */
  readonly kvTokensBf16: number
  readonly kvTokensFp8: number
}

/** Bytes; a draft model's are 0 where there is none. */
export type CpuNeed = {
  readonly format: 'stored' | 'fp8' | 'int8' | 'int4'
  readonly weights: number
  readonly kvBytesPerToken: number
  readonly draftWeights: number
  readonly draftKvBytesPerToken: number
}

/** What the numbers in packed deltas mean; see addon/napi/pack.h. */
export type PackedNames = {
  readonly finishes: readonly (FinishReason | 'none')[]
  readonly missReasons: readonly Timings['cacheMiss']['reason'][]
  readonly codes: readonly (EngineErrorCode | 'ok')[]
}

type Addon = {
  /** Rejects with an EngineError. */
  readonly createEngine: (
    options: NativeOptions,
    listeners: NativeListeners,
  ) => Promise<NativeEngine>
  /** What createEngine() would refuse of options and of the headers of the files, whatever memory there is. */
  readonly checkEngine: (
    options: Partial<NativeOptions> & Pick<NativeOptions, 'model'>,
  ) => EngineError | undefined
  readonly modelInfo: (
    folder: string,
    rewardRows: readonly number[],
    draftFolder?: string,
  ) => NativeModelInfo | EngineError
  readonly packedNames: PackedNames
}

let loaded: Addon | undefined

/** The addon: NEMOTRON_ADDON, or build/Release/nemotron.node in the package. */
export const loadAddon = (): Addon => {
  if (loaded) return loaded
  const path = process.env.NEMOTRON_ADDON ?? packagePath('build/Release/nemotron.node')
  const advice = `run \`node ${packagePath('scripts/install.mjs')}\`, which names what is missing`
  if (!existsSync(path)) {
    throw new EngineFailure({
      code: 'unavailable',
      message: `the native engine ${path} is not there (an install without scripts?): ${advice}`,
    })
  }
  try {
    loaded = createRequire(import.meta.url)(path) as Addon
  } catch (error) {
    const reason = messageOf(error)
    throw new EngineFailure(
      {
        code: 'unavailable',
        message: `the native engine ${path} cannot be loaded: ${reason}. Build it here: ${advice}`,
      },
      { cause: error },
    )
  }
  return loaded
}

// --- unpacking: the layout is described in addon/napi/pack.h ---

const logprobAt = (words: Float64Array, at: number): TokenLogprob => {
  const word = (i: number) => words[at + i] ?? 0
  const top = Array.from({ length: word(3) }, (_, i) => ({
    id: word(4 + 2 * i) | 0,
    logprob: word(5 + 2 * i),
  }))
  return { id: word(0) | 0, logprob: word(1), rank: word(2) | 0, top }
}

const logprobWords = (words: Float64Array, at: number): number => 4 + 2 * (words[at + 3] ?? 0)

/** Of a prompt, whose first token has none. Made while they are read: a long prompt has too many to
 * make in one go. */
const promptLogprobs = (words: Float64Array): Iterable<TokenLogprob | null> => ({
  *[Symbol.iterator]() {
    yield null
    let at = logprobWords(words, 0)
    for (; at < words.length; at += logprobWords(words, at)) yield logprobAt(words, at)
  },
})

/** Calls `visit(request, delta, stopIndex)` for each record; stopIndex -1: no stop string. */
export const unpackDeltas = (
  words: Float64Array,
  count: number,
  text: string,
  names: PackedNames,
  visit: (request: number, delta: Delta, stopIndex: number) => void,
): void => {
  let at = 0
  let textAt = 0
  const next = () => words[at++] ?? 0
  const take = (length: number) => {
    textAt += length
    return text.slice(textAt - length, textAt)
  }
  const pass = (entries: number) => {
    for (let i = 0; i < entries; i++) at += logprobWords(words, at)
  }
  while (at < count) {
    const request = next()
    const choice = next() | 0
    const finishName = names.finishes[next()] ?? 'none'
    const finish = finishName === 'none' ? undefined : finishName
    const textLength = next()
    const ids = next()
    const logprobCount = next()
    const promptLogprobCount = next()
    const scores = next()
    const stopId = next() | 0
    const stopIndex = next() | 0
    const code = names.codes[next()] ?? 'ok'
    const errorLength = next()
    const timings: Timings | undefined = finish && {
      queueSeconds: next(),
      prefillSeconds: next(),
      decodeSeconds: next(),
      cachedTokens: next(),
      preemptions: next(),
      draftedTokens: next(),
      acceptedTokens: next(),
      cacheMiss: { reason: names.missReasons[next()] ?? 'none', position: next() },
    }
    const delta: { -readonly [Key in keyof Delta]: Delta[Key] } = {
      choice,
      text: take(textLength),
      tokenIds: Array.from({ length: ids }, () => next() | 0),
    }
    if (logprobCount > 0) {
      delta.logprobs = Array.from({ length: logprobCount }, () => {
        const begin = at
        pass(1)
        return logprobAt(words, begin)
      })
    }
    if (promptLogprobCount > 0) {
      const begin = at
      pass(promptLogprobCount)
      delta.promptLogprobs = promptLogprobs(words.slice(begin, at))
    }
    if (scores > 0) delta.scores = Array.from({ length: scores }, next)
    if (finish) delta.finish = finish
    if (timings) delta.timings = timings
    if (stopId >= 0) delta.stopReason = stopId
    const message = take(errorLength)
    if (code !== 'ok') delta.error = { code, message }
    visit(request, delta, stopIndex)
  }
}
