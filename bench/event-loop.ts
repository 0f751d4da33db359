// npm run bench -- loop: how long prompts of 128K tokens keep the server's event loop from everybody
// else, while another prompt keeps the engine's threads busy. The server runs in this process, over the
// native engine and a small model; the client in one of its own.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { count, maybeNumber, readFlags, text, UsageError } from './flags.js'
import { machine, machineLine } from './machine.js'
import { benchModel } from './random-model.js'
import { serveHere } from './serve-here.js'
import { shapeNamed } from './shapes.js'
import { nodeFlags, runnable } from './source.js'
import { median } from './stats.js'

const flags = {
  requests: count('of each kind', 6),
  threads: count('of the engine', machine().threads),
  duration: maybeNumber('S', 'seconds that each request is watched; default 1'),
  shape: text('NAME', 'the model; its whole context is the prompt', 'tiny-128k'),
}

const GOAL_MS = 50
const KINDS = ['ids', 'text', 'chat'] as const
type Kind = (typeof KINDS)[number]

const WORDS = 'the of and a to in is you that it he was for on are as with his they I'.split(' ')

/** Different for every k: no request is a prefix hit of another. */
const ids = (k: number, context: number): number[] =>
  Array.from({ length: context - 100 }, (_, i) => 1 + ((i * 7919 + k * 31) % 250))
const words = (k: number, count: number): string =>
  Array.from({ length: count }, (_, i) => WORDS[(i * 7 + k + (i % 3)) % WORDS.length]).join(' ')

/** As many words as make nearly the whole context. */
const wordsOfContext = async (port: string, context: number): Promise<number> => {
  const response = await fetch(`http://127.0.0.1:${port}/tokenize`, {
    method: 'POST',
    body: JSON.stringify({ model: 'm', prompt: words(0, 1000) }),
  })
  const { count } = JSON.parse(await response.text())
  return Math.floor(((context - 200) / count) * 1000)
}

/** Sends requests one after another and tells the server's process when each begins and ends. */
const client = async (
  port: string,
  requests: number,
  context: number,
  seconds: number,
): Promise<void> => {
  const length = await wordsOfContext(port, context)
  const bodyOf = (kind: Kind, k: number): string => {
    const prompt = kind === 'ids' ? ids(k, context) : words(k, length)
    const what = kind === 'chat' ? { messages: [{ role: 'user', content: prompt }] } : { prompt }
    return JSON.stringify({ model: 'm', max_tokens: 2, ...what })
  }
  const post = (kind: Kind, body: string) => {
    const path = kind === 'chat' ? '/v1/chat/completions' : '/v1/completions'
    const headers = { 'content-type': 'application/json', 'content-length': body.length }
    const sent = request({ port, method: 'POST', path, headers }, (response) => {
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
  const busy = post('ids', bodyOf('ids', 0))
  await sleep(1500 * seconds)
  for (const kind of KINDS) {
    for (let k = 1; k <= requests; k++) {
      const body = bodyOf(kind, k)
      process.send?.('begin')
      await sleep(50)
      const sent = post(kind, body)
      await sleep(1000 * seconds)
      process.send?.(kind)
      sent.destroy()
      await sleep(100)
    }
  }
  if (busy.closed) console.error('the other prompt was done before the end')
  process.exit(busy.closed ? 1 : 0)
}

/** Milliseconds that this process's main thread has run; NaN where the system does not tell. */
const mainThreadMs = (): number => {
  try {
    const [ran] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')
    return Number(ran) / 1e6
  } catch {
    return Number.NaN
  }
}

type Block = { readonly ms: number; readonly ran: number }

/** The longest time between two turns of the event loop since the last reset. */
const watchLoop = () => {
  let longest: Block = { ms: 0, ran: 0 }
  let [last, lastRan] = [performance.now(), mainThreadMs()]
  const timer = setInterval(() => {
    const [now, ran] = [performance.now(), mainThreadMs()]
    if (now - last > longest.ms) longest = { ms: now - last, ran: ran - lastRan }
    last = now
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

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('loop', 'the longest blocks of the event loop', flags, args)
  if (!values) return
  const shape = shapeNamed(values.shape)
  const server = await serveHere(benchModel(shape), {
    ...{ threads: values.threads, max_model_len: shape.maxPosition, kv_cache_memory: '1GiB' },
  })
  console.log(
    `${machineLine()}\n${shape.name}, ${values.threads} engine threads busy with another prompt of ` +
      `${shape.maxPosition} tokens; longest time between two turns of the event loop, goal ${GOAL_MS} ms ` +
      `(in brackets: of it, Node's thread ran)`,
  )
  const loop = watchLoop()
  const blocks = new Map<string, Block[]>(KINDS.map((kind) => [kind, []]))
  const { requests, duration = 1 } = values
  const settings = [new URL(server.url).port, requests, shape.maxPosition, duration].map(String)
  const sender = fork(runnable('bench/event-loop.ts'), ['client', ...settings], {
    execArgv: [...nodeFlags],
  })
  sender.on('message', (message: string) => {
    if (message === 'begin') loop.reset()
    else blocks.get(message)?.push(loop.longest())
  })
  const [code] = await once(sender, 'exit')
  loop.stop()
  for (const [kind, all] of blocks) {
    const times = all.map(({ ms }) => ms)
    const listed = all.map(({ ms, ran }) => `${ms.toFixed(0)} (${ran.toFixed(0)})`).join(', ')
    const [longest, middle] = [Math.max(...times), median(times)].map((ms) => ms.toFixed(0))
    console.log(`${kind}: longest ${longest} ms, median ${middle}: ${listed}`)
  }
  await server.drain()
  if (code !== 0) throw new UsageError(`the client ended with ${code}`)
}

if (process.argv[2] === 'client') {
  const [port = '', requests, context, seconds] = process.argv.slice(3)
  await client(port, Number(requests), Number(context), Number(seconds))
}
