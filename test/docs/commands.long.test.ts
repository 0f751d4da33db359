// The documented commands that take minutes, in the order of the documents, in a checkout that has nothing
// but what git has.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type Checkout, makeCheckout } from './checkout.js'
import { documentedCommands, LONG } from './documented.js'

describe('from nothing', () => {
  let checkout: Checkout
  before(() => {
    checkout = makeCheckout({ built: false })
  })
  after(() => checkout.close())

  for (const { text, at } of documentedCommands().filter(({ text }) => LONG.includes(text))) {
    test(`${at}: ${text}`, async () => {
      const { code, all } = await checkout.run(text, 1_800_000)
      assert.equal(code, 0, `${text}\n${all}`)
    })
  }
})
