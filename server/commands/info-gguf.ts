// What `info` says of a GGUF file.

import type { CpuNeed, GpuFit } from '../engine/addon.js'
import type { MemoryPlan } from '../engine/types.js'
import { widenedTexts } from '../model/widened.js'
import { type Gguf, ggufParts, readGguf } from '../tokenizer/gguf.js'
import { bytesText, countText } from './amounts.js'

/** general.file_type, where its name is not that of the type of most weights. */
const FILE_TYPES: Readonly<Record<number, string>> = {
  0: 'F32',
  1: 'F16',
  2: 'Q4_0',
  3: 'Q4_1',
  7: 'Q8_0',
  8: 'Q5_0',
  9: 'Q5_1',
  10: 'Q2_K',
  11: 'Q3_K_S',
  12: 'Q3_K_M',
  13: 'Q3_K_L',
  14: 'Q4_K_S',
  15: 'Q4_K_M',
  16: 'Q5_K_S',
  17: 'Q5_K_M',
  18: 'Q6_K',
  19: 'IQ2_XXS',
  20: 'IQ2_XS',
  21: 'Q2_K_S',
  22: 'IQ3_XS',
  23: 'IQ3_XXS',
  24: 'IQ1_S',
  25: 'IQ4_NL',
  26: 'IQ3_S',
  27: 'IQ3_M',
  28: 'IQ2_S',
  29: 'IQ2_M',
  30: 'IQ4_XS',
  31: 'IQ1_M',
  32: 'BF16',
  36: 'TQ1_0',
  37: 'TQ2_0',
  38: 'MXFP4_MOE',
}

/** What memory it needs, or why it is not served. */
export type GgufUse =
  | {
      readonly served: true
      readonly gpus: readonly GpuFit[]
      readonly cpu: readonly CpuNeed[]
      readonly widened: MemoryPlan['widenedTensors']
    }
  | { readonly served: false; readonly why: string }

const elements = (shape: readonly number[]): number => shape.reduce((all, one) => all * one, 1)

/** Types of tensors with how many there are, the most elements first. */
const typesOf = (tensors: Gguf['tensors']) => {
  const types = new Map<string, { tensors: number; elements: number }>()
  for (const { type, shape } of tensors) {
    const sum = types.get(type) ?? { tensors: 0, elements: 0 }
    types.set(type, {
      tensors: sum.tensors + 1,
      elements: sum.elements + elements(shape),
    })
  }
  return [...types].map(([type, sum]) => ({ type, ...sum })).sort((a, b) => b.elements - a.elements)
}

/** All parts where `path` is the first of a split model and the others are there; else its own file alone. */
const readParts = (path: string): readonly [Gguf, ...Gguf[]] => {
  const first = readGguf(path)
  const count = Number(first.metadata.get('split.count') ?? 1)
  const names = ggufParts(path)
  if (names.length !== count) return [first]
  try {
    const others = names.slice(1).map((name) => readGguf(name))
    const areInOrder = others.every(({ metadata }, i) => metadata.get('split.no') === i + 1)
    return areInOrder ? [first, ...others] : [first]
  } catch {
    return [first] // what is wrong with another is why the model is not served
  }
}

const describe = (parts: readonly [Gguf, ...Gguf[]]) => {
  const [{ metadata, version }] = parts
  const tensors = parts.flatMap((one) => one.tensors)
  const text = (key: string): string | undefined => {
    const value = metadata.get(key)
    return typeof value === 'string' ? value : undefined
  }
  const architecture = text('general.architecture')
  /** A number, or the range of a list with one for each layer. */
  const number = (key: string): number | string | undefined => {
    const value = metadata.get(key)
    if (typeof value === 'number' || typeof value === 'bigint') return Number(value)
    if (typeof value !== 'object' || value.numbers === undefined) return undefined
    const [least, most] = [Math.min(...value.numbers), Math.max(...value.numbers)]
    return least === most ? least : `${least} to ${most}`
  }
  const own = (key: string) => number(`${architecture}.${key}`)
  const vocabulary = metadata.get('tokenizer.ggml.tokens')
  const heads = own('attention.head_count')
  const hidden = own('embedding_length')
  const types = typesOf(tensors)
  const fileType = number('general.file_type')
  return {
    format: 'gguf' as const,
    version,
    name: text('general.name'),
    architecture,
    quantization: FILE_TYPES[Number(fileType)] ?? types[0]?.type,
    parameters: tensors.reduce((sum, { shape }) => sum + elements(shape), 0),
    bytes: parts.reduce((sum, one) => sum + one.bytes, 0),
    tensors: tensors.length,
    types,
    /** `counted`: parts that the numbers here are of. */
    split: { part: number('split.no'), of: number('split.count'), counted: parts.length },
    layers: own('block_count'),
    hidden,
    intermediate: own('feed_forward_length'),
    qHeads: heads,
    kvHeads: own('attention.head_count_kv') ?? heads,
    headDim:
      own('attention.key_length') ??
      (typeof hidden === 'number' && typeof heads === 'number' ? hidden / heads : undefined),
    context: own('context_length'),
    ropeTheta: own('rope.freq_base'),
    ropeScaling: text(`${architecture}.rope.scaling.type`),
    vocabulary:
      typeof vocabulary === 'object' ? vocabulary.length : Number(own('vocab_size') ?? Number.NaN),
    tokenizer: [text('tokenizer.ggml.model'), text('tokenizer.ggml.pre')].filter(Boolean),
    bosId: number('tokenizer.ggml.bos_token_id'),
    eosId: number('tokenizer.ggml.eos_token_id'),
    chatTemplate: metadata.has('tokenizer.chat_template'),
  }
}
type Description = ReturnType<typeof describe>

const facts = (info: Description): readonly (readonly [string, string])[] => {
  const said = (value: number | string | undefined) => String(value ?? 'not said')
  const { split, types, tokenizer } = info
  const isSplit = typeof split.of === 'number' && split.of > 1
  const part = !isSplit
    ? ''
    : split.counted === split.of
      ? `, ${split.of} parts`
      : `, part ${Number(split.part) + 1} of ${split.of}; what follows is of this part alone`
  const kinds = types.map(({ type, tensors }) => `${tensors} ${type}`).join(', ')
  return [
    ['format', `GGUF version ${info.version}${part}`],
    ['model', said(info.name)],
    ['architecture', said(info.architecture)],
    ['parameters', countText(info.parameters)],
    [
      'weights',
      `${said(info.quantization)}, ${bytesText(info.bytes)} in ${info.tensors} tensors (${kinds})`,
    ],
    [
      'layers',
      `${said(info.layers)}, hidden ${said(info.hidden)}, intermediate ${said(info.intermediate)}, ` +
        `${said(info.qHeads)} query and ${said(info.kvHeads)} KV heads of ${said(info.headDim)}`,
    ],
    [
      'vocabulary',
      `${Number.isNaN(info.vocabulary) ? 'not said' : info.vocabulary}${tokenizer.length > 0 ? `, tokenizer ${tokenizer.join(', ')}` : ''}`,
    ],
    [
      'context',
      `${said(info.context)} tokens, rope theta ${said(info.ropeTheta)}${info.ropeScaling ? `, ${info.ropeScaling} scaling` : ''}`,
    ],
    ['bos, eos', `${said(info.bosId)}, ${said(info.eosId)}`],
    ['chat template', info.chatTemplate ? 'in the file' : 'none'],
  ]
}

/** JSON for programs, or text; `table` is of the GPUs of `use`. */
export const ggufInfo = (path: string, use: GgufUse, table: string, json: boolean): string => {
  const info = describe(readParts(path))
  if (json) return `${JSON.stringify({ ...info, ...use }, null, 2)}\n`
  const lines = facts(info).map(([name, value]) => `${name.padEnd(14)} ${value}`)
  if (use.served)
    for (const text of widenedTexts(use.widened)) lines.push(`${'widened'.padEnd(14)} ${text}`)
  return `${lines.join('\n')}\n\n${use.served ? table : `Not served: ${use.why}`}\n`
}
