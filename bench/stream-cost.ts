// What a streamed token costs the server: CPU time of a process that serves an engine which steps by the
// clock, beside a bare node:http server with the same engine and JSON.stringify. Both are warmed up until
// the compiler has little left to do (it runs in the same process, and is no part of a token), then
// they take turns.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, createConnection } from 'node:net'
import type { Delta, Engine } from '../server/engine/types.js'
import { machineLine } from './machine.js'
import { benchModel } from './random-model.js'
import { serveHere } from './serve-here.js'
import { shapeNamed } from './shapes.js'
import { nodeFlags, runnable } from './source.js'
import { compare, median } from './stats.js'

const STEP_MS = 4
const WARM_UPS = 3

export type StreamCost = {
  readonly streams: number
  /** Of each stream. */
  readonly tokens: number
  readonly rounds: number
}

/** One central step loop for all sequences, as the real engine has; every step brings each one word. */
const createSubmit = (): Engine['submit'] => {
  type Sequence = { readonly onDelta: (delta: Delta) => void; left: number }
  const running = new Set<Sequence>()
  let stepping = false
  const step = (): void => {
    for (const sequence of running) {
      sequence.left--
      const done = sequence.left <= 0
      if (done) running.delete(sequence)
      const delta = { choice: 0, text: ' word', tokenIds: [600] }
      sequence.onDelta(done ? { ...delta, finish: 'length' } : delta)
    }
    stepping = running.size > 0
    if (stepping) setTimeout(step, STEP_MS)
  }
  return ({ sampling }, onDelta) => {
    const sequence = { onDelta, left: sampling?.maxTokens ?? 1 }
    running.add(sequence)
    if (!stepping) setTimeout(step, STEP_MS)
    stepping = true
    return { id: 1, abort: () => running.delete(sequence) }
  }
}

/** Our server over a loaded model whose engine idles: its requests go to the step loop above. */
const serveOurs = async (): Promise<number> => {
  const serving = await serveHere(benchModel(shapeNamed('tiny')), { kv_cache_memory: '16MiB' })
  for (const { engine } of await serving.ready) Object.assign(engine, { submit: createSubmit() })
  return Number(new URL(serving.url).port)
}

/** The least a server can do with the same engine: an object, JSON.stringify, a write. */
const serveBare = (): Promise<number> => {
  const submit = createSubmit()
  const created = Math.floor(Date.now() / 1000)
  const server = createServer((request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const onDelta = ({ text, finish }: Delta): void => {
      const chunk = {
        id: 'chatcmpl-0123456789abcdef0123456789abcdef',
        object: 'chat.completion.chunk',
        ...{ created, model: 'm', system_fingerprint: 'fp_test' },
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
      submit({ promptTokenIds: [1], sampling: { maxTokens } }, onDelta)
    })
  })
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port))
  })
}

type Message = { readonly port: number } | { readonly cpu: number }

const child = async (kind: string): Promise<void> => {
  const port = kind === 'ours' ? await serveOurs() : await serveBare()
  let start = process.cpuUsage()
  process.on('message', (what) => {
    if (what === 'exit') process.exit(0)
    const { user, system } = process.cpuUsage(start)
    if (what === 'start') start = process.cpuUsage()
    else process.send?.({ cpu: user + system })
  })
  process.send?.({ port })
}

const MESSAGES = [{ role: 'user', content: 'Hi' }]

/** Streams of each dialect: the path, and what it asks for so many tokens with. */
const DIALECTS = {
  chat: ['/v1/chat/completions', (max_tokens: number) => ({ messages: MESSAGES, max_tokens })],
  responses: ['/v1/responses', (max_output_tokens: number) => ({ input: 'Hi', max_output_tokens })],
  messages: ['/v1/messages', (max_tokens: number) => ({ messages: MESSAGES, max_tokens })],
} as const
type Dialect = keyof typeof DIALECTS

const GOAL = 1.3

/** Reads a stream to its end and throws it away. */
const drainStream = async (port: number, dialect: Dialect, tokens: number): Promise<void> => {
  const [path, asking] = DIALECTS[dialect]
  const body = JSON.stringify({ model: 'm', stream: true, ...asking(tokens) })
  const head = ['host: localhost', 'connection: close', 'content-type: application/json']
  const text = [...head, `content-length: ${body.length}`, '', body].join('\r\n')
  const socket = createConnection(port, '127.0.0.1')
  socket.write(`POST ${path} HTTP/1.1\r\n${text}`)
  let bytes = 0
  socket.on('data', (chunk) => {
    bytes += chunk.length
  })
  await once(socket, 'close')
  if (bytes < 50 * tokens)
    throw new Error(`a stream of ${tokens} tokens ended after ${bytes} bytes`)
}

type Served = { readonly process: ChildProcess; readonly port: number }

const receive = async (from: ChildProcess): Promise<number> => {
  const [message]: Message[] = await once(from, 'message')
  return message === undefined ? Number.NaN : 'port' in message ? message.port : message.cpu
}

const serve = async (kind: string): Promise<Served> => {
  const server = fork(runnable('bench/stream-cost.ts'), [kind], { execArgv: [...nodeFlags] })
  return { process: server, port: await receive(server) }
}

export const runStreamCost = async ({ streams, tokens, rounds }: StreamCost): Promise<void> => {
  const [bare, ours] = [await serve('bare'), await serve('ours')]
  const measured = [
    { server: bare, dialect: 'chat', costs: [] as number[] },
    ...(['chat', 'responses', 'messages'] as const).map((dialect) => ({
      ...{ server: ours, dialect, costs: [] as number[] },
    })),
  ] as const
  const load = ({ server, dialect }: (typeof measured)[number]): Promise<unknown> =>
    Promise.all(Array.from({ length: streams }, () => drainStream(server.port, dialect, tokens)))
  for (let i = 0; i < WARM_UPS; i++) for (const one of measured) await load(one)
  for (let round = 0; round < rounds; round++) {
    for (const one of measured) {
      one.server.process.send('start')
      await load(one)
      one.server.process.send('read')
      one.costs.push((await receive(one.server.process)) / (streams * tokens))
    }
  }
  for (const { process } of [bare, ours]) process.send('exit')
  const show = (costs: readonly number[]): string =>
    `${median(costs).toFixed(1)} us (rounds ${costs.map((cost) => cost.toFixed(1)).join(', ')})`
  const [least, chat, ...others] = measured.map(({ costs }) => costs)
  if (least === undefined || chat === undefined) return
  const lines = others.map((costs, i) => {
    const { ratio } = compare(costs, chat)
    return (
      `/v1/${Object.keys(DIALECTS)[i + 1]}: ${show(costs)}, ${ratio.toFixed(2)}x chat's, ` +
      `goal <= ${GOAL}x ${ratio <= GOAL ? 'met' : 'missed'}`
    )
  })
  const { ratio } = compare(chat, least)
  console.log(
    [
      machineLine(),
      `${streams} streams of ${tokens} tokens, server CPU per token: ours ${show(chat)}, ` +
        `bare node:http ${show(least)}, ratio ${ratio.toFixed(2)}`,
      ...lines,
    ].join('\n'),
  )
}

if (process.argv[2] === 'ours' || process.argv[2] === 'bare') await child(process.argv[2])
