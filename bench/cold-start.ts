// npm run bench -- start: from nothing to the first token of the embedded models, as `npm start` serves
// them: the process starts, both load, one chat streams. The files are in the page cache from round 2 on.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { packagePath } from '../server/version.js'
import { machine } from './machine.js'
import { median } from './stats.js'

const HELP = `npm run bench -- start [flags]
  --rounds N   default 5
`

/** The address it says it serves at. */
const ready = async (child: ChildProcess): Promise<string> => {
  if (!child.stderr) throw new Error('the server has no output')
  for await (const line of createInterface({ input: child.stderr })) {
    const url = /^at (\S+\/v1)/.exec(line)?.[1]
    if (url !== undefined) return url
  }
  throw new Error('the server ended before it was ready')
}

const firstToken = async (url: string): Promise<void> => {
  const response = await fetch(`${url}/chat/completions`, {
    method: 'POST',
    body: JSON.stringify({
      model: 'tiny-reasoner',
      messages: [{ role: 'user', content: 'How many r in strawberry?' }],
      stream: true,
    }),
  })
  for await (const chunk of response.body ?? []) {
    if (Buffer.from(chunk).includes('"content"')) return
  }
  throw new Error(`no token came: ${response.status}`)
}

const round = async (): Promise<{ readonly ready: number; readonly token: number }> => {
  const began = performance.now()
  const child = spawn('npm', ['start', '--', '--port', '0', '--device', 'cpu'], {
    cwd: packagePath('.'),
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  try {
    const url = await ready(child)
    const listening = performance.now()
    await firstToken(url)
    return { ready: listening - began, token: performance.now() - began }
  } finally {
    child.stderr?.resume()
    child.kill('SIGTERM')
    await once(child, 'close')
  }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const { values } = parseArgs({
    args: [...args],
    options: { rounds: { type: 'string', default: '5' }, help: { type: 'boolean' } },
  })
  if (values.help) {
    console.log(HELP)
    return
  }
  const { cpu, threads, node } = machine()
  console.log(`${cpu}, ${threads} threads, Node ${node}; milliseconds since npm start`)
  const rounds = []
  for (let i = 1; i <= Number(values.rounds); i++) {
    const times = await round()
    rounds.push(times)
    console.log(
      `round ${i}: ready ${times.ready.toFixed(0)}, first token ${times.token.toFixed(0)}`,
    )
  }
  const token = median(rounds.map((one) => one.token))
  console.log(`first token: median ${token.toFixed(0)} ms (goal 2000)`)
}
