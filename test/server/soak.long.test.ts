// Ten thousand requests of every kind beside a thousand connections that are only held open.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runChaos } from './chaos.js'
import { noAddon } from './real-server.js'

const REQUESTS = Number(process.env.NEMOTRON_SOAK_REQUESTS ?? 10_000)

test('a soak', { skip: noAddon, timeout: 1_800_000 }, async (t) => {
  const say = (text: string) => t.diagnostic(text)
  const memory = await runChaos({ requests: REQUESTS, held: 1000, say })
  const half = Math.floor(memory.length / 2)
  const grown = ((memory.at(-1) ?? 0) - (memory[half] ?? 0)) * 2 ** 20
  const bytes = (grown / (REQUESTS / 2)) * 1e6
  t.diagnostic(`second half: ${bytes.toExponential(1)} bytes per million requests`)
  // Flat after a first stretch in which V8 takes what it likes.
  const early = Math.max(...memory.slice(memory.length / 4, memory.length / 2))
  const late = Math.min(...memory.slice(memory.length / 2))
  assert.ok(late < early * 1.15 + 10, `grew from ${early.toFixed(0)} to ${late.toFixed(0)} MB`)
})
