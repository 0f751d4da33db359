// Some hundred requests of every kind, and a SIGTERM under load; the long soak has ten thousand.

import { test } from 'node:test'
import { runChaos } from './chaos.js'
import { noAddon } from './real-server.js'

test('every request is answered or cleanly closed, and every block comes back', {
  skip: noAddon,
  timeout: 120_000,
}, async (t) => {
  await runChaos({ requests: 510, held: 50, say: (text) => t.diagnostic(text) })
})
