// Every command of README.md, CONTRIBUTING.md and docs/*.md is run, word for word, in a clean checkout: here
// what takes seconds, in commands.long.test.ts what takes minutes. A command that cannot be run stands in
// NOT_RUN with the reason.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { noAddon } from '../server/real-server.js'
import { type Checkout, makeCheckout } from './checkout.js'
import { documentedCommands, LONG, NOT_RUN } from './documented.js'
import { assertShows } from './json-shows.js'

const commands = documentedCommands()
const here = commands.filter(({ text }) => NOT_RUN[text] === undefined && !LONG.includes(text))

test('the commands are found, and what is said of them is of one that is there', () => {
  const texts = commands.map(({ text }) => text)
  assert.ok(texts.length > 40, `${texts.length} commands`)
  for (const text of ['npm ci', 'npx nemotron-server info MODEL', 'npm run bench -- ops'])
    assert.ok(texts.includes(text), text)
  assert.equal(commands.filter(({ answer }) => answer !== undefined).length, 6)
  for (const text of [...Object.keys(NOT_RUN), ...LONG])
    assert.ok(texts.includes(text), `no document has the command any more: ${text}`)
})

describe('in a clean checkout', { skip: noAddon, concurrency: 2 }, () => {
  let checkout: Checkout
  let url: Promise<string>
  before(() => {
    checkout = makeCheckout({ built: true })
    url = checkout.start('npm start')
  })
  after(() => checkout.close())

  for (const { text, at, answer } of here) {
    test(`${at}: ${text.split('\n')[0]}`, async () => {
      // The server of the page, wherever it found a port.
      const there = text.includes('127.0.0.1:8000')
        ? text.replaceAll('http://127.0.0.1:8000', await url)
        : text
      const { code, out, all } = await checkout.run(there, 120_000)
      assert.equal(code, 0, `${text}\n${all}`)
      if (answer !== undefined) assertShows(JSON.parse(out), JSON.parse(answer), at)
    })
  }
})
