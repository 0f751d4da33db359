// A bare tokenizer.model, as SentencePiece writes it, in the form of tokenizer.json. The ids are SentencePiece's
// own: transformers, which reads such a file too, leaves out how it treats spaces.

import { EngineFailure } from '../failure.js'

/** What a piece is, as sentencepiece_model.proto numbers it. */
const NORMAL = 1
const UNKNOWN = 2
const CONTROL = 3
const USER_DEFINED = 4
const UNUSED = 5
const BYTE = 6

type Piece = { readonly text: string; readonly score: number; readonly kind: number }

type PieceModel = {
  readonly pieces: readonly Piece[]
  readonly type: 'BPE' | 'Unigram'
  readonly byteFallback: boolean
  readonly unknown: number
  /** Put in front of a text by those who add it. */
  readonly bos: number
  /** Rules by which characters are normalised, as the library reads them; empty: none. */
  readonly rules: Uint8Array
  readonly addsPrefix: boolean
  readonly collapsesSpaces: boolean
}

type Field =
  | { readonly number: number; readonly value: number }
  | { readonly number: number; readonly bytes: Uint8Array }

/** The fields of a message, in order. Throws where it is cut off. */
const createReader = (path: string, whole: Uint8Array) => {
  const view = new DataView(whole.buffer, whole.byteOffset, whole.byteLength)
  const cut = (at: number): never => {
    throw new EngineFailure({
      code: 'invalid_argument',
      message: `${path}: no SentencePiece model, or cut off: at byte ${at} of ${whole.length} a field is not whole`,
    })
  }
  /** `from` and `to`: of the message. */
  const read = function* (from: number, to: number): Generator<Field & { readonly from: number }> {
    let at = from
    const varint = (): number => {
      let value = 0
      for (let factor = 1; ; factor *= 128) {
        if (at >= to || factor > 2 ** 63) cut(at)
        const byte = whole[at++] ?? 0
        value += (byte & 0x7f) * factor
        if (byte < 0x80) return value
      }
    }
    const need = (size: number): number => {
      if (size > to - at) cut(at)
      at += size
      return at - size
    }
    while (at < to) {
      const tag = varint()
      const number = Math.floor(tag / 8)
      if (number === 0) cut(at)
      switch (tag % 8) {
        case 0:
          yield { number, value: varint(), from: at }
          break
        case 1:
          need(8)
          break
        case 2: {
          const size = varint()
          const begin = need(size)
          yield { number, bytes: whole.subarray(begin, begin + size), from: begin }
          break
        }
        case 5:
          yield { number, value: view.getFloat32(need(4), true), from: at }
          break
        default:
          cut(at)
      }
    }
  }
  return read
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

const refuse = (path: string, what: string): never => {
  throw new EngineFailure({ code: 'unsupported', message: `${path}: ${what}` })
}

const readModel = (path: string, file: Uint8Array): PieceModel => {
  const read = createReader(path, file)
  const fieldsOf = (field: Field & { readonly from: number }) =>
    'bytes' in field ? [...read(field.from, field.from + field.bytes.length)] : []
  const pieces: Piece[] = []
  let trainer: readonly Field[] = []
  let normalizer: readonly Field[] = []
  let denormalizer: readonly Field[] = []
  for (const field of read(0, file.length)) {
    if (field.number === 1) {
      let [text, score, kind] = ['', 0, 1]
      for (const part of fieldsOf(field)) {
        if (part.number === 1 && 'bytes' in part) text = utf8.decode(part.bytes)
        else if (part.number === 2 && 'value' in part) score = part.value
        else if (part.number === 3 && 'value' in part) kind = part.value
      }
      pieces.push({ text, score, kind })
    } else if (field.number === 2) trainer = fieldsOf(field)
    else if (field.number === 3) normalizer = fieldsOf(field)
    else if (field.number === 5) denormalizer = fieldsOf(field)
  }
  /** The last of a field holds; a negative number is one of 64 bits. */
  const number = (fields: readonly Field[], id: number, otherwise: number): number => {
    const found = fields.findLast((one) => one.number === id && 'value' in one)
    const value = found !== undefined && 'value' in found ? found.value : otherwise
    return value >= 2 ** 63 ? -1 : value
  }
  const bytes = (fields: readonly Field[], id: number): Uint8Array => {
    const found = fields.findLast((one) => one.number === id && 'bytes' in one)
    return found !== undefined && 'bytes' in found ? found.bytes : new Uint8Array()
  }
  if (pieces.length === 0) refuse(path, 'it has no pieces: no SentencePiece model')
  // It comes behind the pieces: without it the file is cut off between two of them.
  if (trainer.length === 0 || normalizer.length === 0)
    refuse(
      path,
      `it has no ${trainer.length === 0 ? 'trainer_spec' : 'normalizer_spec'}: it is cut off`,
    )
  const type = number(trainer, 3, 1)
  if (type !== 1 && type !== 2)
    refuse(path, `trainer_spec.model_type is ${type}; served: 1 (unigram) and 2 (BPE)`)
  if (number(trainer, 24, 0) !== 0)
    refuse(path, 'trainer_spec.treat_whitespace_as_suffix is true; served: false')
  if (number(normalizer, 5, 1) !== 1)
    refuse(path, 'normalizer_spec.escape_whitespaces is false; served: true')
  if (bytes(denormalizer, 2).length > 0) refuse(path, 'it has a denormalizer_spec; served: none')
  return {
    pieces,
    type: type === 1 ? 'Unigram' : 'BPE',
    byteFallback: number(trainer, 35, 0) !== 0,
    unknown: number(trainer, 40, 0),
    bos: number(trainer, 41, 1),
    rules: bytes(normalizer, 2),
    addsPrefix: number(normalizer, 3, 1) !== 0,
    collapsesSpaces: number(normalizer, 4, 1) !== 0,
  }
}

type Merge = { readonly parts: readonly [string, string]; readonly score: number }

/** SentencePiece merges the two neighbours whose piece has the best score; here a list says which come first. */
const mergesOf = (pieces: readonly Piece[]): readonly (readonly [string, string])[] => {
  const ids = new Map(
    pieces.flatMap(({ text, kind }, id) => (isMade(kind) ? [[text, id] as const] : [])),
  )
  const merges: Merge[] = []
  for (const { text, score, kind } of pieces) {
    if (!isMade(kind)) continue
    const own: { parts: readonly [string, string]; left: number; right: number }[] = []
    const units = [...text]
    let head = ''
    for (const unit of units.slice(0, -1)) {
      head += unit
      const tail = text.slice(head.length)
      const [left, right] = [ids.get(head), ids.get(tail)]
      if (left !== undefined && right !== undefined) own.push({ parts: [head, tail], left, right })
    }
    own.sort((a, b) => a.left - b.left || a.right - b.right)
    for (const { parts } of own) merges.push({ parts, score })
  }
  merges.sort(
    (a, b) =>
      b.score - a.score ||
      b.parts[0].length - a.parts[0].length ||
      b.parts[1].length - a.parts[1].length,
  )
  return merges.map(({ parts }) => parts)
}

/** A text can be made of it: no control token, no byte, nothing that only fills the vocabulary. */
const isMade = (kind: number): boolean => kind === NORMAL || kind === USER_DEFINED

/** Less than any way through a text. */
const NEVER = -1e6

const modelOf = (model: PieceModel) => {
  const { pieces, type, byteFallback: byte_fallback, unknown } = model
  if (type === 'Unigram')
    return {
      ...{ type, byte_fallback, unk_id: unknown },
      vocab: pieces.map(({ text, score, kind }) => [text, kind === BYTE ? NEVER : score]),
    }
  return {
    ...{ type, byte_fallback, fuse_unk: true, unk_token: pieces[unknown]?.text ?? null },
    vocab: Object.fromEntries(
      pieces.flatMap(({ text, kind }, id) => (kind === UNUSED ? [] : [[text, id] as const])),
    ),
    merges: mergesOf(pieces),
  }
}

const replace = (pattern: object, content: string) => ({ type: 'Replace', pattern, content })
/** `addsBos`: tokenizer_config.json says so. */
export const sentencePieceJson = (path: string, file: Uint8Array, addsBos: boolean): string => {
  const model = readModel(path, file)
  const { pieces } = model
  // SentencePiece goes on from one that it made, and takes it apart again at the end.
  const unused = pieces.findIndex(({ kind }) => kind === UNUSED)
  if (unused >= 0)
    refuse(path, `piece ${unused} ${JSON.stringify(pieces[unused]?.text)} is unused; served: none`)
  const spaced = pieces.findIndex(
    ({ kind, text }) => kind === USER_DEFINED && /^[ ▁]|[ ▁]$| {2}|▁▁/.test(text),
  )
  if (spaced >= 0 && model.collapsesSpaces)
    refuse(
      path,
      `piece ${spaced} ${JSON.stringify(pieces[spaced]?.text)} is user-defined and has spaces at an end or two in a row, beside normalizer_spec.remove_extra_whitespaces; served: one of them`,
    )
  return jsonOfPieces(model, addsBos)
}

/** The text of a tokenizer.json. */
export const jsonOfPieces = (model: PieceModel, addsBos: boolean): string => {
  const { pieces, addsPrefix, byteFallback, collapsesSpaces, rules, bos: bosId } = model
  const bos = addsBos ? pieces[bosId]?.text : undefined
  return JSON.stringify({
    version: '1.0',
    added_tokens: pieces.flatMap(({ text: content, kind }, id) =>
      kind === CONTROL || kind === UNKNOWN || kind === USER_DEFINED
        ? [{ id, content, special: kind !== USER_DEFINED, normalized: false }]
        : [],
    ),
    normalizer: replace({ String: ' ' }, '▁'),
    pre_tokenizer: null,
    post_processor:
      bos === undefined
        ? null
        : {
            type: 'TemplateProcessing',
            single: [
              { SpecialToken: { id: bos, type_id: 0 } },
              { Sequence: { id: 'A', type_id: 0 } },
            ],
            pair: [],
            special_tokens: { [bos]: { id: bos, ids: [bosId], tokens: [bos] } },
          },
    decoder: {
      type: 'Sequence',
      decoders: [
        replace({ String: '▁' }, ' '),
        ...(byteFallback ? [{ type: 'ByteFallback' }] : []),
        { type: 'Fuse' },
        ...(addsPrefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: modelOf(model),
    // Read by tokenizer.ts alone.
    sentencepiece: { rules: Buffer.from(rules).toString('base64'), collapsesSpaces, addsPrefix },
  })
}
