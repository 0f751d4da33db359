// What `info` says of the family's models agrees with what their cards ask for: Nemotron-4-340B wants 8 H200 in
// BF16 and 8 H100 in FP8, Super-49B 2 H100 and 1, a Llama of 8B with 4 million tokens 8 H200. Their configs as they
// are published, and files of their sizes without any data in them.

import assert from 'node:assert/strict'
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { type GpuFit, loadAddon } from '../../server/engine/addon.js'
import { namesOfModel } from '../../server/model/identity.js'
import { findEntry } from '../../server/model/registry.js'
import { noAddon } from './real-server.js'

const root = mkdtempSync(join(tmpdir(), 'nemotron-plans-'))
after(() => rmSync(root, { recursive: true }))

type Shapes = Record<string, readonly number[]>

/** BF16. Undefined: the file system has no room for such a file, even an empty one. */
const checkpoint = (name: string, config: object, shapes: Shapes): string | undefined => {
  const folder = join(root, name)
  mkdirSync(folder)
  writeFileSync(
    join(folder, 'config.json'),
    JSON.stringify({ torch_dtype: 'bfloat16', tie_word_embeddings: false, ...config }),
  )
  let at = 0
  const entries = Object.entries(shapes).map(([tensor, shape]) => {
    const begin = at
    at += shape.reduce((all, one) => all * one, 2)
    return [tensor, { dtype: 'BF16', shape, data_offsets: [begin, at] }]
  })
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const file = openSync(join(folder, 'model.safetensors'), 'w')
  try {
    writeSync(file, Buffer.concat([length, json]))
    ftruncateSync(file, 8 + json.length + at)
    return folder
  } catch {
    return undefined
  } finally {
    closeSync(file)
  }
}

const layersOf = (count: number, of: (layer: number) => Shapes): Shapes =>
  Object.fromEntries(
    Array.from({ length: count }, (_, layer) =>
      Object.entries(of(layer)).map(([name, shape]) => [`model.layers.${layer}.${name}`, shape]),
    ).flat(),
  )

const nemotron4 = () => {
  const [hidden, ffn, kv, vocab] = [18432, 73728, 1536, 256000]
  const norm = (name: string): Shapes => ({
    [`${name}.weight`]: [hidden],
    [`${name}.bias`]: [hidden],
  })
  return checkpoint(
    'Nemotron-4-340B-Instruct',
    {
      ...{ architectures: ['NemotronForCausalLM'], model_type: 'nemotron', vocab_size: vocab },
      ...{ hidden_size: hidden, intermediate_size: ffn, num_hidden_layers: 96 },
      ...{ num_attention_heads: 96, num_key_value_heads: 8, head_dim: 192, hidden_act: 'relu2' },
      ...{ norm_eps: 1e-5, rope_theta: 10000, partial_rotary_factor: 0.5 },
      ...{ max_position_embeddings: 4096, bos_token_id: 2, eos_token_id: 3 },
    },
    {
      'model.embed_tokens.weight': [vocab, hidden],
      'lm_head.weight': [vocab, hidden],
      ...norm('model.norm'),
      ...layersOf(96, () => ({
        ...norm('input_layernorm'),
        ...norm('post_attention_layernorm'),
        'self_attn.q_proj.weight': [hidden, hidden],
        'self_attn.k_proj.weight': [kv, hidden],
        'self_attn.v_proj.weight': [kv, hidden],
        'self_attn.o_proj.weight': [hidden, hidden],
        'mlp.up_proj.weight': [ffn, hidden],
        'mlp.down_proj.weight': [hidden, ffn],
      })),
    },
  )
}

/** Layers without attention, and how often which size of a feed-forward part comes; not in which layers. */
const isWithout = (layer: number): boolean =>
  [6, 7, 11].includes(layer) || (layer >= 42 && layer <= 51) || (layer >= 53 && layer <= 70)
const SIZES = { 5.25: 49, 1.3125: 10, 1: 8, 2.625: 6, 0.5: 6, 3.28125: 1 }

const super49 = () => {
  const [hidden, vocab] = [8192, 128256]
  const multipliers = Object.entries(SIZES).flatMap(([size, count]) =>
    Array<number>(count).fill(Number(size)),
  )
  const ffnOf = (layer: number) =>
    Math.ceil(Math.trunc((2 * (multipliers[layer] ?? 0) * hidden) / 3) / 256) * 256
  return checkpoint(
    'Llama-3_3-Nemotron-Super-49B-v1',
    {
      ...{ architectures: ['DeciLMForCausalLM'], model_type: 'nemotron-nas', vocab_size: vocab },
      ...{ hidden_size: hidden, intermediate_size: null, num_hidden_layers: 80 },
      ...{ num_attention_heads: 64, num_key_value_heads: null, hidden_act: 'silu' },
      ...{ rms_norm_eps: 1e-5, rope_theta: 500000, max_position_embeddings: 131072 },
      ...{ bos_token_id: 128000, eos_token_id: [128001, 128008, 128009] },
      block_configs: multipliers.map((multiplier, layer) => ({
        attention: isWithout(layer)
          ? { no_op: true, replace_with_linear: false, n_heads_in_group: null }
          : { no_op: false, replace_with_linear: false, n_heads_in_group: 8 },
        ffn: { no_op: false, replace_with_linear: false, ffn_mult: multiplier },
      })),
    },
    {
      'model.embed_tokens.weight': [vocab, hidden],
      'lm_head.weight': [vocab, hidden],
      'model.norm.weight': [hidden],
      ...layersOf(80, (layer) => ({
        ...(isWithout(layer)
          ? {}
          : {
              'input_layernorm.weight': [hidden],
              'self_attn.q_proj.weight': [hidden, hidden],
              'self_attn.k_proj.weight': [1024, hidden],
              'self_attn.v_proj.weight': [1024, hidden],
              'self_attn.o_proj.weight': [hidden, hidden],
            }),
        'post_attention_layernorm.weight': [hidden],
        'mlp.gate_proj.weight': [ffnOf(layer), hidden],
        'mlp.up_proj.weight': [ffnOf(layer), hidden],
        'mlp.down_proj.weight': [hidden, ffnOf(layer)],
      })),
    },
  )
}

type LlamaSizes = {
  readonly hidden: number
  readonly layers: number
  readonly heads: number
  readonly ffn: number
  readonly positions?: number
  readonly theta?: number
  readonly factor?: number
}

/** The models of the family that are Llama 3.1 as it is, but for their sizes. */
const llama = (
  name: string,
  { hidden, layers, heads, ffn, positions = 131072, theta = 500000, factor = 8 }: LlamaSizes,
) => {
  const [q, kv, vocab] = [heads * 128, 1024, 128256]
  return checkpoint(
    name,
    {
      ...{ architectures: ['LlamaForCausalLM'], model_type: 'llama', vocab_size: vocab },
      ...{ hidden_size: hidden, intermediate_size: ffn, num_hidden_layers: layers },
      ...{ num_attention_heads: heads, num_key_value_heads: 8, head_dim: 128, hidden_act: 'silu' },
      ...{ rms_norm_eps: 1e-5, rope_theta: theta, max_position_embeddings: positions },
      ...{ attention_bias: false, mlp_bias: false, pretraining_tp: 1 },
      ...{ bos_token_id: 128000, eos_token_id: [128001, 128008, 128009] },
      rope_scaling: {
        ...{ rope_type: 'llama3', factor, low_freq_factor: 1, high_freq_factor: 4 },
        original_max_position_embeddings: 8192,
      },
    },
    {
      'model.embed_tokens.weight': [vocab, hidden],
      'lm_head.weight': [vocab, hidden],
      'model.norm.weight': [hidden],
      ...layersOf(layers, () => ({
        'input_layernorm.weight': [hidden],
        'post_attention_layernorm.weight': [hidden],
        'self_attn.q_proj.weight': [q, hidden],
        'self_attn.k_proj.weight': [kv, hidden],
        'self_attn.v_proj.weight': [kv, hidden],
        'self_attn.o_proj.weight': [hidden, q],
        'mlp.gate_proj.weight': [ffn, hidden],
        'mlp.up_proj.weight': [ffn, hidden],
        'mlp.down_proj.weight': [hidden, ffn],
      })),
    },
  )
}

const LLAMA_8B = { hidden: 4096, layers: 32, heads: 32, ffn: 14336 }
const LLAMA_70B = { hidden: 8192, layers: 80, heads: 64, ffn: 28672 }
const PLAN_8B = { 'RTX 4090 1 stored': 52, 'H100 1 stored': 485, 'H200 8 stored': 8520 }
const PLAN_70B = { 'H100 1 stored': 0, 'H100 1 fp8': 21, 'H100 2 stored': 55, 'H100 8 fp8': 1722 }
/** Without the head there is room for 6,400 tokens more. */
const PLAN_REWARD = {
  'H100 1 stored': 0,
  'H100 1 fp8': 28,
  'H100 2 stored': 62,
  'H100 8 fp8': 1729,
}

/** GPU, how many, weights -> thousands of tokens of BF16 keys and values; 0: the weights do not fit. */
type Plan = Readonly<Record<string, number>>

type Case = [name: string, make: () => string | undefined, parameters: number, plan: Plan]
const B8 = 8_030_261_248

const cases: Case[] = [
  [
    'Nemotron-4-340B',
    nemotron4,
    341_029_195_776,
    {
      'H100 8 stored': 0,
      'H100 8 fp8': 486,
      'H100 4 fp8': 0,
      'H200 4 stored': 0,
      'H200 4 fp8': 366,
      'H200 8 stored': 764,
      'H200 8 fp8': 1326,
    },
  ],
  [
    'Super-49B',
    super49,
    49_867_145_216,
    {
      'H100 1 stored': 0,
      'H100 1 fp8': 138,
      'H100 2 stored': 297,
      'H200 1 stored': 209,
      'A100 4 stored': 284,
      'A100 2 stored': 0,
    },
  ],
  [
    'Llama-3.1-Nemotron-Nano-4B-v1.1',
    // Its heads are wider than its hidden size says, and its rope is its own.
    () =>
      llama('Llama-3.1-Nemotron-Nano-4B-v1.1', {
        ...{ hidden: 3072, layers: 32, heads: 32, ffn: 9216 },
        ...{ theta: 3565775107.2609234, factor: 4 },
      }),
    4_512_746_496,
    { 'RTX 4090 1 stored': 106, 'RTX 4090 1 fp8': 134, 'H100 1 stored': 539 },
  ],
  [
    'Llama-3.1-Nemotron-Nano-8B-v1',
    () => llama('Llama-3.1-Nemotron-Nano-8B-v1', LLAMA_8B),
    B8,
    PLAN_8B,
  ],
  [
    'Llama-3.1-Nemotron-Safety-Guard-8B-v3',
    () => llama('Llama-3.1-Nemotron-Safety-Guard-8B-v3', LLAMA_8B),
    B8,
    PLAN_8B,
  ],
  ...[1_073_152, 2_146_304, 4_292_608].map((positions, i): Case => {
    const name = `Llama-3.1-Nemotron-8B-UltraLong-${2 ** i}M-Instruct`
    return [name, () => llama(name, { ...LLAMA_8B, positions }), B8, PLAN_8B]
  }),
  // Of a reward model that is stored as a language model the rows of its head that are read.
  ...Object.entries({
    ...{ Feedback: 128256, Edit: 128256, Select: 1 },
    ...{ Reward: 1, 'Reward-Multilingual': 1, 'Reward-Principle': 2 },
  }).map(([kind, rows]): Case => {
    const name = `Llama-3.3-Nemotron-70B-${kind}`
    const parameters = 70_553_706_496 - (128256 - rows) * LLAMA_70B.hidden
    return [name, () => llama(name, LLAMA_70B), parameters, rows > 2 ? PLAN_70B : PLAN_REWARD]
  }),
]

describe('plans of memory', { skip: noAddon }, () => {
  for (const [name, make, parameters, plan] of cases)
    test(`${name} needs what its card says`, (t) => {
      const folder = make()
      if (folder === undefined) return t.skip('no file of this size can be made here')
      const entry = findEntry(namesOfModel(folder, folder))
      assert.ok(entry, 'models/registry.json knows it')
      const info = loadAddon().modelInfo(folder, entry.reward?.rows ?? [])
      if ('code' in info) throw new Error(info.message)
      assert.equal(info.config.reward, entry.kind === 'chat' ? 'none' : 'lm_head_rows')
      assert.equal(info.parameters, parameters)
      for (const [what, thousands] of Object.entries(plan)) {
        const [, gpu = '', ranks, format] = /^(.*) (\d) (\w+)$/.exec(what) ?? []
        const fit: GpuFit | undefined = info.gpus.find(
          (one) =>
            one.gpu.includes(gpu) &&
            one.ranks === Number(ranks) &&
            (one.format === 'fp8') === (format === 'fp8'),
        )
        assert.ok(fit, what)
        assert.equal(Math.round(fit.kvTokensBf16 / 1000), thousands, what)
      }
    })
})
