// Some hundred requests of every kind, a SIGTERM and a broken device under load; the long soak has ten thousand.

import { test } from 'node:test'
import { noFaults, runChaos, runFault } from './chaos.js'
import { noAddon } from './real-server.js'

test('every request is answered or cleanly closed, and every block comes back', {
  skip: noAddon,
  timeout: 120_000,
}, async (t) => {
  await runChaos({ requests: 510, held: 50, say: (text) => t.diagnostic(text) })
})

test(
  'a device that breaks under load: every request is told, every block comes back',
  {
    skip: noAddon || noFaults,
    timeout: 120_000,
  },
  (t) => runFault({ fault: '0 6000 fail', requests: 510, say: (text) => t.diagnostic(text) }),
)
