// What a server lives through: whole answers and streams beside aborted, malformed, oversized, over-budget and slow
// requests, clients that go in the middle, connections that are only held open, and a SIGTERM under load. Every
// request is answered or cleanly closed, every KV block comes back, memory stays flat. And a device that breaks
// under the same load: then every request is told so, and every block comes back too.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once as onceOf } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { nodeArgs } from '../../bench/source.js'
import { packagePath } from '../../server/version.js'
import { chatCheckpoint } from './chat-checkpoint.js'

const PARALLEL = 64
const BODY_LIMIT = 64 << 10

type Started = { readonly child: ChildProcess; readonly port: number }

type Setup = { readonly args: readonly string[]; readonly env?: Readonly<Record<string, string>> }

const start = async ({ args, env = {} }: Setup): Promise<Started> => {
  const child = spawn(
    process.execPath,
    [
      ...nodeArgs('server/cli.ts'),
      'serve',
      '--port',
      '0',
      '--model',
      chatCheckpoint(),
      '--served-model-name',
      'm',
      '--kv-cache-memory',
      '64MiB',
      '--threads',
      '1',
      '--max-num-seqs',
      '32',
      '--body-limit',
      String(BODY_LIMIT),
      ...args,
    ],
    { stdio: ['ignore', 'inherit', 'pipe'], env: { ...process.env, ...env } },
  )
  let text = ''
  child.stderr?.on('data', (chunk) => {
    text += chunk
  })
  for (let i = 0; i < 1200; i++) {
    const port = /^at http:\/\/[^:]+:(\d+)/m.exec(text)?.[1]
    if (port !== undefined) return { child, port: Number(port) }
    await new Promise((done) => setTimeout(done, 50))
  }
  child.kill('SIGKILL')
  throw new Error(`it did not start: ${text}`)
}

const rss = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024

type Kind =
  | ('whole' | 'stream' | 'text' | 'abort' | 'early' | 'malformed' | 'slow')
  | ('oversized' | 'long' | 'budget')
const KINDS: readonly Kind[] = [
  'whole',
  'stream',
  'text',
  'stream',
  'whole',
  'text',
  'stream',
  'whole',
  'abort',
  'malformed',
  'slow',
  'early',
  'oversized',
  'whole',
  'long',
  'stream',
  'budget',
]

const body = (kind: Kind, i: number): string => {
  if (kind === 'malformed')
    return ['{"model":', '[]', '{"model":"m","messages":5}', 'ÿ'][i % 4] ?? ''
  if (kind === 'oversized')
    return JSON.stringify({ model: 'm', prompt: 'x'.repeat(2 * BODY_LIMIT) })
  // More than the context, and more than there are places.
  if (kind === 'long')
    return JSON.stringify({ model: 'm', prompt: 'y '.repeat(8000), max_tokens: 1 })
  if (kind === 'budget') return JSON.stringify({ model: 'm', prompt: 'z', max_tokens: 1e6 })
  const common = { model: 'm', max_tokens: kind === 'abort' ? 400 : 1 + (i % 12), ignore_eos: true }
  return JSON.stringify(
    kind === 'text'
      ? { ...common, prompt: [`text ${i % 50}`, 'more'], n: 1 + (i % 3) }
      : {
          ...common,
          messages: [{ role: 'user', content: `question ${i % 50} ${'word '.repeat(i % 60)}` }],
          stream: kind === 'stream' || kind === 'abort' || kind === 'slow',
        },
  )
}

/** How one request ended: its status, or what its client did. */
const once = (port: number, kind: Kind, i: number): Promise<string> =>
  new Promise((resolve) => {
    const text = body(kind, i)
    const path = ['text', 'oversized', 'long', 'budget'].includes(kind)
      ? '/v1/completions'
      : '/v1/chat/completions'
    const head = `POST ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n`
    let answer = ''
    const socket = createConnection(port, '127.0.0.1', () => {
      if (kind === 'early') {
        socket.write(head + text.slice(0, 20))
        setTimeout(() => socket.destroy(), i % 7)
      } else if (kind === 'slow') {
        socket.write(head)
        const half = Math.floor(text.length / 2)
        socket.write(text.slice(0, half))
        setTimeout(() => socket.write(text.slice(half)), 5 + (i % 20))
      } else socket.write(head + text)
    })
    socket.on('data', (chunk) => {
      answer += chunk
      if (kind === 'abort') socket.destroy()
      else if (kind === 'slow') {
        socket.pause()
        setTimeout(() => socket.resume(), 1 + (i % 5))
      }
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      const status = /^HTTP\/1.1 (\d+)/.exec(answer)?.[1] ?? 'closed'
      const streamed = kind === 'stream' || kind === 'slow'
      // A stream that had begun tells of a failure in its last event.
      if (status === '200' && /^data: \{"error":/m.test(answer)) resolve('told')
      else if (streamed && status === '200' && !answer.includes('data: [DONE]')) resolve('cut')
      else resolve(status)
    })
  })

const ALLOWED = new Set([
  ...['whole 200', 'stream 200', 'text 200', 'slow 200', 'abort 200'],
  ...['malformed 400', 'early closed', 'oversized 413', 'long 400', 'budget 400'],
])

/** After SIGTERM a request may be refused, and a connection too; an answer that began has its end. */
const LEAVING = /^(?:\w+ (?:closed|503)|\w+ 429)$/

const gauge = async (port: number, name: string): Promise<number> => {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
  return Number(new RegExp(`^${name}\\{[^}]*\\} (\\S+)`, 'm').exec(text)?.[1] ?? Number.NaN)
}

const hold = async (port: number, count: number): Promise<Socket[]> => {
  const held: Socket[] = []
  for (let i = 0; i < count; i++) {
    const socket = createConnection(port, '127.0.0.1')
    socket.on('error', () => {})
    held.push(socket)
    if (i % 100 === 99) await new Promise((done) => setTimeout(done, 20))
  }
  return held
}

type Load = { readonly counts: ReadonlyMap<string, number>; readonly memory: readonly number[] }

/** `going`: asked before each request. */
const runLoad = async (
  { port, child }: Started,
  requests: number,
  going: () => boolean = () => true,
): Promise<Load> => {
  const counts = new Map<string, number>()
  const memory: number[] = []
  let next = 0
  const worker = async () => {
    while (next < requests && going()) {
      const i = next++
      const kind = KINDS[i % KINDS.length] ?? 'whole'
      const key = `${kind} ${await once(port, kind, i)}`
      counts.set(key, (counts.get(key) ?? 0) + 1)
      const lives = child.exitCode === null
      if (lives && i % Math.ceil(requests / 20) === 0) memory.push(rss(child.pid ?? 0))
    }
  }
  await Promise.all(Array.from({ length: PARALLEL }, worker))
  return { counts, memory }
}

const oddOf = ({ counts }: Load, allowed: (key: string) => boolean) =>
  [...counts].filter(([key]) => !allowed(key))

const expectIdle = async (port: number): Promise<void> => {
  const names = [
    'nemotron:kv_blocks_used',
    'vllm:num_requests_running',
    'vllm:num_requests_waiting',
  ]
  for (const name of names) {
    for (let i = 0; i < 100 && (await gauge(port, name)) > 0; i++)
      await new Promise((done) => setTimeout(done, 50))
    assert.equal(await gauge(port, name), 0, name)
  }
}

/** Bytes per million requests, by the line through the second half of the moments. */
const growth = (memory: readonly number[], requests: number): number => {
  const late = memory.slice(Math.floor(memory.length / 2))
  const mean = late.reduce((sum, mb) => sum + mb, 0) / late.length
  const middle = (late.length - 1) / 2
  const [over, under] = late.reduce(
    ([up, down], mb, i) => [up + (i - middle) * (mb - mean), down + (i - middle) ** 2],
    [0, 0],
  )
  const perMoment = (over / under) * 2 ** 20
  return (perMoment / Math.ceil(requests / 20)) * 1e6
}

type Chaos = {
  readonly requests: number
  readonly held: number
  /** What is said about it. */
  readonly say: (text: string) => void
}

/** Resident MB at twenty moments, after all else was proved. */
export const runChaos = async ({ requests, held, say }: Chaos): Promise<readonly number[]> => {
  const server = await start({ args: ['--log-level', 'error'] })
  try {
    const sockets = await hold(server.port, held)
    const load = await runLoad(server, requests)
    for (const socket of sockets) socket.destroy()
    assert.deepEqual(
      oddOf(load, (key) => ALLOWED.has(key)),
      [],
      JSON.stringify([...load.counts]),
    )
    await expectIdle(server.port)

    let going = true
    const last = runLoad(server, requests, () => going)
    await new Promise((done) => setTimeout(done, 500))
    const exited = onceOf(server.child, 'exit')
    server.child.kill('SIGTERM')
    setTimeout(() => {
      going = false
    }, 1000)
    const ended = await last
    const odd = oddOf(ended, (key) => ALLOWED.has(key) || LEAVING.test(key))
    assert.deepEqual(odd, [], JSON.stringify([...ended.counts]))
    assert.deepEqual(await exited, [0, null])

    const { memory } = load
    say(`${requests} requests, RSS in MB: ${memory.map((mb) => mb.toFixed(0)).join(' ')}`)
    say(`second half: ${growth(memory, requests).toExponential(1)} bytes per million requests`)
    return memory
  } finally {
    server.child.kill('SIGKILL')
  }
}

const FAULTY = packagePath('build/Release/libfaulty_backend.so')

/** For `test`: why no device can be broken here, or false. */
export const noFaults: string | false = existsSync(FAULTY)
  ? false
  : 'the C++ tests are not built: npm test builds them'

/** A device that broke answers nothing any more: requests that were under way are told, later ones too. */
const BROKEN = /^(?:(?:whole|text|stream|slow|abort) (?:500|503|told)|budget 50\d|long 50\d)$/

type Fault = {
  /** As NEMOTRON_FAULT of test/faults/faulty_backend.cc: RANK CALL KIND. */
  readonly fault: string
  readonly ranks?: number
  readonly requests: number
  readonly say: (text: string) => void
}

export const runFault = async ({ fault, ranks = 1, requests, say }: Fault): Promise<void> => {
  const server = await start({
    args: ['--log-level', 'fatal', '--device', 'cuda', '--tensor-parallel-size', String(ranks)],
    env: { NEMOTRON_CUDA_LIBRARY: FAULTY, NEMOTRON_FAULT: fault },
  })
  try {
    const load = await runLoad(server, requests)
    const { counts } = load
    const shown = JSON.stringify([...counts])
    assert.deepEqual(
      oddOf(load, (key) => ALLOWED.has(key) || BROKEN.test(key)),
      [],
      shown,
    )
    const sum = (pattern: RegExp) =>
      [...counts].reduce((all, [key, count]) => all + (pattern.test(key) ? count : 0), 0)
    const [before, after] = [sum(/ 200$/), sum(/ (?:50\d|told)$/)]
    say(`fault ${fault}: ${before} answered before it, ${after} told of it`)
    assert.ok(before > 0 && after > 0, shown)
    await expectIdle(server.port)
    const health = await fetch(`http://127.0.0.1:${server.port}/health`)
    assert.equal(health.status, 503)
    assert.match(
      await health.text(),
      /"phase":"failed".*(?:a fault was injected|did nothing for 8 s)/,
    )
    const exited = onceOf(server.child, 'exit')
    server.child.kill('SIGTERM')
    assert.deepEqual(await exited, [0, null])
  } finally {
    server.child.kill('SIGKILL')
  }
}
