// Thousands of requests, a third of them aborted, malformed or slow, beside connections that are only
// held open: every one is answered or cleanly closed, memory stays flat, every KV block comes back.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { after, test } from 'node:test'
import { packagePath } from '../../server/version.js'
import { chatCheckpoint } from './chat-checkpoint.js'

const HELD = 1000
const REQUESTS = Number(process.env.NEMOTRON_SOAK_REQUESTS ?? 10_000)
const PARALLEL = 64

const skip = existsSync(packagePath('build/Release/nemotron.node'))
  ? false
  : 'the addon is not built: npm run build:addon'

let child: ChildProcess | undefined
after(() => child?.kill('SIGKILL'))

const start = async (): Promise<number> => {
  child = spawn(
    process.execPath,
    [
      '--import',
      'tsx',
      packagePath('server/cli.ts'),
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
      '--log-level',
      'warn',
    ],
    { stdio: ['ignore', 'inherit', 'pipe'] },
  )
  let text = ''
  child.stderr?.on('data', (chunk) => {
    text += chunk
  })
  for (let i = 0; i < 1200; i++) {
    const port = /^at http:\/\/[^:]+:(\d+)/m.exec(text)?.[1]
    if (port !== undefined) return Number(port)
    await new Promise((done) => setTimeout(done, 50))
  }
  throw new Error(`it did not start: ${text}`)
}

const rss = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024

type Kind = 'whole' | 'stream' | 'text' | 'abort' | 'early' | 'malformed' | 'slow' | 'stall'
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
]

const body = (kind: Kind, i: number): string => {
  if (kind === 'malformed')
    return ['{"model":', '[]', '{"model":"m","messages":5}', 'ÿ'][i % 4] ?? ''
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
    const path = kind === 'text' ? '/v1/completions' : '/v1/chat/completions'
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
      if (streamed && status === '200' && !answer.includes('data: [DONE]')) resolve('cut')
      else resolve(status)
    })
  })

test('a soak', { skip, timeout: 1_800_000 }, async () => {
  const port = await start()
  const pid = child?.pid ?? 0
  const held: Socket[] = []
  for (let i = 0; i < HELD; i++) {
    const socket = createConnection(port, '127.0.0.1')
    socket.on('error', () => {})
    held.push(socket)
    if (i % 100 === 99) await new Promise((done) => setTimeout(done, 20))
  }
  const counts = new Map<string, number>()
  const memory: number[] = []
  let next = 0
  const worker = async () => {
    while (next < REQUESTS) {
      const i = next++
      const kind = KINDS[i % KINDS.length] ?? 'whole'
      const key = `${kind} ${await once(port, kind, i)}`
      counts.set(key, (counts.get(key) ?? 0) + 1)
      if (i % Math.ceil(REQUESTS / 20) === 0) memory.push(rss(pid))
    }
  }
  await Promise.all(Array.from({ length: PARALLEL }, worker))
  for (const socket of held) socket.destroy()

  const allowed = new Set([
    'whole 200',
    'stream 200',
    'text 200',
    'slow 200',
    'abort 200',
    'malformed 400',
    'early closed',
  ])
  const odd = [...counts].filter(([key]) => !allowed.has(key))
  assert.deepEqual(odd, [], JSON.stringify([...counts]))

  const gauge = async (name: string): Promise<number> => {
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
    return Number(new RegExp(`^${name}\\{[^}]*\\} (\\S+)`, 'm').exec(text)?.[1] ?? Number.NaN)
  }
  for (let i = 0; i < 100 && (await gauge('nemotron:kv_blocks_used')) > 0; i++)
    await new Promise((done) => setTimeout(done, 50))
  assert.equal(await gauge('nemotron:kv_blocks_used'), 0)
  assert.equal(await gauge('vllm:num_requests_running'), 0)
  assert.equal(await gauge('vllm:num_requests_waiting'), 0)

  // Flat after a first stretch in which V8 takes what it likes.
  const middle = memory.slice(memory.length / 2)
  const early = Math.max(...memory.slice(memory.length / 4, memory.length / 2))
  const late = Math.min(...middle)
  process.stdout.write(
    `${REQUESTS} requests, RSS in MB: ${memory.map((mb) => mb.toFixed(0)).join(' ')}\n`,
  )
  assert.ok(late < early * 1.15 + 10, `grew from ${early.toFixed(0)} to ${late.toFixed(0)} MB`)
  child?.kill('SIGTERM')
})
