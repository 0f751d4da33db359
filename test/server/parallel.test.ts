// One model over several ranks, from the command line to the answer: the same bits as one rank's.

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { describe, test } from 'node:test'
import { openEngine } from '../../server/engine/engine.js'
import { EngineFailure } from '../../server/failure.js'
import { loadTokenizer } from '../../server/tokenizer/tokenizer.js'
import { packagePath } from '../../server/version.js'
import { generate, idsOf, smallEngine } from '../api/support.js'

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
      assert.match(error.message, /tensor_parallel_size: found 3, expected 1, 2, 4 \(4 query heads/)
      return true
    })
  })
})
