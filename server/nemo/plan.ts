// Which tensors of Hugging Face's form come of which arrays of a NeMo folder. A matrix keeps its columns; its
// rows go to one tensor, or, of the fused query, key and value, to three.

import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { NemoConfig } from './model-config.js'
import { bandsOf, createReading, matrixOf, openZarr, type ZarrArray } from './zarr.js'

export type Tensor = {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  readonly bytes: number
}

/** Rows of a source that stand together in a tensor. */
type Move = {
  readonly from: number
  readonly rows: number
  readonly tensor: string
  readonly to: number
}

/** One matrix that is read, and what becomes of it. */
export type Source = {
  readonly array: ZarrArray
  /** Of a stacked array. */
  readonly layer: number | undefined
  readonly rowBytes: number
  readonly tensors: readonly Tensor[]
  readonly moves: readonly Move[]
}

export type Plan = {
  readonly sources: readonly Source[]
  /** Rows of the embedding. */
  readonly vocab: number
  /** Outputs of the reward head; undefined: a language model. */
  readonly outputs: number | undefined
  readonly dtype: string
}

/** `a`: a NeMo name below `model.decoder.layers.`, or another that says the same. */
type LayerPart = {
  readonly names: readonly string[]
  readonly to: string
  readonly shape: readonly number[]
}

const norms = (to: string, names: readonly string[], hidden: number): LayerPart[] =>
  ['weight', 'bias'].map((kind) => ({
    names: names.map((name) => `${name}${kind}`),
    to: `${to}.${kind}`,
    shape: [hidden],
  }))

const sizesOf = (config: NemoConfig) => {
  const heads = config.num_attention_heads
  const groups = config.num_query_groups ?? heads
  const headDim = config.kv_channels ?? config.hidden_size / heads
  if (!Number.isInteger(headDim) || !Number.isInteger(heads / groups))
    throw new Error(
      `model_config.yaml: num_attention_heads is ${heads}, hidden_size ${config.hidden_size} and num_query_groups ${groups}; expected multiples`,
    )
  return { heads, groups, headDim }
}

const layerParts = (config: NemoConfig): readonly LayerPart[] => {
  const { hidden_size: hidden, ffn_hidden_size: ffn } = config
  const { heads, headDim } = sizesOf(config)
  return [
    ...norms(
      'input_layernorm',
      ['self_attention.linear_qkv.layer_norm_', 'input_layernorm.'],
      hidden,
    ),
    {
      names: ['self_attention.linear_proj.weight'],
      to: 'self_attn.o_proj.weight',
      shape: [hidden, heads * headDim],
    },
    ...norms(
      'post_attention_layernorm',
      ['mlp.linear_fc1.layer_norm_', 'pre_mlp_layernorm.'],
      hidden,
    ),
    { names: ['mlp.linear_fc1.weight'], to: 'mlp.up_proj.weight', shape: [ffn, hidden] },
    { names: ['mlp.linear_fc2.weight'], to: 'mlp.down_proj.weight', shape: [hidden, ffn] },
  ]
}

/** Each group has its query heads, its key and its value. */
const qkvMoves = (config: NemoConfig, prefix: string): readonly Move[] => {
  const { heads, groups, headDim } = sizesOf(config)
  const perGroup = heads / groups
  const name = (kind: string) => `${prefix}self_attn.${kind}_proj.weight`
  return Array.from({ length: groups }, (_, group) => {
    const from = group * (perGroup + 2) * headDim
    const q = perGroup * headDim
    return [
      { from, rows: q, tensor: name('q'), to: group * q },
      { from: from + q, rows: headDim, tensor: name('k'), to: group * headDim },
      { from: from + q + headDim, rows: headDim, tensor: name('v'), to: group * headDim },
    ]
  }).flat()
}

const LAYERS = 'model.decoder.layers.'

/** Every array of the folder; state that is no tensor is gone past. */
const listArrays = async (folder: string): Promise<ReadonlyMap<string, ZarrArray>> => {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => {
    throw new Error(
      `${folder}: there is no such folder; a NeMo folder has model_config.yaml and model_weights`,
    )
  })
  const arrays = new Map<string, ZarrArray>()
  for (const entry of entries) {
    if (!entry.isDirectory() || entry.name.includes('_extra_state')) continue
    if (!existsSync(join(folder, entry.name, '.zarray'))) continue
    arrays.set(entry.name, await openZarr(join(folder, entry.name)))
  }
  if (arrays.size === 0)
    throw new Error(`${folder}: no folder in it has a .zarray: it holds no zarr checkpoint`)
  return arrays
}

const tensorOf = (
  name: string,
  shape: readonly number[],
  { dtype, itemBytes }: ZarrArray,
): Tensor => ({
  name,
  dtype,
  shape,
  bytes: shape.reduce((all, one) => all * one, itemBytes),
})

/** Takes arrays by name, and knows at the end which nobody took. */
const createShelf = (folder: string, arrays: ReadonlyMap<string, ZarrArray>, layers: number) => {
  const left = new Set(arrays.keys())
  const take = (names: readonly string[]): ZarrArray | undefined => {
    const name = names.find((one) => arrays.has(one))
    if (name === undefined) return undefined
    left.delete(name)
    return arrays.get(name)
  }
  const need = (names: readonly string[]): ZarrArray => {
    const found = take(names)
    if (found !== undefined) return found
    throw new Error(`${folder}: ${names.join(' or ')} is missing`)
  }
  const check = (array: ZarrArray, expected: readonly number[], isOpenEnded = false): void => {
    const fits =
      array.shape.length === expected.length &&
      expected.every((size, i) => array.shape[i] === size || (isOpenEnded && i === 0))
    if (!fits)
      throw new Error(
        `${array.path}/.zarray: shape is ${array.shape.join(' x ')}; expected ${expected.join(' x ')}, as model_config.yaml says`,
      )
  }
  /** Of each layer: its array, and which part of it. */
  const perLayer = (names: readonly string[], shape: readonly number[]) => {
    const stacked = take(names.map((name) => `${LAYERS}${name}`))
    if (stacked !== undefined) check(stacked, [layers, ...shape])
    return Array.from({ length: layers }, (_, layer) => {
      if (stacked !== undefined) return { array: stacked, layer }
      const own = need(names.map((name) => `${LAYERS}${layer}.${name}`))
      check(own, shape)
      return { array: own, layer: undefined }
    })
  }
  return { left, take, need, check, perLayer }
}

/** Hugging Face's form has no place for it. */
const checkZero = async (bias: ZarrArray): Promise<void> => {
  for await (const { bytes } of bandsOf(bias, undefined, createReading(bias.path)))
    if (bytes.some((byte) => byte !== 0))
      throw new Error(`${bias.path}: the reward head has a bias that is not 0: it would be lost`)
}

const whole = (
  { array, layer }: { readonly array: ZarrArray; readonly layer: number | undefined },
  name: string,
  shape: readonly number[],
): Source => {
  const { rows, columns } = matrixOf(array, layer !== undefined)
  return {
    array,
    layer,
    rowBytes: columns * array.itemBytes,
    tensors: [tensorOf(name, shape, array)],
    moves: [{ from: 0, rows, tensor: name, to: 0 }],
  }
}

export const planImport = async (folder: string, config: NemoConfig): Promise<Plan> => {
  const { hidden_size: hidden, num_layers: layers } = config
  const { heads, groups, headDim } = sizesOf(config)
  const shelf = createShelf(folder, await listArrays(folder), layers)
  const one = (array: ZarrArray, name: string) =>
    whole({ array, layer: undefined }, name, array.shape)

  const embedding = shelf.need(['model.embedding.word_embeddings.weight'])
  shelf.check(embedding, [embedding.shape[0] ?? 1, hidden])
  const sources = [one(embedding, 'model.embed_tokens.weight')]

  const q = shelf.perLayer(
    ['self_attention.linear_qkv.weight'],
    [(heads + 2 * groups) * headDim, hidden],
  )
  const rest = layerParts(config).map((part) => ({
    ...part,
    of: shelf.perLayer(part.names, part.shape),
  }))
  for (const [layer, fused] of q.entries()) {
    const prefix = `model.layers.${layer}.`
    const [qRows, kvRows] = [heads * headDim, groups * headDim]
    sources.push({
      ...fused,
      rowBytes: hidden * fused.array.itemBytes,
      tensors: (['q', 'k', 'v'] as const).map((kind) =>
        tensorOf(
          `${prefix}self_attn.${kind}_proj.weight`,
          [kind === 'q' ? qRows : kvRows, hidden],
          fused.array,
        ),
      ),
      moves: qkvMoves(config, prefix),
    })
    for (const { of, to, shape } of rest) {
      const part = of[layer]
      if (part !== undefined) sources.push(whole(part, `${prefix}${to}`, shape))
    }
  }
  for (const kind of ['weight', 'bias']) {
    const norm = shelf.need([`model.decoder.final_layernorm.${kind}`])
    shelf.check(norm, [hidden])
    sources.push(one(norm, `model.norm.${kind}`))
  }
  const head = shelf.take(['model.rm_head.weight'])
  if (head !== undefined) {
    shelf.check(head, [head.shape[0] ?? 1, hidden])
    sources.push(one(head, 'score.weight'))
    const bias = shelf.take(['model.rm_head.bias'])
    if (bias !== undefined) await checkZero(bias)
  } else if (!config.share_embeddings_and_output_weights) {
    const output = shelf.need(['model.output_layer.weight', 'model.rm_head.weight'])
    shelf.check(output, [embedding.shape[0] ?? 1, hidden])
    sources.push(one(output, 'lm_head.weight'))
  }
  const [unknown] = shelf.left
  if (unknown !== undefined)
    throw new Error(
      `${join(folder, unknown)}: nothing of Nemotron-4 has this name: it would be lost (${shelf.left.size} such arrays)`,
    )
  return {
    sources,
    vocab: embedding.shape[0] ?? 1,
    outputs: head?.shape[0],
    dtype: embedding.dtype,
  }
}
