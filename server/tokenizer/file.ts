// tokenizer.json: its shape, and which kinds of tokenizers are served. A kind is served when the bytes of
// every token are known without its neighbours: grammars, stop strings and streams are made of them.

import { z } from 'zod'
import { EngineFailure } from '../failure.js'
import { PieceNormalizer } from './piece-normalizer.js'

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const AddedToken = z.looseObject({
  id: z.int().min(0),
  content: z.string().min(1),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  normalized: z.boolean().default(false),
  special: z.boolean().default(true),
})

/** Ids by their texts, or the texts of Unigram with their scores, in the order of the ids. */
type Vocabulary = Readonly<Record<string, number>> | readonly (readonly [string, number])[]

const isVocabulary = (value: unknown): boolean =>
  isRecord(value) ||
  (Array.isArray(value) &&
    value.every(
      (one) => Array.isArray(one) && typeof one[0] === 'string' && Number.isFinite(one[1]),
    ))

export const TokenizerFile = z.looseObject({
  /** Of SentencePiece's own files (sentencepiece.ts). */
  sentencepiece: PieceNormalizer.optional(),
  added_tokens: z.array(AddedToken).default([]),
  normalizer: z.unknown().optional(),
  pre_tokenizer: z.unknown().optional(),
  post_processor: z.unknown().optional(),
  decoder: z.unknown().optional(),
  model: z.looseObject({
    type: z.string().default('BPE'),
    // Not z.record: a check of 128,000 entries one by one takes longer than parsing the file.
    vocab: z.custom<Vocabulary>(isVocabulary, 'expected an object, or a list of [text, score]'),
    merges: z
      .custom<readonly (string | readonly string[])[]>(Array.isArray, 'expected a list')
      .optional(),
    byte_fallback: z.boolean().nullish(),
    unk_token: z.string().nullish(),
    unk_id: z.number().nullish(),
    continuing_subword_prefix: z.string().nullish(),
    end_of_word_suffix: z.string().nullish(),
  }),
})
export type TokenizerFile = z.output<typeof TokenizerFile>

const MAX_NESTING = 16

/** The components of a normalizer, pre-tokenizer, decoder or post-processor, sequences opened. */
export const components = (value: unknown, depth = 0): readonly Record<string, unknown>[] => {
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

/** How a token's text stands for bytes, and what a decoded text loses at its front. */
export type Form =
  /** Each character is one byte (GPT-2, Llama 3). */
  | { readonly kind: 'bytes' }
  /** SentencePiece's: UTF-8, `space` for a space, and where `byteFallback` <0x0A> for a byte. */
  | {
      readonly kind: 'pieces'
      readonly space: string | undefined
      readonly byteFallback: boolean
      /** One space of the whole text, or all that the first token has. */
      readonly strip: 'nothing' | 'space' | 'firstToken'
    }

const refused = (why: string): never => {
  throw new EngineFailure({ code: 'unsupported', message: why })
}

const textOfPattern = (pattern: unknown): unknown =>
  isRecord(pattern) ? pattern.String : undefined

/** Of Metaspace, as older files spell it too. */
const prependScheme = ({ prepend_scheme, add_prefix_space }: Record<string, unknown>): string => {
  if (typeof prepend_scheme === 'string') return prepend_scheme
  return add_prefix_space === false ? 'never' : 'always'
}

/** A decoder of SentencePiece's kind, read one component after another. */
const formOfPieces = (file: TokenizerFile): Form => {
  const decoders = components(file.decoder)
  const preTokenizers = components(file.pre_tokenizer)
  let space: string | undefined
  let byteFallback = false
  let strip: 'nothing' | 'space' | 'firstToken' = 'nothing'
  let isFused = false
  const odd = (what: string): never =>
    refused(
      `its decoder ${what}; served: ByteLevel, or Replace, ByteFallback, Fuse, Strip, Metaspace`,
    )
  for (const decoder of decoders) {
    switch (decoder.type) {
      case 'Replace': {
        const from = textOfPattern(decoder.pattern)
        if (typeof from !== 'string' || from === '' || decoder.content !== ' ' || isFused)
          odd(`replaces ${JSON.stringify(decoder.pattern)} by ${JSON.stringify(decoder.content)}`)
        else space = from
        break
      }
      case 'ByteFallback':
        byteFallback = true
        break
      case 'Fuse':
        isFused = true
        break
      case 'Strip':
        if (decoder.content !== ' ' || decoder.start !== 1 || decoder.stop !== 0 || !isFused)
          odd('strips more than the first space of a text')
        strip = 'space'
        break
      case 'Metaspace':
        space = typeof decoder.replacement === 'string' ? decoder.replacement : '▁'
        if (prependScheme(decoder) !== 'never') strip = 'firstToken'
        break
      default:
        odd(`is ${decoders.map(({ type }) => String(type)).join(', ')}`)
    }
  }
  if (decoders.length === 0) odd('is missing')
  if (preTokenizers.some(({ type }) => type === 'ByteLevel'))
    odd(
      `is ${decoders.map(({ type }) => String(type)).join(', ')} beside a ByteLevel pre_tokenizer`,
    )
  return { kind: 'pieces', space, byteFallback, strip }
}

const formOfBpe = (file: TokenizerFile): Form => {
  const decoders = components(file.decoder)
  const isByteLevel = decoders.length === 1 && decoders[0]?.type === 'ByteLevel'
  if (!isByteLevel) return formOfPieces(file)
  if (file.model.byte_fallback) refused('its model has byte_fallback beside a ByteLevel decoder')
  if (!components(file.pre_tokenizer).some(({ type }) => type === 'ByteLevel')) {
    const found = components(file.pre_tokenizer).map(({ type }) => String(type))
    refused(`its decoder is ByteLevel, its pre_tokenizer ${found.join(', ') || 'missing'}`)
  }
  return { kind: 'bytes' }
}

/** Throws where a file is of a kind that is not served. */
export const readForm = (file: TokenizerFile): Form => {
  const { model } = file
  if (model.type !== 'BPE' && model.type !== 'Unigram')
    refused(`its model is ${model.type}; served: BPE and Unigram`)
  if (Array.isArray(model.vocab) !== (model.type === 'Unigram'))
    refused(`its model is ${model.type} with the vocabulary of another`)
  if (model.continuing_subword_prefix || model.end_of_word_suffix)
    refused('its model has a subword prefix or suffix')
  const odd = file.added_tokens.find((token) => token.lstrip || token.rstrip || token.single_word)
  if (odd) refused(`its added token ${odd.content} has lstrip, rstrip or single_word`)
  // Where every text gets a prefix, so does the name that is looked for.
  const prepends = components(file.normalizer).some(({ type }) => type === 'Prepend')
  const normalized = file.added_tokens.find((token) => token.normalized)
  if (prepends && normalized)
    refused(`its added token ${normalized.content} is normalized, and its normalizer prepends`)
  return model.type === 'Unigram' ? formOfPieces(file) : formOfBpe(file)
}

/** How Llama 3's tokenizer.json cuts a text before it is merged. */
export const LLAMA3_SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** Whether no token reaches over the end of a line with a visible ASCII character behind it, and none depends on what
 * stands before. So it is of Llama 3's pattern, which takes a run of spaces and line ends up to its last line end. */
export const cutsAtLines = (file: TokenizerFile): boolean => {
  const [split, bytes, more] = components(file.pre_tokenizer)
  return (
    components(file.normalizer).length === 0 &&
    split?.type === 'Split' &&
    isRecord(split.pattern) &&
    split.pattern.Regex === LLAMA3_SPLIT &&
    split.behavior === 'Isolated' &&
    split.invert === false &&
    bytes?.type === 'ByteLevel' &&
    bytes.add_prefix_space === false &&
    bytes.use_regex === false &&
    more === undefined
  )
}

/** Only the beginning of a text gets a space in front, not what follows a control token. */
export const prependsFirst = (file: TokenizerFile): boolean =>
  components(file.pre_tokenizer).some(
    (one) => one.type === 'Metaspace' && prependScheme(one) === 'first',
  )

/** Whether a text's bytes may become fewer on their way to tokens. Then its length says nothing of theirs. */
export const mayShrink = (file: TokenizerFile): boolean => {
  const { model } = file
  const hasUnknown = model.unk_token != null || model.unk_id != null
  const { rules = '', collapsesSpaces = false } = file.sentencepiece ?? {}
  if (rules !== '' || collapsesSpaces) return true
  const keeps = (one: Record<string, unknown>): boolean =>
    one.type === 'Prepend' || (one.type === 'Replace' && textOfPattern(one.pattern) === ' ')
  return !components(file.normalizer).every(keeps) || (hasUnknown && model.byte_fallback !== true)
}

/** Every token of the model, with its id. */
export const entriesOf = (vocab: Vocabulary): readonly (readonly [string, number])[] =>
  Array.isArray(vocab)
    ? vocab.map(([text], id): readonly [string, number] => [text, id])
    : Object.entries(vocab as Readonly<Record<string, number>>)
