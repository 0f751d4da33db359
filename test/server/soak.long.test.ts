// Ten thousand requests of every kind beside a thousand connections that are only held open; devices that
// break at many moments.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { noFaults, runChaos, runFault } from './chaos.js'
import { noAddon } from './real-server.js'

const REQUESTS = Number(process.env.NEMOTRON_SOAK_REQUESTS ?? 10_000)

test('a soak', { skip: noAddon, timeout: 1_800_000 }, async (t) => {
  const say = (text: string) => t.diagnostic(text)
  const memory = await runChaos({ requests: REQUESTS, held: 1000, say })
  // Flat after a first stretch in which V8 takes what it likes.
  const early = Math.max(...memory.slice(memory.length / 4, memory.length / 2))
  const late = Math.min(...memory.slice(memory.length / 2))
  assert.ok(late < early * 1.15 + 10, `grew from ${early.toFixed(0)} to ${late.toFixed(0)} MB`)
})

const FAULTS = [
  ...[1000, 4001, 8000, 12_007].map((call) => ({ fault: `0 ${call} fail`, ranks: 1 })),
  ...[3000, 8001].map((call) => ({ fault: `1 ${call} fail`, ranks: 2 })),
  { fault: '1 5000 stall', ranks: 2 },
]

for (const one of FAULTS)
  test(
    `a device that breaks under load: ${one.fault}`,
    {
      skip: noAddon || noFaults,
      timeout: 300_000,
    },
    (t) => runFault({ ...one, requests: 1000, say: (text) => t.diagnostic(text) }),
  )
