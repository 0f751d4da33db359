// The parts of a checkpoint that are text: the template and the names of its tokens. What the engine
// reads is models/checkpoint/'s, the tokenizer tokenizer/'s.

import { join } from 'node:path'
import { z } from 'zod'
import { faultText } from '../check.js'
import { messageOf } from '../failure.js'
import { knowsTools } from '../prompt/template.js'
import { isGguf, readGguf } from '../tokenizer/gguf.js'
import { readTextIfThere } from '../tokenizer/text-file.js'
import type { Tokenizer } from '../tokenizer/types.js'

const NamedToken = z.union([z.string(), z.looseObject({ content: z.string() })])
const TokenizerConfig = z.looseObject({
  bos_token: NamedToken.nullish(),
  eos_token: NamedToken.nullish(),
  pad_token: NamedToken.nullish(),
  unk_token: NamedToken.nullish(),
  chat_template: z
    .union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))])
    .nullish(),
})
type TokenizerConfig = z.output<typeof TokenizerConfig>

/** A JSON file of a checkpoint; a missing one is `{}`, a broken one an error that names it. */
const readConfig = async <T extends z.ZodType>(
  folder: string,
  name: string,
  schema: T,
): Promise<z.output<T>> => {
  const path = join(folder, name)
  const text = await readTextIfThere(path)
  if (text === undefined) return schema.parse({})
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw new Error(`${path}: ${messageOf(error)}`)
  }
  const read = schema.safeParse(json)
  if (read.success) return read.data
  throw new Error(`${path}: ${faultText(read.error, json)}`)
}

type OwnTemplate = {
  readonly source: string
  /** Where it was read, for errors. */
  readonly from: string
  /** Its template of conversations with tools, where that is another. */
  readonly toolSource?: string
}

export type Package = {
  /** bos_token, eos_token and the like; '' where there is none. */
  readonly tokenNames: Readonly<Record<string, string>>
  /** undefined: it brings none. */
  readonly template: () => Promise<OwnTemplate | undefined>
}

const JsonTemplate = z.looseObject({ chat_template: z.string().optional() })

/** Where checkpoints keep a template for tools: transformers' place, and NVIDIA's of Nano. */
const TOOL_TEMPLATES = [
  join('additional_chat_templates', 'tool_use.jinja'),
  'llama_nemotron_nano_generic_tool_calling.jinja',
]

const toolTemplate = async (folder: string): Promise<string | undefined> => {
  for (const name of TOOL_TEMPLATES) {
    const source = await readTextIfThere(join(folder, name))
    if (source !== undefined) return source
  }
  return undefined
}

const mainTemplate = async (
  folder: string,
  config: TokenizerConfig,
): Promise<OwnTemplate | undefined> => {
  const path = join(folder, 'chat_template.jinja')
  const file = await readTextIfThere(path)
  if (file !== undefined) return { source: file, from: path }
  const { chat_template: given } = config
  const named = (name: string) =>
    Array.isArray(given) ? given.find((one) => one.name === name)?.template : undefined
  const listed = Array.isArray(given) ? (named('default') ?? given[0]?.template) : given
  const toolSource = named('tool_use')
  if (listed != null)
    return {
      source: listed,
      from: join(folder, 'tokenizer_config.json'),
      ...(toolSource !== undefined && { toolSource }),
    }
  const { chat_template: source } = await readConfig(folder, 'chat_template.json', JsonTemplate)
  return source === undefined ? undefined : { source, from: join(folder, 'chat_template.json') }
}

const ownTemplate = async (
  folder: string,
  config: TokenizerConfig,
): Promise<OwnTemplate | undefined> => {
  const main = await mainTemplate(folder, config)
  if (main === undefined || main.toolSource !== undefined || knowsTools(main.source)) return main
  const toolSource = await toolTemplate(folder)
  return { ...main, ...(toolSource !== undefined && { toolSource }) }
}

const namesOf = (config: TokenizerConfig, tokenizer: Tokenizer): Record<string, string> => {
  const names: Record<string, string> = {}
  for (const key of ['bos_token', 'eos_token', 'pad_token', 'unk_token'] as const) {
    const token = config[key]
    const name = typeof token === 'string' ? token : token?.content
    if (name !== undefined) names[key] = name
  }
  if (names.bos_token === undefined) {
    for (const [name, id] of tokenizer.special) if (id === tokenizer.bosId) names.bos_token = name
  }
  return { bos_token: '', eos_token: '', ...names }
}

/** Where a GGUF file has the names that tokenizer_config.json has. */
const GGUF_TOKENS = {
  bos_token: 'bos',
  eos_token: 'eos',
  pad_token: 'padding',
  unk_token: 'unknown',
} as const

const openGgufPackage = (path: string, tokenizer: Tokenizer): Package => {
  const { metadata } = readGguf(path)
  const text = (key: string): string | undefined => {
    const value = metadata.get(key)
    return typeof value === 'string' ? value : undefined
  }
  const nameOf = (id: unknown): string | undefined =>
    typeof id === 'number' && id < tokenizer.vocabSize
      ? new TextDecoder().decode(tokenizer.bytes(id))
      : undefined
  const names = Object.entries(GGUF_TOKENS).flatMap(([name, key]) => {
    const token = nameOf(metadata.get(`tokenizer.ggml.${key}_token_id`))
    return token === undefined ? [] : [[name, token] as const]
  })
  const source = text('tokenizer.chat_template')
  const toolSource = text('tokenizer.chat_template.tool_use')
  const template =
    source === undefined
      ? undefined
      : { source, from: path, ...(toolSource !== undefined && { toolSource }) }
  return {
    tokenNames: { bos_token: '', eos_token: '', ...Object.fromEntries(names) },
    template: async () => template,
  }
}

/** The package in `folder`, or in a GGUF file, whose tokenizer this is. */
export const openPackage = async (folder: string, tokenizer: Tokenizer): Promise<Package> => {
  if (isGguf(folder)) return openGgufPackage(folder, tokenizer)
  const config = await readConfig(folder, 'tokenizer_config.json', TokenizerConfig)
  return {
    tokenNames: namesOf(config, tokenizer),
    template: () => ownTemplate(folder, config),
  }
}
