// A NeMo folder in the layout that NVIDIA's have, made of one of test/golden's Nemotron-4 checkpoints.

import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deflateSync } from 'node:zlib'
import { packagePath } from '../../server/version.js'

type Tensor = {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly data: Buffer
}

/** The tensors of every shard in a folder. */
export const readTensors = (folder: string): Map<string, Tensor> => {
  const index = join(folder, 'model.safetensors.index.json')
  let files = ['model.safetensors']
  try {
    files = [
      ...new Set(Object.values<string>(JSON.parse(readFileSync(index, 'utf8')).weight_map)),
    ].sort()
  } catch {}
  const tensors = new Map<string, Tensor>()
  for (const file of files) {
    const bytes = readFileSync(join(folder, file))
    const length = Number(bytes.readBigUInt64LE())
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString())
    for (const [name, entry] of Object.entries<{
      dtype: string
      shape: number[]
      data_offsets: [number, number]
    }>(header)) {
      if (name === '__metadata__') continue
      const [from, to] = entry.data_offsets
      tensors.set(name, {
        dtype: entry.dtype,
        shape: entry.shape,
        data: bytes.subarray(8 + length + from, 8 + length + to),
      })
    }
  }
  return tensors
}

export type NemoOptions = {
  readonly checkpoint: string
  /** Ways of tensor parallelism: chunks of a matrix. */
  readonly ways?: number
  readonly zlib?: boolean
  /** Each layer an array of its own. */
  readonly perLayer?: boolean
  readonly separator?: '.' | '/'
  /** Lines of model_config.yaml that stand for others, by their key. */
  readonly config?: Readonly<Record<string, string>>
  /** Changes an array's .zarray. */
  readonly header?: Readonly<Record<string, object>>
}

const chunkOf = (array: Tensor, chunks: readonly number[], at: readonly number[]): Buffer => {
  const { shape, data } = array
  const item = data.length / shape.reduce((a, b) => a * b, 1)
  const out = Buffer.alloc(chunks.reduce((a, b) => a * b, item))
  const copy = (axis: number, from: number, to: number): void => {
    const size = chunks[axis] ?? 1
    const begin = (at[axis] ?? 0) * size
    for (let i = 0; i < size && begin + i < (shape[axis] ?? 1); i++) {
      const source = (from + begin + i) * (shape[axis + 1] ?? 1)
      const target = (to + i) * (chunks[axis + 1] ?? 1)
      if (axis + 1 < shape.length) copy(axis + 1, source, target)
      else data.copy(out, (to + i) * item, (from + begin + i) * item, (from + begin + i + 1) * item)
    }
  }
  copy(0, 0, 0)
  return out
}

const positions = (counts: readonly number[]): number[][] =>
  counts.reduce<number[][]>(
    (all, count) => all.flatMap((one) => Array.from({ length: count }, (_, i) => [...one, i])),
    [[]],
  )

const DTYPES: Readonly<Record<string, string>> = { BF16: 'bfloat16', F16: '<f2', F32: '<f4' }

const writeZarr = (
  folder: string,
  array: Tensor,
  chunks: readonly number[],
  { zlib = false, separator = '.' }: NemoOptions,
  change: object = {},
): void => {
  mkdirSync(folder, { recursive: true })
  const header = {
    chunks,
    compressor: zlib ? { id: 'zlib', level: 1 } : null,
    dtype: DTYPES[array.dtype],
    fill_value: null,
    filters: null,
    order: 'C',
    shape: array.shape,
    zarr_format: 2,
    ...(separator === '/' && { dimension_separator: '/' }),
    ...change,
  }
  writeFileSync(join(folder, '.zarray'), JSON.stringify(header))
  const counts = array.shape.map((size, i) => Math.ceil(size / (chunks[i] ?? 1)))
  for (const at of positions(counts)) {
    const bytes = chunkOf(array, chunks, at)
    const file = join(folder, at.join(separator))
    mkdirSync(join(file, '..'), { recursive: true })
    writeFileSync(file, zlib ? deflateSync(bytes) : bytes)
  }
}

const concat = (shape: readonly number[], parts: readonly Tensor[]): Tensor => ({
  dtype: parts[0]?.dtype ?? '',
  shape,
  data: Buffer.concat(parts.map((one) => one.data)),
})

const rowsOf = (tensor: Tensor, from: number, count: number): Tensor => {
  const [rows = 1, columns = 1] = tensor.shape
  const bytes = tensor.data.length / rows
  return {
    dtype: tensor.dtype,
    shape: [count, columns],
    data: tensor.data.subarray(from * bytes, (from + count) * bytes),
  }
}

type Config = {
  readonly num_hidden_layers: number
  readonly num_attention_heads: number
  readonly num_key_value_heads: number
  readonly head_dim: number
  readonly hidden_size: number
  readonly intermediate_size: number
  readonly max_position_embeddings: number
}

/** model_config.yaml, and the tokenizer that it names. */
const writeConfig = (folder: string, config: Config, change: NemoOptions['config']): void => {
  const lines = {
    mcore_gpt: 'true',
    num_layers: String(config.num_hidden_layers),
    hidden_size: String(config.hidden_size),
    ffn_hidden_size: String(config.intermediate_size),
    num_attention_heads: String(config.num_attention_heads),
    num_query_groups: String(config.num_key_value_heads),
    kv_channels: `${config.head_dim} # a comment`,
    max_position_embeddings: String(config.max_position_embeddings),
    layernorm_epsilon: '1.0e-05',
    normalization: 'layernorm1p',
    activation: 'squared-relu',
    position_embedding_type: 'rope',
    rotary_percentage: '0.5',
    share_embeddings_and_output_weights: 'false',
    bias: 'false',
    ...change,
  }
  const text = Object.entries(lines).map(([key, value]) => `${key}: ${value}`)
  writeFileSync(
    join(folder, 'model_config.yaml'),
    `${text.join('\n')}
tokenizer:
  library: sentencepiece
  model: nemo:0a1b2c_nemotron_2_256k.model
  sentencepiece_legacy: false
optim:
  name: distributed_fused_adam
  betas:
  - 0.9
  - 0.98
`,
  )
  writeFileSync(
    join(folder, '0a1b2c_nemotron_2_256k.model'),
    readFileSync(packagePath('test/golden/pieces/nemotron.model')),
  )
}

/** As Megatron keeps them: each group's queries, key and value. */
const fuse = (get: (name: string) => Tensor, config: Config, layer: number): Tensor => {
  const { num_attention_heads: heads, num_key_value_heads: groups, head_dim: headDim } = config
  const [q, k, v] = ['q', 'k', 'v'].map((kind) =>
    get(`model.layers.${layer}.self_attn.${kind}_proj.weight`),
  ) as [Tensor, Tensor, Tensor]
  const perGroup = (heads / groups) * headDim
  return concat(
    [(heads + 2 * groups) * headDim, config.hidden_size],
    Array.from({ length: groups }, (_, group) => [
      rowsOf(q, group * perGroup, perGroup),
      rowsOf(k, group * headDim, headDim),
      rowsOf(v, group * headDim, headDim),
    ]).flat(),
  )
}

/** Returns the folder. */
export const nemoFolder = (options: NemoOptions): string => {
  const { checkpoint, ways = 2, perLayer = false } = options
  const source = packagePath(`test/golden/${checkpoint}`)
  const config: Config = JSON.parse(readFileSync(join(source, 'config.json'), 'utf8'))
  const tensors = readTensors(source)
  const get = (name: string): Tensor => {
    const found = tensors.get(name)
    if (found === undefined) throw new Error(`${checkpoint} has no ${name}`)
    return found
  }
  const layers: number = config.num_hidden_layers
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-nemo-'))
  const weights = join(folder, 'model_weights')
  /** `split`: the axis that the ways share, counted from the end; 0: none. */
  const write = (name: string, array: Tensor, split: number, isStacked: boolean): void => {
    const chunks = array.shape.map((size, i) => {
      if (isStacked && i === 0) return 1
      return split > 0 && i === array.shape.length - split ? Math.ceil(size / ways) : size
    })
    writeZarr(join(weights, name), array, chunks, options, options.header?.[name])
  }
  const ofLayers = (name: string, split: number, make: (layer: number) => Tensor): void => {
    const all = Array.from({ length: layers }, (_, layer) => make(layer))
    if (!perLayer) {
      const stacked = concat([layers, ...(all[0]?.shape ?? [])], all)
      write(`model.decoder.layers.${name}`, stacked, split, true)
    } else
      for (const [layer, one] of all.entries())
        write(`model.decoder.layers.${layer}.${name}`, one, split, false)
  }
  const of = (name: string) => (layer: number) => get(`model.layers.${layer}.${name}`)
  write('model.embedding.word_embeddings.weight', get('model.embed_tokens.weight'), 2, false)
  ofLayers('self_attention.linear_qkv.weight', 2, (layer) => fuse(get, config, layer))
  ofLayers('self_attention.linear_proj.weight', 1, of('self_attn.o_proj.weight'))
  ofLayers('mlp.linear_fc1.weight', 2, of('mlp.up_proj.weight'))
  ofLayers('mlp.linear_fc2.weight', 1, of('mlp.down_proj.weight'))
  for (const kind of ['weight', 'bias']) {
    const norm = perLayer ? 'input_layernorm.' : 'self_attention.linear_qkv.layer_norm_'
    ofLayers(`${norm}${kind}`, 0, of(`input_layernorm.${kind}`))
    const next = perLayer ? 'pre_mlp_layernorm.' : 'mlp.linear_fc1.layer_norm_'
    ofLayers(`${next}${kind}`, 0, of(`post_attention_layernorm.${kind}`))
    write(`model.decoder.final_layernorm.${kind}`, get(`model.norm.${kind}`), 0, false)
  }
  const score = tensors.get('score.weight')
  if (score) write('model.rm_head.weight', score, 1, false)
  else write('model.output_layer.weight', get('lm_head.weight'), 2, false)
  mkdirSync(join(weights, 'model.decoder.layers.mlp.linear_fc1._extra_state'))
  writeFileSync(join(weights, 'common.pt'), 'not read')
  writeFileSync(join(weights, 'metadata.json'), '{"sharded_backend": "zarr"}')
  writeConfig(folder, config, options.config)
  return folder
}
