import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { createEncodedTexts, piecesOf } from '../../server/tokenizer/encoded-texts.js'
import { createLongText } from '../../server/tokenizer/long-text.js'
import { createEncode, loadTokenizer } from '../../server/tokenizer/tokenizer.js'
import type { Tokenizer } from '../../server/tokenizer/types.js'
import { anyText } from '../server/any-text.js'
import { longestTurns } from '../server/turns.js'
import { llamaTokenizerJson, tokenizerFolder } from './llama_tokenizer.js'

const isLong = process.env.NEMOTRON_TEST_LONG === '1'

type Case = { text: string; plain: number[]; special?: number[] }
const cases: Case[] = JSON.parse(
  readFileSync(new URL('../golden/tokenizer_ids.json', import.meta.url), 'utf8'),
)

describe('the tokenizer, with the vocabulary of Llama 3.1', () => {
  let tokenizer: Tokenizer
  before(async () => {
    tokenizer = await loadTokenizer(tokenizerFolder(llamaTokenizerJson()))
  })

  test('plain text gives the ids of the reference, names of special tokens included', async () => {
    for (const { text, plain } of cases) {
      assert.deepEqual([...(await tokenizer.encode(text))], plain, JSON.stringify(text))
    }
  })

  test('with special, names become their ids as in the reference', async () => {
    for (const { text, plain, special } of cases) {
      const ids = await tokenizer.encode(text, { special: true })
      assert.deepEqual([...ids], special ?? plain, JSON.stringify(text))
    }
  })

  test('a long text gives the ids of its parts, in a thread of its own', async () => {
    const part = 'She said: "\u00bfQu\u00e9?" <|eot_id|>\n1234 \u{1f600}, and so on.\n'
    const text = part.repeat(2000)
    for (const special of [false, true]) {
      // No token reaches over a special one, nor over the line's end.
      const ids = await tokenizer.encode(part, { special })
      const [whole, again] = await Promise.all([
        tokenizer.encode(text, { special }),
        tokenizer.encode(text, { special }),
      ])
      assert.equal(whole.length, ids.length * 2000)
      assert.ok(whole.every((id, i) => id === ids[i % ids.length]))
      assert.deepEqual(again, whole)
    }
  })

  test('long texts, many parts and what is too much at once go to the thread; nothing else', async () => {
    const long: number[] = []
    const done: (() => void)[] = []
    const short = { getIds: () => [1] }
    const wait = () => new Promise<void>((resolve) => done.push(resolve))
    const native = {
      encode: () => wait().then(() => short),
      encodeBatch: (texts: readonly string[]) => wait().then(() => texts.map(() => short)),
    } as unknown as Parameters<typeof createEncode>[0]
    const encodeEach = createEncode(native, async (parts) => {
      long.push(parts.length)
      return [[2]]
    })
    const encode = async (parts: Parameters<typeof encodeEach>[0]) =>
      (await encodeEach(parts)).flatMap((ids) => Array.from(ids))
    const kib = (count: number) => 'x'.repeat(count << 10)
    const free = () => {
      for (const one of done.splice(0)) one()
    }
    const few = [encode([kib(31)]), encode([kib(15), 7, kib(15)])]
    assert.deepEqual(await encode([kib(32)]), [2], 'a long text')
    assert.deepEqual(await encode(['\u00fc'.repeat(1 << 14)]), [2], 'bytes count, not characters')
    assert.deepEqual(await encode(Array(2048).fill('')), [2], 'many parts')
    free()
    assert.deepEqual(await Promise.all(few), [[1], [1, 7, 1]])
    assert.deepEqual(long, [1, 1, 2048])

    const fits = [0, 1, 2, 3].map(() => encode([kib(31)]))
    fits.push(encode([kib(4)]))
    assert.deepEqual(await encode(['x']), [2], '128 KiB are being encoded')
    free()
    assert.deepEqual(await Promise.all(fits), [[1], [1], [1], [1], [1]])
    const later = encode(['x'])
    free()
    assert.deepEqual(await later, [1], 'there is room again')
    assert.deepEqual(long, [1, 1, 2048, 1])
  })

  test('texts that are kept for a caller have the ids that they have anyway, in whatever form they come again', async () => {
    // What may stand around a line's end: ids of a text that is cut in the wrong place differ.
    const unit = fc.constantFrom(
      ...[
        '\n',
        '\n',
        '\r\n',
        ' ',
        '\t',
        '\u00a0',
        '\u2028',
        '\u0085',
        '\ufeff',
        '.',
        '...',
        "'s",
        "'",
      ],
      ...[
        'a',
        'Word',
        ' word',
        '7',
        '1234',
        '\u00e9',
        '\u4f60\u597d',
        '\u{1f600}',
        '\ud800',
        '{',
        '<|eot_id|>',
      ],
    )
    const line = fc.string({ unit, maxLength: 60 })
    const text = fc
      .array(line, { minLength: 1, maxLength: 12 })
      .map((lines) => lines.join('\n').repeat(Math.ceil(9000 / (lines.join('\n').length + 1))))
    await fc.assert(
      fc.asyncProperty(text, line, fc.nat(9000), async (first, more, at) => {
        const changed = first.slice(0, at) + more + first.slice(at)
        for (const parts of [
          [first],
          [first + more],
          [first, 128009, changed, '', more],
          [changed],
        ]) {
          const kept = await tokenizer.encodeParts(parts, 'one')
          assert.deepEqual(kept, await tokenizer.encodeParts(parts))
          assert.deepEqual(await tokenizer.encodeParts(parts, 'one'), kept, 'asked again')
        }
        const special = await tokenizer.encode(changed, { special: true })
        assert.deepEqual(await tokenizer.encode(changed, { special: true }, 'one'), special)
      }),
      { numRuns: isLong ? 60 : 20 },
    )
  })

  test('a text is cut at line ends before what can be seen, the same way whatever comes behind it', () => {
    const lines = Array.from({ length: 200 }, (_, i) => `line ${i} ${'x'.repeat(i)}`)
    const text = lines.join('\n')
    const pieces = piecesOf(text)
    assert.equal(pieces.join(''), text)
    assert.ok(pieces.length > 4)
    for (const piece of pieces.slice(0, -1)) assert.match(piece, /\n$/)
    const longer = piecesOf(`${text}\nand more`)
    assert.deepEqual(longer.slice(0, pieces.length - 1), pieces.slice(0, -1))
    for (const whole of ['', 'x'.repeat(9000), '\n \u4f60'.repeat(3000)])
      assert.deepEqual(piecesOf(whole), [whole])
  })

  test('ids are kept by caller and text, those asked for last the longest', () => {
    const texts = createEncodedTexts(3 * (4 * 100 + 256))
    const ids = (first: number) => Array.from({ length: 100 }, (_, i) => first + i)
    const keyOf = (caller: string, text: string): string => {
      const key = texts.keyOf(caller, text.repeat(300))
      if (key === undefined) throw new Error('too short')
      return key
    }
    assert.equal(texts.keyOf('a', 'short'), undefined)
    assert.notEqual(keyOf('a', 'x'), keyOf('b', 'x'))
    assert.notEqual(keyOf('a', 'x'), keyOf('ax', 'x'))
    const [first, second, third, fourth] = ['1', '2', '3', '4'].map((text) => keyOf('a', text))
    if (!first || !second || !third || !fourth) throw new Error('four keys')
    for (const [i, key] of [first, second, third].entries()) texts.keep(key, ids(i))
    assert.deepEqual(Array.from(texts.find(first) ?? []), ids(0))
    texts.keep(third, ids(2))
    texts.keep(fourth, ids(3))
    assert.equal(texts.find(second), undefined)
    assert.deepEqual(Array.from(texts.find(first) ?? []), ids(0))
    assert.deepEqual(Array.from(texts.find(third) ?? []), ids(2))
    texts.keep(second, Array(1000).fill(1))
    assert.equal(texts.find(second), undefined, 'larger than all that is kept')
    assert.deepEqual(Array.from(texts.find(fourth) ?? []), ids(3))
  })

  test('names in a long text are cut out in turns of the event loop', async () => {
    const text = '<|eot_id|>a'.repeat(200_000)
    let ids: readonly number[] = []
    let callers = 0
    const held = await longestTurns(50, async () => {
      // Who has asked for it before gets what was kept.
      ids = await tokenizer.encode(text, { special: true }, `caller ${callers++}`)
    })
    assert.equal(ids.length, 400_000)
    assert.ok(ids.every((id, i) => id === (i % 2 === 0 ? 128009 : 64)))
    assert.ok((held.at(-1) ?? 50) < 50, `${held} ms`)
  })

  test('the thread of long texts rests and comes back, and says what is wrong', async () => {
    // The bytes alone, so that a thread is there soon.
    const { model, ...whole } = llamaTokenizerJson()
    const bytes = Object.entries(model.vocab as Record<string, number>).filter(([, id]) => id < 256)
    const small = { ...model, vocab: Object.fromEntries(bytes), merges: [] }
    const json = JSON.stringify({ ...whole, model: small, added_tokens: [], post_processor: null })
    const encode = createLongText(json, undefined, 10)
    for (let i = 0; i < 3; i++) {
      assert.deepEqual(
        (await encode(['a', 7, '', 'a'])).map((ids) => [...ids]),
        [[64], [7], [], [64]],
      )
      await sleep(50)
    }
    const broken = createLongText('{}', undefined)
    for (let i = 0; i < 2; i++) await assert.rejects(broken(['a']), /a long text was not encoded/)
  })

  test('decoding gives the text back, a lone surrogate as U+FFFD', async () => {
    for (const { text } of cases) {
      assert.equal(tokenizer.decode(await tokenizer.encode(text)), text)
      assert.equal(tokenizer.decode(await tokenizer.encode(text, { special: true })), text)
    }
    await fc.assert(
      fc.asyncProperty(anyText(40), async (text) => {
        const wellFormed = Buffer.from(text, 'utf8').toString('utf8')
        assert.equal(tokenizer.decode(await tokenizer.encode(text)), wellFormed)
      }),
      { numRuns: 200, seed: 1 },
    )
  })

  test('what is no text, no list of ids and no option is refused by name', async () => {
    for (const [text, options, message] of [
      [5, undefined, 'text must be a string'],
      [undefined, undefined, 'text must be a string'],
      ['a', null, 'options must be an object'],
      ['a', { special: 'no' }, 'options.special must be a boolean'],
      ['a', { specail: true }, 'options.specail is no option: special'],
    ] as const)
      await assert.rejects(tokenizer.encode(text as never, options as never), {
        name: 'EngineFailure',
        message,
      })
    for (const ids of [undefined, null, 5, 'a'])
      assert.throws(() => tokenizer.decode(ids as never), {
        name: 'EngineFailure',
        message: 'ids must be a list of token ids',
      })
    assert.throws(() => tokenizer.decode([1], { skipSpecial: 1 } as never), /skipSpecial/)
  })

  test('the bytes of the tokens are the bytes of the text', async () => {
    for (const { text } of cases) {
      const parts = (await tokenizer.encode(text)).map((id) => tokenizer.bytes(id))
      assert.equal(Buffer.concat(parts).toString('utf8'), text)
    }
    assert.equal(tokenizer.bytes(tokenizer.vocabSize).length, 0)
    assert.equal(tokenizer.bytes(-1).length, 0)
  })

  test('text never becomes a special token by itself', async () => {
    const names = [...tokenizer.special.keys()]
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(fc.constantFrom(...names), fc.string({ maxLength: 5 }))),
        async (parts) => {
          const ids = await tokenizer.encode(parts.join(''))
          assert.ok(!ids.some((id) => tokenizer.isSpecial(id)))
        },
      ),
      { numRuns: 100, seed: 2 },
    )
  })

  test('sizes, names and the leading token', () => {
    assert.equal(tokenizer.vocabSize, 128256)
    assert.equal(tokenizer.special.size, 256)
    assert.equal(tokenizer.bosId, 128000)
    assert.equal(tokenizer.idOf('<|eot_id|>'), 128009)
    assert.equal(tokenizer.idOf('Ġstrawberry'), 73700)
    assert.equal(tokenizer.idOf('no such token'), undefined)
    assert.ok(tokenizer.isSpecial(128009))
    assert.ok(!tokenizer.isSpecial(9906))
    assert.equal(tokenizer.decode([9906, 128009, 11], { skipSpecial: true }), 'Hello,')
    assert.equal(tokenizer.decode([9906, 128009, 11]), 'Hello<|eot_id|>,')
  })
})

const byteLevel = {
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: false,
}

/** Bytes and one merge; `change` makes it another kind. */
const tinyTokenizer = (change: Record<string, unknown>) => ({
  added_tokens: [{ id: 3, content: '<x>', special: false }],
  pre_tokenizer: byteLevel,
  decoder: byteLevel,
  model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2 }, merges: ['a b'] },
  ...change,
})

describe('other tokenizers', () => {
  test('merges as pairs are merges as strings', async () => {
    const vocab = { a: 0, b: 1, ab: 2, aba: 3 }
    for (const merges of [
      ['a b', 'ab a'],
      [
        ['a', 'b'],
        ['ab', 'a'],
      ],
    ]) {
      const model = { type: 'BPE', vocab, merges }
      const tokenizer = await loadTokenizer(tokenizerFolder(tinyTokenizer({ model })))
      assert.deepEqual([...(await tokenizer.encode('abaabb'))], [3, 2, 1])
    }
  })

  test('ignore_merges takes a whole word that is in the vocabulary', async () => {
    const model = { type: 'BPE', vocab: { a: 0, b: 1, ba: 2 }, merges: [], ignore_merges: true }
    const tokenizer = await loadTokenizer(tokenizerFolder(tinyTokenizer({ model })))
    assert.deepEqual([...(await tokenizer.encode('ba'))], [2])
  })

  test('an added token that is not special is part of plain text, as in the reference', async () => {
    const tokenizer = await loadTokenizer(tokenizerFolder(tinyTokenizer({})))
    assert.deepEqual([...(await tokenizer.encode('ab<x>ba'))], [2, 3, 1, 0])
    assert.equal(tokenizer.bosId, null)
    assert.equal(tokenizer.isSpecial(3), false)
  })

  const refused: [string, Record<string, unknown>, RegExp][] = [
    [
      'Unigram',
      { model: { type: 'Unigram', vocab: {} } },
      /Unigram with the vocabulary of another/,
    ],
    ['WordPiece', { model: { type: 'WordPiece', vocab: {} } }, /its model is WordPiece/],
    ['Metaspace', { pre_tokenizer: { type: 'Metaspace' } }, /its pre_tokenizer Metaspace/],
    ['no pre-tokenizer', { pre_tokenizer: null }, /its pre_tokenizer missing/],
    ['another decoder', { decoder: { type: 'Fuse' } }, /decoder is Fuse beside a ByteLevel/],
    [
      'byte fallback',
      { model: { type: 'BPE', vocab: {}, merges: [], byte_fallback: true } },
      /byte_fallback/,
    ],
    [
      'a stripping added token',
      { added_tokens: [{ id: 3, content: '<m>', lstrip: true }] },
      /added token <m> has lstrip/,
    ],
    [
      'a character that is no byte',
      { model: { type: 'BPE', vocab: { 好: 0 }, merges: [] } },
      /token 0 "好"/,
    ],
  ]
  for (const [name, change, message] of refused) {
    test(`${name} is refused by name`, async () => {
      const folder = tokenizerFolder(tinyTokenizer(change))
      await assert.rejects(loadTokenizer(folder), { code: 'unsupported', message })
    })
  }

  test('giant ids, deep sequences and a pipe are refused by name', async () => {
    for (const id of [1e8, 2 ** 31]) {
      const folder = tokenizerFolder(tinyTokenizer({ added_tokens: [{ id, content: '<giant>' }] }))
      await assert.rejects(loadTokenizer(folder), /tokenizer.json has the token id/)
    }
    let deep: unknown = { type: 'ByteLevel' }
    for (let i = 0; i < 2000; i++) deep = { type: 'Sequence', pretokenizers: [deep] }
    const nested = tokenizerFolder(tinyTokenizer({ pre_tokenizer: deep }))
    await assert.rejects(loadTokenizer(nested), /tokenizer.json.*nested/)
    const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
    assert.equal(spawnSync('mkfifo', [join(folder, 'tokenizer.json')]).status, 0)
    await assert.rejects(loadTokenizer(folder), /tokenizer.json.*not a regular file/)
  })

  test('a wrong or missing file is named', async () => {
    await assert.rejects(loadTokenizer('/nowhere'), {
      code: 'not_found',
      message: /tokenizer.json/,
    })
    for (const one of [['a'], ['a', '0'], [0, 'a'], 'a', { a: 0 }, ['a', null]])
      await assert.rejects(
        loadTokenizer(tokenizerFolder({ model: { type: 'Unigram', vocab: [['b', -1], one] } })),
        { code: 'invalid_argument', message: /model.vocab: expected an object, or a list of/ },
        JSON.stringify(one),
      )
    await assert.rejects(loadTokenizer(tokenizerFolder({ model: { vocab: 5 } })), {
      code: 'invalid_argument',
      message: /tokenizer.json: model.vocab: expected an object/,
    })
  })
})
