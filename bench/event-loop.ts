// npm run bench -- loop: how long prompts of 128K tokens keep the server's event loop from everybody
// else, while another prompt keeps the engine's threads busy. The server runs in this process, over the
// native engine and a small model; the client in one of its own.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { startReal } from '../test/server/real-server.js'
import { machine } from './machine.js'
import { benchModel, shapes } from './random-model.js'
import { median } from './stats.js'

const HELP = `npm run bench -- loop [flags]
  --requests N   of each kind, default 6
  --threads N    of the engine, default: all
`

const CONTEXT = 131072
const GOAL_MS = 50
const KINDS = ['ids', 'text', 'chat'] as const
type Kind = (typeof KINDS)[number]

const WORDS = 'the of and a to in is you that it he was for on are as with his they I'.split(' ')

/** Different for every k: no request is a prefix hit of another. */
const ids = (k: number): number[] =>
  Array.from({ length: CONTEXT - 100 }, (_, i) => 1 + ((i * 7919 + k * 31) % 250))
const text = (k: number, words: number): string =>
  Array.from({ length: words }, (_, i) => WORDS[(i * 7 + k + (i % 3)) % WORDS.length]).join(' ')

const bodyOf = (kind: Kind, k: number, words: number): string => {
  const limits = { model: 'long', max_tokens: 2 }
  if (kind === 'ids') return JSON.stringify({ ...limits, prompt: ids(k) })
  const prompt = text(k, words)
  return JSON.stringify(
    kind === 'text'
      ? { ...limits, prompt }
      : { ...limits, messages: [{ role: 'user', content: prompt }] },
  )
}

/** As many words as make nearly the whole context. */
const wordsOfContext = async (port: string): Promise<number> => {
  const sample = 1000
  const response = await fetch(`http://127.0.0.1:${port}/tokenize`, {
    method: 'POST',
    body: JSON.stringify({ model: 'long', prompt: text(0, sample) }),
  })
  const { count } = (await response.json()) as { readonly count: number }
  return Math.floor(((CONTEXT - 200) / count) * sample)
}

/** Sends requests one after another and tells the server's process when each begins and ends. */
const client = async (port: string, requests: number): Promise<void> => {
  const words = await wordsOfContext(port)
  const post = (kind: Kind, body: string) => {
    const path = kind === 'chat' ? '/v1/chat/completions' : '/v1/completions'
    const headers = { 'content-type': 'application/json', 'content-length': body.length }
    const sent = request({ port, method: 'POST', path, headers }, (response) => {
      response.setEncoding('utf8')
      response.on('data', (data) => {
        if (response.statusCode === 200) return
        console.error(`refused: ${data}`)
        process.exit(1)
      })
    })
    sent.on('error', () => {}) // of our own leaving
    sent.end(body)
    return sent
  }
  const busy = post('ids', bodyOf('ids', 0, words))
  let isBusy = true
  busy.on('close', () => {
    isBusy = false
  })
  await sleep(1500)
  for (const kind of KINDS) {
    for (let k = 1; k <= requests; k++) {
      const body = bodyOf(kind, k, words)
      process.send?.('begin')
      await sleep(50)
      const sent = post(kind, body)
      await sleep(1000)
      process.send?.(kind)
      sent.destroy()
      await sleep(100)
    }
  }
  if (!isBusy) console.error('the other prompt was done before the end')
  process.exit(isBusy ? 0 : 1)
}

/** Milliseconds that this process's main thread has run; NaN where the system does not tell. */
const ranFor = (): number => {
  try {
    return (
      Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
    )
  } catch {
    return Number.NaN
  }
}

type Block = { readonly ms: number; readonly ran: number }

/** The longest time between two turns of the event loop since the last reset. */
const watchLoop = () => {
  let longest: Block = { ms: 0, ran: 0 }
  let last = performance.now()
  let lastRan = ranFor()
  const timer = setInterval(() => {
    const now = performance.now()
    const ran = ranFor()
    if (now - last > longest.ms) longest = { ms: now - last, ran: ran - lastRan }
    last = performance.now()
    lastRan = ran
  }, 1)
  return {
    reset: () => {
      longest = { ms: 0, ran: 0 }
    },
    longest: () => longest,
    stop: () => clearInterval(timer),
  }
}

const startClient = (port: string, requests: string): ChildProcess =>
  fork(fileURLToPath(import.meta.url), ['client', port, requests], { execArgv: process.execArgv })

export const run = async (args: readonly string[]): Promise<void> => {
  const { values } = parseArgs({
    args: [...args],
    options: {
      requests: { type: 'string', default: '6' },
      threads: { type: 'string', default: String(machine().threads) },
      help: { type: 'boolean' },
    },
  })
  if (values.help) {
    console.log(HELP)
    return
  }
  const shape = shapes['tiny-128k']
  if (!shape) throw new Error('no such shape')
  const { cpu, node } = machine()
  const server = await startReal({
    models: [{ model: benchModel(shape), served_model_name: 'long' }],
    threads: Number(values.threads),
    kv_cache_memory: '1GiB',
    max_model_len: CONTEXT,
  })
  console.log(
    `${cpu}, Node ${node}, ${values.threads} engine threads busy with another prompt; longest time ` +
      `between two turns of the event loop, goal ${GOAL_MS} ms (in brackets: of it, Node's thread ran)`,
  )
  const loop = watchLoop()
  const blocks = new Map<string, Block[]>(KINDS.map((kind) => [kind, []]))
  const sender = startClient(new URL(server.url).port, values.requests)
  sender.on('message', (message: string) => {
    if (message === 'begin') loop.reset()
    else blocks.get(message)?.push(loop.longest())
  })
  const [code] = await once(sender, 'exit')
  loop.stop()
  for (const [kind, all] of blocks) {
    const list = all.map(({ ms, ran }) => `${ms.toFixed(0)} (${ran.toFixed(0)})`).join(', ')
    const times = all.map(({ ms }) => ms)
    console.log(
      `${kind}: longest ${Math.max(...times).toFixed(0)} ms, median ${median(times).toFixed(0)}: ${list}`,
    )
  }
  await server.close()
  if (code !== 0) throw new Error(`the client ended with ${code}`)
}

if (process.argv[2] === 'client') await client(process.argv[3] ?? '', Number(process.argv[4]))
