// The tokenizer of a GGUF file in the form of tokenizer.json: vocabulary, merges and kinds of tokens are
// in the metadata, the rules by which a text is cut only as a name.

import { LLAMA3_SPLIT } from './file.js'
import { type Gguf, GgufError, readGguf } from './gguf.js'
import { jsonOfPieces } from './sentencepiece.js'

const TOKENS = 'tokenizer.ggml.tokens'
const MERGES = 'tokenizer.ggml.merges'
const SCORES = 'tokenizer.ggml.scores'
const KINDS = 'tokenizer.ggml.token_type'

/** llama.cpp's numbers of the kinds of tokens that are cut out of a text by their names. */
const CONTROL = 3
const USER_DEFINED = 4
/** Of a row of the embedding that no token has: llama.cpp's conversion writes one for every row. */
const UNUSED = 5

/** How llama.cpp's names of pre-tokenizers cut. */
const SPLITS: Readonly<Record<string, string>> = {
  'llama-bpe': LLAMA3_SPLIT,
  llama3: LLAMA3_SPLIT,
  'llama-v3': LLAMA3_SPLIT,
  'smaug-bpe': LLAMA3_SPLIT,
}

const byteLevel = {
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: false,
}

/** Puts the bos in front of a text. */
const template = (bos: string, id: number) => ({
  type: 'TemplateProcessing',
  single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
  pair: [],
  special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } },
})

/** SentencePiece's pieces, which Nemotron-4's files have. */
const ofPieces = (metadata: Gguf['metadata'], fail: (what: string) => never): string => {
  const list = (key: string) => {
    const value = metadata.get(key)
    return typeof value === 'object' ? value : undefined
  }
  const tokens = list(TOKENS)?.texts ?? fail(`${TOKENS} is missing; expected a list of texts`)
  const numbers = (key: string): readonly number[] => {
    const found = list(key)?.numbers ?? fail(`${key} is missing; expected a list of numbers`)
    if (found.length === tokens.length) return found
    return fail(
      `${key} has ${found.length} values; expected ${tokens.length}, one for each of ${TOKENS}`,
    )
  }
  const [scores, kinds] = [numbers(SCORES), numbers(KINDS)]
  const flag = (name: string, otherwise: boolean): boolean => {
    const value = metadata.get(`tokenizer.ggml.${name}`)
    return typeof value === 'boolean' ? value : otherwise
  }
  const id = (name: string): number => Number(metadata.get(`tokenizer.ggml.${name}_token_id`) ?? -1)
  const pieces = tokens.map((text, i) => ({ text, score: scores[i] ?? 0, kind: kinds[i] ?? 1 }))
  return jsonOfPieces(
    {
      pieces,
      type: 'BPE',
      byteFallback: true,
      unknown: id('unknown'),
      bos: id('bos'),
      rules: new Uint8Array(),
      addsPrefix: flag('add_space_prefix', true),
      collapsesSpaces: flag('remove_extra_whitespaces', false),
    },
    flag('add_bos_token', true),
  )
}

/** The text of a tokenizer.json. Throws a GgufError for a tokenizer of another kind. */
export const ggufTokenizer = (path: string): string => {
  const { metadata } = readGguf(path, [TOKENS, MERGES, KINDS, SCORES])
  const fail = (what: string): never => {
    throw new GgufError(`${path}: ${what}`)
  }
  const unserved = (what: string): never => {
    throw new GgufError(`${path}: ${what}`, 'unsupported')
  }
  const list = (key: string) => {
    const value = metadata.get(key)
    return typeof value === 'object' ? value : undefined
  }
  const model = metadata.get('tokenizer.ggml.model')
  if (model === 'llama') return ofPieces(metadata, fail)
  if (model !== 'gpt2')
    unserved(
      `tokenizer.ggml.model is ${JSON.stringify(model) ?? 'missing'}; served: "gpt2" (byte-level BPE) and "llama" (SentencePiece's BPE)`,
    )
  const pre = metadata.get('tokenizer.ggml.pre')
  const pattern = typeof pre === 'string' ? SPLITS[pre] : undefined
  if (pattern === undefined)
    unserved(
      `tokenizer.ggml.pre is ${JSON.stringify(pre) ?? 'missing'}; served: ${Object.keys(SPLITS).join(', ')}`,
    )
  const tokens = list(TOKENS)?.texts ?? fail(`${TOKENS} is missing; expected a list of texts`)
  const merges = list(MERGES)?.texts ?? fail(`${MERGES} is missing; expected a list of texts`)
  const kinds = list(KINDS)?.numbers ?? []
  if (kinds.length > 0 && kinds.length !== tokens.length)
    fail(
      `${KINDS} has ${kinds.length} values; expected ${tokens.length}, one for each of ${TOKENS}`,
    )
  const added = tokens.flatMap((content, id) =>
    kinds[id] === CONTROL || kinds[id] === USER_DEFINED
      ? [{ id, content, special: kinds[id] === CONTROL, normalized: false }]
      : [],
  )
  const names = new Set(added.map(({ id }) => id))
  const vocab = Object.fromEntries(
    tokens.flatMap((token, id) =>
      names.has(id) || kinds[id] === UNUSED ? [] : [[token, id] as const],
    ),
  )
  const bosId = Number(metadata.get('tokenizer.ggml.bos_token_id') ?? -1)
  const bos = tokens[bosId]
  const addsBos = metadata.get('tokenizer.ggml.add_bos_token') !== false && bos !== undefined
  return JSON.stringify({
    version: '1.0',
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
        byteLevel,
      ],
    },
    post_processor: addsBos ? template(bos, bosId) : null,
    decoder: byteLevel,
    model: { type: 'BPE', ignore_merges: true, vocab, merges },
  })
}
