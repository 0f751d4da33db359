// `check`: what quantisation costs, measured as served; the receipt beside the model; what serve says of it.

import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { pino } from 'pino'
import { openEngine } from '../../server/engine/engine.js'
import type { TokenLogprob } from '../../server/engine/types.js'
import {
  type Choices,
  findReceipt,
  keepReceipt,
  measureAccuracy,
  type Receipt,
  receiptsFile,
  referenceOn,
} from '../../server/model/accuracy.js'
import { TEXTS } from '../../server/model/accuracy-texts.js'
import { startServer } from '../../server/server.js'
import { readSettings } from '../../server/settings/read.js'
import { NO_PROGRESS } from '../../server/terminal.js'
import { LLAMA3_SPLIT } from '../../server/tokenizer/file.js'
import { loadTokenizer } from '../../server/tokenizer/tokenizer.js'
import { packagePath } from '../../server/version.js'
import { generate, smallEngine } from '../api/support.js'
import { tinyCheckpoint } from '../api/tiny_checkpoint.js'
import { runHere } from './command.js'
import { copySplitBy, writeGguf } from './gguf-writer.js'
import { writeOtherWeights } from './other-weights.js'
import { noAddon } from './real-server.js'

const temporary = mkdtempSync(join(tmpdir(), 'nemotron-accuracy-'))
after(() => rmSync(temporary, { recursive: true }))
const folder = join(temporary, 'tiny-reasoner')

const quiet = { device: 'cpu', threads: 1, onProgress: () => {}, say: () => {} } as const
const measure = (model: string, against: string, dtype: 'auto' | 'fp8' | 'int8' | 'int4') =>
  measureAccuracy({ ...quiet, folder: model, against, choices: { ...referenceOn('cpu'), dtype } })

const check = (...args: string[]) => runHere(['check', '--threads', '1', ...args])

/** Of each token of a text, by the ordinary way of a chat model. */
const promptLogprobs = async (dtype: 'auto' | 'int4'): Promise<readonly TokenLogprob[][]> => {
  // Blocks of another size are other sums.
  const sizes = { maxModelLen: 300, blockSize: 16 } as const
  const engine = await openEngine({
    ...smallEngine(folder),
    ...sizes,
    dtype,
    exactActivations: true,
  })
  const tokenizer = await loadTokenizer(folder)
  const all: TokenLogprob[][] = []
  try {
    for (const text of TEXTS) {
      const ids = [tokenizer.bosId ?? 0, ...(await tokenizer.encode(text))].slice(0, 240)
      const sampling = { maxTokens: 0, promptLogprobs: 20 }
      const [first] = await generate(engine, sampling, { promptTokenIds: ids })
      const logprobs = [...(first?.promptLogprobs ?? [])]
      all.push(
        logprobs.filter(
          (one, i): one is TokenLogprob => one !== null && i > 16 && i % 16 > 0 && i % 16 <= 4,
        ),
      )
    }
  } finally {
    await engine.close()
  }
  return all
}

/** Of two distributions whose likeliest tokens alone are known: the others are one. It is at most the whole one. */
const knownDivergence = (reference: TokenLogprob, other: TokenLogprob): number => {
  const ours = new Map(other.top.map(({ id, logprob }) => [id, logprob]))
  let [sum, left, otherLeft] = [0, 1, 1]
  for (const { id, logprob } of reference.top) {
    const theirs = ours.get(id)
    if (theirs === undefined) continue
    sum += Math.exp(logprob) * (logprob - theirs)
    left -= Math.exp(logprob)
    otherLeft -= Math.exp(theirs)
  }
  return left < 1e-6 || otherLeft < 1e-6 ? sum : sum + left * Math.log(left / otherLeft)
}

const mean = (values: readonly number[]): number =>
  values.reduce((sum, one) => sum + one, 0) / values.length

describe('check', { skip: noAddon }, () => {
  before(() => copySplitBy(LLAMA3_SPLIT, packagePath('models/tiny/tiny-reasoner'), folder))

  test('finds no difference where there is none, and more with fewer bits', async () => {
    const file = join(temporary, 'tiny-reasoner-BF16.gguf')
    writeGguf(folder, file, false)
    const same = await measure(file, folder, 'auto')
    // Its rope's frequencies are divided in another place.
    assert.ok(same.kl_mean < 1e-6 && same.kl_p99 < 1e-5, `${same.kl_mean}, ${same.kl_p99}`)
    // Two ids may be as likely as each other.
    assert.ok(same.top1_agreement > 0.997, `${same.top1_agreement}`)
    assert.ok(same.logprob_delta_mean < 1e-3, `${same.logprob_delta_mean}`)
    assert.ok(same.positions > 400, `${same.positions} positions`)
    const int8 = await measure(folder, folder, 'int8')
    const fp8 = await measure(folder, folder, 'fp8')
    const int4 = await measure(folder, folder, 'int4')
    const kl = [int8, fp8, int4].map(({ kl_mean }) => kl_mean)
    assert.deepEqual(
      kl.toSorted((a, b) => a - b),
      kl,
    )
    const agreement = [int4, fp8, int8].map(({ top1_agreement }) => top1_agreement)
    assert.deepEqual(
      agreement.toSorted((a, b) => a - b),
      agreement,
    )
    assert.ok(int8.kl_mean > same.kl_mean && int8.top1_agreement < 1)
    assert.ok(int4.kl_p99 > int4.kl_mean)
  })

  test('measures what the logprobs of a chat model say', async () => {
    const receipt = await measure(folder, folder, 'int4')
    const reference = (await promptLogprobs('auto')).flat()
    const other = (await promptLogprobs('int4')).flat()
    assert.equal(receipt.positions, reference.length)
    const pairs = reference.map((one, i) => [one, other[i]] as const)
    const deltas = pairs.map(([a, b]) => Math.abs(a.logprob - (b?.logprob ?? Number.NaN)))
    assert.ok(
      Math.abs(mean(deltas) - receipt.logprob_delta_mean) < 1e-4,
      `${mean(deltas)} ${receipt.logprob_delta_mean}`,
    )
    const agreed = pairs.map(([a, b]) => (a.top[0]?.id === b?.top[0]?.id ? 1 : 0))
    assert.equal(mean(agreed), receipt.top1_agreement)
    const known = mean(pairs.map(([a, b]) => (b ? knownDivergence(a, b) : Number.NaN)))
    assert.ok(
      known <= receipt.kl_mean + 1e-4 && known > 0.8 * receipt.kl_mean,
      `${known} ${receipt.kl_mean}`,
    )
  })

  test('keeps a receipt, which serve tells', async () => {
    const { code, out, err } = await check(folder, '--dtype', 'int8', '--json')
    assert.equal(code, 0, err)
    const receipt = JSON.parse(out) as Receipt
    assert.deepEqual(JSON.parse(readFileSync(receiptsFile(folder), 'utf8')), {
      receipts: [receipt],
    })
    const text = await check(folder, '--dtype', 'int8')
    assert.match(
      text.out,
      /with int8 weights, on cpu.*\nagainst the weights as they are stored: KL /,
    )
    const keptNow = () => JSON.parse(readFileSync(receiptsFile(folder), 'utf8')).receipts
    assert.equal(keptNow().length, 1)
    // Figures of another device are no figures of this one.
    const onGpu = { ...receipt, device: 'NVIDIA H200 (sm_90a, cuBLASLt 12.9.1)', kl_mean: 7 }
    await keepReceipt(onGpu)
    assert.equal(keptNow().length, 2)
    assert.deepEqual(await findReceipt(folder, onGpu), onGpu)
    const linked = '4 x NVIDIA H200 (sm_90a, cuBLASLt 12.9.1, ranks by peer access)'
    assert.deepEqual(await findReceipt(folder, { ...receipt, device: linked }), onGpu)
    assert.match(receipt.device, /^cpu \(.*, 1 thread[;)]/)
    const device = receipt.device.replace('1 thread', '16 threads')
    assert.equal((await findReceipt(folder, { ...receipt, device }))?.device, receipt.device)
    const other = 'cpu (of another kind, 1 thread)'
    assert.equal(await findReceipt(folder, { ...receipt, device: other }), undefined)
    const told = async (dtype: string) => {
      const config = join(temporary, 'config.json')
      const small = { device: 'cpu', threads: 1, kv_cache_memory: '32MiB', port: 0 }
      writeFileSync(config, JSON.stringify({ ...small, model: folder, dtype }))
      const lines: string[] = []
      const serving = await startServer({
        settings: readSettings({}, {}, config),
        log: pino({ level: 'silent' }),
        progress: NO_PROGRESS,
        tell: (line) => lines.push(line),
      })
      await serving.ready
      await serving.drain()
      return lines.filter((line) => line.includes('check measured'))
    }
    const [line = ''] = await told('int8')
    assert.match(line, /KL 0\.\d+ \(p99 .*same likeliest token 9\d\.\d %/)
    assert.deepEqual(await told('int4'), [])
    // Other weights of the same names and shapes.
    const kept = readFileSync(receiptsFile(folder))
    const before = join(temporary, 'before')
    renameSync(folder, before)
    writeOtherWeights(before, folder, 1)
    assert.deepEqual(readFileSync(receiptsFile(folder)), kept)
    assert.deepEqual(await told('int8'), [])
    rmSync(folder, { recursive: true })
    renameSync(before, folder)
    assert.equal((await told('int8')).length, 1)
  })

  test('asks before it runs whether there is anything to compare', async () => {
    const ran: string[] = []
    const said: string[] = []
    const measured = (choices: Partial<Choices>) =>
      measureAccuracy({
        ...{ ...quiet, folder, against: folder, choices: { ...referenceOn('cpu'), ...choices } },
        onProgress: (what) => ran.push(what),
        say: (text) => said.push(text),
      })
    await assert.rejects(
      measured({ dtype: 'bf16' }),
      /--dtype bf16 leaves the weights of .* as they are stored: there is nothing to compare/,
    )
    await assert.rejects(
      measured({ int8Activations: true, exactActivations: false }),
      /int8Activations: found weights that are not in groups/,
    )
    await assert.rejects(
      measured({ int8Activations: true, dtype: 'int8' }),
      /int8Activations: found exactActivations beside it/,
    )
    await assert.rejects(
      measured({ fp8Activations: true }),
      /fp8Activations: found the CPU, expected a CUDA device/,
    )
    for (const choices of [{ kvCacheDtype: 'bf16' }, { fp8Activations: true }] as const)
      await assert.rejects(
        measureAccuracy({
          ...{ ...quiet, device: 'cuda', folder, against: folder },
          choices: { ...referenceOn('cuda'), ...choices },
        }),
        /(--kv-cache-dtype bf16 is|--fp8-activations is for weights in FP8).*nothing to compare/,
      )
    assert.deepEqual([ran, said], [[], []])
    const receipt = await measured({ dtype: 'bf16', kvCacheDtype: 'fp8' })
    assert.ok(receipt.kl_mean > 0)
    assert.match(said[0] ?? '', /^--dtype bf16 leaves .*: what is compared are the other choices/)
  })

  test('says what is wrong', async () => {
    const other = tinyCheckpoint()
    const fp8 = join(temporary, 'fp8')
    const packed = join(temporary, 'tiny-reasoner-Q8_0.gguf')
    writeGguf(folder, packed, true)
    cpSync(packagePath('test/golden/fp8_modelopt'), fp8, { recursive: true })
    const vocabulary = (of: string): number =>
      JSON.parse(readFileSync(join(of, 'config.json'), 'utf8')).vocab_size
    assert.equal(vocabulary(fp8), 256)
    const vocabularies = `a vocabulary of ${vocabulary(folder)} tokens and .* one of 320`
    const tokenizer = JSON.parse(readFileSync(join(other, 'tokenizer.json'), 'utf8'))
    writeFileSync(
      join(fp8, 'tokenizer.json'),
      JSON.stringify({ ...tokenizer, added_tokens: [], post_processor: null }),
    )
    for (const [args, expected] of [
      [[folder, '--exact-activations', 'on'], /nothing to compare: choose --dtype/],
      [[folder, '--against', other], new RegExp(vocabularies)],
      [[packagePath('test/golden/f32'), '--dtype', 'int4'], /tokenizer.json cannot be read/],
      [
        [fp8, '--dtype', 'fp8', '--exact-activations', 'on'],
        /--dtype fp8 leaves the weights of .*fp8 as they are stored/,
      ],
      [
        [packed, '--dtype', 'int4', '--exact-activations', 'on'],
        /leaves the weights of .* as they are stored: .* nothing to comp/,
      ],
      [
        [packagePath('test/golden/reward_one_label'), '--dtype', 'int4'],
        /has a head of \d+ rewards and none of a vocabulary/,
      ],
      [
        [folder, '--int8-activations', 'on'],
        /--int8-activations: found weights that are not in groups/,
      ],
      [[folder, '--dtype', 'int3'], /Allowed choices are auto, bf16, fp8, int8, int4/],
    ] as const) {
      const { code, err } = await check(...args)
      assert.equal(code, 1, args.join(' '))
      assert.match(err, expected)
    }
  })
})
