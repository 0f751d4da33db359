// What the machine allows: bytes and operations of a case over the rates measured in the same round.

import { linearParameters, linearRows, type Shape } from './random-model.js'

export type Case =
  | {
      readonly name: string
      readonly kind: 'decode'
      readonly sequences: number
      readonly context: number
      readonly steps: number
    }
  | { readonly name: string; readonly kind: 'prefill'; readonly tokens: number }

export type Ceilings = {
  /** Bytes a second, read from memory. */
  readonly bandwidth: number
  /** Floating-point operations a second of the best instruction for BF16 inputs, from registers. */
  readonly matrix: number
}

export type Limit = { readonly rate: number; readonly bound: 'read' | 'matrix' }

/** Weights in memory, and how often an activation goes through a matrix product: twice in the exact
 * arithmetic of BF16 instructions (docs/decisions/0004-activations.md). */
export type Arithmetic = { readonly dtype: 'bf16' | 'fp8'; readonly passes: 1 | 2 }
export const once: Arithmetic = { dtype: 'bf16', passes: 1 }

const headParameters = (s: Shape): number => s.vocab * s.hidden

/** Bytes of weights that one step reads. The head stays BF16 under FP8. */
export const weightBytes = (s: Shape, dtype: 'bf16' | 'fp8'): number => {
  const linear = dtype === 'fp8' ? linearParameters(s) + 4 * linearRows(s) : 2 * linearParameters(s)
  const gains = 4 * s.hidden * (2 * s.layers + 1)
  return linear + gains + 2 * headParameters(s)
}

/** Bytes of keys and values of one token, BF16. */
export const kvBytes = (s: Shape): number => 4 * s.layers * s.kvHeads * s.headDim

/** Operations of attention for all queries together that see `keys` keys. */
const attentionFlops = (s: Shape, keys: number): number => 4 * s.layers * s.heads * s.headDim * keys

/** Bytes and operations of one step, and the tokens it makes or reads. */
const work = (s: Shape, c: Case, dtype: 'bf16' | 'fp8') => {
  if (c.kind === 'decode') {
    const keys = c.sequences * (c.context + c.steps / 2)
    return {
      tokens: c.sequences,
      bytes: weightBytes(s, dtype) + keys * kvBytes(s),
      flops: 2 * c.sequences * (linearParameters(s) + headParameters(s)) + attentionFlops(s, keys),
    }
  }
  return {
    tokens: c.tokens,
    bytes: weightBytes(s, dtype) + c.tokens * kvBytes(s),
    flops:
      2 * (c.tokens * linearParameters(s) + headParameters(s)) +
      attentionFlops(s, (c.tokens * (c.tokens + 1)) / 2),
  }
}

/** Tokens a second at best, and which rate sets it. */
export const limitOf = (
  s: Shape,
  c: Case,
  { dtype, passes }: Arithmetic,
  ceilings: Ceilings,
): Limit => {
  const { tokens, bytes, flops } = work(s, c, dtype)
  const read = bytes / ceilings.bandwidth
  const matrix = (passes * flops) / ceilings.matrix
  return read >= matrix
    ? { rate: tokens / read, bound: 'read' }
    : { rate: tokens / matrix, bound: 'matrix' }
}
