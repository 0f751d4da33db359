// What a competitor of the engine bench is asked to do. Each runs in a process of its own and times
// itself; requests and answers are lines of JSON, on stdin and on file descriptor 3.

/** Steps of all sequences together, each with about `context` tokens before it. Greedy. */
type Decode = {
  readonly task: 'decode'
  readonly sequences: number
  readonly context: number
  readonly steps: number
}
/** A prompt of `tokens` tokens, up to its first generated one; linear, torch alone: its matrix products. */
type Prefill = { readonly task: 'prefill' | 'linear'; readonly tokens: number }
/** For every token of the prompt but the last: the likeliest next id, and the next one's logprob. */
type Check = { readonly task: 'check'; readonly prompt: readonly number[] }
/** Ours alone: seconds from submit to the first scheduled step of an idle engine. */
type Latency = { readonly task: 'latency'; readonly requests: number }
export type Task = Decode | Prefill | Check | Latency

/** Tokens made (decode) or read (prefill) in that time; CPU seconds are the whole process's. */
export type Timing = {
  readonly tokens: number
  readonly seconds: number
  readonly cpuSeconds: number
}

export type Answer = {
  readonly timing?: Timing
  readonly top?: readonly number[]
  readonly logprobs?: readonly number[]
  readonly latencies?: readonly number[]
  /** The task is not possible here; why. */
  readonly error?: string
}

/** The first line a competitor writes, once its model is loaded. */
export type Ready = {
  readonly version: string
  readonly loadSeconds: number
  readonly details?: Readonly<Record<string, string | number>>
  readonly error?: string
}

export type ChildOptions = {
  /** Hugging Face folder, or GGUF file. */
  readonly model: string
  readonly threads: number
  readonly maxLength: number
  readonly maxSequences: number
  readonly vocab: number
  /** Ours alone, as all below. */
  readonly kvBytes: number
  readonly dtype: 'auto' | 'bf16' | 'fp8' | 'int4' | 'int8'
  readonly exactActivations?: boolean
  readonly int8Activations?: boolean
  readonly tensorParallelSize?: number
  readonly isa?: string
}
