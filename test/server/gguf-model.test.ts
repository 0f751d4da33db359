// A model served from a GGUF file: what a client gets is what the folder gives that it was made from.

import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { loadAddon } from '../../server/engine/addon.js'
import { openEngine } from '../../server/engine/engine.js'
import { openPackage } from '../../server/model/package.js'
import { widenedTexts } from '../../server/model/widened.js'
import { LLAMA3_SPLIT } from '../../server/tokenizer/file.js'
import { loadTokenizer } from '../../server/tokenizer/tokenizer.js'
import { packagePath } from '../../server/version.js'
import { generate, idsOf, smallEngine, textOf } from '../api/support.js'
import { runHere } from './command.js'
import { copySplitBy, copyWithHoles, writeGguf } from './gguf-writer.js'

const skip = existsSync(packagePath('build/Release/nemotron.node'))
  ? false
  : 'the addon is not built: npm run build:addon'

const temporary = mkdtempSync(join(tmpdir(), 'nemotron-gguf-'))
const folder = join(temporary, 'tiny-reasoner')
const whole = join(temporary, 'tiny-reasoner-BF16.gguf')
const quantised = join(temporary, 'tiny-reasoner-Q8_0.gguf')
before(() => {
  copySplitBy(LLAMA3_SPLIT, packagePath('models/tiny/tiny-reasoner'), folder)
  writeGguf(folder, whole, false)
  writeGguf(folder, quantised, true)
})
after(() => rmSync(temporary, { recursive: true }))

describe('a GGUF file', { skip }, () => {
  test('has the tokenizer and the template of its folder', async () => {
    const [own, file] = await Promise.all([folder, whole].map(loadTokenizer))
    assert.ok(own && file)
    assert.equal(file.vocabSize, own.vocabSize)
    assert.equal(file.bosId, own.bosId)
    assert.deepEqual([...file.special], [...own.special])
    for (let id = 0; id < own.vocabSize; id++)
      assert.deepEqual(file.bytes(id), own.bytes(id), `token ${id}`)
    for (const text of ['How many r in strawberry?', ' 12+30 = 42\n\n', 'naïve 😀 <|eot_id|>'])
      for (const special of [false, true])
        assert.deepEqual(await file.encode(text, { special }), await own.encode(text, { special }))
    const [ours, theirs] = await Promise.all([openPackage(folder, own), openPackage(whole, file)])
    assert.equal((await theirs.template())?.source, (await ours.template())?.source)
    assert.equal(theirs.tokenNames.bos_token, ours.tokenNames.bos_token)
  })

  test('is not written of a tokenizer whose pattern it cannot name', () => {
    const other = join(temporary, 'other')
    copySplitBy('\\p{L}|\\P{L}+', folder, other)
    const file = join(temporary, 'other.gguf')
    assert.throws(
      () => writeGguf(other, file, false),
      /names the pattern \\p\{L\}\|\\P\{L\}\+; expected/,
    )
    assert.equal(existsSync(file), false)
  })

  test('answers as its folder does; quantised, nearly', async () => {
    const answers = []
    for (const model of [folder, whole, quantised]) {
      const engine = await openEngine({ ...smallEngine(model), maxModelLen: 512 })
      const tokenizer = await loadTokenizer(model)
      try {
        // Nothing that it knows: it is sure of no token.
        const promptTokenIds = await tokenizer.encode('Once upon a time')
        const sampling = { temperature: 0, maxTokens: 24, ignoreEos: true, logprobs: 0 }
        const deltas = await generate(engine, sampling, { promptTokenIds })
        const logprobs = deltas.flatMap((delta) => delta.logprobs ?? [])
        answers.push({ text: textOf(deltas), logprobs: logprobs.map(({ logprob }) => logprob) })
      } finally {
        await engine.close()
      }
    }
    const [own, file, q8] = answers
    assert.ok(own && file && q8)
    assert.equal(file.text, own.text)
    const off = (a: readonly number[], b: readonly number[]) =>
      a.reduce((sum, value, i) => sum + Math.abs(value - (b[i] ?? 0)), 0) / a.length
    // Divisors of rope are stored as float32.
    assert.ok(off(file.logprobs, own.logprobs) < 1e-4)
    const first = off(q8.logprobs.slice(0, 1), own.logprobs.slice(0, 1))
    assert.ok(first > 0 && first < 0.2, `the first token's is ${first} off`)
  })

  test('draws no row of the embedding that no token has', async () => {
    const holey = join(temporary, 'holey')
    const file = join(temporary, 'holey-BF16.gguf')
    const { vocab_size: size } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
    copyWithHoles({ more: 24, holes: [size - 5, size - 4] }, folder, holey)
    writeGguf(holey, file, false)
    const [own, theirs] = await Promise.all([holey, file].map(loadTokenizer))
    assert.ok(own && theirs)
    assert.equal(own.vocabSize, size)
    assert.equal(theirs.vocabSize, own.vocabSize)
    assert.equal(theirs.idOf(`[PAD${size - 5}]`), undefined)
    for (let id = 0; id < own.vocabSize; id++)
      assert.deepEqual(theirs.bytes(id), own.bytes(id), `token ${id}`)
    const promptTokenIds = await own.encode('Once upon a time')
    const rest = { maxTokens: 32, ignoreEos: true }
    const draw = async (model: string, draftModel?: string) => {
      const engine = await openEngine({
        ...smallEngine(model),
        maxModelLen: 256,
        ...(draftModel !== undefined && { draftModel }),
      })
      try {
        const drawn: (readonly number[])[] = []
        for (const sampling of [
          { temperature: 0 },
          { temperature: 1, seed: 7 },
          { temperature: 2, seed: 8 },
        ])
          drawn.push(idsOf(await generate(engine, { ...sampling, ...rest }, { promptTokenIds })))
        return drawn
      } finally {
        await engine.close()
      }
    }
    const expected = await draw(holey)
    assert.equal(expected.flat().length, 96)
    assert.ok(expected.flat().every((id) => id < own.vocabSize))
    assert.deepEqual(await draw(file), expected)
    assert.deepEqual(await draw(holey, file), expected)
    assert.deepEqual(await draw(file, holey), expected)
  })

  test('that is packed is not said to be what --dtype would make of it', async () => {
    const told = async (model: string, dtype: 'auto' | 'int4') => {
      const engine = await openEngine({ ...smallEngine(model), maxModelLen: 512, dtype })
      await engine.close()
      const { dtype: shown, fingerprint } = engine.info
      return { shown, fingerprint }
    }
    assert.deepEqual(await told(quantised, 'int4'), await told(quantised, 'auto'))
    assert.equal((await told(whole, 'int4')).shown, 'int4')
  })

  test('that cannot stay packed is said to be', async () => {
    const mixed = join(temporary, 'tiny-reasoner-mixed.gguf')
    writeGguf(folder, mixed, true, 'layers.1.mlp.up_proj')
    const why = 'it is in one matrix with blk.1.ffn_up.weight, which is F32'
    const expected = [{ name: 'blk.1.ffn_gate.weight', why }]
    const info = loadAddon().modelInfo(mixed, [])
    assert.deepEqual('code' in info ? info : info.widened, expected)
    // On a GPU they are as on the CPU.
    const packed = loadAddon().modelInfo(quantised, [])
    assert.ok(!('code' in packed) && !('code' in info))
    const onGpus = (all: typeof packed.gpus) => all.filter(({ ranks }) => ranks === 1)
    for (const { format, weights } of onGpus(packed.gpus))
      assert.deepEqual([format, weights], ['stored', packed.cpu[0]?.weights])
    const engine = await openEngine({ ...smallEngine(mixed), maxModelLen: 512 })
    assert.deepEqual(engine.info.plan.widenedTensors, expected)
    await engine.close()
    assert.deepEqual(widenedTexts(expected), [
      `1 tensor is not packed but in 16 bits a value or more, since ${why}: blk.1.ffn_gate.weight`,
    ])
    const { out: said } = await runHere(['info', mixed])
    assert.match(said, /^widened +1 tensor is not packed .*ffn_gate\.weight$/m)
    const { out: withDraft } = await runHere(['info', mixed, '--draft-model', quantised])
    assert.match(withDraft, /^ +CPU, --dtype +weights +1,000 tokens of KV +draft model +its KV$/m)
    assert.match(withDraft, /^ +int4( +[\d.]+ [MG]iB){4}$/m)
    const plain = loadAddon().modelInfo(quantised, [])
    assert.deepEqual('code' in plain ? plain : plain.widened, [])
  })

  test('is described with the memory it needs, and served by its name', async () => {
    const { out: info } = await runHere(['info', quantised])
    assert.match(info, /^model +tiny reasoner Q8$/m)
    assert.match(info, /^weights +Q8_0, .* \(\d+ Q8_0, \d+ BF16, 1 F32\)$/m)
    assert.match(info, /tokens of keys/)
    const flags = '--temperature 0 --max-tokens 20'.split(' ')
    const answer = async (model: string) =>
      (await runHere(['generate', '--model', model, 'Hi', ...flags])).out
    const own = await answer(folder)
    assert.ok(own.trim().length > 0)
    assert.equal(await answer(whole), own)
  })
})
