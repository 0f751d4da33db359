// A small model drafts for a large one, from the command line to the answer: the same bits as without.

import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { openEngine } from '../../server/engine/engine.js'
import type { Delta, Engine, EngineOptions } from '../../server/engine/types.js'
import { EngineFailure } from '../../server/failure.js'
import { createEngine } from '../../server/library.js'
import { loadTokenizer } from '../../server/tokenizer/tokenizer.js'
import { packagePath } from '../../server/version.js'
import { generate, idsOf, smallEngine } from '../api/support.js'
import { chatCheckpoint } from './chat-checkpoint.js'

const skip = existsSync(packagePath('build/Release/nemotron.node'))
  ? false
  : 'the addon is not built: npm run build:addon'

const folder = packagePath('models/tiny/tiny-reasoner')
const reward = packagePath('models/tiny/tiny-reward')
const options: EngineOptions = { ...smallEngine(folder), maxModelLen: 512 }

const refused = async (more: Partial<EngineOptions>, message: RegExp) =>
  assert.rejects(createEngine({ ...options, ...more }), (error) => {
    assert.ok(error instanceof EngineFailure)
    assert.match(error.message, message)
    return true
  })

/** A copy of the tiny reasoner whose tokenizer is changed. */
const withTokenizer = (change: (text: string) => string): string => {
  const copy = join(mkdtempSync(join(tmpdir(), 'draft-')), 'model')
  cpSync(folder, copy, { recursive: true })
  const file = join(copy, 'tokenizer.json')
  writeFileSync(file, change(readFileSync(file, 'utf8')))
  return copy
}

describe('a draft model', { skip }, () => {
  test('the answer is the same, in fewer steps', async () => {
    const tokenizer = await loadTokenizer(folder)
    const promptTokenIds = await tokenizer.encode('How many r in strawberry? 12 + 30 is')
    const ask = async (engine: Engine) => {
      const answers: (readonly Delta[])[] = []
      for (const temperature of [0, 1]) {
        const sampling = { temperature, seed: 7, maxTokens: 60, ignoreEos: true, logprobs: 3 }
        answers.push(await generate(engine, sampling, { promptTokenIds }))
      }
      return answers.map((deltas) => ({
        ids: idsOf(deltas),
        logprobs: deltas.flatMap(({ logprobs }) => logprobs ?? []),
      }))
    }
    const plain = await openEngine(options, tokenizer)
    const engine = await openEngine({ ...options, draftModel: folder, draftTokens: 4 }, tokenizer)
    try {
      const wanted = await ask(plain)
      assert.equal(wanted[0]?.ids.length, 60)
      assert.deepEqual(await ask(engine), wanted)
      const { drafts, steps } = engine.stats()
      // A model knows what it will draw.
      assert.ok(drafts.model.drafted > 80)
      assert.equal(drafts.model.accepted, drafts.model.drafted)
      assert.ok(steps < plain.stats().steps / 2)
      assert.equal(plain.info.draft, null)
      const { draft, plan } = engine.info
      assert.equal(draft?.model, folder)
      assert.equal(draft?.architecture, engine.info.architecture)
      assert.equal(draft?.tokens, 4)
      assert.ok(plan.draft > plan.weights)
      assert.equal(plan.draftKvBytesPerToken, plan.kvBytesPerToken)
      assert.equal(plan.draftKv, plan.kv)
      assert.match(plan.table, /draft model .*\ndraft KV /)
    } finally {
      await engine.close()
      await plain.close()
    }
  })

  test('what cannot draft is refused with what would be right', async () => {
    await refused({ draftModel: '/nowhere' }, /^draftModel \/nowhere is not there/)
    await refused({ draftModel: reward }, /^draftModel .*: is the reward model .*, which writes no/)
    await refused(
      { model: reward, draftModel: folder },
      /^draftModel: a reward model scores and draws nothing .* serve it without/,
    )
    await refused(
      { draftModel: chatCheckpoint() },
      /^draftModel .*: token \d+ is .*, expected .*; it can draft for .* with the same token ids/,
    )
    const swapped = withTokenizer((text) => {
      const tokenizer = JSON.parse(text)
      const { vocab } = tokenizer.model
      const [a, b] = ['a', 'b'] as const
      const [first, second] = [vocab[a], vocab[b]]
      vocab[a] = second
      vocab[b] = first
      return JSON.stringify(tokenizer)
    })
    await refused({ draftModel: swapped }, /: token \d+ is "b", expected "a"; it can draft for/)
    await refused(
      { draftModel: folder, draftTokens: 33 },
      /^draftTokens: found 33, expected 1 to 32/,
    )
    await refused(
      { draftModel: folder, tensorParallelSize: 3 },
      /^tensorParallelSize: found 3, expected 1, 2, 4/,
    )
  })
})
