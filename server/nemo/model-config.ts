// model_config.yaml of a NeMo folder, as far as it says what a model is. Of YAML this much is read: maps by
// indentation and plain or quoted scalars; lists and texts of several lines are gone past.

import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { faultText } from '../check.js'

const INDENTED = /^( *)([^\s#:'"-][^:]*?) *:(?: +(.*))?$/

const scalar = (text: string): unknown => {
  const plain = text.replace(/ +#.*$/, '').trim()
  const quoted = /^(["'])(.*)\1$/.exec(plain)
  if (quoted) return quoted[2]
  if (plain === '' || plain === 'null' || plain === '~') return null
  if (plain === 'true' || plain === 'false') return plain === 'true'
  const number = Number(plain.replace(/(?<=\d)_(?=\d)/g, ''))
  return Number.isNaN(number) ? plain : number
}

/** `a.b.c` -> value. */
const readScalars = (text: string): ReadonlyMap<string, unknown> => {
  const values = new Map<string, unknown>()
  const path: { readonly indent: number; readonly key: string }[] = []
  for (const line of text.split(/\r?\n/)) {
    const found = INDENTED.exec(line)
    if (found === null) continue
    const [, spaces = '', key = '', value] = found
    while ((path.at(-1)?.indent ?? -1) >= spaces.length) path.pop()
    path.push({ indent: spaces.length, key })
    if (value !== undefined) values.set(path.map((one) => one.key).join('.'), scalar(value))
  }
  return values
}

const size = z.int().min(1)
const Fields = z.object({
  num_layers: size,
  hidden_size: size,
  ffn_hidden_size: size,
  num_attention_heads: size,
  num_query_groups: size.nullish(),
  kv_channels: size.nullish(),
  max_position_embeddings: size,
  layernorm_epsilon: z.number().gt(0).default(1e-5),
  normalization: z.literal('layernorm1p'),
  activation: z.literal('squared-relu'),
  position_embedding_type: z.literal('rope'),
  rotary_percentage: z.number().gt(0).max(1).default(1),
  rotary_base: z.number().gt(0).default(10000),
  share_embeddings_and_output_weights: z.boolean().default(false),
  bias: z.literal(false).default(false),
  'tokenizer.model': z.string().nullish(),
})
export type NemoConfig = z.output<typeof Fields>

/** `${.name}` stands for another value of the file. */
const resolved = (values: ReadonlyMap<string, unknown>, value: unknown): unknown => {
  const name = typeof value === 'string' ? /^\$\{\.?([\w.]+)\}$/.exec(value)?.[1] : undefined
  return name === undefined ? value : values.get(name)
}

const readFileOf = async (path: string): Promise<string> => {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const isAbsent = code === 'ENOENT' || code === 'ENOTDIR'
    throw new Error(
      isAbsent
        ? `${path}: there is no such file: expected a NeMo folder, which has model_config.yaml and model_weights (a .nemo file is unpacked first, by tar -xf)`
        : `${path}: cannot be read (${code})`,
      { cause: error },
    )
  }
}

export const readModelConfig = async (path: string): Promise<NemoConfig> => {
  const given = readScalars(await readFileOf(path))
  const values = new Map([...given].map(([key, value]) => [key, resolved(given, value)]))
  if (values.get('max_position_embeddings') == null)
    values.set('max_position_embeddings', values.get('encoder_seq_length'))
  const known = Object.fromEntries([...values].filter(([, value]) => value != null))
  const read = Fields.safeParse(known)
  if (read.success) return read.data
  throw new Error(`${path}: ${faultText(read.error, known)} (Nemotron-4 is imported)`)
}
