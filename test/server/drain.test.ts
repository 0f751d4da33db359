// A server that goes: what was let in is finished, in whatever stage of its work it is, and what is left is told so.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { HttpBindings } from '@hono/node-server'
import { pino } from 'pino'
import type { Phase } from '../../server/api/admission.js'
import { CONNECTED_MS, drainServer } from '../../server/api/drain.js'
import { listen } from '../../server/http/listen.js'
import { createByteTokenizer } from './byte-tokenizer.js'
import { chatBody, type HarnessOptions, readAnswer, startHarness, until } from './harness.js'
import { noAddon, startReal } from './real-server.js'

const CHAT = '/v1/chat/completions'
const DRAFT = 'the draft'

/** A server that can be told to go. */
const startLeaving = async (options: HarnessOptions) => {
  let phase: Phase = { name: 'ready' }
  const harness = await startHarness({ ...options, phase: () => phase })
  const setPhase = (next: Phase) => {
    phase = next
  }
  const { server, listening } = harness
  return {
    ...harness,
    /** Seconds; milliseconds. */
    drain: (timeout: number, connected = CONNECTED_MS) =>
      drainServer(server, { listening, setPhase, delay: 0, timeout, connected }),
    untilDraining: () => until(() => phase.name === 'draining', 'it drains'),
  }
}

const REFINE = {
  ...{ model: 'tiny-reasoner', messages: [{ role: 'user', content: 'Hi' }] },
  ...{ feedback: { model: 'tiny-reasoner', n: 1 }, edit: { model: 'tiny-reasoner' } },
  select: { model: 'tiny-reward' },
}

describe('a server that goes', () => {
  test('waits for a request that is between two stages', async () => {
    let waiting = 0
    let open = () => {}
    const opened = new Promise<void>((done) => {
      open = done
    })
    const tokenizer = createByteTokenizer()
    const encodeParts: typeof tokenizer.encodeParts = async (parts) => {
      if (parts.some((part) => typeof part === 'string' && part.includes(DRAFT))) {
        waiting++
        await opened
      }
      return tokenizer.encodeParts(parts)
    }
    const one = await startLeaving({
      answer: () => ({ pieces: [DRAFT] }),
      reward: { score: () => [1] },
      tokenizer: { ...tokenizer, encodeParts },
    })
    const best = chatBody({ best_of: 2, reward: { model: 'tiny-reward' }, max_tokens: 20 })
    const answers = [one.post(CHAT, best), one.post('/v1/refine', REFINE)]
    // Both candidates, and the draft.
    await until(() => waiting === 3, 'both are between two stages')
    for (const { pace } of one.server.models()) assert.equal(pace.inFlight(), 0)
    const drained = one.drain(60)
    await one.untilDraining()
    await sleep(100)
    open()
    for (const answer of answers) {
      const response = await answer
      assert.equal(response.status, 200, await response.text())
    }
    await drained
    await one.close()
  })

  test('waits for a body that is still coming, and lets in nobody else', async () => {
    const one = await startLeaving({ answer: () => ({ pieces: ['ok'] }) })
    const text = JSON.stringify(chatBody())
    const send = (extra = '') => {
      const socket = createConnection(one.port, '127.0.0.1')
      const head = `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${text.length}\r\n\r\n`
      socket.write(head + extra)
      return socket
    }
    const answerOf = async (socket: Socket): Promise<string> => {
      let answer = ''
      for await (const chunk of socket) answer += chunk
      return answer
    }
    const socket = send(text.slice(0, 20))
    await until(() => one.server.live.size === 1, 'it has begun')
    // Connected, and without a request before the socket is closed.
    const late = createConnection(one.port, '127.0.0.1')
    await once(late, 'connect')
    const drained = one.drain(60)
    await one.untilDraining()
    late.write(`GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n`)
    assert.match(await answerOf(late), /^HTTP\/1.1 503 [\s\S]*"phase":"draining"/)
    await sleep(100)
    socket.write(text.slice(20))
    assert.match(await answerOf(socket), /^HTTP\/1.1 200 [\s\S]*"content":"ok"/)
    await drained
    await one.close()
  })

  test('takes work of who was connected, unless it is of this process alone', async () => {
    for (const [connected, status] of [
      [CONNECTED_MS, 200],
      [0, 503],
    ] as const) {
      const one = await startLeaving({ answer: () => ({ pieces: ['ok'] }) })
      const socket = createConnection(one.port, '127.0.0.1')
      await once(socket, 'connect')
      const drained = one.drain(60, connected)
      await sleep(50)
      const text = JSON.stringify(chatBody())
      socket.write(
        `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${text.length}\r\n\r\n${text}`,
      )
      let answer = ''
      for await (const chunk of socket) answer += chunk
      assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `))
      await drained
      await one.close()
    }
  })

  test('tells what is left at its timeout, whatever it is', async () => {
    const one = await startLeaving({
      answer: () => ({ pieces: ['x'], delaySteps: 1e9 }),
      reward: { score: () => [1] },
    })
    const asked = [one.post(CHAT, chatBody()), one.post('/v1/refine', REFINE)]
    await until(() => one.engine.requests.length === 2, 'both run')
    await one.drain(0.1)
    for (const answer of asked) {
      const response = await answer
      assert.equal(response.status, 503)
      assert.equal((await readAnswer(response)).error.code, 'draining')
    }
    await one.close()
  })

  test('does not wait for a model that stands still', async () => {
    const one = await startLeaving({
      answer: () => ({ pieces: ['x'], delaySteps: 1e9 }),
      reward: { score: () => [1] },
    })
    const asked = [one.post(CHAT, chatBody()), one.post('/v1/refine', REFINE)]
    await until(() => one.engine.requests.length === 2, 'both run')
    one.engine.override.lastStepAge = 100
    const began = performance.now()
    await one.drain(120).catch(() => {})
    assert.ok(performance.now() - began < 60_000)
    await Promise.all(asked)
    await one.close()
  })
})

/** What comes on a socket until its end. */
const bytesOf = async (socket: Socket): Promise<number> => {
  let bytes = 0
  for await (const chunk of socket) bytes += chunk.length
  return bytes
}

test('a socket that is closed leaves whole what is on its way, and ends what is only kept', async () => {
  const BYTES = 30_000_000
  let isTold = () => false
  const listening = await listen({
    fetch: (request, env) => {
      const { outgoing } = env as HttpBindings
      if (request.url.endsWith('/short')) return new Response('short')
      isTold = () => outgoing.writableEnded
      return new Response(new Uint8Array(BYTES))
    },
    log: pino({ level: 'silent' }),
    host: '127.0.0.1',
    port: 0,
    writeIdle: 30_000,
    bodyTime: 30_000,
  })
  const ask = (path: string, connection: 'keep-alive' | 'close') => {
    const socket = createConnection(listening.port, '127.0.0.1')
    socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: ${connection}\r\n\r\n`)
    return socket
  }
  const kept = ask('/short', 'keep-alive')
  await once(kept, 'data')
  const slow = ask('/long', 'close')
  await until(() => isTold(), 'the long answer is told')
  const stopped = listening.stop()
  await bytesOf(kept)
  assert.ok((await bytesOf(slow)) > BYTES)
  await stopped
})

describe('with a model', { skip: noAddon }, () => {
  test('uploads and downloads have the drain timeout', async () => {
    const BYTES = 40_000_000
    const dataDir = mkdtempSync(join(tmpdir(), 'nemotron-drain-'))
    const server = await startReal({ data_dir: dataDir, drain_timeout: 120, max_model_len: 1024 })
    const port = Number(new URL(server.url).port)
    const form = new FormData()
    form.set('purpose', 'batch')
    form.set('file', new Blob(['x'.repeat(BYTES)]), 'in.jsonl')
    const made = await fetch(`${server.url}/v1/files`, { method: 'POST', body: form })
    const { id } = await readAnswer(made)

    const download = createConnection(port, '127.0.0.1')
    download.write(`GET /v1/files/${id}/content HTTP/1.1\r\nhost: localhost\r\n\r\n`)
    await once(download, 'readable')
    const upload = createConnection(port, '127.0.0.1')
    const part = (name: string, text: string) =>
      `--b\r\ncontent-disposition: form-data; name="${name}"\r\n\r\n${text}\r\n`
    const file = 'content-disposition: form-data; name="file"; filename="a.jsonl"'
    const body = `${part('purpose', 'batch')}--b\r\n${file}\r\n\r\n${'y'.repeat(1000)}\r\n--b--\r\n`
    const head = `POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: ${body.length}\r\n\r\n`
    upload.write(head + body.slice(0, 300))
    const kept = createConnection(port, '127.0.0.1')
    kept.write('GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n')
    await once(kept, 'data')

    const closed = server.close()
    await bytesOf(kept)
    // Longer than a server stays that has nothing to wait for.
    await sleep(5000)
    upload.write(body.slice(300))
    let answer = ''
    for await (const chunk of upload) {
      answer += chunk
      if (answer.includes('"bytes":1000')) upload.end()
    }
    assert.match(answer, /^HTTP\/1.1 200 /)
    assert.ok((await bytesOf(download)) > BYTES)
    await closed
  })
})
