import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { z } from 'zod'
import { checkBody } from '../../server/check.js'
import { RequestError } from '../../server/request-error.js'

const fault = (branches: readonly z.ZodType[], given: unknown): string => {
  const schema = z.object({ f: z.union([...branches]) })
  try {
    checkBody(schema, { f: given }, { isStrict: false })
  } catch (error) {
    assert.ok(error instanceof RequestError)
    return `${error.param}: ${error.message}`
  }
  assert.fail('it passed')
}

/** Whichever stands first. */
const bothWays = (a: z.ZodType, b: z.ZodType, given: unknown, message: RegExp): void => {
  assert.match(fault([a, b], given), message)
  assert.match(fault([b, a], given), message)
}

describe('of the branches of a union, the error is that of the one that was meant:', () => {
  const member = (a: z.ZodType) => z.object({ a })

  test('none where nothing is given', () => {
    const ids = z.custom(Array.isArray, 'expected ids')
    bothWays(z.string(), ids, undefined, /^f: Missing required parameter: 'f'/)
  })

  test('each type once', () =>
    assert.match(
      fault([z.array(z.string()), z.array(z.number())], 'a'),
      /expected an array, but got a string/,
    ))

  test('each type once, those of a union within it too', () => {
    const inner = z.union([member(z.string()), z.array(z.string())])
    bothWays(
      z.string(),
      inner,
      5,
      /expected (a string, an object or an array|an object, an array or a string), but got a number/,
    )
    bothWays(z.string(), z.union([z.number().max(2), z.boolean()]), 4, /at most 2/)
  })

  test('the one that got deeper', () =>
    bothWays(member(z.string()), z.string(), { a: 1 }, /^f\.a: .*expected a string/))

  test('the one that got further along a list', () =>
    bothWays(z.array(z.number()), z.array(z.string()), ['a', 'b', 1], /^f\.2: .*expected a string/))

  test('at the same place the one whose type is right', () => {
    bothWays(member(z.number()), member(z.string().min(3)), { a: 'x' }, /^f\.a: .*at least 3/)
    bothWays(member(z.string()), member(z.number().max(3)), { a: 4 }, /^f\.a: .*at most 3/)
  })

  test('at the same place and with the same right the first', () => {
    assert.match(fault([member(z.string()), member(z.boolean())], { a: 1 }), /expected a string/)
    assert.match(fault([member(z.boolean()), member(z.string())], { a: 1 }), /expected a boolean/)
    const [least, most] = [member(z.number().min(9)), member(z.number().max(2))]
    assert.match(fault([least, most], { a: 4 }), /at least 9/)
    assert.match(fault([most, least], { a: 4 }), /at most 2/)
  })
})
