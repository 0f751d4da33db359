// Text to token ids and back, from a checkpoint's tokenizer.json: Hugging Face's own `tokenizers`,
// byte-level BPE. The native tokenizer knows no added tokens: names like <|eot_id|> are cut out of
// the text here, and only where the caller asks, so user text cannot become a control token.
//
// Encoding runs on libuv's pool; long texts have a thread of their own (long-text.ts).

import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Tokenizer as NativeTokenizer } from 'tokenizers'
import { z } from 'zod'
import { EngineFailure } from '../failure.js'
import { isGguf } from './gguf.js'
import { ggufTokenizer } from './gguf-tokenizer.js'
import { createLongText } from './long-text.js'
import { readText } from './text-file.js'
import type { Parts, Tokenizer } from './types.js'

const { Tokenizer: Native } = createRequire(import.meta.url)(
  'tokenizers',
) as typeof import('tokenizers')

/** Bytes from which a text is long. It has no more tokens: they cost the event loop milliseconds. */
const LONG = 1 << 15

/** Bytes of texts that are encoded on the pool at once: more go the way of long texts. */
const MOST_AT_ONCE = 4 * LONG

/** Parts of a text from which it is long, however short they are: each is an object of the native
 * tokenizer. */
const MANY = 2048

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const AddedToken = z.looseObject({
  id: z.int().min(0),
  content: z.string().min(1),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  special: z.boolean().default(true),
})

const TokenizerFile = z.looseObject({
  added_tokens: z.array(AddedToken).default([]),
  normalizer: z.unknown().optional(),
  pre_tokenizer: z.unknown().optional(),
  post_processor: z.unknown().optional(),
  decoder: z.unknown().optional(),
  model: z.looseObject({
    type: z.string().default('BPE'),
    // Not z.record: a check of 128,000 entries one by one takes longer than parsing the file.
    vocab: z.custom<Record<string, number>>(isRecord, 'expected an object'),
    byte_fallback: z.boolean().nullish(),
    continuing_subword_prefix: z.string().nullish(),
    end_of_word_suffix: z.string().nullish(),
  }),
})
type TokenizerFile = z.output<typeof TokenizerFile>

const MAX_NESTING = 16
/** The largest vocabularies have 256,000 tokens; a table has a place for every id up to the last. */
const MAX_ID = 1 << 21

/** The components of a pre-tokenizer, decoder or post-processor, sequences opened. */
const components = (value: unknown, depth = 0): readonly Record<string, unknown>[] => {
  if (!isRecord(value)) return []
  if (depth > MAX_NESTING)
    throw new EngineFailure({
      code: 'unsupported',
      message: `tokenizer.json: its sequences are nested more than ${MAX_NESTING} levels deep`,
    })
  const parts = value.pretokenizers ?? value.decoders ?? value.processors ?? value.normalizers
  return value.type === 'Sequence' && Array.isArray(parts)
    ? parts.flatMap((part) => components(part, depth + 1))
    : [value]
}

/** Why this is no byte-level BPE tokenizer; undefined: it is one. */
const unsupported = (file: TokenizerFile): string | undefined => {
  const { model } = file
  if (model.type !== 'BPE') return `its model is ${model.type}`
  if (model.byte_fallback) return 'its model has byte_fallback (SentencePiece)'
  if (model.continuing_subword_prefix || model.end_of_word_suffix) {
    return 'its model has a subword prefix or suffix'
  }
  if (!components(file.pre_tokenizer).some(({ type }) => type === 'ByteLevel')) {
    const found = components(file.pre_tokenizer).map(({ type }) => String(type))
    return `its pre_tokenizer is ${found.join(', ') || 'missing'}`
  }
  const decoders = components(file.decoder).map(({ type }) => String(type))
  if (decoders.length !== 1 || decoders[0] !== 'ByteLevel') {
    return `its decoder is ${decoders.join(', ') || 'missing'}`
  }
  const odd = file.added_tokens.find((token) => token.lstrip || token.rstrip || token.single_word)
  if (odd) return `its added token ${odd.content} has lstrip, rstrip or single_word`
  return undefined
}

/** Byte-level BPE writes each byte as one printable character; code of the character -> byte. */
const byteOfCode = (): ReadonlyMap<number, number> => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  const map = new Map<number, number>()
  let shifted = 0x100
  for (let byte = 0; byte < 0x100; byte++) map.set(printable(byte) ? byte : shifted++, byte)
  return map
}

/** The bytes of all tokens, one after another, and where each ends. */
type ByteTable = { readonly bytes: Uint8Array; readonly ends: Uint32Array }

const byteTable = (file: TokenizerFile, size: number): ByteTable => {
  const texts = new Array<string>(size).fill('')
  for (const [token, id] of Object.entries(file.model.vocab)) texts[id] = token
  const added = new Map(file.added_tokens.map(({ id, content }) => [id, Buffer.from(content)]))
  const byteOf = byteOfCode()
  const bytes: number[] = []
  const ends = texts.map((token, id) => {
    for (const byte of added.get(id) ?? []) bytes.push(byte)
    for (let i = 0; i < token.length && !added.has(id); i++) {
      const byte = byteOf.get(token.charCodeAt(i))
      if (byte === undefined) {
        throw new EngineFailure({
          code: 'unsupported',
          message: `token ${id} ${JSON.stringify(token)} has a character that stands for no byte`,
        })
      }
      bytes.push(byte)
    }
    return bytes.length
  })
  return { bytes: Uint8Array.from(bytes), ends: Uint32Array.from(ends) }
}

/** The token that the checkpoint's own post-processor puts in front of a text. */
const leadingToken = (file: TokenizerFile): string | undefined => {
  const template = components(file.post_processor).find(({ type }) => type === 'TemplateProcessing')
  const single = z
    .array(z.looseObject({ SpecialToken: z.object({ id: z.string() }).optional() }))
    .safeParse(template?.single)
  return single.data?.[0]?.SpecialToken?.id
}

/** Cuts the names out: text, name, text, name, ... text. Longer names win. */
const splitter = (names: readonly string[]) => {
  if (names.length === 0) return (text: string) => [text]
  const escaped = [...names]
    .sort((a, b) => b.length - a.length)
    .map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
  const pattern = new RegExp(`(${escaped.join('|')})`)
  return (text: string) => text.split(pattern)
}

const readFileText = async (path: string): Promise<string> => {
  try {
    return isGguf(path) ? ggufTokenizer(path) : await readText(path)
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    throw new EngineFailure({ code: 'not_found', message }, { cause: error })
  }
}

const parse = (path: string, text: string): TokenizerFile => {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new EngineFailure(
      { code: 'invalid_argument', message: `${path} is not JSON: ${String(error)}` },
      { cause: error },
    )
  }
  const { data, error } = TokenizerFile.safeParse(value)
  if (data) return data
  const issue = error.issues[0]
  throw new EngineFailure({
    code: 'invalid_argument',
    message: `${path}: ${issue?.path.join('.')}: ${issue?.message}`,
  })
}

/** What the native tokenizer is made from: no added tokens, nothing around a text. */
const plainJson = (file: TokenizerFile): string =>
  JSON.stringify({
    ...file,
    added_tokens: [],
    post_processor: null,
    truncation: null,
    padding: null,
  })

const buildNative = (path: string, json: string): NativeTokenizer => {
  try {
    return Native.fromString(json)
  } catch (error) {
    throw new EngineFailure(
      { code: 'invalid_argument', message: `${path}: ${String(error)}` },
      { cause: error },
    )
  }
}

/** Ids of plain texts by a tokenizer of its own: for the thread of long texts. */
export const createEncoder = (json: string) => {
  const native = Native.fromString(json)
  return async (texts: readonly string[]): Promise<readonly (readonly number[])[]> => {
    const encoded = await native.encodeBatch([...texts], { addSpecialTokens: false })
    return encoded.map((one) => one.getIds())
  }
}

/** What is used of the native tokenizer. Its own declarations do not compile, so none of ours may need them. */
type NativeEncoding = { readonly getIds: () => number[] }
type NativeEncoder = {
  readonly encode: (
    text: string,
    pair: null,
    options: { readonly addSpecialTokens: boolean },
  ) => Promise<NativeEncoding>
  readonly encodeBatch: (
    texts: string[],
    options: { readonly addSpecialTokens: boolean },
  ) => Promise<NativeEncoding[]>
}

const isText = (part: string | number): part is string => typeof part === 'string'

const bytesOf = (parts: Parts): number =>
  parts.reduce<number>((sum, part) => sum + (isText(part) ? Buffer.byteLength(part) : 0), 0)

const encodeShort = async (parts: Parts, native: NativeEncoder): Promise<readonly number[]> => {
  const [only = ''] = parts
  if (parts.length === 1 && isText(only))
    return (await native.encode(only, null, { addSpecialTokens: false })).getIds()
  const encoded = await native.encodeBatch(parts.filter(isText), { addSpecialTokens: false })
  const ids = encoded.values()
  return parts.flatMap((part) => (isText(part) ? (ids.next().value?.getIds() ?? []) : part))
}

type Encode = (parts: Parts) => Promise<readonly number[]>

/** What is short is encoded on the pool, as far as there is room; the rest by `encodeLong`. */
export const createEncode = (native: NativeEncoder, encodeLong: Encode): Encode => {
  let atOnce = 0
  return async (parts) => {
    const bytes = bytesOf(parts)
    if (bytes >= LONG || parts.length >= MANY || atOnce + bytes > MOST_AT_ONCE)
      return encodeLong(parts)
    atOnce += bytes
    try {
      return await encodeShort(parts, native)
    } finally {
      atOnce -= bytes
    }
  }
}

/** Reads `folder`/tokenizer.json, or the tokenizer in a GGUF file. Takes about a second and 250 MB for
 * 128K tokens: keep one. */
export const loadTokenizer = async (folder: string): Promise<Tokenizer> => {
  const path = isGguf(folder) ? folder : join(folder, 'tokenizer.json')
  const file = parse(path, await readFileText(path))
  const reason = unsupported(file)
  if (reason) {
    throw new EngineFailure({
      code: 'unsupported',
      message: `${path} is not a byte-level BPE tokenizer: ${reason}`,
    })
  }
  const json = plainJson(file)
  const encode = createEncode(buildNative(path, json), createLongText(json))
  const special = new Map(file.added_tokens.map(({ content, id }) => [content, id]))
  const specialIds = new Set(file.added_tokens.flatMap((token) => (token.special ? token.id : [])))
  const vocab = new Map(Object.entries(file.model.vocab))
  const vocabSize =
    [...vocab.values(), ...special.values()].reduce((a, b) => Math.max(a, b), -1) + 1
  if (!(vocabSize <= MAX_ID))
    throw new EngineFailure({
      code: 'unsupported',
      message: `${path} has the token id ${vocabSize - 1}: ids below ${MAX_ID} are served`,
    })
  const table = byteTable(file, vocabSize)
  const start = (id: number): number => (id > 0 ? table.ends[id - 1] : 0) ?? 0
  const end = (id: number): number => table.ends[id] ?? start(id)

  const ordinary = file.added_tokens.filter((token) => !token.special)
  const splitAll = splitter([...special.keys()])
  const splitOrdinary = splitter(ordinary.map(({ content }) => content))

  const leading = leadingToken(file)

  /** Of text, name, text, name, ... text: the names as ids. */
  const withIds = (pieces: readonly string[]): Parts =>
    pieces.map((piece, i) => (i % 2 === 1 ? (special.get(piece) ?? piece) : piece))

  return {
    vocabSize,
    special,
    bosId: (leading === undefined ? undefined : special.get(leading)) ?? null,
    bytes: (id) => table.bytes.subarray(start(id), end(id)),
    idOf: (token) => special.get(token) ?? vocab.get(token),
    longestToken: table.ends.reduce((most, at, id) => Math.max(most, at - start(id)), 1),
    isSpecial: (id) => specialIds.has(id),
    encode: (text, options = {}) =>
      encode(withIds(options.special ? splitAll(text) : splitOrdinary(text))),
    encodeParts: (parts) =>
      encode(parts.flatMap((part) => (isText(part) ? withIds(splitOrdinary(part)) : part))),
    decode: (ids, options = {}) => {
      const shown = Array.from(ids).filter((id) => !options.skipSpecial || !specialIds.has(id))
      const out = new Uint8Array(shown.reduce((sum, id) => sum + end(id) - start(id), 0))
      let at = 0
      for (const id of shown) {
        // Tokens are short: a loop beats set() and subarray() by far.
        for (let i = start(id); i < end(id); i++) out[at++] = table.bytes[i] ?? 0
      }
      return new TextDecoder('utf-8', { ignoreBOM: true }).decode(out)
    },
  }
}
