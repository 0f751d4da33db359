// Named shapes, and the bytes and operations that a shape cannot do without.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { UsageError } from './flags.js'
import type { Ceilings } from './machine.js'

export type RopeScaling = {
  readonly rope_type: 'llama3'
  readonly factor: number
  readonly low_freq_factor: number
  readonly high_freq_factor: number
  readonly original_max_position_embeddings: number
}

type Sizes = {
  readonly hidden: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly ffn: number
  readonly vocab: number
}

export type Shape = Sizes & {
  readonly name: string
  readonly tied: boolean
  readonly ropeTheta: number
  readonly maxPosition: number
  readonly ropeScaling: RopeScaling | null
}

const llama3 = (factor: number, original: number): RopeScaling => ({
  rope_type: 'llama3',
  factor,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: original,
})

const layers = (
  layers: number,
  hidden: number,
  ffn: number,
  heads: number,
  kvHeads: number,
): Omit<Sizes, 'vocab'> => ({ layers, hidden, ffn, heads, kvHeads, headDim: 64 })

// For the benches themselves; its rope scaling bends within a hundred tokens.
const tiny: Omit<Shape, 'name' | 'maxPosition'> = {
  ...layers(2, 256, 768, 4, 2),
  ...{ vocab: 1024, tied: true, ropeTheta: 10000, ropeScaling: llama3(8, 128) },
}

export const shapes: Readonly<Record<string, Shape>> = {
  // Llama-3.2-1B's
  '1b': {
    name: '1b',
    ...layers(16, 2048, 8192, 32, 8),
    ...{ vocab: 128256, tied: true, ropeTheta: 500000, ropeScaling: llama3(32, 8192) },
    maxPosition: 131072,
  },
  // small steps: what an engine costs beside the weights' bytes
  '160m': {
    name: '160m',
    ...layers(12, 768, 2048, 12, 4),
    ...{ vocab: 32000, tied: false, ropeTheta: 10000, ropeScaling: null },
    maxPosition: 8192,
  },
  tiny: { name: 'tiny', ...tiny, maxPosition: 4096 },
  // long prompts on a machine of any size
  'tiny-128k': { name: 'tiny-128k', ...tiny, maxPosition: 131072 },
}

export const shapeNamed = (name: string): Shape => {
  const shape = Object.hasOwn(shapes, name) ? shapes[name] : undefined
  if (shape === undefined)
    throw new UsageError(`there is no shape '${name}'; there are ${Object.keys(shapes).join(', ')}`)
  return shape
}

/** The sizes of a checkpoint in Hugging Face form; throws where `folder` holds none. */
export const sizesOf = (folder: string): Sizes => {
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
  return {
    hidden: config.hidden_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    kvHeads: config.num_key_value_heads,
    headDim: config.head_dim ?? config.hidden_size / config.num_attention_heads,
    ffn: config.intermediate_size,
    vocab: config.vocab_size,
  }
}

/** A step of `sequences` sequences with `context` tokens each before it; or a new prompt. */
export type Case =
  | {
      readonly name: string
      readonly task: 'decode'
      readonly sequences: number
      readonly context: number
      readonly steps: number
    }
  | { readonly name: string; readonly task: 'prefill'; readonly tokens: number }

type Limit = { readonly rate: number; readonly bound: 'read' | 'matrix' }

/** Weights as a step reads them, or their bytes; and how often an activation goes through a matrix product: twice in
 * the exact arithmetic of BF16 instructions (docs/decisions/0004-activations.md). */
export type Arithmetic = { readonly weights: 'bf16' | 'fp8' | number; readonly passes: 1 | 2 }
export const once: Arithmetic = { weights: 'bf16', passes: 1 }

/** Parameters of the layers' matrices: what FP8 shrinks and every token multiplies. */
const linearParameters = (s: Sizes): number =>
  s.layers * s.hidden * (2 * s.heads * s.headDim + 2 * s.kvHeads * s.headDim + 3 * s.ffn)

/** Output rows of the layers' matrices: each has a float32 scale under FP8. */
const linearRows = (s: Sizes): number =>
  s.layers * ((s.heads + 2 * s.kvHeads) * s.headDim + 2 * s.hidden + 2 * s.ffn)

/** Bytes of weights that one step reads. The head stays BF16 under FP8. */
export const weightBytes = (s: Sizes, dtype: 'bf16' | 'fp8'): number => {
  const linear = dtype === 'fp8' ? linearParameters(s) + 4 * linearRows(s) : 2 * linearParameters(s)
  return linear + 4 * s.hidden * (2 * s.layers + 1) + 2 * s.vocab * s.hidden
}

/** Bytes of keys and values of one token at two bytes each. */
export const kvBytes = (s: Sizes): number => 4 * s.layers * s.kvHeads * s.headDim

/** Operations for `tokens` tokens, `sampled` of them with logits, that see `keys` keys together. */
const operations = (s: Sizes, tokens: number, sampled: number, keys: number): number =>
  2 * (tokens * linearParameters(s) + sampled * s.vocab * s.hidden) +
  4 * s.layers * s.heads * s.headDim * keys

/** Tokens a second at best, and which rate sets it. */
export const limitOf = (
  s: Sizes,
  c: Case,
  { weights, passes }: Arithmetic,
  at: Ceilings,
): Limit => {
  const bytes = typeof weights === 'number' ? weights : weightBytes(s, weights)
  const tokens = c.task === 'decode' ? c.sequences : c.tokens
  const keys =
    c.task === 'decode' ? tokens * (c.context + c.steps / 2) : (tokens * (tokens + 1)) / 2
  const kept = c.task === 'decode' ? keys : tokens
  const read = (bytes + kept * kvBytes(s)) / at.bandwidth
  const flops = operations(s, tokens, c.task === 'decode' ? tokens : 1, keys)
  const matrix = (passes * flops) / at.matrix
  return { rate: tokens / Math.max(read, matrix), bound: read >= matrix ? 'read' : 'matrix' }
}

/** Seconds at best for prompts and answers of so many tokens, `concurrency` answers at a time. */
export const servingSeconds = (
  s: Sizes,
  work: { readonly prompt: number; readonly output: number; readonly concurrency: number },
  at: Ceilings,
): number => {
  const { prompt, output, concurrency } = work
  const read = ((output / concurrency) * weightBytes(s, 'bf16')) / at.bandwidth
  return Math.max(read, operations(s, prompt + output, output, 0) / at.matrix)
}
