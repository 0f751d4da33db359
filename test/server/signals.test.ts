import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import { onSignals } from '../../server/commands/signals.js'

test('signals that come together are one; a later one is meant, but for that of a terminal that closes', (t) => {
  let now = 1000
  mock.method(performance, 'now', () => now)
  t.after(() => mock.restoreAll())
  const heard: string[] = []
  const end = onSignals(process, ['SIGUSR2', 'SIGHUP'], {
    first: (signal) => heard.push(`first ${signal}`),
    again: (signal) => heard.push(`again ${signal}`),
  })
  const send = (signal: 'SIGUSR2' | 'SIGHUP', at: number) => {
    now = 1000 + at
    process.emit(signal, signal)
  }
  send('SIGUSR2', 0)
  send('SIGUSR2', 400)
  send('SIGHUP', 5)
  assert.deepEqual(heard, ['first SIGUSR2'])
  send('SIGHUP', 5000)
  assert.deepEqual(heard, ['first SIGUSR2'])
  send('SIGUSR2', 5000)
  assert.deepEqual(heard, ['first SIGUSR2', 'again SIGUSR2'])
  end()
  assert.deepEqual([process.listenerCount('SIGUSR2'), process.listenerCount('SIGHUP')], [0, 0])
})
