// The typed face of an engine: what the HTTP layer, the command line and `import { createEngine }`
// work with. Plain data both ways; text exists here, token ids go into the engine.

import type { EngineError } from '../failure.js'

export type EngineOptions = {
  /** Hugging Face folder: config.json, *.safetensors, tokenizer.json. */
  readonly model: string
  readonly device?: 'auto' | 'cpu' | 'cuda'
  /** Which GPU, counted from 0 (the default), where there are several; of several ranks the first. */
  readonly deviceIndex?: number
  /**
   * Devices that compute the model together, 1 to 8: GPUs, or shares of the CPU's threads. It has to divide
   * the model's heads and inner size. Default 1.
   */
  readonly tensorParallelSize?: number
  readonly dtype?: 'auto' | 'bf16' | 'fp8' | 'int4' | 'int8'
  /** Keys and values; auto: F16 on the CPU, BF16 on CUDA. */
  readonly kvCacheDtype?: 'auto' | 'bf16' | 'fp8'
  /** Bytes on each device; default: what is left after weights, activations and a reserve. */
  readonly kvCacheMemory?: number
  /** Share of the device's free memory that may be planned (0..1, default 0.9). */
  readonly memoryUtilization?: number
  readonly maxModelLen?: number
  readonly maxNumSeqs?: number
  readonly maxNumBatchedTokens?: number
  readonly blockSize?: 16 | 32 | 64 | 128
  /**
   * Admission: a request is admitted while fewer than maxNumSeqs + maxWaiting sequences (choices)
   * run or wait. Default 256.
   */
  readonly maxWaiting?: number
  readonly maxWaitingTokens?: number
  /**
   * Hugging Face folder of a small model with the same token ids: it guesses what this one will draw. Answers stay
   * the same bits. Its weights and its part of the cache are planned with this one's.
   */
  readonly draftModel?: string
  /** Guesses of one sequence in a step, 1 to 32 at most; fewer where they are wrong. Default 5. */
  readonly draftTokens?: number
  /** Rows of a step that guesses, guesses included; fuller batches go without. Default 32. */
  readonly draftRows?: number
  /** CPU threads; default: one for each processor that the process may run on, at most what a CPU quota leaves it. */
  readonly threads?: number
  readonly prefixCache?: boolean
  /** Reward-HF form: the score is the logit of this vocabulary id (from models/registry.json). */
  readonly rewardRows?: readonly number[]
  /** Force a CPU instruction set: plain, avx2, avx512, amx. */
  readonly isa?: string
  /**
   * On the CPU, products as accurate as with float32 activations. Default false: where the processor multiplies
   * BF16, activations are rounded to it for products, which is about twice as fast on prompts. Refused on CUDA.
   */
  readonly exactActivations?: boolean
  /**
   * On the CPU, round the activations that meet weights in groups (GGUF, dtype int8 and int4) to 8 bits, 32 at a time with
   * a scale: few sequences then go at the rate of memory. Refused on CUDA, beside exactActivations, and where most
   * weights are in none.
   */
  readonly int8Activations?: boolean
  /**
   * On CUDA, round the activations of prompts that meet FP8 weights to FP8 (W8A8), one scale a token.
   * Refused where the GPU is older than sm_89, where cuBLASLt is missing, and on the CPU.
   */
  readonly fp8Activations?: boolean
  readonly debugChecks?: boolean
  readonly onProgress?: (progress: LoadProgress) => void
  readonly onPlan?: (plan: MemoryPlan) => void
}

export type LoadProgress = {
  readonly phase: string
  readonly bytesDone: number
  readonly bytesTotal: number
}

export type MemoryPlan = {
  readonly weights: number
  readonly kv: number
  readonly activations: number
  /** Of a draft model: weights, activations and a reserve; keys and values of as many tokens. 0: there is none. */
  readonly draft: number
  readonly draftKv: number
  readonly total: number
  readonly available: number
  readonly numBlocks: number
  readonly blockSize: number
  readonly kvTokens: number
  readonly kvBytesPerToken: number
  readonly draftKvBytesPerToken: number
  /** Whether `dtype` changes the form of a matrix. What is stored as FP8 or packed stays as it is. */
  readonly quantizes: boolean
  /** Tensors of the checkpoint that the model is not made of. The server warns of them, createEngine
   * does not. */
  readonly unusedTensors: readonly string[]
  /** Tensors that are in memory in 16 bits a value or more, though their type or dtype is packed, and why. The
   * server warns of them too. */
  readonly widenedTensors: readonly { readonly name: string; readonly why: string }[]
  /** The same for people, one line an item. */
  readonly table: string
}

/** The checkpoint's own advice, from generation_config.json or a GGUF file: what holds when a caller says nothing. */
export type GenerationDefaults = {
  readonly temperature?: number
  readonly topP?: number
  readonly topK?: number
  readonly minP?: number
  readonly repetitionPenalty?: number
  /** do_sample: false. */
  readonly greedy: boolean
}

/** How long the parts of loading took. */
export type LoadReport = {
  readonly openSeconds: number
  readonly packSeconds: number
  readonly prepareSeconds: number
  readonly bytes: number
}

/** One device of the group that computes a model: what it holds, and how long that took. */
export type RankInfo = {
  readonly device: string
  readonly plan: MemoryPlan
  readonly load: LoadReport
}

/** A model that guesses for another one. */
export type DraftInfo = {
  readonly model: string
  readonly architecture: string
  /** Guesses of one sequence in a step, and rows of a step that guesses, at most. */
  readonly tokens: number
  readonly rows: number
  /** Of the slowest rank. */
  readonly load: LoadReport
}

export type EngineInfo = {
  readonly model: string
  readonly architecture: string
  readonly device: string
  /** Why this device was chosen. */
  readonly deviceNote: string
  readonly dtype: string
  readonly maxModelLen: number
  readonly maxNumSeqs: number
  /** For sequences that run or wait: maxNumSeqs + maxWaiting. */
  readonly places: number
  readonly maxNumBatchedTokens: number
  readonly vocabSize: number
  readonly bosTokenId: number | null
  readonly eosTokenIds: readonly number[]
  /** Advice: the engine itself does not follow it. */
  readonly generation: GenerationDefaults
  /** null: a chat model; else the names of the scores, one an output of the head. */
  readonly rewardLabels: readonly string[] | null
  readonly rewardKind: 'none' | 'lm_head_rows' | 'classification'
  /** Numbers a score has. 0: no reward model. */
  readonly rewardOutputs: number
  /** null: no draft model. */
  readonly draft: DraftInfo | null
  /** Of each rank of tensorParallelSize. */
  readonly ranks: readonly RankInfo[]
  /** Of the first rank. */
  readonly plan: MemoryPlan
  /** Of the slowest rank. */
  readonly load: LoadReport
  /** Short stable hash of the weights' headers, dtype and version: `system_fingerprint`. */
  readonly fingerprint: string
}

export type Sampling = {
  readonly maxTokens?: number
  readonly minTokens?: number
  readonly temperature?: number
  readonly topP?: number
  readonly topK?: number
  readonly minP?: number
  readonly repetitionPenalty?: number
  readonly presencePenalty?: number
  readonly frequencyPenalty?: number
  /** Absent: drawn at random. */
  readonly seed?: number | bigint
  readonly ignoreEos?: boolean
  /** Absent: none; k: the k likeliest ids beside the drawn one (0..20). */
  readonly logprobs?: number
  /** With logprobs 0: these ids beside the drawn one, in this order. Up to 128. */
  readonly logprobIds?: readonly number[]
  /**
   * Of what may be drawn, after penalties, bias, bans, temperature and filters (when greedy, before temperature and
   * filters); what is out of the draw has -Infinity. Absent: of the raw logits. Those of a prompt are raw.
   */
  readonly processedLogprobs?: boolean
  readonly promptLogprobs?: number
  readonly stopTokenIds?: readonly number[]
  readonly stop?: readonly string[]
  readonly includeStop?: boolean
  /**
   * Where stop strings, and without a grammar stopTokenIds, are looked for. 'answer': from the first character that is no blank;
   * 'afterThinking': the same, behind the first `</think>`; 'afterBlock': the same where the text begins
   * with `<think>`, else in all of it. Default 'all'.
   */
  readonly stopScope?: 'all' | 'answer' | 'afterThinking' | 'afterBlock'
  readonly skipSpecialTokens?: boolean
  readonly logitBias?: ReadonlyMap<number, number>
  readonly badWordIds?: readonly (readonly number[])[]
  readonly allowedTokenIds?: readonly number[]
  /**
   * Closes a `<think>` block after so many tokens inside it. Outside a block it does nothing; blocks
   * of one answer share it.
   */
  readonly thinkingBudget?: number
  /** Whether the prompt ends inside a block. Absent: its text says so. */
  readonly thinkingOpen?: boolean
  /**
   * With a grammar: the answer may begin with a `<think>` block, which is free. Default: only with a
   * budget. A block that the prompt left open is free in any case.
   */
  readonly mayThink?: boolean
  /** Drafts per step of speculation by prompt lookup; lossless; default 0 = off. */
  readonly lookupTokens?: number
}

/** A grammar as an engine reads it; of the engine that compiled it alone. */
export type Grammar = { readonly [grammarBrand]: true }
declare const grammarBrand: unique symbol

export type GenerateRequest = {
  readonly promptTokenIds: ArrayLike<number>
  readonly n?: number
  readonly priority?: number
  readonly cacheSalt?: string
  /** Part of work that has been admitted (its next prompt): not refused for a full queue. */
  readonly admitted?: boolean
  /** When the work began that it is part of, by performance.now(): a pause that waits, and began later, does not
   * hold it. */
  readonly since?: number | undefined
  /** Nobody waits for it: it gives way to all others and takes none of the queue's places. */
  readonly background?: boolean
  readonly sampling?: Sampling
  /**
   * What the answer has to be, from compileGrammar(). A block of thinking before it is free. Stop tokens
   * may come where its text may end; where nothing else may come they do, whatever minTokens says.
   */
  readonly grammar?: Grammar
  /**
   * The answer is free until one of these texts has been written in it; what follows is the grammar's
   * text. Absent or empty: all of the answer is.
   */
  readonly grammarAfter?: readonly string[]
}

export type ScoreRequest = {
  readonly promptTokenIds: ArrayLike<number>
  readonly priority?: number
  readonly cacheSalt?: string
  readonly admitted?: boolean
  readonly since?: number | undefined
  readonly background?: boolean
}

export type FinishReason = 'stop' | 'length' | 'abort' | 'error'

export type TokenLogprob = {
  readonly id: number
  readonly logprob: number
  readonly rank: number
  /** Likeliest first, or logprobIds. */
  readonly top: readonly { readonly id: number; readonly logprob: number }[]
}

export type Timings = {
  readonly queueSeconds: number
  readonly prefillSeconds: number
  readonly decodeSeconds: number
  readonly cachedTokens: number
  readonly preemptions: number
  readonly draftedTokens: number
  readonly acceptedTokens: number
  /** Why the prefix cache did not serve more of the prompt, and from which prompt token on; of what was asked with the
   * same cacheSalt alone. */
  readonly cacheMiss: {
    readonly reason: 'none' | 'never_seen' | 'evicted' | 'last_token'
    readonly position: number
  }
}

/** News of one choice. At most one per choice per step. */
export type Delta = {
  readonly choice: number
  /** Whole UTF-8; a held-back stop string never shows. */
  readonly text: string
  readonly tokenIds: readonly number[]
  readonly logprobs?: readonly TokenLogprob[]
  /** In the first delta of all choices, when asked; the first is null. Made while they are read. */
  readonly promptLogprobs?: Iterable<TokenLogprob | null>
  readonly scores?: readonly number[]
  readonly finish?: FinishReason
  /** The stop string or stop token id that ended it. */
  readonly stopReason?: string | number
  readonly timings?: Timings
  readonly error?: EngineError
}

export type RequestHandle = {
  readonly id: number
  /** Idempotent; every live choice ends with finish 'abort' at the next step boundary. */
  readonly abort: () => void
}

/** Guesses that went into steps, and those that were right. */
export type Drafts = { readonly drafted: number; readonly accepted: number }
/** Whose guesses: text that a grammar leaves no choice about, prompt lookup, the draft model. */
export type DraftSource = 'grammar' | 'lookup' | 'model'

export type EngineStats = {
  readonly steps: number
  readonly promptTokens: number
  readonly generatedTokens: number
  readonly cachedTokens: number
  readonly queriedTokens: number
  readonly preemptions: number
  readonly aborted: number
  readonly finishedStop: number
  readonly finishedLength: number
  readonly failed: number
  readonly rejected: number
  readonly drafts: Readonly<Record<DraftSource, Drafts>>
  readonly missNeverSeen: number
  readonly missEvicted: number
  readonly running: number
  /** Those in the background do not count. */
  readonly waiting: number
  readonly waitingTokens: number
  readonly blocksTotal: number
  readonly blocksUsed: number
  readonly blocksCached: number
  /** Rows (tokens) of all steps. */
  readonly rows: number
  /** Steps with at most 1, 8, 16, 32, ... 16384 rows (each counted once), then those with more. */
  readonly stepsByRows: readonly number[]
  readonly stepSecondsSum: number
  /** Seconds since the loop finished a step, or a rank a layer of one, while there was work; 0 when idle. */
  readonly lastStepAge: number
  readonly lastStepRows: number
  readonly lastStepSeqs: number
  /** Of the oldest step that is launched and not done. */
  readonly launchedRows: number
  readonly launchedSeqs: number
  /** It is a step of the draft model. */
  readonly drafting: boolean
  /** Layers that each rank has gone through, in the newest step that it began. */
  readonly rankLayers: readonly number[]
  /** Set when the device failed: the engine answers nothing any more. */
  readonly failure: string | null
}

export type PauseMode = 'abort' | 'wait' | 'keep'

export type Engine = {
  readonly info: EngineInfo
  /**
   * The lowest level: `onDelta` is called on the event loop, at most once per choice per step, until
   * every choice has finished. Throws an EngineFailure (see failure.ts) at once when the request is
   * wrong or the queue is full.
   */
  readonly submit: (request: GenerateRequest, onDelta: (delta: Delta) => void) => RequestHandle
  /** The same as an async iterator; leaving the loop or aborting the signal aborts the request. */
  readonly generate: (
    request: GenerateRequest,
    options?: { readonly signal?: AbortSignal },
  ) => AsyncIterableIterator<Delta>
  /** Raw head outputs at the last token, float32. Reward models only. */
  readonly score: (
    request: ScoreRequest,
    options?: { readonly signal?: AbortSignal },
  ) => Promise<{ readonly scores: readonly number[]; readonly timings: Timings }>
  /**
   * Reads the text of a grammar (docs/decisions/0013-grammar-text.md) away from the event loop; a text
   * that was asked for lately is at hand. Rejects with an EngineFailure that names line, column and rule.
   */
  readonly compileGrammar: (text: string) => Promise<Grammar>
  /** No place is free: the next request is refused with queue_full. */
  readonly isFull: () => boolean
  readonly stats: () => EngineStats
  /**
   * Until resume(), new requests wait. `abort`: those that are live end with finish 'abort'; `wait`: they go
   * on to their end; `keep`: they stop where they are, and go on as if nothing had been. Resolves when none of
   * those that were live runs any more.
   */
  readonly pause: (mode: PauseMode) => Promise<void>
  readonly resume: () => void
  readonly isPaused: () => boolean
  /** A pause that waits is on, and lets requests with this `since` go on. */
  readonly goesOn: (since: number) => boolean
  /**
   * Puts the weights of another checkpoint of the same model in the place of its own: equal config, tensors of
   * equal names, types and shapes. Live requests keep their tokens, and what was computed for them is computed
   * again; the prefix cache is dropped. Tokenizer and template stay. Nothing runs while it loads, and a pause is
   * what pause() and resume() say, then too. `abort`: requests that were live when it was called end with finish 'abort'
   * once the new weights are there. Rejects with an EngineFailure when the checkpoint does not fit or cannot be
   * read; then the weights are what they were, and everybody goes on.
   */
  readonly reload: (folder: string, options?: { readonly abort?: boolean }) => Promise<void>
  /** No new requests; running ones go on, a pause ends. */
  readonly drain: () => void
  /** Aborts what is left, joins the threads, frees all memory. Idempotent. */
  readonly close: () => Promise<void>
}
