import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { createGrammarCache } from '../../server/engine/grammar-cache.js'
import type { Grammar } from '../../server/engine/types.js'
import { EngineFailure } from '../../server/failure.js'
import { createLine, LONGEST_WAIT_MS, MOST_WAITING } from '../../server/line.js'
import { createGrammars } from '../../server/model/grammars.js'
import { RequestError } from '../../server/request-error.js'

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

  test('keeps 64 and 16 million characters, the longest unused goes first', async () => {
    let compiled = 0
    const cache = createGrammarCache(async (text) => {
      compiled++
      return { text } as unknown as Grammar
    })
    const count = async (...texts: string[]): Promise<number> => {
      compiled = 0
      for (const text of texts) await cache.get(text)
      return compiled
    }
    const names = Array.from({ length: 64 }, (_, i) => `g${i}`)
    assert.equal(await count(...names, ...names), 64)
    assert.equal(await count('g0', 'new', 'g0'), 1)
    assert.equal(await count('g1'), 1, 'g1 was the longest unused')
    assert.equal(await count('g0', 'new', 'g3'), 0)
    const half = 1 << 23
    const [a, b, c] = ['a', 'b', 'c'].map((one) => one.repeat(half)) as [string, string, string]
    assert.equal(await count(a, b, a, b), 2)
    assert.equal(await count(c, b), 1)
    assert.equal(await count(a), 1)
    assert.equal(await count('g0'), 1, 'short ones went too')
    const long = 'd'.repeat(1 << 25)
    assert.equal(await count(long, long), 1, 'the last one stays, however long')
  })
})

suite('a line of work', () => {
  const refuse = (waiting: number, waitMs: number) => new Error(`${waiting} wait ${waitMs}`)

  test('refuses what would be one too many, and takes it once one is done', async () => {
    const line = createLine(refuse, () => 0)
    const ends: (() => void)[] = []
    const wait = () => line(() => new Promise<void>((done) => ends.push(done)))
    const all = Array.from({ length: MOST_WAITING }, wait)
    await assert.rejects(wait(), new RegExp(`^Error: ${MOST_WAITING} wait 0$`))
    ends[0]?.()
    await all[0]
    const next = wait()
    for (const end of ends) end()
    await Promise.all([...all, next])
  })

  test('refuses what would wait too long, by what the last ones took', async () => {
    let time = 0
    const line = createLine(refuse, () => time)
    const work = async () => {
      time += LONGEST_WAIT_MS
    }
    for (let i = 0; i < 20; i++) await line(work)
    let end = () => {}
    const first = line(() => new Promise<void>((done) => (end = done)))
    const second = line(async () => {})
    await assert.rejects(
      line(async () => {}),
      /^Error: 2 wait 1\d{4}/,
    )
    end()
    await Promise.all([first, second])
    for (let i = 0; i < 20; i++) await line(async () => {})
    await line(async () => {})
  })

  test('a flood of new schemas is a 429 for those that come too late, a known one is served', async () => {
    const ends: (() => void)[] = []
    const compileForm = createGrammars({
      compileGrammar: createGrammarCache(
        (text) =>
          new Promise((done) => {
            if (text.includes('known')) done({ text } as unknown as Grammar)
            else ends.push(() => done({ text } as unknown as Grammar))
          }),
      ).get,
    })
    const ask = (text: string) => compileForm({ kind: 'grammar', text }, 'grammar')
    await ask('known')
    const flood = Array.from({ length: MOST_WAITING + 10 }, (_, i) => ask(`${i}`))
    const late = await Promise.allSettled(flood.slice(-10))
    for (const one of late) {
      assert.ok(one.status === 'rejected' && one.reason instanceof RequestError)
      assert.equal(one.reason.kind, 'busy')
      assert.equal(one.reason.retryAfter, 1)
    }
    await ask('known')
    for (let i = 0; i < MOST_WAITING; i++) {
      while (ends[i] === undefined) await turn()
      ends[i]?.()
    }
    await Promise.all(flood.slice(0, -10))
  })
})

suite('grammars that the engine refuses', () => {
  const failing = (error: Error) =>
    createGrammars({
      compileGrammar: async () => {
        throw error
      },
    })
  const wrong = new EngineFailure({ code: 'invalid_argument', message: 'it is too ambiguous' })

  test('are a 400 that names the field and who wrote the grammar', async () => {
    const own = failing(wrong)({ kind: 'grammar', text: 'root ::= "a"' }, 'guided_grammar')
    await assert.rejects(own, (error) => {
      assert.ok(error instanceof RequestError)
      assert.equal(error.param, 'guided_grammar')
      assert.equal(error.message, "Invalid value for 'guided_grammar': it is too ambiguous.")
      return true
    })
    const made = failing(wrong)({ kind: 'choice', choices: ['a'] }, 'guided_choice')
    await assert.rejects(made, (error) => {
      assert.ok(error instanceof RequestError)
      assert.equal(error.param, 'guided_choice')
      assert.match(error.message, /^'guided_choice' makes a grammar that cannot be served: it is/)
      return true
    })
  })

  test('any other failure stays what it is', async () => {
    for (const error of [
      new EngineFailure({ code: 'internal', message: 'broken' }),
      new TypeError('broken'),
    ])
      await assert.rejects(failing(error)({ kind: 'grammar', text: 'x' }, 'f'), error)
  })

  test('half of a surrogate pair never reaches it', async () => {
    const asked = failing(wrong)({ kind: 'grammar', text: 'root ::= "\ud800"' }, 'grammar')
    await assert.rejects(asked, /The grammar in 'grammar' has half of a surrogate pair/)
  })
})
