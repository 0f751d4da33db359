// Writes a Hugging Face folder of a Llama as a GGUF file, as llama.cpp's conversion does.

import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { LLAMA3_SPLIT } from '../../server/tokenizer/file.js'

const u32 = (value: number): Buffer => Buffer.from(Uint32Array.of(value).buffer)
const u64 = (value: number): Buffer => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const f32 = (value: number): Buffer => Buffer.from(Float32Array.of(value).buffer)
const text = (value: string): Buffer =>
  Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])

type Metadata = readonly (readonly [key: string, type: number, value: Buffer])[]
type Tensor = { readonly shape: readonly number[]; readonly type: number; readonly bytes: Buffer }

const ALIGNMENT = 32
const padding = (bytes: number): Buffer => Buffer.alloc(-bytes & (ALIGNMENT - 1))

const NAMES: readonly (readonly [RegExp, string])[] = [
  [/^model\.layers\./, 'blk.'],
  [/^model\.embed_tokens/, 'token_embd'],
  [/^model\.norm/, 'output_norm'],
  [/^lm_head/, 'output'],
  [/input_layernorm/, 'attn_norm'],
  [/post_attention_layernorm/, 'ffn_norm'],
  [/self_attn\.([qkv])_proj/, 'attn_$1'],
  [/self_attn\.o_proj/, 'attn_output'],
  [/mlp\.(gate|up|down)_proj/, 'ffn_$1'],
]

/** llama.cpp rotates neighbours where Hugging Face rotates the halves of a head. */
const permuted = (bytes: Buffer, rows: number, heads: number): Buffer => {
  const dim = rows / heads
  const row = bytes.length / rows
  return Buffer.concat(
    Array.from({ length: rows }, (_, i) => {
      const at = i % dim
      const from = i - at + (at % 2) * (dim / 2) + Math.floor(at / 2)
      return bytes.subarray(from * row, (from + 1) * row)
    }),
  )
}

const bf16 = (bytes: Buffer): Float32Array => {
  const values = new Float32Array(bytes.length / 2)
  const bits = new Uint32Array(values.buffer)
  for (let i = 0; i < bits.length; i++) bits[i] = bytes.readUInt16LE(2 * i) << 16
  return values
}

/** A half float of a positive number of ordinary size, rounded down. */
const half = (value: number): number => {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0
  return ((bits >> 13) - (112 << 10)) & 0x7fff
}
const halfValue = (bits: number): number => (1 + (bits & 1023) / 1024) * 2 ** ((bits >> 10) - 15)

const q8 = (values: Float32Array): Buffer => {
  const out = Buffer.alloc((values.length / 32) * 34)
  for (let block = 0; block < values.length / 32; block++) {
    const part = values.subarray(block * 32, block * 32 + 32)
    const scale = half(Math.max(1e-4, ...part.map(Math.abs)) / 127) + 1
    out.writeUInt16LE(scale, block * 34)
    part.forEach((value, i) => {
      out.writeInt8(Math.round(value / halfValue(scale)), block * 34 + 2 + i)
    })
  }
  return out
}

const readFolder = (folder: string) => {
  const json = (name: string) => JSON.parse(readFileSync(join(folder, name), 'utf8'))
  const file = readFileSync(join(folder, 'model.safetensors'))
  const end = 8 + Number(file.readBigUInt64LE())
  const header = JSON.parse(file.subarray(8, end).toString())
  return {
    config: json('config.json'),
    tokenizer: json('tokenizer.json'),
    template: json('tokenizer_config.json').chat_template,
    header,
    data: file.subarray(end),
  }
}

const splitOf = (tokenizer: ReturnType<typeof readFolder>['tokenizer']) =>
  tokenizer.pre_tokenizer.pretokenizers[0]

/** A copy whose tokenizer cuts texts as `pattern` says: the embedded reasoner's own pattern may be one that GGUF has no
 * name for. */
export const copySplitBy = (pattern: string, from: string, to: string): void => {
  cpSync(from, to, { recursive: true })
  const path = join(to, 'tokenizer.json')
  const tokenizer = JSON.parse(readFileSync(path, 'utf8'))
  splitOf(tokenizer).pattern.Regex = pattern
  writeFileSync(path, JSON.stringify(tokenizer))
}

/** A copy with rows of the embedding that no token has: `more` of them behind the tokens, and those of `holes`, which are
 * taken out of the tokenizer. All are twice the row of another token, so that they are likelier than it. */
export const copyWithHoles = (
  { more, holes }: { readonly more: number; readonly holes: readonly number[] },
  from: string,
  to: string,
): void => {
  cpSync(from, to, { recursive: true })
  const { config, tokenizer, header, data } = readFolder(to)
  const before: number = config.vocab_size
  const isHole = ({ id }: { id: number }) => holes.includes(id)
  const added: readonly { id: number }[] = tokenizer.added_tokens
  if (added.filter(isHole).length !== holes.length) throw new Error('a hole is no added token')
  const write = (name: string, value: object) =>
    writeFileSync(join(to, name), JSON.stringify(value))
  write('config.json', { ...config, vocab_size: before + more })
  write('tokenizer.json', { ...tokenizer, added_tokens: added.filter((one) => !isHole(one)) })
  const blocks: Buffer[] = []
  let end = 0
  for (const [name, info] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const tensor = info as { shape: number[]; data_offsets: [number, number] }
    let bytes: Buffer = data.subarray(...tensor.data_offsets)
    if (name === 'model.embed_tokens.weight') {
      const row = bytes.length / before
      const wide = Buffer.concat([bytes, Buffer.alloc(more * row)])
      for (const id of [...holes, ...Array.from({ length: more }, (_, i) => before + i)])
        for (let i = 0; i < row; i += 2) {
          const bits = bytes.readUInt16LE((id % 256) * row + i)
          // One more in the exponent.
          wide.writeUInt16LE((bits & 0x7fff) === 0 ? 0 : bits + 128, id * row + i)
        }
      bytes = wide
      tensor.shape[0] = before + more
    }
    tensor.data_offsets = [end, end + bytes.length]
    end += bytes.length
    blocks.push(bytes)
  }
  const head = Buffer.from(JSON.stringify(header))
  writeFileSync(join(to, 'model.safetensors'), Buffer.concat([u64(head.length), head, ...blocks]))
}

/** What the frequencies of rope are divided by. */
const divisors = (config: ReturnType<typeof readFolder>['config']): Buffer => {
  const { factor, low_freq_factor: low, high_freq_factor: high } = config.rope_scaling
  const original = config.rope_scaling.original_max_position_embeddings
  return Buffer.concat(
    Array.from({ length: config.head_dim / 2 }, (_, i) => {
      const wave = 2 * Math.PI * config.rope_theta ** ((2 * i) / config.head_dim)
      const s = Math.min(1, Math.max(0, (original / wave - low) / (high - low)))
      return f32(1 / ((1 - s) / factor + s))
    }),
  )
}

const metadataOf = (
  { config, tokenizer, template }: ReturnType<typeof readFolder>,
  name: string,
): Metadata => {
  const split = splitOf(tokenizer)
  if (split.pattern.Regex !== LLAMA3_SPLIT)
    throw new Error(
      `no tokenizer.ggml.pre names the pattern ${split.pattern.Regex}; expected Llama 3's`,
    )
  const { vocab } = tokenizer.model
  const added: readonly { id: number; content: string }[] = tokenizer.added_tokens
  const tokens: string[] = []
  for (const [token, id] of Object.entries(vocab)) tokens[Number(id)] = token
  for (const { id, content } of added) tokens[id] = content
  // A token for every row of the embedding; of those that no token has, unused ones.
  const holes = Array.from({ length: config.vocab_size }, (_, id) => id).filter(
    (id) => tokens[id] === undefined,
  )
  for (const id of holes) tokens[id] = `[PAD${id}]`
  const kinds = new Map([
    ...added.map(({ id }) => [id, 3] as const),
    ...holes.map((id) => [id, 5] as const),
  ])
  const list = (type: number, items: readonly Buffer[]) =>
    Buffer.concat([u32(type), u64(items.length), ...items])
  return [
    ['general.architecture', 8, text('llama')],
    ['general.name', 8, text(name)],
    ['llama.context_length', 4, u32(config.max_position_embeddings)],
    ['llama.embedding_length', 4, u32(config.hidden_size)],
    ['llama.block_count', 4, u32(config.num_hidden_layers)],
    ['llama.feed_forward_length', 4, u32(config.intermediate_size)],
    ['llama.attention.head_count', 4, u32(config.num_attention_heads)],
    ['llama.attention.head_count_kv', 4, u32(config.num_key_value_heads)],
    ['llama.attention.key_length', 4, u32(config.head_dim)],
    ['llama.rope.dimension_count', 4, u32(config.head_dim)],
    ['llama.rope.freq_base', 6, f32(config.rope_theta)],
    ['llama.attention.layer_norm_rms_epsilon', 6, f32(config.rms_norm_eps)],
    ['tokenizer.ggml.model', 8, text('gpt2')],
    ['tokenizer.ggml.pre', 8, text('llama-bpe')],
    ['tokenizer.ggml.tokens', 9, list(8, tokens.map(text))],
    [
      'tokenizer.ggml.token_type',
      9,
      list(
        5,
        tokens.map((_, id) => u32(kinds.get(id) ?? 1)),
      ),
    ],
    ['tokenizer.ggml.merges', 9, list(8, tokenizer.model.merges.map(text))],
    ['tokenizer.ggml.bos_token_id', 4, u32(config.bos_token_id)],
    ['tokenizer.ggml.eos_token_id', 4, u32(config.eos_token_id[0])],
    ['tokenizer.chat_template', 8, text(template)],
  ]
}

/** A file that says only these texts of itself. */
export const writeTexts = (path: string, texts: Readonly<Record<string, string>>): void => {
  const pairs = Object.entries(texts).flatMap(([key, value]) => [text(key), u32(8), text(value)])
  const counts = [u32(3), u64(0), u64(pairs.length / 3)]
  writeFileSync(path, Buffer.concat([Buffer.from('GGUF'), ...counts, ...pairs]))
}

/** Throws for a tokenizer that cuts texts otherwise than Llama 3's: a file only names the pattern.
 * `quantised`: matrices of layers become Q8_0, except those with `wide` in their names, which become F32; else
 * everything is stored as it is, BF16. */
export const writeGguf = (
  folder: string,
  path: string,
  quantised: boolean,
  wide?: string,
): void => {
  const parts = readFolder(folder)
  const { config, header, data } = parts
  const tensors = new Map<string, Tensor>()
  for (const [name, info] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const {
      shape,
      data_offsets: [begin, end],
    } = info as { shape: number[]; data_offsets: [number, number] }
    const heads = name.includes('q_proj')
      ? config.num_attention_heads
      : name.includes('k_proj')
        ? config.num_key_value_heads
        : 0
    const stored = data.subarray(begin, end)
    const bytes = heads > 0 ? permuted(stored, shape[0] ?? 0, heads) : stored
    const isWide = wide !== undefined && name.includes(wide)
    const isQ8 = quantised && shape.length === 2 && name.includes('layers') && !isWide
    const ggml = NAMES.reduce((text, [from, to]) => text.replace(from, to), name)
    if (isWide) tensors.set(ggml, { shape, type: 0, bytes: Buffer.from(bf16(bytes).buffer) })
    else tensors.set(ggml, { shape, type: isQ8 ? 8 : 30, bytes: isQ8 ? q8(bf16(bytes)) : bytes })
  }
  tensors.set('rope_freqs.weight', {
    shape: [config.head_dim / 2],
    type: 0,
    bytes: divisors(config),
  })
  const metadata = metadataOf(parts, quantised ? 'tiny reasoner Q8' : 'tiny reasoner')
  const head = [Buffer.from('GGUF'), u32(3), u64(tensors.size), u64(metadata.length)]
  for (const [key, type, value] of metadata) head.push(text(key), u32(type), value)
  const body: Buffer[] = []
  let offset = 0
  for (const [name, { shape, type, bytes }] of tensors) {
    head.push(text(name), u32(shape.length), ...shape.toReversed().map(u64), u32(type), u64(offset))
    body.push(bytes, padding(bytes.length))
    offset += bytes.length + padding(bytes.length).length
  }
  const start = Buffer.concat(head)
  writeFileSync(path, Buffer.concat([start, padding(start.length), ...body]))
}
