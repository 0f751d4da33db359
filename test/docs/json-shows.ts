// Whether an answer has what a document shows of it.

import assert from 'node:assert/strict'

type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json }

/** Everything that `shown` says is so in `actual`; numbers within rounding. */
export const assertShows = (actual: Json | undefined, shown: Json, at: string): void => {
  if (typeof shown === 'number') {
    assert.ok(typeof actual === 'number', `${at} is ${JSON.stringify(actual)}`)
    assert.ok(Math.abs(actual - shown) < 0.06, `${at} is ${actual}, the document says ${shown}`)
  } else if (typeof shown !== 'object' || shown === null) assert.equal(actual, shown, at)
  else {
    assert.ok(typeof actual === 'object' && actual !== null, `${at} is ${JSON.stringify(actual)}`)
    const inside = new Map<string, Json>(Object.entries(actual))
    for (const [key, value] of Object.entries(shown))
      assertShows(inside.get(key), value, `${at}.${key}`)
  }
}
