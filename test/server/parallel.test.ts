// One model over several ranks, from the command line to the answer: the same bits as one rank's.

import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { openEngine } from '../../server/engine/engine.js'
import { EngineFailure } from '../../server/failure.js'
import { LLAMA3_SPLIT } from '../../server/tokenizer/file.js'
import { loadTokenizer } from '../../server/tokenizer/tokenizer.js'
import { packagePath } from '../../server/version.js'
import { generate, idsOf, smallEngine } from '../api/support.js'
import { copySplitBy, writeGguf } from './gguf-writer.js'
import { writeOtherWeights } from './other-weights.js'
import { startReal } from './real-server.js'

const skip = existsSync(packagePath('build/Release/nemotron.node'))
  ? false
  : 'the addon is not built: npm run build:addon'

const folder = packagePath('models/tiny/tiny-reasoner')
const options = { ...smallEngine(folder), maxModelLen: 512 }

describe('tensor parallelism', { skip }, () => {
  test('an engine of 2 and of 4 ranks draws what one draws', async () => {
    const tokenizer = await loadTokenizer(folder)
    const promptTokenIds = await tokenizer.encode('How many r in strawberry? 12 + 30 is')
    const seen = []
    for (const tensorParallelSize of [1, 2, 4]) {
      const engine = await openEngine({ ...options, tensorParallelSize }, tokenizer)
      try {
        const sampling = { temperature: 1, seed: 7, maxTokens: 40, ignoreEos: true, logprobs: 3 }
        const deltas = await generate(engine, sampling, { promptTokenIds })
        seen.push({
          ids: idsOf(deltas),
          logprobs: deltas.flatMap(({ logprobs }) => logprobs ?? []),
        })
        const { ranks, plan, device } = engine.info
        assert.equal(ranks.length, tensorParallelSize)
        assert.ok(ranks.every((rank) => rank.plan.numBlocks === plan.numBlocks))
        assert.match(device, tensorParallelSize === 1 ? /^cpu/ : /^[24] x cpu/)
      } finally {
        await engine.close()
      }
    }
    assert.equal(seen[0]?.ids.length, 40)
    assert.deepEqual(seen[1], seen[0])
    assert.deepEqual(seen[2], seen[0])
  })

  test('a number of ranks that cannot hold the model is refused with those that can', async () => {
    await assert.rejects(openEngine({ ...options, tensorParallelSize: 3 }), (error) => {
      assert.ok(error instanceof EngineFailure)
      assert.match(error.message, /^tensorParallelSize: found 3, expected 1, 2, 4 \(4 query heads/)
      return true
    })
  })
})

const DECISIONS = {
  model: 'm',
  input: 'Hello there!',
  questions: [
    { type: 'predicate', instructions: 'The text is a greeting.' },
    { type: 'choice', instructions: 'What is it?', choices: [{ value: 'a' }, { value: 'b' }] },
    {
      type: 'score',
      instructions: 'How kind is it?',
      levels: [{ label: 'not' }, { label: 'very' }],
    },
  ],
}
const COMPLETION = {
  prompt: Array.from({ length: 70 }, (_, i) => 20 + (i % 50)),
  max_tokens: 60,
  temperature: 1,
  seed: 5,
  ignore_eos: true,
  logprobs: 2,
  n: 2,
}

describe('tensor parallelism over HTTP', { skip }, () => {
  const root = mkdtempSync(join(tmpdir(), 'nemotron-ranks-'))
  const packed = join(root, 'packed.gguf')
  before(() => {
    writeOtherWeights(folder, join(root, 'other'), 1)
    copySplitBy(LLAMA3_SPLIT, folder, join(root, 'split'))
    writeGguf(join(root, 'split'), packed, true)
  })
  after(() => rmSync(root, { recursive: true }))

  /** What a server of so many ranks answers, in turn. */
  const answersOf = async (ranks: number) => {
    const server = await startReal({
      tensor_parallel_size: ranks,
      threads: ranks,
      max_model_len: 512,
      allow_pause: true,
      reload_from: root,
      models: [
        { model: folder, served_model_name: 'm' },
        { model: packed, served_model_name: 'packed' },
      ],
    })
    const choices = async (model: string) =>
      (await server.answer('/v1/completions', { ...COMPLETION, model })).choices
    try {
      const seen = {
        decisions: (await server.answer('/v1/decisions', DECISIONS)).answers,
        plain: await choices('m'),
        packed: await choices('packed'),
      }
      // Paused in the middle, and gone on.
      const going = choices('m')
      for (let i = 0; i < 3; i++) {
        await server.answer('/pause?mode=keep', {})
        await server.answer('/resume', {})
      }
      const paused = await going
      await server.answer('/pause?mode=keep&model=m', {})
      await server.answer('/update_weights_from_disk', { model: 'm', model_path: 'other' })
      await server.answer('/resume', {})
      return { ...seen, paused, reloaded: await choices('m') }
    } finally {
      await server.close()
    }
  }

  test('decisions, GGUF files, a pause and other weights are what they are on one rank', async () => {
    const one = await answersOf(1)
    assert.equal(one.decisions.length, 3)
    assert.deepEqual(one.paused, one.plain)
    assert.notDeepEqual(one.reloaded, one.plain)
    assert.notDeepEqual(one.packed, one.plain)
    for (const ranks of [2, 4]) assert.deepEqual(await answersOf(ranks), one, `${ranks} ranks`)
  })

  test('a number of ranks that cannot hold the model ends the start, by the numbers that can', async () => {
    await assert.rejects(
      startReal({ tensor_parallel_size: 3, models: [{ model: folder }] }),
      /^EngineFailure: --tensor-parallel-size: found 3, expected 1, 2, 4 \(4 query heads/,
    )
  })
})
