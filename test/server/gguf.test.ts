// What is read of GGUF files: right ones as others write them, and broken ones, which are always an error
// that names the file.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { ggufInfo } from '../../server/commands/info-gguf.js'
import type { EngineFailure } from '../../server/failure.js'
import { GgufError, readGguf } from '../../server/tokenizer/gguf.js'
import { loadTokenizer } from '../../server/tokenizer/tokenizer.js'

const folder = mkdtempSync(join(tmpdir(), 'nemotron-gguf-'))
after(() => rmSync(folder, { recursive: true }))

const u32 = (value: number): Buffer => Buffer.from(Uint32Array.of(value).buffer)
const u64 = (value: number): Buffer => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const text = (value: string): Buffer =>
  Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])
const pair = (key: string, type: number, ...value: readonly Buffer[]): Buffer =>
  Buffer.concat([text(key), u32(type), ...value])
const list = (key: string, type: number, items: readonly Buffer[]): Buffer =>
  pair(key, 9, u32(type), u64(items.length), ...items)
const tensor = (name: string, shape: readonly number[], type: number, offset: number): Buffer =>
  Buffer.concat([text(name), u32(shape.length), ...shape.map(u64), u32(type), u64(offset)])

const METADATA = [
  pair('general.architecture', 8, text('deci')),
  pair('general.name', 8, text('Llama 3.3 Nemotron Super')),
  pair('general.file_type', 4, u32(15)),
  pair('deci.context_length', 10, u64(131072)),
  pair('deci.embedding_length', 4, u32(8192)),
  pair('deci.block_count', 4, u32(2)),
  list('deci.attention.head_count', 5, [u32(64), u32(0)]),
  list('deci.attention.head_count_kv', 5, [u32(8), u32(0)]),
  list('deci.feed_forward_length', 5, [u32(28672), u32(28672)]),
  pair('deci.attention.key_length', 4, u32(128)),
  pair('deci.rope.freq_base', 6, Buffer.from(Float32Array.of(500000).buffer)),
  pair('deci.rope.scaling.type', 8, text('yarn')),
  pair('split.no', 2, Buffer.of(0, 0)),
  pair('split.count', 2, Buffer.of(3, 0)),
  pair('tokenizer.ggml.model', 8, text('gpt2')),
  pair('tokenizer.ggml.add_bos_token', 7, Buffer.of(1)),
  list('tokenizer.ggml.tokens', 8, ['a', 'b', 'é'].map(text)),
  list('nested', 9, [Buffer.concat([u32(4), u64(1), u32(7)])]),
  pair('tokenizer.chat_template', 8, text('{{ messages }}')),
]
const TENSORS = [
  tensor('token_embd.weight', [256, 4], 12, 0),
  tensor('output.weight', [256, 2], 14, 576),
  tensor('output_norm.weight', [256], 0, 1024),
]
const BYTES = 1024 + 4 * 256

type Parts = {
  readonly version?: number
  readonly metadata?: readonly Buffer[]
  readonly tensors?: readonly Buffer[]
}

const head = ({ version = 3, metadata = METADATA, tensors = TENSORS }: Parts = {}): Buffer => {
  const counts = [u32(version), u64(tensors.length), u64(metadata.length)]
  return Buffer.concat([Buffer.from('GGUF'), ...counts, ...metadata, ...tensors])
}

const whole = (parts?: Parts): Buffer => {
  const bytes = head(parts)
  return Buffer.concat([bytes, Buffer.alloc((-bytes.length & 31) + BYTES)])
}

const file = (bytes: Buffer): string => {
  const path = join(folder, 'model.gguf')
  writeFileSync(path, bytes)
  return path
}

/** What is said of a file that is not served for `why`. */
const described = (bytes: Buffer, json = false): string =>
  ggufInfo(file(bytes), { served: false, why: 'so' }, '', json)

const refused = (
  bytes: Buffer,
  message: RegExp,
  code = 'invalid_argument',
  lists: readonly string[] = [],
): void => {
  const path = file(bytes)
  assert.throws(
    () => readGguf(path, lists),
    (error) => {
      assert.ok(error instanceof GgufError, String(error))
      assert.equal(error.code, code)
      assert.ok(error.message.startsWith(`${path}: `))
      assert.match(error.message, message)
      return true
    },
  )
}

describe('a GGUF file', () => {
  for (const version of [2, 3])
    test(`of version ${version} is described`, () => {
      const out = described(whole({ version }))
      for (const line of [
        new RegExp(
          `^format +GGUF version ${version}, part 1 of 3; what follows is of this .*alone$`,
          'm',
        ),
        /^model +Llama 3.3 Nemotron Super$/m,
        /^architecture +deci$/m,
        /^parameters +1.8 K$/m,
        /^weights +Q4_K_M, 0.0 MiB in 3 tensors \(1 Q4_K, 1 Q6_K, 1 F32\)$/m,
        /^layers +2, hidden 8192, intermediate 28672, 0 to 64 query and 0 to 8 KV heads of 128$/m,
        /^vocabulary +3, tokenizer gpt2$/m,
        /^context +131072 tokens, rope theta 500000, yarn scaling$/m,
        /^bos, eos +not said, not said$/m,
        /^chat template +in the file$/m,
        /^Not served: so$/m,
      ])
        assert.match(out, line)
    })

  test('is JSON for programs', () => {
    const info = JSON.parse(described(whole(), true))
    assert.equal(info.parameters, 256 * 4 + 256 * 2 + 256)
    assert.deepEqual(info.types[0], { type: 'Q4_K', tensors: 1, elements: 1024 })
    assert.equal(info.served, false)
    assert.equal(info.context, 131072)
  })

  test('in parts is counted whole, and a part without the others by itself', () => {
    const others = METADATA.filter((one) => !one.includes('split.no'))
    const part = (i: number, no = i): string => {
      const path = join(folder, `split-0000${i + 1}-of-00003.gguf`)
      const number = pair('split.no', 2, Buffer.of(no, 0))
      writeFileSync(path, whole({ metadata: [...others, number] }))
      return path
    }
    const info = (path: string) =>
      ggufInfo(path, { served: false, why: 'so' }, '', false).split('\n')
    const found = (lines: readonly string[], key: string) =>
      lines.find((line) => line.startsWith(key))?.slice(15)
    const first = part(0)
    const alone = info(first)
    assert.match(found(alone, 'format') ?? '', /^GGUF version 3, part 1 of 3; what follows is of/)
    const second = part(1)
    part(2)
    const all = info(first)
    assert.equal(found(all, 'format'), 'GGUF version 3, 3 parts')
    assert.equal(found(all, 'parameters'), '5.4 K')
    assert.match(found(all, 'weights') ?? '', /in 9 tensors \(3 Q4_K, 3 Q6_K, 3 F32\)$/)
    assert.match(found(info(second), 'format') ?? '', /part 2 of 3; what follows is of this part/)
    part(1, 2)
    assert.match(found(info(first), 'format') ?? '', /part 1 of 3; what follows is of this part/)
  })

  test('that is larger than what is read at once', () => {
    const words = Array.from({ length: 30_000 }, (_, i) => text(`word ${i}`))
    const long = pair('tokenizer.chat_template', 8, text('x'.repeat(200_000)))
    const metadata = [...METADATA.slice(0, -3), list('tokenizer.ggml.tokens', 8, words), long]
    const { metadata: read, tensors } = readGguf(file(whole({ metadata })))
    assert.deepEqual(read.get('tokenizer.ggml.tokens'), { length: 30_000 })
    assert.equal(read.get('tokenizer.chat_template'), 'x'.repeat(200_000))
    assert.equal(tensors.length, 3)
  })

  test('of types that are not known is described without their size', () => {
    const tensors = [tensor('token_embd.weight', [256, 4], 77, 0)]
    const metadata = METADATA.filter((_, i) => i !== 2)
    assert.match(described(whole({ metadata, tensors })), /^weights +type 77,/m)
    const newer = [tensor('token_embd.weight', [256, 4], 42, 0)]
    assert.match(described(whole({ metadata, tensors: newer })), /^weights +Q2_0,/m)
  })
})

describe('a broken GGUF file', () => {
  test('is told as what is wrong with it, and not as one that is not there', async () => {
    const codeOf = (path: string): Promise<string> =>
      loadTokenizer(path).then(
        () => 'none',
        (error: EngineFailure) => error.code,
      )
    const tokenizer = (...pairs: readonly Buffer[]) =>
      codeOf(file(head({ metadata: pairs, tensors: [] })))
    const model = (name: string) => pair('tokenizer.ggml.model', 8, text(name))
    assert.equal(await tokenizer(model('gpt2').subarray(0, -1)), 'invalid_argument')
    assert.equal(await tokenizer(model('bert')), 'unsupported')
    const pre = (name: string) => pair('tokenizer.ggml.pre', 8, text(name))
    assert.equal(await tokenizer(model('gpt2'), pre('qwen2')), 'unsupported')
    assert.equal(await tokenizer(model('gpt2'), pre('llama-bpe')), 'invalid_argument')
    assert.equal(await codeOf(join(folder, 'none.gguf')), 'not_found')
  })

  test('cut off anywhere says where', () => {
    const bytes = whole()
    for (let length = 0; length < head().length; length += 1)
      refused(bytes.subarray(0, length), /the file ends at|no GGUF file/)
    for (const length of [head().length, bytes.length - 1])
      refused(bytes.subarray(0, length), /truncated: the tensor .* ends at byte \d+/)
  })

  test('with numbers that cannot be is refused before anything is made of them', () => {
    const huge = Buffer.alloc(8, 0xff)
    const counts = (tensors: Buffer, keys: Buffer) =>
      Buffer.concat([Buffer.from('GGUF'), u32(3), tensors, keys])
    refused(counts(huge, u64(0)), /number of tensors at byte 8/)
    refused(counts(u64(0), huge), /number of metadata at byte 16/)
    refused(counts(u64(2 ** 40), u64(0)), /the file ends at/)
    const only = (...metadata: readonly Buffer[]) => head({ metadata, tensors: [] })
    refused(only(pair('k', 8, u64(2 ** 50))), /k at byte \d+ is a text of/)
    refused(only(pair('k', 9, u32(0), u64(2 ** 50))), /k at byte \d+ has/)
    refused(only(pair('k', 9, u32(8), u64(2 ** 50))), /the file ends at/)
    // Of lists that are kept whole.
    for (const type of [0, 5, 6, 8, 12])
      refused(
        only(pair('k', 9, u32(type), u64(2 ** 50))),
        /k at byte \d+ has \d+ bytes, and the file ends at|the length of k at byte \d+ has 8/,
        'invalid_argument',
        ['k'],
      )
    refused(only(pair('k', 13)), /k has the unknown type 13/)
    refused(only(pair('k', 9, u32(13), u64(1))), /k is a list of the unknown type 13/)
    const deep = Array.from({ length: 9 }, () => Buffer.concat([u32(9), u64(1)]))
    refused(only(pair('k', 9, ...deep)), /more than 4 deep/)
    refused(head({ metadata: [], tensors: [tensor('t', Array(9).fill(1), 0, 0)] }), /9 dimensions/)
  })

  test('of other versions says which are read', () => {
    refused(whole({ version: 1 }), /version 1 is not read; versions 2 and 3 are/, 'unsupported')
    refused(whole({ version: 3 * 2 ** 24 }), /big-endian/, 'unsupported')
    refused(Buffer.from('{"json": 1}'), /no GGUF file/)
  })
})
