// A bench model as a GGUF file. In BF16 llama.cpp computes with the values of the Hugging Face folder. Two things differ
// from it: llama.cpp rotates neighbouring pairs of a head where transformers rotates halves, so the rows of q and k are
// put in that order; and llama3's rope scaling is a tensor of divisors of the frequencies. Of packed types the blocks are
// random, with the deviation that the folder's values have (gguf-blocks.ts).

import { cached } from '../cached.js'
import {
  benchVocabulary,
  elements,
  randomWeights,
  type Tensor,
  tensorsOf,
  writePieces,
} from '../random-model.js'
import type { RopeScaling, Shape } from '../shapes.js'
import { type BlockType, blockTypes, packedBytes, randomBlocks } from './gguf-blocks.js'

/** Which type each matrix has. The ends of a model keep more bits than its layers, as llama.cpp's own mixes have it. */
export type Mix = 'BF16' | 'Q8_0' | 'Q4_K' | 'IQ3_S' | 'dynamic'

/** As Unsloth's Dynamic 2.0 does it: more bits where a layer or a matrix is sensitive, fewer elsewhere, so that
 * neighbours differ. */
const dynamicType = (matrix: string, layer: number, layers: number): keyof typeof blockTypes => {
  const outer = layer < layers / 8 || layer >= layers - layers / 8
  if (matrix === 'attn_v') return 'Q6_K'
  if (matrix === 'ffn_down') return outer ? 'Q6_K' : 'Q5_K'
  if (matrix === 'ffn_up') return layer % 2 === 0 ? 'Q4_K' : 'IQ4_XS'
  if (matrix === 'attn_output') return layer % 2 === 0 ? 'IQ4_XS' : 'Q5_K'
  return outer ? 'Q5_K' : 'Q4_K'
}

/** Null: the matrix is BF16. `name`: blk.3.ffn_up.weight. */
const typeOf = (name: string, layers: number, mix: Mix): BlockType | null => {
  if (mix === 'BF16') return null
  if (mix === 'Q8_0') return blockTypes.Q8_0
  const [, layer, matrix = ''] = name.match(/^blk\.(\d+)\.(.*)\.weight$/) ?? []
  if (layer === undefined) return blockTypes.Q6_K
  return blockTypes[mix === 'dynamic' ? dynamicType(matrix, Number(layer), layers) : mix]
}

const alignment = 32
const padding = (bytes: number): Uint8Array => Buffer.alloc(-bytes & (alignment - 1))
const ggml = { f32: 0, bf16: 30 } as const

const u32 = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer)
const u64 = (value: number): Uint8Array => new Uint8Array(BigUint64Array.of(BigInt(value)).buffer)
const f32 = (values: readonly number[]): Uint8Array =>
  new Uint8Array(Float32Array.from(values).buffer)
const join = (...parts: readonly Uint8Array[]): Uint8Array => Buffer.concat(parts)
const text = (value: string): Uint8Array => join(u64(Buffer.byteLength(value)), Buffer.from(value))

// A metadata value: its type code, then its bytes.
const metaU32 = (value: number): Uint8Array => join(u32(4), u32(value))
const metaF32 = (value: number): Uint8Array => join(u32(6), f32([value]))
const metaText = (value: string): Uint8Array => join(u32(8), text(value))
const metaList = (type: number, values: readonly Uint8Array[]): Uint8Array =>
  join(u32(9), u32(type), u64(values.length), Buffer.concat(values))

const metadata = (shape: Shape): readonly (readonly [key: string, value: Uint8Array])[] => {
  const { tokens, merges, bos, stops } = benchVocabulary(shape.vocab)
  const control = (id: number): number => (id === bos || stops.includes(id) ? 3 : 1)
  return [
    ['general.architecture', metaText('llama')],
    ['general.name', metaText(`bench-${shape.name}`)],
    ['general.alignment', metaU32(alignment)],
    ['general.file_type', metaU32(32)],
    ['llama.vocab_size', metaU32(shape.vocab)],
    ['llama.context_length', metaU32(shape.maxPosition)],
    ['llama.embedding_length', metaU32(shape.hidden)],
    ['llama.block_count', metaU32(shape.layers)],
    ['llama.feed_forward_length', metaU32(shape.ffn)],
    ['llama.attention.head_count', metaU32(shape.heads)],
    ['llama.attention.head_count_kv', metaU32(shape.kvHeads)],
    ['llama.attention.key_length', metaU32(shape.headDim)],
    ['llama.attention.value_length', metaU32(shape.headDim)],
    ['llama.attention.layer_norm_rms_epsilon', metaF32(1e-5)],
    ['llama.rope.dimension_count', metaU32(shape.headDim)],
    ['llama.rope.freq_base', metaF32(shape.ropeTheta)],
    ['tokenizer.ggml.model', metaText('gpt2')],
    ['tokenizer.ggml.pre', metaText('llama-bpe')],
    ['tokenizer.ggml.tokens', metaList(8, tokens.map(text))],
    [
      'tokenizer.ggml.token_type',
      metaList(
        5,
        tokens.map((_, id) => u32(control(id))),
      ),
    ],
    ['tokenizer.ggml.merges', metaList(8, merges.map(text))],
    ['tokenizer.ggml.bos_token_id', metaU32(bos)],
    ['tokenizer.ggml.eos_token_id', metaU32(bos + 2)],
  ]
}

/** Divisor of each frequency: 1 for short waves, the factor for long ones, a blend between. */
const ropeDivisors = (shape: Shape, scaling: RopeScaling): Uint8Array => {
  const original = scaling.original_max_position_embeddings
  const { factor, low_freq_factor: low, high_freq_factor: high } = scaling
  const divisors = Array.from({ length: shape.headDim / 2 }, (_, pair) => {
    const wave = 2 * Math.PI * shape.ropeTheta ** ((2 * pair) / shape.headDim)
    const blend = Math.min(1, Math.max(0, (original / wave - low) / (high - low)))
    return 1 / ((1 - blend) / factor + blend)
  })
  return f32(divisors)
}

type GgufTensor = Tensor & {
  readonly type: number
  readonly bytes: number
  readonly pieces: () => Iterable<Uint8Array>
}

const names: readonly (readonly [from: string, to: string])[] = [
  ['model.embed_tokens', 'token_embd'],
  ['lm_head', 'output'],
  ['model.norm', 'output_norm'],
  ['model.layers.', 'blk.'],
  ['input_layernorm', 'attn_norm'],
  ['post_attention_layernorm', 'ffn_norm'],
  ['self_attn.o_proj', 'attn_output'],
  ['self_attn.', 'attn_'],
  ['mlp.', 'ffn_'],
  ['_proj', ''],
]
const ggufName = (name: string): string =>
  names.reduce((changed, [from, to]) => changed.replace(from, to), name)

/** Norm gains are F32 there. */
const widened = (bf16: Uint8Array): Uint8Array => {
  const stored = new Uint16Array(bf16.buffer, bf16.byteOffset, bf16.length / 2)
  return new Uint8Array(Uint32Array.from(stored, (bits) => bits << 16).buffer)
}

/** Row i of a head goes to 2i, row i + headDim/2 to 2i + 1. */
const neighbouringPairs = (matrix: Uint8Array, tensor: Tensor, headDim: number): Uint8Array => {
  const row = matrix.length / (tensor.shape[0] ?? 1)
  const turned = new Uint8Array(matrix.length)
  for (let head = 0; head < matrix.length; head += headDim * row) {
    for (let to = 0; to < headDim; to++) {
      const from = (to >> 1) + (to & 1) * (headDim / 2)
      const start = head + from * row
      turned.set(matrix.subarray(start, start + row), head + to * row)
    }
  }
  return turned
}

const converted = (shape: Shape, mix: Mix): readonly GgufTensor[] => {
  const fill = randomWeights()
  const whole = (tensor: Tensor): Uint8Array =>
    join(...Array.from(fill(tensor), (piece) => piece.slice()))
  const tensors = tensorsOf(shape).map((tensor): GgufTensor => {
    const base = { name: ggufName(tensor.name), shape: tensor.shape, type: ggml.bf16 }
    const bytes = 2 * elements(tensor)
    if (tensor.shape.length === 1)
      return {
        ...base,
        type: ggml.f32,
        bytes: 2 * bytes,
        pieces: () => [widened(whole(tensor))],
      }
    const type = typeOf(base.name, shape.layers, mix)
    if (type !== null)
      return {
        ...base,
        type: type.number,
        bytes: packedBytes(type, tensor),
        pieces: () => randomBlocks(type, tensor),
      }
    if (/\.[qk]_proj\./.test(tensor.name)) {
      const turn = () => [neighbouringPairs(whole(tensor), tensor, shape.headDim)]
      return { ...base, bytes, pieces: turn }
    }
    return { ...base, bytes, pieces: () => fill(tensor) }
  })
  if (shape.ropeScaling === null) return tensors
  const divisors = ropeDivisors(shape, shape.ropeScaling)
  const rope = { name: 'rope_freqs.weight', shape: [shape.headDim / 2], type: ggml.f32 }
  return [...tensors, { ...rope, bytes: divisors.length, pieces: () => [divisors] }]
}

/** Bytes of weights that a step reads from such a file. */
export const stepBytes = (shape: Shape, mix: Mix): number =>
  converted(shape, mix)
    .filter(({ name }) => shape.tied || name !== 'token_embd.weight')
    .reduce((sum, { bytes }) => sum + bytes, 0)

const writeGguf = (path: string, shape: Shape, mix: Mix): void => {
  const tensors = converted(shape, mix)
  const meta = metadata(shape)
  let end = 0
  const infos = tensors.map(({ name, shape: sizes, type, bytes }) => {
    const offset = end
    end += bytes + padding(bytes).length
    const fastestFirst = sizes.toReversed().map(u64)
    return join(text(name), u32(sizes.length), ...fastestFirst, u32(type), u64(offset))
  })
  const counts = join(Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(meta.length))
  const pairs = meta.flatMap(([key, value]) => [text(key), value])
  const head = join(counts, ...pairs, ...infos)
  const pieces = function* () {
    yield head
    yield padding(head.length)
    for (const tensor of tensors) {
      yield* tensor.pieces()
      yield padding(tensor.bytes)
    }
  }
  writePieces(path, head.length + padding(head.length).length + end, pieces())
}

/** The GGUF file beside a bench model's folder; written when it is not there yet. */
export const benchGguf = (folder: string, shape: Shape, mix: Mix = 'BF16'): string =>
  cached(mix === 'BF16' ? `${folder}.gguf` : `${folder}-${mix}.gguf`, (path) =>
    writeGguf(path, shape, mix),
  )
