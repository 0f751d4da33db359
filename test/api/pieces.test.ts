// Tokenizers of SentencePiece's kind: ids, texts and bytes as the reference has them (test/golden/pieces.py).

import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, describe, test } from 'node:test'
import { createNormalizer } from '../../server/tokenizer/piece-normalizer.js'
import { loadTokenizer } from '../../server/tokenizer/tokenizer.js'
import type { Tokenizer } from '../../server/tokenizer/types.js'
import { tokenizerFolder } from './llama_tokenizer.js'

type Case = { readonly text: string; readonly ids: readonly number[]; readonly decoded: string }

const golden = (name: string) =>
  JSON.parse(readFileSync(new URL(`../golden/pieces/${name}.json`, import.meta.url), 'utf8'))

const bytesOf = (tokenizer: Tokenizer, ids: readonly number[]): string =>
  Buffer.concat(ids.map((id) => tokenizer.bytes(id))).toString('utf8')

const isWellFormed = (text: string) => !text.includes('\ufffd')

for (const name of ['nemotron', 'prepend', 'first', 'metaspace']) {
  describe(`${name}.json`, () => {
    const cases: readonly Case[] = golden(`${name}.cases`)
    let tokenizer: Tokenizer
    before(async () => {
      tokenizer = await loadTokenizer(tokenizerFolder(golden(name)))
    })

    test("ids and texts are transformers'", async () => {
      for (const { text, ids, decoded } of cases) {
        const found = await tokenizer.encode(text, { special: true })
        assert.deepEqual([...found], ids, JSON.stringify(text))
        assert.equal(tokenizer.decode(ids), decoded, JSON.stringify(text))
      }
    })

    test('the bytes of the tokens are the text, but for a space at its front', async () => {
      for (const { ids, decoded } of cases) {
        const whole = bytesOf(tokenizer, ids)
        assert.ok(isWellFormed(whole))
        assert.equal(whole.replace(/^ +/, ''), decoded.replace(/^ +/, ''))
      }
    })

    test('the names of control tokens in a plain text stay text', async () => {
      const control = new Set(
        [...tokenizer.special].flatMap(([token, id]) => (token === '<unk>' ? [] : [id])),
      )
      assert.ok(control.size >= 3)
      for (const { text } of cases) {
        const ids = await tokenizer.encode(text)
        assert.ok(!ids.some((id) => control.has(id)), JSON.stringify(text))
      }
    })

    test('a long text has the ids of the same text', async () => {
      const line = 'The server  answers <extra_id_1>1,234 requests.\n'
      const short = await tokenizer.encode(line.repeat(3), { special: true })
      const long = await tokenizer.encode(line.repeat(1000), { special: true })
      assert.ok(long.length > 10_000)
      // Every control token begins the text anew.
      const from = short.indexOf(tokenizer.special.get('<extra_id_1>') ?? -1)
      const period = short.lastIndexOf(short[from] ?? -1, -2) - from
      assert.ok(from > 0 && period > 0)
      const each = (short.length - from - (await restOf(line))) / 2
      assert.deepEqual([...long.slice(0, from + each)], [...short.slice(0, from + each)])
      assert.ok(long.slice(from, -50).every((id, i) => id === short[from + (i % each)]))
    })

    const restOf = async (line: string): Promise<number> => {
      const once = await tokenizer.encode(line, { special: true })
      return once.length - once.indexOf(tokenizer.special.get('<extra_id_1>') ?? -1)
    }
  })
}

describe('what only pieces have', () => {
  test('streams are cut at whole characters: a byte is a token', async () => {
    const tokenizer = await loadTokenizer(tokenizerFolder(golden('nemotron')))
    const ids = await tokenizer.encode('☃')
    assert.deepEqual(
      ids.map((id) => [...tokenizer.bytes(id)]),
      [[0xe2], [0x98], [0x83]],
    )
    assert.equal(tokenizer.decode(ids), '☃')
  })

  test('only the beginning of a prompt gets a space where the file says "first"', async () => {
    const tokenizer = await loadTokenizer(tokenizerFolder(golden('first')))
    const [turn = -1] = [tokenizer.special.get('<extra_id_1>')]
    const parts = await tokenizer.encodeParts(['User', turn, 'User', turn, '', turn, ' User'])
    const text = parts.map((id) => (id === turn ? '|' : bytesOf(tokenizer, [id]))).join('')
    assert.equal(text, ' User|User|| User')
    const later = await tokenizer.encodeParts([turn, 'User'])
    assert.equal(bytesOf(tokenizer, later.slice(1)), 'User')
    const all = await loadTokenizer(tokenizerFolder(golden('prepend')))
    assert.equal(bytesOf(all, (await all.encodeParts([turn, 'User'])).slice(1)), ' User')
  })

  test('no bound on tokens is made of bytes that a normalizer may drop', async () => {
    const longest = async (name: string) =>
      (await loadTokenizer(tokenizerFolder(golden(name)))).longestToken
    assert.equal(await longest('metaspace'), Number.POSITIVE_INFINITY)
    assert.equal(await longest('nemotron'), '<extra_id_0>'.length)
  })

  const base = golden('nemotron')
  const fallback = [{ type: 'ByteFallback' }, { type: 'Fuse' }]
  const sequence = (...decoders: object[]) => ({ type: 'Sequence', decoders })
  const space = { type: 'Replace', pattern: { String: '▁' }, content: ' ' }
  const refused: [string, object, RegExp][] = [
    ['WordPiece', { model: { type: 'WordPiece', vocab: {} } }, /its model is WordPiece; served/],
    ['no decoder', { decoder: null }, /its decoder is missing/],
    ['another decoder', { decoder: { type: 'CTC' } }, /its decoder is CTC/],
    [
      'a decoder that strips every token',
      { decoder: sequence(space, { type: 'Strip', content: ' ', start: 1, stop: 0 }) },
      /strips more than the first space/,
    ],
    [
      'a decoder that replaces a pattern',
      { decoder: sequence({ ...space, pattern: { Regex: '▁' } }, ...fallback) },
      /its decoder replaces {"Regex":"▁"} by " "/,
    ],
    [
      'bytes of both kinds',
      { decoder: { type: 'ByteLevel' }, pre_tokenizer: { type: 'ByteLevel' } },
      /byte_fallback beside a ByteLevel decoder/,
    ],
    [
      'a vocabulary of the other kind',
      { model: { ...base.model, vocab: [['a', 0]] } },
      /BPE with the vocabulary of another/,
    ],
    [
      'a normalized name behind a prefix',
      {
        normalizer: { type: 'Prepend', prepend: '▁' },
        added_tokens: [{ id: 4, content: '<extra_id_0>', normalized: true }],
      },
      /<extra_id_0> is normalized, and its normalizer prepends/,
    ],
  ]
  for (const [what, change, message] of refused) {
    test(`${what} is refused by name`, async () => {
      const folder = tokenizerFolder({ ...base, ...change })
      await assert.rejects(loadTokenizer(folder), { code: 'unsupported', message })
    })
  }
})

describe("a bare tokenizer.model has SentencePiece's ids", () => {
  const modelOf = (name: string): Buffer =>
    readFileSync(new URL(`../golden/pieces/${name}.model`, import.meta.url))
  const folderOf = (model: Buffer, files: Record<string, unknown> = {}): string => {
    const folder = mkdtempSync(join(tmpdir(), 'nemotron-pieces-'))
    writeFileSync(join(folder, 'tokenizer.model'), model)
    for (const [name, value] of Object.entries(files))
      writeFileSync(join(folder, name), JSON.stringify(value))
    return folder
  }

  const models = ['nemotron', 'prefixed', 'plain', 'collapsed', 'ruled', 'unigram', 'unigram_bytes']
  for (const name of models)
    test(name, async () => {
      const tokenizer = await loadTokenizer(folderOf(modelOf(name)))
      const cases: readonly Omit<Case, 'decoded'>[] = golden(`${name}.model.cases`)
      for (const { text, ids } of cases) {
        // SentencePiece knows the user's symbols in a text, and no control tokens.
        const parts = text.split(/(<extra_id_\d+>)/).map((part) => {
          const id = part.startsWith('<extra') ? tokenizer.special.get(part) : undefined
          return id ?? part
        })
        const joined = parts.every((part) => typeof part === 'string') ? [text] : parts
        assert.deepEqual([...(await tokenizer.encodeParts(joined))], ids, JSON.stringify(text))
      }
      assert.equal(tokenizer.bosId, null)
    })

  test('a long text loses and gains nothing, either', async () => {
    const tokenizer = await loadTokenizer(folderOf(modelOf('ruled')))
    const line = 'Ｆ\u0301ull ﬁne\r\n'
    const idsOf = async (times: number) => [...(await tokenizer.encode(line.repeat(times)))]
    const [one, two, long] = [await idsOf(1), await idsOf(2), await idsOf(4000)]
    const period = two.slice(one.length)
    assert.ok(period.length > 5)
    assert.deepEqual(long, [...one, ...Array(3999).fill(period).flat()])
  })

  test('spaces at the end are dropped, and a long run of them takes no longer than it is', () => {
    const form = { rules: '', collapsesSpaces: true, addsPrefix: false }
    const normalize = createNormalizer(form)
    assert.deepEqual(normalize([' ▁a ▁ b ▁', 1, ' ▁c▁ ▁  ']), ['▁a ▁ b ▁', 1, ' ▁c'])
    assert.deepEqual(normalize([' ▁ ▁ ']), [''])
    const run = '▁'.repeat(150_000)
    const began = performance.now()
    assert.deepEqual(normalize([`${run}x${run}`]), [`${run}x`])
    assert.ok(performance.now() - began < 3000)
  })

  const field = (number: number, value: Buffer | number): Buffer =>
    typeof value === 'number'
      ? Buffer.of(number * 8, value)
      : Buffer.concat([Buffer.of(number * 8 + 2, value.length), value])
  const piece = (text: string, kind: number): Buffer =>
    field(1, Buffer.concat([field(1, Buffer.from(text)), field(3, kind)]))
  const smallModel = (pieces: readonly Buffer[], normalizer: readonly Buffer[]): Buffer =>
    Buffer.concat([
      piece('<unk>', 2),
      piece('a', 1),
      ...pieces,
      field(2, field(3, 2)),
      field(3, Buffer.concat([field(1, Buffer.from('small')), ...normalizer])),
    ])

  test('rules that are cut off, and symbols of spaces that are not kept, are named', async () => {
    const small = await loadTokenizer(folderOf(smallModel([piece('  ', 4)], [field(4, 0)])))
    assert.deepEqual([...(await small.encode('a  a'))].slice(-2), [2, 1])
    await assert.rejects(loadTokenizer(folderOf(smallModel([piece('  ', 4)], []))), {
      code: 'unsupported',
      message: /tokenizer.model: piece 2 " {2}" is user-defined and has spaces .*; served: one/,
    })
    for (const rules of [
      Buffer.of(1),
      Buffer.of(4, 0, 0, 0, 1, 2),
      Buffer.of(8, 0, 0, 0, 1, 2, 3, 0),
    ])
      await assert.rejects(loadTokenizer(folderOf(smallModel([], [field(2, rules)]))), {
        code: 'invalid_argument',
        message:
          /tokenizer.model: normalizer_spec.precompiled_charsmap has \d bytes, which are no table/,
      })
  })

  test('tokenizer_config.json says whether a text begins with bos', async () => {
    const config = { add_bos_token: true }
    const folder = folderOf(modelOf('nemotron'), { 'tokenizer_config.json': config })
    assert.equal((await loadTokenizer(folder)).bosId, 2)
  })

  test('a file that is cut off anywhere is an error, and never another tokenizer', async () => {
    const model = modelOf('nemotron')
    const whole = await loadTokenizer(folderOf(model))
    let refused = 0
    for (let size = 0; size < model.length; size += 97) {
      try {
        const cut = await loadTokenizer(folderOf(model.subarray(0, size)))
        // Between two pieces it is whole, but shorter.
        assert.ok(cut.vocabSize <= whole.vocabSize)
      } catch (error) {
        refused++
        assert.match(
          String(error),
          /tokenizer.model: (no SentencePiece model, or cut off: at byte|it has no pieces|it has no trainer_spec)/,
        )
      }
    }
    assert.equal(refused, Math.ceil(model.length / 97))
    // Numbers that do not end: with the file, with the message that they are in, and after all bits that there are.
    const tail = Buffer.from(smallModel([], []))
    for (const more of [
      Buffer.of(0x20, 0x80),
      Buffer.concat([field(1, Buffer.of(0x18, 0x80)), Buffer.of(0x20, 0x01)]),
      Buffer.of(0x20, ...Array<number>(11).fill(0xff), 0x01),
    ])
      await assert.rejects(
        loadTokenizer(folderOf(Buffer.concat([tail, more]))),
        /tokenizer.model: no SentencePiece model, or cut off: at byte \d+ of/,
        more.toString('hex'),
      )
    await assert.rejects(
      loadTokenizer(folderOf(Buffer.from('version https://git-lfs.github.com/spec/v1\n'))),
      /tokenizer.model: no SentencePiece model, or cut off/,
    )
  })
})

describe("a GGUF file's pieces", () => {
  const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
  const u64 = (value: number) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
  const f32 = (value: number) => Buffer.from(Float32Array.of(value).buffer)
  const text = (value: string) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])
  const list = (type: number, items: readonly Buffer[]) =>
    Buffer.concat([u32(type), u64(items.length), ...items])

  type Json = { model: { vocab: Record<string, number>; merges: string[][] } } & {
    added_tokens: { id: number; special: boolean }[]
  }
  /** As llama.cpp's conversion of a SentencePiece model: scores are the negative ids. */
  const ggufOf = (
    json: Json,
    addsSpace: boolean,
    change: (tokens: string[]) => void = () => {},
  ) => {
    const tokens: string[] = []
    for (const [token, id] of Object.entries(json.model.vocab)) tokens[id] = token
    const special = new Map(json.added_tokens.map((one) => [one.id, one.special]))
    const kinds: number[] = tokens.map((token, id) => {
      if (token === '<unk>') return 2
      if (special.has(id)) return special.get(id) ? 3 : 4
      return /^<0x[0-9A-F]{2}>$/.test(token) ? 6 : 1
    })
    for (let i = 0; i < 4; i++) {
      tokens.push(`[PAD${tokens.length}]`)
      kinds.push(5)
    }
    const scores = tokens.map((_, id) => -id)
    change(tokens)
    const metadata: [string, number, Buffer][] = [
      ['general.architecture', 8, text('nemotron')],
      ['tokenizer.ggml.model', 8, text('llama')],
      ['tokenizer.ggml.tokens', 9, list(8, tokens.map(text))],
      ['tokenizer.ggml.scores', 9, list(6, scores.map(f32))],
      ['tokenizer.ggml.token_type', 9, list(5, kinds.map(u32))],
      ['tokenizer.ggml.unknown_token_id', 4, u32(1)],
      ['tokenizer.ggml.bos_token_id', 4, u32(2)],
      ['tokenizer.ggml.add_bos_token', 7, Buffer.of(0)],
      ['tokenizer.ggml.add_space_prefix', 7, Buffer.of(addsSpace ? 1 : 0)],
    ]
    const head: Buffer[] = [Buffer.from('GGUF'), u32(3), u64(0), u64(metadata.length)]
    for (const [key, type, value] of metadata) head.push(text(key), u32(type), value)
    const path = join(mkdtempSync(join(tmpdir(), 'nemotron-pieces-')), 'pieces.gguf')
    writeFileSync(path, Buffer.concat([...head, Buffer.alloc(32)]))
    return path
  }

  for (const [json, name, addsSpace] of [
    ['nemotron', 'nemotron', false],
    ['first', 'prefixed', true],
  ] as const)
    test(`have the ids of ${name}.model`, async () => {
      const tokenizer = await loadTokenizer(ggufOf(golden(json), addsSpace))
      assert.equal(tokenizer.bosId, null)
      // Rows of the embedding that no token has.
      const own = Object.values((golden(json) as Json).model.vocab)
      assert.equal(tokenizer.vocabSize, Math.max(...own) + 1)
      assert.equal(tokenizer.idOf(`[PAD${tokenizer.vocabSize}]`), undefined)
      for (const { text: given, ids } of golden(`${name}.model.cases`)) {
        if (given.includes('<extra_id')) continue
        assert.deepEqual([...(await tokenizer.encode(given))], ids, JSON.stringify(given))
      }
    })

  test('lists of other lengths are named', async () => {
    const path = ggufOf(golden('nemotron'), false, (tokens) => tokens.pop())
    await assert.rejects(
      loadTokenizer(path),
      /scores has \d+ values; expected \d+, one for each of tokenizer.ggml.tokens/,
    )
  })
})
