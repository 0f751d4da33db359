import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { createGrammarCache } from '../../server/engine/grammar-cache.js'
import type { Grammar } from '../../server/engine/types.js'

suite('grammar cache', () => {
  test('compiles one text after another, and a refused one holds nothing up', async () => {
    const begun: string[] = []
    let atOnce = 0
    const cache = createGrammarCache(async (text) => {
      begun.push(text)
      atOnce++
      await turn()
      assert.equal(atOnce, 1)
      atOnce--
      if (text === 'bad') throw new Error('refused')
      return { text } as unknown as Grammar
    })
    const asked = ['a', 'bad', 'b', 'a'].map((text) => cache.get(text))
    const [a, bad, b, again] = await Promise.allSettled(asked)
    assert.deepEqual(begun, ['a', 'bad', 'b'])
    assert.equal(bad?.status, 'rejected')
    assert.deepEqual(b, { status: 'fulfilled', value: { text: 'b' } })
    assert.deepEqual(again, a)
    await assert.rejects(cache.get('bad'), /refused/)
    assert.equal(begun.length, 4)
  })
})
