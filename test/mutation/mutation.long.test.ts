// Small, harmful changes of the code are found by the tests: a draw of them for each part, another one each
// day. `mutate.mjs` by itself makes as many as are asked for; scores.md keeps what was found.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { packagePath } from '../../server/version.js'

const COUNT = 12
/** Of so few, more may live by chance than the goals say (85 % of the server's, 95 % of the engine's). */
const MOST_ALIVE = 3

const today = Number(new Date().toISOString().slice(0, 10).replaceAll('-', ''))

for (const part of ['server', 'engine'])
  test(`${part}: ${COUNT} changes, seed ${today}`, async (context) => {
    const args = ['test/mutation/mutate.mjs', part, '--count', `${COUNT}`, '--seed', `${today}`]
    const child = spawn(process.execPath, args, {
      cwd: packagePath(''),
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let said = ''
    child.stdout.setEncoding('utf8').on('data', (text) => {
      said += text
    })
    await once(child, 'close')
    const lines = said.trim().split('\n')
    for (const [i, line] of lines.entries())
      if (line.includes('SURVIVED')) context.diagnostic(`${line}: ${lines[i + 1]}`)
    context.diagnostic(lines.at(-2) ?? '')
    const [, found, open] = /^(\d+) passed, (\d+) failed$/.exec(lines.at(-1) ?? '') ?? []
    assert.ok(Number(found) > 0, said)
    assert.ok(Number(open) <= MOST_ALIVE, `${open} live`)
  })
