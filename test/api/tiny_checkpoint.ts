// A checkpoint of random weights in Hugging Face's layout: small enough to be made in a test, whole
// enough to be loaded as any other. The vocabulary is the 256 bytes and a few special tokens.

import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const specials = ['<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>', '<|eom_id|>']

const tinyShape = {
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 64,
  intermediate_size: 128,
  vocab_size: 320, // beyond the tokenizer's 260: an embedding may be padded
}

const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  bos_token_id: 256,
  eos_token_id: 257,
  ...tinyShape,
}

/** The printable character that stands for each byte in a byte-level vocabulary. */
const byteCharacters = (): string[] => {
  let shifted = 0x100
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(printable(byte) ? byte : shifted++),
  )
}

const byteLevel = {
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: false,
}

const tokenizer = {
  version: '1.0',
  added_tokens: specials.map((content, index) => ({
    id: 256 + index,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: null,
  pre_tokenizer: byteLevel,
  post_processor: {
    type: 'TemplateProcessing',
    single: [
      { SpecialToken: { id: specials[0], type_id: 0 } },
      { Sequence: { id: 'A', type_id: 0 } },
    ],
    pair: [],
    special_tokens: {},
  },
  decoder: byteLevel,
  model: {
    type: 'BPE',
    vocab: Object.fromEntries(byteCharacters().map((character, byte) => [character, byte])),
    merges: [],
  },
}

/** A small generator of its own, so that the weights are the same everywhere. */
const randomFloats = (seed: number) => {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    return (state >>> 8) / 0x1000000 - 0.5
  }
}

const bfloat16 = (values: Float32Array): Uint8Array => {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return new Uint8Array(Uint16Array.from(words, (word) => word >>> 16).buffer)
}

const tensorShapes = (vocab: number, classes: number | undefined): [string, number[]][] => {
  const { hidden_size: hidden, head_dim, intermediate_size: ffn } = tinyShape
  const q = tinyShape.num_attention_heads * head_dim
  const kv = tinyShape.num_key_value_heads * head_dim
  const layers = Array.from({ length: tinyShape.num_hidden_layers }, (_, i): [string, number[]][] =>
    Object.entries({
      'input_layernorm.weight': [hidden],
      'self_attn.q_proj.weight': [q, hidden],
      'self_attn.k_proj.weight': [kv, hidden],
      'self_attn.v_proj.weight': [kv, hidden],
      'self_attn.o_proj.weight': [hidden, q],
      'post_attention_layernorm.weight': [hidden],
      'mlp.gate_proj.weight': [ffn, hidden],
      'mlp.up_proj.weight': [ffn, hidden],
      'mlp.down_proj.weight': [hidden, ffn],
    }).map(([name, shape]) => [`model.layers.${i}.${name}`, shape]),
  )
  return [
    ['model.embed_tokens.weight', [vocab, hidden]],
    ...layers.flat(),
    ['model.norm.weight', [hidden]],
    classes === undefined
      ? ['lm_head.weight', [vocab, hidden]]
      : ['score.weight', [classes, hidden]],
  ]
}

const safetensors = (seed: number, vocab: number, classes: number | undefined): Buffer => {
  const random = randomFloats(seed)
  const header: Record<string, unknown> = {}
  const parts: Uint8Array[] = []
  let offset = 0
  for (const [name, shape] of tensorShapes(vocab, classes)) {
    const size = shape.reduce((a, b) => a * b, 1)
    const norm = name.endsWith('norm.weight')
    const data = bfloat16(Float32Array.from({ length: size }, () => (norm ? 1 : 0.6 * random())))
    header[name] = { dtype: 'BF16', shape, data_offsets: [offset, offset + data.length] }
    offset += data.length
    parts.push(data)
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json, ...parts])
}

export type TinyOptions = {
  readonly seed?: number
  /** A reward model with that many outputs. */
  readonly classes?: number
  readonly vocab?: number
  /** Over what config.json says otherwise. */
  readonly config?: Readonly<Record<string, unknown>>
}

/** Writes it into a new folder below the system's temporary one and returns the path. */
export const tinyCheckpoint = (options: TinyOptions = {}): string => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-tiny-'))
  const { classes, seed = 1, vocab = tinyShape.vocab_size } = options
  const reward =
    classes === undefined
      ? {}
      : {
          architectures: ['LlamaForSequenceClassification'],
          id2label: Object.fromEntries(
            Array.from({ length: classes }, (_, i) => [String(i), `quality_${i}`]),
          ),
        }
  const json = { ...config, vocab_size: vocab, ...reward, ...options.config }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(json))
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer))
  writeFileSync(join(folder, 'model.safetensors'), safetensors(seed, vocab, classes))
  return folder
}
