import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { z } from 'zod'
import { checkBody } from '../../server/check.js'
import { RequestError } from '../../server/request-error.js'

const faultOf = (schema: z.ZodObject, given: unknown): string => {
  try {
    checkBody(schema, { f: given }, { isStrict: false })
  } catch (error) {
    assert.ok(error instanceof RequestError)
    return `${error.param}: ${error.message}`
  }
  assert.fail('it passed')
}

const fault = (branches: readonly z.ZodType[], given: unknown): string =>
  faultOf(z.object({ f: z.union([...branches]) }), given)

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

describe('of a number, the error says what was found and all that would be right:', () => {
  const list = z.array(z.object({ n: z.int().min(1).max(9) }))
  const [big, most] = [2 ** 64, Number.MAX_SAFE_INTEGER]
  for (const [schema, given, message] of [
    [z.int(), '5', /^f: Invalid type for 'f': expected an integer, but got a string\.$/],
    [z.number(), true, /expected a number, but got a boolean\.$/],
    [z.int(), 0.5, /Invalid type .*expected an integer, but got 0\.5\.$/],
    [
      z.int(),
      big,
      new RegExp(`Invalid value .*an integer from -${most} to ${most}, but got ${big}`),
    ],
    [z.int(), -big, new RegExp(`an integer from -${most} to ${most}, but got -${big}`)],
    [z.int().min(1).max(128), 0, /Invalid value .*expected an integer from 1 to 128, but got 0\.$/],
    [z.int().min(1).max(128), 2 ** 60, /an integer from 1 to 128, but got 1152921504606847000\.$/],
    [z.array(z.int().min(1).max(9)), [null], /^f\.0: .*an integer from 1 to 9, but got null\.$/],
    [z.int().min(0), -1, /expected an integer of at least 0, but got -1\.$/],
    [z.int().min(0), [], /expected an integer of at least 0, but got an array\.$/],
    [z.number().min(0).max(2), 7, /expected a number from 0 to 2, but got 7\.$/],
    [z.number().max(2).nullish(), 7, /expected a number of at most 2, but got 7\.$/],
    [z.number().gt(0).max(1), 0, /expected a number above 0 and at most 1, but got 0\.$/],
    [z.number().gt(0), '', /expected a number above 0, but got a string\.$/],
    [list, [{ n: 1 }, { n: 10 }], /^f\.1\.n: .*an integer from 1 to 9, but got 10\.$/],
    [z.union([z.object({ a: z.int().max(3) }), z.boolean()]), { a: 4 }, /^f\.a: .*at most 3, but/],
    [z.record(z.string(), z.int().max(3)), { a: 4 }, /^f\.a: .*of at most 3, but got 4\.$/],
  ] as const)
    test(`${JSON.stringify(given)} of ${JSON.stringify(z.toJSONSchema(schema))}`, () =>
      assert.match(faultOf(z.object({ f: schema }), given), message))
})
