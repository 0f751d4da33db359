// The weights of a bench model as a BF16 GGUF file, so that llama.cpp computes with the same values.
// Two things differ from the Hugging Face folder: llama.cpp rotates neighbouring pairs of a head
// where transformers rotates halves, so the rows of q and k are put in that order; and llama3's rope
// scaling is a tensor of divisors of the frequencies.

import { closeSync, existsSync, openSync, renameSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { benchVocabulary, progressLine, type RopeScaling, type Shape } from '../random-model.js'
import { openSafetensors, type StoredTensor } from '../safetensors.js'

const alignment = 32
const align = (offset: number): number => Math.ceil(offset / alignment) * alignment

const ggml = { f32: 0, bf16: 30 } as const

const u32 = (value: number): Buffer => {
  const buffer = Buffer.alloc(4)
  buffer.writeUInt32LE(value)
  return buffer
}
const u64 = (value: number): Buffer => {
  const buffer = Buffer.alloc(8)
  buffer.writeBigUInt64LE(BigInt(value))
  return buffer
}
const f32 = (value: number): Buffer => {
  const buffer = Buffer.alloc(4)
  buffer.writeFloatLE(value)
  return buffer
}
const text = (value: string): Buffer => {
  const bytes = Buffer.from(value)
  return Buffer.concat([u64(bytes.length), bytes])
}

// A metadata value: its type code, then its bytes.
const metaU32 = (value: number): Buffer => Buffer.concat([u32(4), u32(value)])
const metaF32 = (value: number): Buffer => Buffer.concat([u32(6), f32(value)])
const metaText = (value: string): Buffer => Buffer.concat([u32(8), text(value)])
const metaTexts = (values: readonly string[]): Buffer =>
  Buffer.concat([u32(9), u32(8), u64(values.length), ...values.map(text)])
const metaI32s = (values: readonly number[]): Buffer =>
  Buffer.concat([u32(9), u32(5), u64(values.length), ...values.map(u32)])

const metadata = (shape: Shape): ReadonlyMap<string, Buffer> => {
  const { tokens, merges, special } = benchVocabulary(shape.vocab)
  const control = new Set(special.values())
  const id = (name: string): Buffer => metaU32(special.get(name) ?? 0)
  return new Map([
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
    ['tokenizer.ggml.pre', metaText('gpt-2')],
    ['tokenizer.ggml.tokens', metaTexts(tokens)],
    ['tokenizer.ggml.token_type', metaI32s(tokens.map((_, index) => (control.has(index) ? 3 : 1)))],
    ['tokenizer.ggml.merges', metaTexts(merges)],
    ['tokenizer.ggml.bos_token_id', id('<|begin_of_text|>')],
    ['tokenizer.ggml.eos_token_id', id('<|eot_id|>')],
  ])
}

/** Divisor of each frequency: 1 for short waves, the factor for long ones, a blend between. */
const ropeDivisors = (shape: Shape, scaling: RopeScaling): Buffer => {
  const lowest = scaling.original_max_position_embeddings / scaling.low_freq_factor
  const highest = scaling.original_max_position_embeddings / scaling.high_freq_factor
  return Buffer.concat(
    Array.from({ length: shape.headDim / 2 }, (_, pair) => {
      const wave = 2 * Math.PI * shape.ropeTheta ** ((2 * pair) / shape.headDim)
      if (wave < highest) return f32(1)
      if (wave > lowest) return f32(scaling.factor)
      const blend =
        (scaling.original_max_position_embeddings / wave - scaling.low_freq_factor) /
        (scaling.high_freq_factor - scaling.low_freq_factor)
      return f32(1 / ((1 - blend) / scaling.factor + blend))
    }),
  )
}

type GgufTensor = {
  readonly name: string
  readonly type: number
  readonly shape: readonly number[]
  readonly bytes: number
  readonly pieces: () => Iterable<Uint8Array>
}

const ggufName = (name: string): string =>
  name
    .replace('model.embed_tokens', 'token_embd')
    .replace('lm_head', 'output')
    .replace('model.norm', 'output_norm')
    .replace('model.layers.', 'blk.')
    .replace('input_layernorm', 'attn_norm')
    .replace('post_attention_layernorm', 'ffn_norm')
    .replace('self_attn.q_proj', 'attn_q')
    .replace('self_attn.k_proj', 'attn_k')
    .replace('self_attn.v_proj', 'attn_v')
    .replace('self_attn.o_proj', 'attn_output')
    .replace('mlp.gate_proj', 'ffn_gate')
    .replace('mlp.up_proj', 'ffn_up')
    .replace('mlp.down_proj', 'ffn_down')

type Read = (tensor: StoredTensor, offset: number, into: Uint8Array) => void

const gains = (tensor: StoredTensor, read: Read): Uint8Array => {
  const stored = new Uint16Array(tensor.bytes / 2)
  read(tensor, 0, new Uint8Array(stored.buffer))
  return new Uint8Array(Uint32Array.from(stored, (bits) => bits << 16).buffer)
}

function* inPieces(tensor: StoredTensor, read: Read): Iterable<Uint8Array> {
  const piece = new Uint8Array(1 << 23)
  for (let offset = 0; offset < tensor.bytes; offset += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, tensor.bytes - offset))
    read(tensor, offset, part)
    yield part
  }
}

/** Row i of a head goes to 2i, row i + headDim/2 to 2i + 1. */
function* neighbouringPairs(
  tensor: StoredTensor,
  read: Read,
  headDim: number,
): Iterable<Uint8Array> {
  const row = tensor.bytes / (tensor.shape[0] ?? 1)
  const head = Buffer.alloc(headDim * row)
  const turned = Buffer.alloc(headDim * row)
  for (let offset = 0; offset < tensor.bytes; offset += head.length) {
    read(tensor, offset, head)
    for (let to = 0; to < headDim; to++) {
      const from = (to >> 1) + (to & 1) * (headDim / 2)
      head.copy(turned, to * row, from * row, (from + 1) * row)
    }
    yield turned
  }
}

const convert = (tensor: StoredTensor, read: Read, shape: Shape): GgufTensor => {
  const base = { name: ggufName(tensor.name), shape: tensor.shape }
  if (tensor.shape.length === 1) {
    const data = gains(tensor, read)
    return { ...base, type: ggml.f32, bytes: data.length, pieces: () => [data] }
  }
  const turn = /\.[qk]_proj\./.test(tensor.name)
  const pieces = (): Iterable<Uint8Array> =>
    turn ? neighbouringPairs(tensor, read, shape.headDim) : inPieces(tensor, read)
  return { ...base, type: ggml.bf16, bytes: tensor.bytes, pieces }
}

const writeGguf = (
  path: string,
  meta: ReadonlyMap<string, Buffer>,
  tensors: readonly GgufTensor[],
  onProgress: (bytesDone: number, bytesTotal: number) => void,
): void => {
  let end = 0
  const infos = tensors.map((tensor) => {
    const offset = align(end)
    end = offset + tensor.bytes
    const sizes = tensor.shape.toReversed() // the fastest dimension first
    return Buffer.concat([
      text(tensor.name),
      u32(sizes.length),
      ...sizes.map(u64),
      u32(tensor.type),
      u64(offset),
    ])
  })
  const header = Buffer.concat([
    Buffer.from('GGUF'),
    u32(3),
    u64(tensors.length),
    u64(meta.size),
    ...[...meta].flatMap(([key, value]) => [text(key), value]),
    ...infos,
  ])
  const fd = openSync(path, 'w')
  try {
    let position = 0
    const write = (bytes: Uint8Array): void => {
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(fd, bytes, done, bytes.length - done, position + done)
      }
      position += bytes.length
    }
    write(header)
    for (const tensor of tensors) {
      position = align(position)
      for (const piece of tensor.pieces()) {
        write(piece)
        onProgress(position, align(header.length) + end)
      }
    }
  } finally {
    closeSync(fd)
  }
}

/** The GGUF file beside a bench model's folder; written when it is not there yet. */
export const benchGguf = (folder: string, shape: Shape): string => {
  const path = `${folder}.gguf`
  if (existsSync(path)) return path
  const source = openSafetensors(join(folder, 'model.safetensors'))
  try {
    const tensors = [...source.tensors.values()].map((tensor) =>
      convert(tensor, source.read, shape),
    )
    if (shape.ropeScaling !== null) {
      const data = ropeDivisors(shape, shape.ropeScaling)
      tensors.push({
        name: 'rope_freqs.weight',
        type: ggml.f32,
        shape: [shape.headDim / 2],
        bytes: data.length,
        pieces: () => [data],
      })
    }
    writeGguf(`${path}.partial`, metadata(shape), tensors, progressLine(`writing ${path}`))
    renameSync(`${path}.partial`, path)
  } finally {
    source.close()
  }
  return path
}
