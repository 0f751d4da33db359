// What a streamed token costs the server: CPU time of a process that serves a scripted engine, beside
// a bare node:http server with the same central step loop and JSON.stringify. Both are warmed up until
// the compiler has little left to do (it runs in the same process, and is no part of a token), then
// they take turns.

import { type ChildProcess, fork } from 'node:child_process'
import { createServer } from 'node:http'
import { type AddressInfo, createConnection } from 'node:net'
import { fileURLToPath } from 'node:url'
import type { Delta } from '../server/engine/types.js'
import { startHarness } from '../test/server/harness.js'
import { createScriptedEngine } from '../test/server/scripted-engine.js'
import { median } from './stats.js'

const STREAMS = 32
const TOKENS = 1000
const STEP_MS = 4
const ROUNDS = 3
const WARM_UPS = 3
const PIECE = ' word'
const SCRIPT = {
  answer: () => ({ pieces: Array<string>(TOKENS).fill(PIECE) }),
  stepMs: STEP_MS,
  info: { maxModelLen: 1 << 20 },
}

type Message = { readonly port: number } | { readonly cpu: number }

const bodyOf = (tokens: number): string =>
  JSON.stringify({
    model: 'tiny-reasoner',
    stream: true,
    max_tokens: tokens * PIECE.length,
    messages: [{ role: 'user', content: 'Hi' }],
  })

const serveOurs = async (): Promise<number> => {
  const harness = await startHarness(SCRIPT)
  return harness.port
}

/** The least a server can do with the same engine: an object, JSON.stringify, a write. */
const serveBare = (): Promise<number> => {
  const engine = createScriptedEngine(SCRIPT)
  const created = Math.floor(Date.now() / 1000)
  const server = createServer((request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const onDelta = ({ text, finish }: Delta) => {
      const chunk = {
        id: 'chatcmpl-0123456789abcdef0123456789abcdef',
        object: 'chat.completion.chunk',
        created,
        model: 'tiny-reasoner',
        system_fingerprint: 'fp_test',
        choices: [{ index: 0, delta: { content: text }, logprobs: null, finish_reason: null }],
      }
      response.write(`data: ${JSON.stringify(chunk)}\n\n`)
      if (finish) response.end('data: [DONE]\n\n')
    }
    let text = ''
    request.on('data', (chunk) => {
      text += chunk
    })
    request.on('end', () => {
      const { max_tokens: maxTokens } = JSON.parse(text)
      engine.submit({ promptTokenIds: [1], sampling: { maxTokens } }, onDelta)
    })
  })
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port))
  })
}

const child = async (kind: string): Promise<void> => {
  const port = kind === 'ours' ? await serveOurs() : await serveBare()
  let start = process.cpuUsage()
  process.on('message', (what) => {
    if (what === 'start') start = process.cpuUsage()
    else if (what === 'read') {
      const { user, system } = process.cpuUsage(start)
      process.send?.({ cpu: user + system })
    } else process.exit(0)
  })
  process.send?.({ port })
}

const receive = (from: ChildProcess): Promise<Message> =>
  new Promise((resolve) => from.once('message', resolve as (message: unknown) => void))

/** Reads a stream to its end and throws it away. */
const drainStream = (port: number, tokens: number): Promise<void> =>
  new Promise((resolve, reject) => {
    const body = bodyOf(tokens)
    const socket = createConnection(port, '127.0.0.1', () =>
      socket.write(
        `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
      ),
    )
    socket.on('data', () => {})
    socket.on('error', reject)
    socket.on('close', () => resolve())
  })

type Served = { readonly process: ChildProcess; readonly port: number; readonly costs: number[] }

const serve = async (kind: string): Promise<Served> => {
  const server = fork(fileURLToPath(import.meta.url), [kind], { execArgv: process.execArgv })
  const first = await receive(server)
  return { process: server, port: 'port' in first ? first.port : 0, costs: [] }
}

const load = ({ port }: Served): Promise<unknown> =>
  Promise.all(Array.from({ length: STREAMS }, () => drainStream(port, TOKENS)))

const measure = async (server: Served): Promise<void> => {
  server.process.send('start')
  await load(server)
  server.process.send('read')
  const last = await receive(server.process)
  server.costs.push(('cpu' in last ? last.cpu : Number.NaN) / (STREAMS * TOKENS))
}

export const runStreamCost = async (): Promise<void> => {
  const [bare, ours] = [await serve('bare'), await serve('ours')]
  for (let i = 0; i < WARM_UPS; i++) await Promise.all([load(bare), load(ours)])
  for (let round = 0; round < ROUNDS; round++) {
    await measure(bare)
    await measure(ours)
  }
  for (const { process } of [bare, ours]) process.send('exit')
  const show = ({ costs }: Served): string =>
    `${median(costs).toFixed(1)} us (rounds ${costs.map((cost) => cost.toFixed(1)).join(', ')})`
  process.stdout.write(
    `${STREAMS} streams, server CPU per token: ours ${show(ours)}, bare node:http ${show(bare)}, ` +
      `ratio ${(median(ours.costs) / median(bare.costs)).toFixed(2)}\n`,
  )
}

if (process.argv[2] === 'ours' || process.argv[2] === 'bare') await child(process.argv[2])
else if (process.argv[1] === fileURLToPath(import.meta.url)) await runStreamCost()
