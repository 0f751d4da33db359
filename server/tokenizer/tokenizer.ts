// Text to token ids and back, from a checkpoint's tokenizer.json or tokenizer.model: Hugging Face's own `tokenizers`.
// The native tokenizer knows no added tokens: names like <|eot_id|> are cut out of the text here, and only
// where the caller asks, so user text cannot become a control token.
//
// Encoding runs on libuv's pool; long texts have a thread of their own (long-text.ts).

import { randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Tokenizer as NativeTokenizer } from 'tokenizers'
import { z } from 'zod'
import { faultText } from '../check.js'
import { EngineFailure, messageOf } from '../failure.js'
import { createTurn } from '../slices.js'
import { createEncodedTexts, type EncodedTexts, type Ids, piecesOf } from './encoded-texts.js'
import {
  components,
  cutsAtLines,
  entriesOf,
  type Form,
  mayShrink,
  prependsFirst,
  readForm,
  TokenizerFile,
} from './file.js'
import { isGguf } from './gguf.js'
import { ggufTokenizer } from './gguf-tokenizer.js'
import { createLongText } from './long-text.js'
import { createNormalizer, type PieceNormalizer } from './piece-normalizer.js'
import { sentencePieceJson } from './sentencepiece.js'
import { readBytesIfThere, readTextIfThere } from './text-file.js'
import { type ByteTable, byteTable } from './token-bytes.js'
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

/** The largest vocabularies have 256,000 tokens; a table has a place for every id up to the last. */
const MAX_ID = 1 << 21

/** The token that the checkpoint's own post-processor puts in front of a text. */
const leadingToken = (file: TokenizerFile): string | undefined => {
  const template = components(file.post_processor).find(({ type }) => type === 'TemplateProcessing')
  const single = z
    .array(z.looseObject({ SpecialToken: z.object({ id: z.string() }).optional() }))
    .safeParse(template?.single)
  return single.data?.[0]?.SpecialToken?.id
}

/** Cuts the names out, in slices: text, id, text, id, ... text. Longer names win. */
const splitter = (names: readonly string[], idOf: (name: string) => number | undefined) => {
  if (names.length === 0) return async (text: string): Promise<Parts> => [text]
  const escaped = [...names]
    .sort((a, b) => b.length - a.length)
    .map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
  const pattern = new RegExp(escaped.join('|'), 'g')
  return async (text: string): Promise<Parts> => {
    const parts: (string | number)[] = []
    const turn = createTurn()
    let from = 0
    for (const found of text.matchAll(pattern)) {
      const [name] = found
      parts.push(text.slice(from, found.index), idOf(name) ?? name)
      from = found.index + name.length
      if (parts.length % CHECK_EVERY === 0) await turn()
    }
    parts.push(text.slice(from))
    return parts
  }
}

/** Parts after which the time is looked at. */
const CHECK_EVERY = 512

const AddsBos = z.looseObject({ add_bos_token: z.boolean().nullish() })

/** tokenizer.json; where there is none, a tokenizer.model in its form. */
const findFile = async (folder: string): Promise<{ path: string; text: string }> => {
  try {
    if (isGguf(folder)) return { path: folder, text: ggufTokenizer(folder) }
    const path = join(folder, 'tokenizer.json')
    const text = await readTextIfThere(path)
    if (text !== undefined) return { path, text }
    const bare = join(folder, 'tokenizer.model')
    const bytes = await readBytesIfThere(bare)
    if (bytes === undefined) throw new Error(`${path} cannot be read: there is no such file`)
    const config = (await readTextIfThere(join(folder, 'tokenizer_config.json'))) ?? '{}'
    const addsBos = AddsBos.safeParse(JSON.parse(config)).data?.add_bos_token === true
    return { path: bare, text: sentencePieceJson(bare, bytes, addsBos) }
  } catch (error) {
    if (error instanceof EngineFailure) throw error
    const message = messageOf(error)
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
  throw new EngineFailure({
    code: 'invalid_argument',
    message: `${path}: ${faultText(error, value)}`,
  })
}

/** Text that no caller can write. */
const unwritable = (): string => `\u{f0000}${randomUUID()}`

/** SentencePiece has its control tokens in the vocabulary: text must not be merged into one. */
const withoutNames = (file: TokenizerFile): TokenizerFile['model'] => {
  const { model } = file
  const names = new Set(file.added_tokens.map(({ content }) => content))
  const isName = (text: string) => names.has(text) && text !== model.unk_token
  const entries = entriesOf(model.vocab)
  if (!entries.some(([text]) => isName(text))) return model
  if (Array.isArray(model.vocab))
    return {
      ...model,
      vocab: model.vocab.map(([text, score]): [string, number] =>
        isName(text) ? [unwritable(), score] : [text, score],
      ),
    }
  // An unknown character is still this token, and no merge makes it.
  const isMadeOf = (parts: readonly string[]) =>
    names.has(parts.join('')) || parts.some((part) => names.has(part))
  return {
    ...model,
    vocab: Object.fromEntries(entries.filter(([text]) => !isName(text))),
    merges: model.merges?.filter(
      (merge) => !isMadeOf(typeof merge === 'string' ? merge.split(' ') : merge),
    ),
  }
}

/** What the native tokenizer is made from: no added tokens but `cut`, nothing around a text. */
const plainJson = (file: TokenizerFile, cut: string | undefined): string => {
  const { sentencepiece: _, ...known } = file
  return JSON.stringify({
    ...known,
    model: withoutNames(file),
    added_tokens:
      cut === undefined
        ? []
        : [
            {
              id: entriesOf(file.model.vocab).length,
              content: cut,
              single_word: false,
              lstrip: false,
              rstrip: false,
              normalized: false,
              special: true,
            },
          ],
    post_processor: null,
    truncation: null,
    padding: null,
  })
}

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

/** A tokenizer of its own: for the thread of long texts. */
export const createEncoder = (json: string, pieces: PieceNormalizer | undefined) => {
  const native = Native.fromString(json)
  const normalize = createNormalizer(pieces)
  return (parts: Parts): Promise<readonly Ids[]> => encodeAll(normalize(parts), native)
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

/** Ids of each part, in their order; of MANY and more in one list. */
type EncodeEach = (parts: Parts) => Promise<readonly Ids[]>

const encodeAll = async (parts: Parts, native: NativeEncoder): Promise<readonly Ids[]> => {
  const encoded = await native.encodeBatch(parts.filter(isText), { addSpecialTokens: false })
  const ids = encoded.values()
  return parts.map((part) => (isText(part) ? (ids.next().value?.getIds() ?? []) : [part]))
}

const encodeShort = async (parts: Parts, native: NativeEncoder): Promise<readonly Ids[]> => {
  const [only = ''] = parts
  if (parts.length === 1 && isText(only))
    return [(await native.encode(only, null, { addSpecialTokens: false })).getIds()]
  return encodeAll(parts, native)
}

/** What is short is encoded on the pool, as far as there is room; the rest by `encodeLong`, which normalizes too. */
export const createEncode = (
  native: NativeEncoder,
  encodeLong: (parts: Parts, isInOne: boolean) => Promise<readonly Ids[]>,
  normalize: (parts: Parts) => Parts = (parts) => parts,
): EncodeEach => {
  let atOnce = 0
  return async (parts) => {
    if (parts.length >= MANY) return encodeLong(parts, true)
    const bytes = bytesOf(parts)
    if (bytes >= LONG || atOnce + bytes > MOST_AT_ONCE) return encodeLong(parts, false)
    atOnce += bytes
    try {
      return await encodeShort(normalize(parts), native)
    } finally {
      atOnce -= bytes
    }
  }
}

/** One list. Not flat(), which takes its time over a million ids. */
const listOf = (each: readonly Ids[]): readonly number[] => {
  const list = new Array<number>(each.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const ids of each) for (let i = 0; i < ids.length; i++) list[at++] = ids[i] ?? 0
  return list
}

/** `caller`: long texts are kept for who gives this word again; undefined: they are not. */
type Encode = (parts: Parts, caller?: string) => Promise<readonly number[]>

/** Encodes what is not known yet, of texts that may be cut at the ends of lines. */
const remembering =
  (encodeEach: EncodeEach, texts: EncodedTexts): Encode =>
  async (given, caller) => {
    // Of many parts none is long, and to look at each of them keeps the event loop.
    if (caller === undefined || given.length >= MANY) return listOf(await encodeEach(given))
    const parts: Parts = given.flatMap<string | number>((part) =>
      isText(part) ? piecesOf(part) : [part],
    )
    if (parts.length >= MANY) return listOf(await encodeEach(given))
    const keys = parts.map((part) => (isText(part) ? texts.keyOf(caller, part) : undefined))
    const known = keys.map((key) => (key === undefined ? undefined : texts.find(key)))
    const missing = parts.flatMap((part, i) => (isText(part) && !known[i] ? [i] : []))
    const encoded = await encodeEach(missing.map((i) => parts[i] ?? ''))
    const found = new Map(missing.map((part, i) => [part, encoded[i] ?? []]))
    for (const [part, ids] of found) {
      const key = keys[part]
      if (key !== undefined) texts.keep(key, ids)
    }
    return listOf(parts.map((part, i) => known[i] ?? found.get(i) ?? (isText(part) ? [] : [part])))
  }

/** Whose names in a caller's text stay text: control tokens, whatever the file calls them. */
const isControl = ({ special, content }: TokenizerFile['added_tokens'][number]): boolean =>
  special || /^<extra_id_\d+>$/.test(content)

/** Where only the beginning of a text gets a space in front, what comes later has `cut` there. */
const cutting = (encode: Encode, native: NativeTokenizer, cut: string | undefined): Encode => {
  if (cut === undefined) return encode
  const id = native.tokenToId(cut)
  return async (parts) => {
    const first = parts.findIndex((part) => part !== '')
    const marked = parts.map((part, i) =>
      isText(part) && i > first && part !== '' ? cut + part : part,
    )
    return (await encode(marked)).filter((one) => one !== id)
  }
}

/** What a text of these tokens loses at its front: the space that encoding put there. */
const stripped = (bytes: Uint8Array, form: Form, firstToken: number): Uint8Array => {
  if (form.kind === 'bytes' || form.strip === 'nothing') return bytes
  if (form.strip === 'space') return bytes[0] === 0x20 ? bytes.subarray(1) : bytes
  return Buffer.concat([
    bytes.subarray(0, firstToken).filter((byte) => byte !== 0x20),
    bytes.subarray(firstToken),
  ])
}

const longestOf = (table: ByteTable): number =>
  table.ends.reduce(
    (most, at, id) => Math.max(most, at - ((id > 0 ? table.ends[id - 1] : 0) ?? 0)),
    1,
  )

const normalizerOf = (path: string, pieces: PieceNormalizer | undefined) => {
  try {
    return createNormalizer(pieces)
  } catch (error) {
    const message = `${path}: ${messageOf(error)}`
    throw new EngineFailure({ code: 'invalid_argument', message }, { cause: error })
  }
}

/** The kind of a file, or why it is not served. */
const formOf = (path: string, file: TokenizerFile): Form => {
  try {
    return readForm(file)
  } catch (error) {
    if (!(error instanceof EngineFailure)) throw error
    throw new EngineFailure({
      code: 'unsupported',
      message: `${path} is of no kind that is served: ${error.message}`,
    })
  }
}

const check = (isRight: boolean, message: string): void => {
  if (!isRight) throw new EngineFailure({ code: 'invalid_argument', message })
}

/** The one option that a call has, true or false. */
const checkOption = (name: string, options: unknown): void => {
  check(typeof options === 'object' && options !== null, 'options must be an object')
  for (const [key, value] of Object.entries(options as object)) {
    check(key === name, `options.${key} is no option: ${name}`)
    check(value === undefined || typeof value === 'boolean', `options.${key} must be a boolean`)
  }
}

const encodeOf = (path: string, file: TokenizerFile): Encode => {
  const cut = prependsFirst(file) ? unwritable() : undefined
  const json = plainJson(file, cut)
  const native = buildNative(path, json)
  const normalize = normalizerOf(path, file.sentencepiece)
  const long = createLongText(json, file.sentencepiece)
  const each = createEncode(native, long, normalize)
  if (cutsAtLines(file)) return remembering(each, createEncodedTexts())
  return cutting(async (parts) => listOf(await each(parts)), native, cut)
}

/** Reads `folder`/tokenizer.json, its tokenizer.model, or the tokenizer in a GGUF file. Takes about a second and 250 MB for
 * 128K tokens: keep one. */
export const loadTokenizer = async (folder: string): Promise<Tokenizer> => {
  const { path, text } = await findFile(folder)
  const file = parse(path, text)
  const form = formOf(path, file)
  const special = new Map(file.added_tokens.map(({ content, id }) => [content, id]))
  const specialIds = new Set(file.added_tokens.flatMap((token) => (token.special ? token.id : [])))
  const vocab = new Map(entriesOf(file.model.vocab))
  const vocabSize =
    [...vocab.values(), ...special.values()].reduce((a, b) => Math.max(a, b), -1) + 1
  if (!(vocabSize <= MAX_ID))
    throw new EngineFailure({
      code: 'unsupported',
      message: `${path} has the token id ${vocabSize - 1}: ids below ${MAX_ID} are served`,
    })
  const table = byteTable(file, form, vocabSize)
  const start = (id: number): number => (id > 0 ? table.ends[id - 1] : 0) ?? 0
  const end = (id: number): number => table.ends[id] ?? start(id)

  const encode = encodeOf(path, file)

  const ordinary = file.added_tokens.filter((token) => !isControl(token))
  const idOf = (name: string) => special.get(name)
  const splitAll = splitter([...special.keys()], idOf)
  const splitOrdinary = splitter(
    ordinary.map(({ content }) => content),
    idOf,
  )

  const leading = leadingToken(file)

  return {
    vocabSize,
    special,
    bosId: (leading === undefined ? undefined : special.get(leading)) ?? null,
    bytes: (id) => table.bytes.subarray(start(id), end(id)),
    idOf: (token) => special.get(token) ?? vocab.get(token),
    longestToken: mayShrink(file) ? Number.POSITIVE_INFINITY : longestOf(table),
    isSpecial: (id) => specialIds.has(id),
    encode: async (text, options = {}, caller = undefined) => {
      check(typeof text === 'string', 'text must be a string')
      checkOption('special', options)
      return encode(await (options.special ? splitAll : splitOrdinary)(text), caller)
    },
    encodeParts: async (parts, caller) => {
      if (ordinary.length === 0) return encode(parts, caller)
      const split: Parts[] = []
      for (const part of parts) split.push(isText(part) ? await splitOrdinary(part) : [part])
      return encode(split.flat(), caller)
    },
    decode: (ids, options = {}) => {
      check(Array.isArray(ids) || ArrayBuffer.isView(ids), 'ids must be a list of token ids')
      checkOption('skipSpecial', options)
      const shown = Array.from(ids).filter((id) => !options.skipSpecial || !specialIds.has(id))
      const out = new Uint8Array(shown.reduce((sum, id) => sum + end(id) - start(id), 0))
      let at = 0
      for (const id of shown) {
        // Tokens are short: a loop beats set() and subarray() by far.
        for (let i = start(id); i < end(id); i++) out[at++] = table.bytes[i] ?? 0
      }
      const [first = -1] = shown
      return new TextDecoder('utf-8', { ignoreBOM: true }).decode(
        stripped(out, form, end(first) - start(first)),
      )
    },
  }
}
