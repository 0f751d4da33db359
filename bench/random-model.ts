// Bench models: Hugging Face folders with random BF16 weights of a named shape, made on demand in
// bench/.cache. Speed does not depend on the values, but they are shaped like a model's: hidden
// states stay near 1 and logits have a standard deviation of 2, so that greedy tokens are distinct
// and can be compared between engines.

import {
  closeSync,
  cpSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { LLAMA3_SPLIT } from '../server/tokenizer/file.js'
import { cached } from './cached.js'
import { cacheFolder } from './machine.js'
import type { Shape } from './shapes.js'

export type Tensor = { readonly name: string; readonly shape: readonly number[] }

export const elements = ({ shape }: Tensor): number => shape.reduce((a, b) => a * b, 1)

/** All BF16. */
export const tensorsOf = (s: Shape): readonly Tensor[] => {
  const layer = (index: number): readonly Tensor[] =>
    [
      { name: 'input_layernorm', shape: [s.hidden] },
      { name: 'self_attn.q_proj', shape: [s.heads * s.headDim, s.hidden] },
      { name: 'self_attn.k_proj', shape: [s.kvHeads * s.headDim, s.hidden] },
      { name: 'self_attn.v_proj', shape: [s.kvHeads * s.headDim, s.hidden] },
      { name: 'self_attn.o_proj', shape: [s.hidden, s.heads * s.headDim] },
      { name: 'post_attention_layernorm', shape: [s.hidden] },
      { name: 'mlp.gate_proj', shape: [s.ffn, s.hidden] },
      { name: 'mlp.up_proj', shape: [s.ffn, s.hidden] },
      { name: 'mlp.down_proj', shape: [s.hidden, s.ffn] },
    ].map(({ name, shape }) => ({ name: `model.layers.${index}.${name}.weight`, shape }))
  return [
    { name: 'model.embed_tokens.weight', shape: [s.vocab, s.hidden] },
    ...Array.from({ length: s.layers }, (_, index) => layer(index)).flat(),
    { name: 'model.norm.weight', shape: [s.hidden] },
    ...(s.tied ? [] : [{ name: 'lm_head.weight', shape: [s.vocab, s.hidden] }]),
  ]
}

/** Marsaglia's xorshift128; the state is drawn from the seed and the name. */
export const randomWords = (seed: number, name: string): (() => number) => {
  let hash = seed | 0
  const next = (): number => {
    hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b) + 0x6d2b79f5
    return hash ^ (hash >>> 15)
  }
  for (const letter of Buffer.from(name)) {
    hash ^= letter
    next()
  }
  let [x, y, z, w] = [next() | 1, next(), next(), next()]
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
  const words = randomWords(1, 'normal')
  const uniform = (): number => ((words() >>> 0) + 0.5) / 2 ** 32
  const table = new Float32Array(65536)
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
export const distribution = (tensor: Tensor): readonly [mean: number, deviation: number] => {
  const [, columns] = tensor.shape
  if (columns === undefined) return [1, 0.1] // norm gains
  const vocabulary = tensor.name.includes('embed') || tensor.name.includes('lm_head')
  return [0, (vocabulary ? 2 : 1) / Math.sqrt(columns)]
}

/** The bytes of a tensor piece by piece, the same ones each time; all pieces share one buffer. */
export const randomWeights = (): ((tensor: Tensor) => Iterable<Uint8Array>) => {
  const normal = normalTable()
  const piece = new Uint16Array(pieceElements)
  return function* fill(tensor) {
    const [mean, deviation] = distribution(tensor)
    const table = toBf16(normal.map((value) => mean + deviation * value))
    const words = randomWords(1234, tensor.name)
    for (let left = elements(tensor); left > 0; left -= pieceElements) {
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

/** Writes a file in pieces, with its progress on the terminal. */
export const writePieces = (path: string, total: number, pieces: Iterable<Uint8Array>): void => {
  const fd = openSync(path, 'w')
  let done = 0
  let shown = Date.now()
  try {
    for (const piece of pieces) {
      for (let at = 0; at < piece.length; ) at += writeSync(fd, piece, at, piece.length - at)
      done += piece.length
      if (Date.now() - shown < 500) continue
      shown = Date.now()
      process.stderr.write(`writing ${path}: ${((100 * done) / total).toFixed(0)} %\n`)
    }
  } finally {
    closeSync(fd)
  }
  if (done !== total) throw new Error(`${path}: wrote ${done} bytes of ${total}`)
}

const writeSafetensors = (path: string, tensors: readonly Tensor[]): void => {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let total = 0
  for (const tensor of tensors) {
    const end = total + 2 * elements(tensor)
    header[tensor.name] = { dtype: 'BF16', shape: tensor.shape, data_offsets: [total, end] }
    total = end
  }
  const json = Buffer.from(JSON.stringify(header))
  const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ')
  head.writeBigUInt64LE(BigInt(head.length - 8))
  json.copy(head, 8)
  const fill = randomWeights()
  const pieces = function* () {
    yield head
    for (const tensor of tensors) yield* fill(tensor)
  }
  writePieces(path, head.length + total, pieces())
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
export const benchVocabulary = (size: number) => {
  const merges = ['t h', 'i n', 'e r', 'a n', 'Ġ t', 'Ġ a', 'Ġ th']
  const tokens = [...byteLetters(), ...merges.map((pair) => pair.replace(' ', ''))]
  const bos = tokens.length
  tokens.push(...specialNames)
  for (let id = tokens.length; id < size; id++) tokens.push(`w${id}`)
  return { tokens, merges, bos, stops: [bos + 1, bos + 2] }
}

const tokenizerJson = (size: number): unknown => {
  const { tokens, merges, bos } = benchVocabulary(size)
  const byteLevel = {
    ...{ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  }
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false }
  return {
    version: '1.0',
    added_tokens: specialNames.map((content, i) => ({
      ...{ id: bos + i, content, special: true },
      ...plain,
    })),
    pre_tokenizer: byteLevel,
    post_processor: byteLevel,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  }
}

const chatTemplate =
  '<|begin_of_text|>{% for message in messages %}{{ message.role }}: {{ message.content }}' +
  '<|eot_id|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}'

const writeModel = (folder: string, shape: Shape): void => {
  const { bos, stops } = benchVocabulary(shape.vocab)
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
  writeSafetensors(join(folder, 'model.safetensors'), tensorsOf(shape))
}

/** Words that are one token each behind a blank, in models of benchWordsModel(). */
export const benchWords: readonly string[] = (
  'the of and to in is you that it he was for on are as with his they at be this from have or by one had not but ' +
  'what all were when we there can an your which their said if do will each about how up out them then she many some'
).split(' ')

/** What questions and their labels are written in, beside benchWords. */
const PHRASES =
  'user: assistant: Is following true above? Answer with Yes or No only. yes YES no NO Options: label option number level'

const writeWordsModel = (folder: string, model: string, shape: Shape): void => {
  cpSync(model, folder, { recursive: true, filter: (file) => !file.endsWith('.safetensors') })
  symlinkSync(join(model, 'model.safetensors'), join(folder, 'model.safetensors'))
  const json = JSON.parse(readFileSync(join(model, 'tokenizer.json'), 'utf8'))
  const { tokens, bos } = benchVocabulary(shape.vocab)
  const known = new Set(tokens.slice(0, bos))
  const words = [...benchWords, ...(PHRASES.match(/[A-Za-z]+/g) ?? [])]
  const made = new Set(
    words.flatMap((word) => [word, `Ġ${word}`]).filter((word) => !known.has(word)),
  )
  // In the place of filler.
  tokens.splice(bos + specialNames.length, made.size, ...made)
  json.model.ignore_merges = true
  // As the models that we serve cut a text, which decides how much of it is known when it comes again.
  const split = {
    type: 'Split',
    pattern: { Regex: LLAMA3_SPLIT },
    behavior: 'Isolated',
    invert: false,
  }
  const bytes = { ...json.pre_tokenizer, use_regex: false }
  json.pre_tokenizer = { type: 'Sequence', pretokenizers: [split, bytes] }
  json.model.vocab = Object.fromEntries(tokens.map((token, id) => [token, id]))
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json))
}

/** The folder of a shape's model; written when it is not there yet. */
export const benchModel = (shape: Shape): string =>
  cached(join(cacheFolder, 'models', shape.name), (folder) => {
    mkdirSync(folder)
    writeModel(folder, shape)
  })

/** The folder of a shape's model whose tokenizer knows words: for what is asked in text. */
export const benchWordsModel = (shape: Shape): string => {
  const model = benchModel(shape)
  return cached(`${model}-llama3-words`, (folder) => writeWordsModel(folder, model, shape))
}

/** Ids for prompts; which ones does not matter for speed, but each prompt must be new to a cache. */
export const randomPrompt = (length: number, vocab: number, seed: number): number[] => {
  let state = Math.imul(seed, 0x9e3779b1)
  return Array.from({ length }, () => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x1b873593
    const ordinary = vocab - 512 // past the bytes, merges and control tokens
    return 512 + ((state >>> 8) % ordinary)
  })
}
