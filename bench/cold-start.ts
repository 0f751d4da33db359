// npm run bench -- start: from nothing to the first token of the embedded models, as `npm start` serves
// them: the process starts, both load, one chat streams. The files are in the page cache from round 2 on.

import { count, readFlags, UsageError } from './flags.js'
import { createTarget, streamOnce } from './load-generator.js'
import { machineLine } from './machine.js'
import { startServerProcess } from './server-process.js'
import { median } from './stats.js'

const flags = { rounds: count('starts', 5) }

const GOAL_MS = 2000

const body = {
  model: 'tiny-reasoner',
  messages: [{ role: 'user', content: 'How many r in strawberry?' }],
  max_tokens: 1,
}

const round = async (): Promise<{ readonly ready: number; readonly token: number }> => {
  const began = performance.now()
  const server = await startServerProcess('npm', ['start', '--', '--port', '0', '--device', 'cpu'])
  try {
    const ready = performance.now() - began
    const target = createTarget(server.url, undefined, 'chat')
    const sent = performance.now() - began
    const { error, ttft } = await streamOnce(target, body)
    target.agent.destroy()
    if (error !== undefined) throw new UsageError(`no token came: ${error}`)
    return { ready, token: sent + ttft }
  } finally {
    await server.stop()
  }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('start', 'from npm start to the first token', flags, args)
  if (!values) return
  console.log(`${machineLine()}\nembedded models; milliseconds since npm start`)
  const tokens: number[] = []
  for (let i = 1; i <= values.rounds; i++) {
    const { ready, token } = await round()
    tokens.push(token)
    console.log(`round ${i}: ready ${ready.toFixed(0)}, first token ${token.toFixed(0)}`)
  }
  console.log(`first token: median ${median(tokens).toFixed(0)} ms (goal ${GOAL_MS})`)
}
