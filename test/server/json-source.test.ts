// How a caller wrote an object is found again, wherever it stands.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { jsonOf, noteSources, sourceOf } from '../../server/json-source.js'

/** What follows from a seed: the same numbers every time. */
const createRandom = (seed: number) => {
  let state = seed
  return (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

const TEXTS = ['a', '', '0', '\\', '"', '}{', '\\"', '[,]', 'é\u{1f600}', '__proto__x', ',:']

describe('how objects are written', () => {
  const written = async (json: string): Promise<Record<string, Record<string, object>>> => {
    const value = JSON.parse(json)
    await noteSources(json, value)
    return value
  }

  test('numbers, keys and blanks stay as they are', async () => {
    const json = '{"a": {"2": 1.0, "1":{"x" :18446744073709551616}}, "b":[{}, {"y":1e400}] }'
    const { a, b } = await written(json)
    assert.equal(sourceOf(a ?? {}), '{"2": 1.0, "1":{"x" :18446744073709551616}}')
    assert.equal(sourceOf(a?.['1'] ?? {}), '{"x" :18446744073709551616}')
    assert.equal(sourceOf(b?.['1'] ?? {}), '{"y":1e400}')
    assert.equal(sourceOf(b ?? {}), '[{}, {"y":1e400}]')
    assert.equal(jsonOf([b?.['1'], 2]), '[{"y":1e400},2]')
  })

  test('of a key that stands twice, the last counts', async () => {
    const { a } = await written('{"a":{"b":1.0},"a":{"b":2.0}}')
    assert.equal(sourceOf(a ?? {}), '{"b":2.0}')
  })

  test('anything random', async () => {
    const random = createRandom(7)
    const text = () => JSON.stringify(TEXTS[random(TEXTS.length)])
    const blank = () => [' ', '', '\n', ''][random(4)]
    // Each object is written with its own number, by which it is known again.
    let count = 0
    const sources: string[] = []
    const make = (depth: number): string => {
      const kind = random(depth > 0 ? 5 : 3)
      if (kind < 2) return text()
      if (kind === 2) return ['1.0', 'null', 'true', '-2e3'][random(4)] ?? ''
      const parts = Array.from({ length: random(4) }, () => make(depth - 1))
      if (kind === 3) return `[${blank()}${parts.join(`${blank()},${blank()}`)}]`
      const id = count++
      const keys = parts.map((part, i) => `${JSON.stringify(`${i}${TEXTS[i]}`)}${blank()}:${part}`)
      const source = `{${[...keys, `"id":${id}`].join(`,${blank()}`)}${blank()}}`
      sources[id] = source
      return source
    }
    for (let round = 0; round < 300; round++) {
      const json = `{"root":[${Array.from({ length: 20 }, () => make(5))}]}`
      const seen = (value: unknown): void => {
        if (typeof value !== 'object' || value === null) return
        if ('id' in value) assert.equal(sourceOf(value), sources[Number(value.id)])
        for (const one of Object.values(value)) seen(one)
      }
      seen(await written(json))
    }
    assert.ok(count > 1000, `${count} objects`)
  })

  test('a long text is read in slices', async () => {
    for (const long of [' '.repeat(8e6), JSON.stringify('\\'.repeat(4e6))]) {
      let turns = 0
      const count = () => {
        turns++
        next = setImmediate(count)
      }
      let next = setImmediate(count)
      await written(`{"a":{"b":${long}${long.startsWith(' ') ? '1' : ''}}}`)
      clearImmediate(next)
      assert.ok(turns > 1, `${turns} turns`)
    }
  })
})
