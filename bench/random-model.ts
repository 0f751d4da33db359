// Bench models: Hugging Face folders with random BF16 weights of a named shape, made on demand in
// bench/.cache. Speed does not depend on the values, but they are shaped like a model's: hidden
// states stay near 1 and logits have a standard deviation of 2, so that greedy tokens are distinct
// and can be compared between engines.

import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { elements, type TensorSpec, writeSafetensors } from './safetensors.js'

export type Shape = {
  readonly name: string
  readonly hidden: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly ffn: number
  readonly vocab: number
  readonly tied: boolean
  readonly ropeTheta: number
  readonly maxPosition: number
  readonly ropeScaling: RopeScaling | null
}

export type RopeScaling = {
  readonly rope_type: 'llama3'
  readonly factor: number
  readonly low_freq_factor: number
  readonly high_freq_factor: number
  readonly original_max_position_embeddings: number
}

// for the harness itself; its rope scaling bends within a hundred tokens
const tiny: Shape = {
  name: 'tiny',
  hidden: 256,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  ffn: 768,
  vocab: 1024,
  tied: true,
  ropeTheta: 10000,
  maxPosition: 4096,
  ropeScaling: {
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 128,
  },
}

export const shapes: Readonly<Record<string, Shape>> = {
  // Llama-3.2-1B's
  '1b': {
    name: '1b',
    hidden: 2048,
    layers: 16,
    heads: 32,
    kvHeads: 8,
    headDim: 64,
    ffn: 8192,
    vocab: 128256,
    tied: true,
    ropeTheta: 500000,
    maxPosition: 131072,
    ropeScaling: {
      rope_type: 'llama3',
      factor: 32,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
  },
  // small steps: what an engine costs beside the weights' bytes
  '160m': {
    name: '160m',
    hidden: 768,
    layers: 12,
    heads: 12,
    kvHeads: 4,
    headDim: 64,
    ffn: 2048,
    vocab: 32000,
    tied: false,
    ropeTheta: 10000,
    maxPosition: 8192,
    ropeScaling: null,
  },
  tiny,
  // long prompts on a machine of any size
  'tiny-128k': { ...tiny, name: 'tiny-128k', maxPosition: 131072 },
}

export const cacheFolder = fileURLToPath(new URL('.cache', import.meta.url))

/** Parameters of the layers' matrices: what FP8 shrinks and every token multiplies. */
export const linearParameters = (s: Shape): number =>
  s.layers * s.hidden * (2 * s.heads * s.headDim + 2 * s.kvHeads * s.headDim + 3 * s.ffn)

/** Output rows of the layers' matrices: each has a float32 scale under FP8. */
export const linearRows = (s: Shape): number =>
  s.layers * ((s.heads + 2 * s.kvHeads) * s.headDim + 2 * s.hidden + 2 * s.ffn)

const llamaTensors = (s: Shape): readonly TensorSpec[] => {
  const bf16 = (name: string, ...shape: number[]): TensorSpec => ({ name, dtype: 'BF16', shape })
  const layer = (index: number): readonly TensorSpec[] => {
    const at = `model.layers.${index}`
    return [
      bf16(`${at}.input_layernorm.weight`, s.hidden),
      bf16(`${at}.self_attn.q_proj.weight`, s.heads * s.headDim, s.hidden),
      bf16(`${at}.self_attn.k_proj.weight`, s.kvHeads * s.headDim, s.hidden),
      bf16(`${at}.self_attn.v_proj.weight`, s.kvHeads * s.headDim, s.hidden),
      bf16(`${at}.self_attn.o_proj.weight`, s.hidden, s.heads * s.headDim),
      bf16(`${at}.post_attention_layernorm.weight`, s.hidden),
      bf16(`${at}.mlp.gate_proj.weight`, s.ffn, s.hidden),
      bf16(`${at}.mlp.up_proj.weight`, s.ffn, s.hidden),
      bf16(`${at}.mlp.down_proj.weight`, s.hidden, s.ffn),
    ]
  }
  return [
    bf16('model.embed_tokens.weight', s.vocab, s.hidden),
    ...Array.from({ length: s.layers }, (_, index) => layer(index)).flat(),
    bf16('model.norm.weight', s.hidden),
    ...(s.tied ? [] : [bf16('lm_head.weight', s.vocab, s.hidden)]),
  ]
}

/** Marsaglia's xorshift128; the state is drawn from the seed and the name. */
const randomWords = (seed: number, name: string): (() => number) => {
  let hash = seed | 0
  const next = (): number => {
    hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b) + 0x6d2b79f5
    return hash ^ (hash >>> 15)
  }
  for (const letter of Buffer.from(name)) {
    hash ^= letter
    next()
  }
  let x = next() | 1
  let y = next()
  let z = next()
  let w = next()
  return () => {
    const t = x ^ (x << 11)
    x = y
    y = z
    z = w
    w = w ^ (w >>> 19) ^ t ^ (t >>> 8)
    return w
  }
}

/** 65536 values of the normal distribution: a random value is then one lookup. */
const normalTable = (): Float32Array => {
  const table = new Float32Array(65536)
  const words = randomWords(1, 'normal')
  const uniform = (): number => ((words() >>> 0) + 0.5) / 2 ** 32
  for (let i = 0; i < table.length; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(uniform()))
    const angle = 2 * Math.PI * uniform()
    table[i] = radius * Math.cos(angle)
    table[i + 1] = radius * Math.sin(angle)
  }
  return table
}

const toBf16 = (values: Float32Array): Uint16Array => {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16)
}

const pieceElements = 1 << 22

/** Mean and deviation of a tensor's values (see the head of this file). */
const distribution = (tensor: TensorSpec): readonly [mean: number, deviation: number] => {
  const [, columns] = tensor.shape
  if (columns === undefined) return [1, 0.1] // norm gains
  const vocabulary = tensor.name.includes('embed') || tensor.name.includes('lm_head')
  return [0, (vocabulary ? 2 : 1) / Math.sqrt(columns)]
}

const randomWeights = (seed: number): ((tensor: TensorSpec) => Iterable<Uint8Array>) => {
  const normal = normalTable()
  const piece = new Uint16Array(pieceElements)
  return function* fill(tensor) {
    const [mean, deviation] = distribution(tensor)
    const table = toBf16(normal.map((value) => mean + deviation * value))
    const words = randomWords(seed, tensor.name)
    for (let left = elements(tensor.shape); left > 0; left -= pieceElements) {
      const count = Math.min(left, pieceElements)
      for (let i = 0; i < count; i += 2) {
        const word = words()
        piece[i] = table[word & 0xffff] ?? 0
        piece[i + 1] = table[word >>> 16] ?? 0
      }
      yield new Uint8Array(piece.buffer, 0, count * 2)
    }
  }
}

const specialNames = ['<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>'] as const

/** GPT-2's alphabet: a printable character for each byte. */
const byteLetters = (): readonly string[] => {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
  let extra = 256
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(printable(byte) ? byte : extra++),
  )
}

/** A byte-level BPE vocabulary: the bytes, a few merges, three control tokens, then filler. */
export const benchVocabulary = (
  size: number,
): {
  readonly tokens: readonly string[]
  readonly merges: readonly string[]
  readonly special: ReadonlyMap<string, number>
} => {
  const tokens = [...byteLetters()]
  const merges = ['t h', 'i n', 'e r', 'a n', 'Ġ t', 'Ġ a', 'Ġ th']
  tokens.push(...merges.map((pair) => pair.replace(' ', '')))
  const special = new Map(specialNames.map((name, index) => [name, tokens.length + index]))
  tokens.push(...specialNames)
  for (let id = tokens.length; id < size; id++) tokens.push(`w${id}`)
  return { tokens, merges, special }
}

const idOf = (special: ReadonlyMap<string, number>, name: (typeof specialNames)[number]): number =>
  special.get(name) ?? -1

export const bosId = (size: number): number =>
  idOf(benchVocabulary(size).special, '<|begin_of_text|>')

const tokenizerJson = (size: number): unknown => {
  const { tokens, merges, special } = benchVocabulary(size)
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [...special].map(([content, id]) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { ...byteLevel, use_regex: true },
    post_processor: { ...byteLevel, use_regex: true },
    decoder: { ...byteLevel, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(
        tokens.map((token, id) => [token, id]).filter(([token]) => !special.has(String(token))),
      ),
      merges,
    },
  }
}

const chatTemplate =
  '<|begin_of_text|>{% for message in messages %}{{ message.role }}: {{ message.content }}' +
  '<|eot_id|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}'

const writeModel = (
  folder: string,
  shape: Shape,
  onProgress: (bytesDone: number, bytesTotal: number) => void,
): void => {
  const { special } = benchVocabulary(shape.vocab)
  const stops = [idOf(special, '<|end_of_text|>'), idOf(special, '<|eot_id|>')]
  const bos = idOf(special, '<|begin_of_text|>')
  const json = (name: string, value: unknown): void =>
    writeFileSync(join(folder, name), `${JSON.stringify(value, null, 1)}\n`)

  json('config.json', {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: shape.hidden,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    intermediate_size: shape.ffn,
    vocab_size: shape.vocab,
    tie_word_embeddings: shape.tied,
    rope_theta: shape.ropeTheta,
    rope_scaling: shape.ropeScaling,
    max_position_embeddings: shape.maxPosition,
    rms_norm_eps: 1e-5,
    hidden_act: 'silu',
    attention_bias: false,
    mlp_bias: false,
    torch_dtype: 'bfloat16',
    bos_token_id: bos,
    eos_token_id: stops,
  })
  json('generation_config.json', { bos_token_id: bos, eos_token_id: stops })
  json('tokenizer_config.json', {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: '<|begin_of_text|>',
    eos_token: '<|eot_id|>',
    chat_template: chatTemplate,
  })
  json('tokenizer.json', tokenizerJson(shape.vocab))
  writeSafetensors(
    join(folder, 'model.safetensors'),
    llamaTensors(shape),
    randomWeights(1234),
    onProgress,
  )
}

/** A line on the terminal that says how far a long write is. */
export const progressLine = (what: string): ((bytesDone: number, bytesTotal: number) => void) => {
  let shown = Date.now()
  return (bytesDone, bytesTotal) => {
    const now = Date.now()
    if (now - shown < 500 && bytesDone < bytesTotal) return
    shown = now
    const share = ((100 * bytesDone) / bytesTotal).toFixed(0)
    process.stderr.write(`\r${what}: ${share} % of ${(bytesTotal / 1e9).toFixed(2)} GB`)
    if (bytesDone === bytesTotal) process.stderr.write('\n')
  }
}

/** The folder of a shape's model; written when it is not there yet. */
export const benchModel = (shape: Shape): string => {
  const folder = join(cacheFolder, 'models', shape.name)
  if (existsSync(folder)) return folder
  const partial = `${folder}.partial`
  rmSync(partial, { recursive: true, force: true })
  mkdirSync(partial, { recursive: true })
  writeModel(partial, shape, progressLine(`writing ${folder}`))
  renameSync(partial, folder)
  return folder
}
