// /v1/files and /v1/batches over HTTP, as OpenAI's own client calls them.

import assert from 'node:assert/strict'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { describe, it, type TestContext } from 'node:test'
import Database from 'libsql'
import OpenAI, { toFile } from 'openai'
import { openBatches } from '../../server/batch/batches.js'
import { openLedger } from '../../server/batch/ledger.js'
import { workSignal } from '../../server/http/client.js'
import { type Harness, type HarnessOptions, readAnswer, startHarness, until } from './harness.js'
import { longestTurns } from './turns.js'

const newFolder = (): string => mkdtempSync(join(tmpdir(), 'nemotron-data-'))

const CHAT = '/v1/chat/completions'
const line = (id: string, body: object = {}, more: object = {}): string =>
  JSON.stringify({
    custom_id: id,
    method: 'POST',
    url: CHAT,
    body: {
      model: 'tiny-reasoner',
      messages: [{ role: 'user', content: id }],
      max_tokens: 4,
      ...body,
    },
    ...more,
  })

const clientOf = ({ url }: Pick<Harness, 'url'>, apiKey = 'none'): OpenAI =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 })

const withServer = async (
  options: HarnessOptions,
  use: (client: OpenAI, server: Harness) => Promise<void>,
): Promise<void> => {
  const server = await startHarness({ dataDir: newFolder(), ...options })
  try {
    await use(clientOf(server), server)
  } finally {
    await server.close()
  }
}

const upload = async (client: OpenAI, lines: readonly string[]) =>
  client.files.create({
    file: await toFile(Buffer.from(lines.join('\n')), 'in.jsonl'),
    purpose: 'batch',
  })

const start = async (client: OpenAI, lines: readonly string[], endpoint = CHAT) => {
  const { id } = await upload(client, lines)
  return client.batches.create({
    input_file_id: id,
    // The client's type has OpenAI's own endpoints alone.
    endpoint: endpoint as '/v1/chat/completions',
    completion_window: '24h',
  })
}

const ENDED = ['completed', 'failed', 'expired', 'cancelled']
const ended = async (client: OpenAI, id: string) => {
  for (let i = 0; i < 1200; i++) {
    const batch = await client.batches.retrieve(id)
    if (ENDED.includes(batch.status)) return batch
    await new Promise((done) => setTimeout(done, 25))
  }
  throw new Error('the batch never ended')
}

type OutputLine = {
  readonly custom_id: string | null
  readonly response: {
    readonly status_code: number
    readonly weight_version?: string
    readonly body: Record<string, unknown>
  } | null
  readonly error: { readonly code: string; readonly message: string } | null
}
const linesOf = async (
  client: OpenAI,
  id: string | undefined | null,
): Promise<readonly OutputLine[]> => {
  if (!id) return []
  const text = await (await client.files.content(id)).text()
  return text
    .split('\n')
    .filter((one) => one !== '')
    .map((one) => JSON.parse(one))
}
const names = (lines: readonly OutputLine[]) => lines.map((one) => one.custom_id)

describe('files', () => {
  it('are kept, listed, read and removed', () =>
    withServer({}, async (client) => {
      const one = await upload(client, [line('a')])
      const two = await client.files.create({
        file: await toFile(Buffer.from('x'), 'second.jsonl'),
        purpose: 'batch',
        expires_after: { anchor: 'created_at', seconds: 3600 },
      })
      assert.equal(one.bytes, Buffer.byteLength(line('a')))
      assert.equal(one.filename, 'in.jsonl')
      assert.equal(two.expires_at, two.created_at + 3600)
      assert.deepEqual(await client.files.retrieve(one.id), one)
      const listed = []
      for await (const file of client.files.list({ limit: 1 })) listed.push(file.id)
      assert.deepEqual(listed, [two.id, one.id])
      assert.equal(await (await client.files.content(one.id)).text(), line('a'))
      assert.deepEqual(await client.files.delete(one.id), {
        id: one.id,
        object: 'file',
        deleted: true,
      })
      await assert.rejects(client.files.retrieve(one.id), { status: 404 })
    }))

  it('are read in ranges, so that a download goes on where it broke off', () =>
    withServer({}, async (client, { url }) => {
      const { id } = await upload(client, ['0123456789'])
      const read = async (range: string, method = 'GET') => {
        const path = `${url}/v1/files/${id}/content`
        const answer = await fetch(path, { method, headers: { range } })
        return [answer.status, answer.headers.get('content-range'), await answer.text()]
      }
      assert.deepEqual(await read('bytes=2-4'), [206, 'bytes 2-4/10', '234'])
      assert.deepEqual(await read('bytes=7-'), [206, 'bytes 7-9/10', '789'])
      assert.deepEqual(await read('bytes=-3'), [206, 'bytes 7-9/10', '789'])
      assert.deepEqual(await read('bytes=-30'), [206, 'bytes 0-9/10', '0123456789'])
      assert.deepEqual(await read('bytes=8-30'), [206, 'bytes 8-9/10', '89'])
      assert.deepEqual(await read('bytes=2-4', 'HEAD'), [206, 'bytes 2-4/10', ''])
      for (const range of ['bytes=10-', 'bytes=-0'])
        assert.deepEqual(await read(range), [416, 'bytes */10', ''], range)
      for (const range of ['bytes=4-2', 'bytes=-', 'bytes=1-2,4-5', 'lines=1-2', 'bytes=a-'])
        assert.deepEqual(await read(range), [200, null, '0123456789'], range)
    }))

  it('of another purpose, too large, or without a file are refused by name', () =>
    withServer({ config: { bodyLimit: 2048 } }, async (client, { url }) => {
      const file = await toFile(Buffer.from('x'), 'a.txt')
      await assert.rejects(client.files.create({ file, purpose: 'fine-tune' }), {
        status: 400,
        param: 'purpose',
      })
      const large = await toFile(Buffer.alloc((1 << 20) + 1, 32), 'large.jsonl')
      await assert.rejects(client.files.create({ file: large, purpose: 'batch' }), { status: 413 })
      const form = new FormData()
      form.set('purpose', 'batch')
      const answer = await fetch(`${url}/v1/files`, { method: 'POST', body: form })
      assert.equal(answer.status, 400)
      assert.equal((await readAnswer(answer)).error.param, 'file')
      const json = await fetch(`${url}/v1/files`, { method: 'POST', body: '{}' })
      assert.equal(json.status, 415)
      assert.deepEqual((await client.files.list()).data, [])
    }))

  it('belong to the key that sent them', () =>
    withServer({ config: { apiKeys: ['first', 'second'] } }, async (_, server) => {
      const { id } = await upload(clientOf(server, 'first'), [line('a')])
      await assert.rejects(clientOf(server, 'second').files.retrieve(id), { status: 404 })
      assert.deepEqual((await clientOf(server, 'second').files.list()).data, [])
    }))
})

describe('keys', () => {
  it('that come, are joined and leave keep what is theirs', async () => {
    const dataDir = newFolder()
    const known: string[] = []
    const seen = async (client: OpenAI) => {
      const { data } = await client.files.list()
      return data.filter(({ purpose }) => purpose === 'batch').map(({ id }) => known.indexOf(id))
    }
    const run = (apiKeys: readonly string[], use: (server: Harness) => Promise<void>) =>
      withServer({ dataDir, config: { apiKeys } }, (_, server) => use(server))
    const make = async (client: OpenAI) => {
      const { id, input_file_id } = await start(client, [line('a')])
      known.push(input_file_id)
      return ended(client, id)
    }
    await run([], async (server) => {
      await make(clientOf(server))
    })
    await run(['first'], async (server) => {
      const client = clientOf(server, 'first')
      assert.deepEqual(await seen(client), [0])
      assert.equal((await client.batches.list()).data.length, 1)
      await make(client)
      assert.equal(server.engine.requests[0]?.cacheSalt, undefined)
    })
    await run(['first', 'second'], async (server) => {
      assert.deepEqual(await seen(clientOf(server, 'first')), [1, 0])
      const second = clientOf(server, 'second')
      assert.deepEqual(await seen(second), [])
      await make(second)
      assert.match(server.engine.requests[0]?.cacheSalt ?? '', /./)
    })
    await run(['first'], async (server) => {
      const client = clientOf(server, 'first')
      assert.deepEqual(await seen(client), [1, 0])
      assert.equal((await client.batches.list()).data.length, 2)
    })
    await run([], async (server) => assert.deepEqual(await seen(clientOf(server)), []))
  })
})

describe('batches', () => {
  it('write one line for each, whatever ends a line elsewhere', () =>
    withServer({ answer: () => ({ pieces: ['a\u2028b\u2029c\u0085d'] }) }, async (client) => {
      const batch = await start(client, [line('x\u2028y', { max_tokens: 50 })])
      const { output_file_id: id } = await ended(client, batch.id)
      assert.ok(id)
      const text = await (await client.files.content(id)).text()
      assert.doesNotMatch(text, /[\u0085\u2028\u2029]/)
      const { custom_id, response } = JSON.parse(text)
      assert.equal(custom_id, 'x\u2028y')
      assert.equal(response.body.choices[0].message.content, 'a\u2028b\u2029c\u0085d')
    }))

  it('answer every line as its route does', () =>
    withServer({}, async (client, server) => {
      const ids = Array.from({ length: 40 }, (_, i) => `line-${i}`)
      const batch = await start(
        client,
        ids.map((id) => line(id)),
      )
      assert.equal(batch.object, 'batch')
      const done = await ended(client, batch.id)
      assert.equal(done.status, 'completed')
      assert.deepEqual(done.request_counts, { total: 40, completed: 40, failed: 0 })
      assert.equal(done.error_file_id, null)
      const lines = await linesOf(client, done.output_file_id)
      assert.deepEqual(names(lines), ids)
      const direct = await readAnswer(
        await server.post(CHAT, {
          model: 'tiny-reasoner',
          messages: [{ role: 'user', content: 'line-0' }],
          max_tokens: 4,
        }),
      )
      const { id: _i, created: _c, ...first } = lines[0]?.response?.body ?? {}
      const { id: _j, created: _d, ...same } = direct
      assert.deepEqual(first, same)
      const metrics = await (await fetch(`${server.url}/metrics`)).text()
      assert.match(metrics, /nemotron:batch_lines_total\{outcome="completed"\} 40/)
      assert.match(metrics, /nemotron:batches\{status="completed"\} 1/)
      // Times are of those who wait; tokens and ends are of all.
      const sum = (name: string) =>
        [...metrics.matchAll(new RegExp(`^vllm:${name}\\{.*\\} (\\d+)$`, 'gm'))].reduce(
          (all, [, value]) => all + Number(value),
          0,
        )
      assert.equal(sum('request_success_total'), 41)
      assert.equal(sum('request_prompt_tokens_count'), 41)
      for (const name of ['time_to_first_token', 'e2e_request_latency', 'request_queue_time'])
        assert.equal(sum(`${name}_seconds_count`), 1, name)
      assert.equal(
        sum('inter_token_latency_seconds_count'),
        sum('generation_tokens_total') / 41 - 1,
      )
    }))

  it('ask what a line says, to the digit', () =>
    withServer({}, async (client, server) => {
      const parameters = '{"type":"object","properties":{"x":{"maximum": 1.0, "minimum":-1e400}}}'
      const body = `{"model":"tiny-reasoner","messages":[{"role":"user","content":"a"}],"max_tokens":4,"tools":[{"type":"function","function":{"name":"f","parameters":${parameters}}}]}`
      const asked = `\ufeff{"custom_id":"a","method":"POST","url":"${CHAT}","body":${body}}\r\n`
      const done = await ended(client, (await start(client, [asked])).id)
      assert.equal(done.request_counts?.completed, 1)
      assert.equal((await server.post(CHAT, body)).status, 200)
      const [first, second] = server.engine.requests
      assert.deepEqual(first?.promptTokenIds, second?.promptTokenIds)
    }))

  it('have lines for completions, responses, messages, rewards and decisions', () =>
    withServer({ reward: { score: () => [1.5] }, config: { reloadFrom: '/' } }, async (client) => {
      const messages = [{ role: 'user', content: 'a' }]
      const bodies = {
        '/v1/completions': { model: 'tiny-reasoner', prompt: 'a', max_tokens: 2 },
        '/v1/responses': { model: 'tiny-reasoner', input: 'a', max_output_tokens: 16 },
        '/v1/messages': { model: 'tiny-reasoner', messages, max_tokens: 2 },
        '/v1/decisions': {
          model: 'tiny-reasoner',
          input: 'a',
          questions: [{ type: 'predicate', name: 'b', instructions: 'It is a letter.' }],
        },
        '/v1/reward': { model: 'tiny-reward', messages, responses: ['b', 'c'] },
      }
      for (const [url, body] of Object.entries(bodies)) {
        const one = JSON.stringify({ custom_id: 'x', method: 'POST', url, body })
        const done = await ended(client, (await start(client, [one], url)).id)
        const [answer] = await linesOf(client, done.output_file_id ?? done.error_file_id)
        assert.equal(answer?.response?.status_code, 200, `${url}: ${JSON.stringify(answer)}`)
        // A line has no headers.
        assert.equal(answer?.response?.weight_version, 'default', url)
      }
    }))

  it('tell of each broken line what is wrong, and run the rest', () =>
    withServer({}, async (client) => {
      const lines = [
        line('good'),
        '{"custom_id": "cut", "met',
        '[1]',
        line('', {}),
        line('get', {}, { method: 'GET' }),
        line('elsewhere', {}, { url: '/v1/completions' }),
        line('good', { temperature: 0.5 }),
        '',
        line('streams', { stream: true }),
        line('field', { temperature: 'hot' }),
        line('model', { model: 'nobody' }),
        JSON.stringify({ custom_id: 'bare', method: 'POST', url: CHAT }),
        line('last'),
      ]
      const done = await ended(client, (await start(client, lines)).id)
      assert.equal(done.status, 'completed')
      assert.deepEqual(done.request_counts, { total: 12, completed: 2, failed: 10 })
      assert.deepEqual(names(await linesOf(client, done.output_file_id)), ['good', 'last'])
      const failed = await linesOf(client, done.error_file_id)
      assert.deepEqual(
        failed.map(({ custom_id, error, response }) => [
          custom_id,
          error?.code ?? response?.status_code,
        ]),
        [
          [null, 'invalid_json_line'],
          [null, 'invalid_request'],
          [null, 'invalid_request'],
          ['get', 'invalid_request'],
          ['elsewhere', 'mismatched_url'],
          ['good', 'duplicate_custom_id'],
          ['streams', 'unsupported_value'],
          ['field', 400],
          ['model', 404],
          ['bare', 'invalid_request'],
        ],
      )
      assert.match(String(failed[5]?.error?.message), /Line 7 .* of line 1/)
    }))

  it('tell of a line that is too deep or has too many parts, and run the rest', () =>
    withServer({}, async (client) => {
      const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
      const lines = [
        line('good'),
        `{"custom_id":"a","method":${deep},"url":"${CHAT}","body":{}}`,
        `{"custom_id":"b","method":"POST","url":"${CHAT}","body":{"messages":${deep}}}`,
        `{"custom_id":"c","method":"POST","url":"${CHAT}","body":{"stop":[${'"",'.repeat(70_000)}1]}}`,
        line('last'),
      ]
      const done = await ended(client, (await start(client, lines)).id)
      assert.deepEqual(done.request_counts, { total: 5, completed: 2, failed: 3 })
      const failed = await linesOf(client, done.error_file_id)
      for (const { error } of failed) assert.equal(error?.code, 'invalid_json_line')
      assert.match(failed[0]?.error?.message ?? '', /^Line 2: .*deeper than 64/)
      assert.match(failed[2]?.error?.message ?? '', /^Line 4: .*more than 65536/)
    }))

  it('of nothing, of no such file or endpoint are refused', () =>
    withServer({}, async (client) => {
      const { id } = await upload(client, ['', ' '])
      const common = { input_file_id: id, completion_window: '24h' } as const
      const batch = await client.batches.create({ ...common, endpoint: CHAT })
      const done = await ended(client, batch.id)
      assert.equal(done.status, 'failed')
      assert.equal(done.errors?.data?.[0]?.code, 'empty_file')
      const refused = (body: object, param: string) =>
        assert.rejects(
          client.batches.create({ ...common, endpoint: CHAT, ...body } as Parameters<
            typeof client.batches.create
          >[0]),
          { param },
        )
      await refused({ endpoint: '/v1/embeddings' }, 'endpoint')
      await refused({ input_file_id: 'file-none' }, 'input_file_id')
      await refused({ completion_window: 'soon' }, 'completion_window')
      await refused({ completion_window: '9000d' }, 'completion_window')
      await refused({ metadata: { a: 1 } }, 'metadata.a')
    }))

  it('can be cancelled: what was answered is kept', () =>
    withServer({ stepMs: 20, maxNumSeqs: 4 }, async (client, server) => {
      const ids = Array.from({ length: 200 }, (_, i) => `c${i}`)
      const { id } = await start(
        client,
        ids.map((one) => line(one)),
      )
      for (;;) {
        const { request_counts } = await client.batches.retrieve(id)
        if ((request_counts?.completed ?? 0) > 0) break
        await new Promise((done) => setTimeout(done, 20))
      }
      const cancelling = await client.batches.cancel(id)
      assert.match(cancelling.status, /cancelling|finalizing|cancelled/)
      const done = await ended(client, id)
      assert.equal(done.status, 'cancelled')
      const kept = await linesOf(client, done.output_file_id)
      const others = await linesOf(client, done.error_file_id)
      assert.equal(kept.length, done.request_counts?.completed)
      assert.ok(kept.length > 0 && kept.length < 200)
      assert.deepEqual(
        new Set(others.map(({ error }) => error?.code)),
        new Set(['batch_cancelled']),
      )
      assert.deepEqual(new Set([...names(kept), ...names(others)]), new Set(ids))
      assert.equal(server.model.pace.inFlight(), 0)
    }))

  it('that are cancelled, expire or are stopped end the lines that run', () =>
    withServer(
      { stepMs: 20, maxNumSeqs: 2, answer: () => ({ pieces: Array(900).fill('a') }) },
      async (client, { engine, model, server }) => {
        const lines = Array.from({ length: 8 }, (_, i) => line(`e${i}`, { max_tokens: 900 }))
        const { id: input_file_id } = await upload(client, lines)
        for (const [window, outcome] of [
          ['24h', 'cancelled'],
          ['5s', 'expired'],
        ] as const) {
          const { id } = await client.batches.create({
            input_file_id,
            endpoint: CHAT,
            completion_window: window as '24h',
          })
          await until(() => engine.stats().running === 2, 'lines are asked')
          if (outcome === 'cancelled') await client.batches.cancel(id)
          const since = performance.now()
          const done = await ended(client, id)
          await until(() => engine.stats().running === 0, 'the engine is free')
          // Each answer takes 18 s.
          assert.ok(performance.now() - since < 12_000)
          assert.equal(done.status, outcome)
          assert.deepEqual(done.request_counts, { total: 8, completed: 0, failed: 0 })
          const told = await linesOf(client, done.error_file_id)
          assert.deepEqual(
            new Set(told.map(({ error }) => error?.code)),
            new Set([`batch_${outcome}`]),
          )
          assert.equal(model.pace.inFlight(), 0)
        }
        assert.ok(engine.stats().aborted >= 4)
        await start(client, lines)
        await until(() => engine.stats().running === 2, 'lines are asked')
        const since = performance.now()
        await server.batches?.stop()
        await until(() => engine.stats().running === 0, 'the engine is free')
        assert.ok(performance.now() - since < 9000)
      },
    ))

  it('have requests that begin no work when they were left while they were read', () => {
    const outgoing = new ServerResponse(new IncomingMessage(new Socket()))
    const signal = workSignal(outgoing, 0)
    assert.equal(signal.aborted, false)
    outgoing.destroy()
    assert.equal(workSignal(outgoing, 0).aborted, true)
    outgoing.emit('close')
    assert.equal(signal.aborted, true)
  })

  it('keep nobody waiting while many short lines are read and asked', () =>
    withServer({ fileLimit: 1 << 24 }, async (client) => {
      const file = await upload(
        client,
        Array.from({ length: 8000 }, (_, i) => line(`r${i}`)),
      )
      const run = async () => {
        const { id } = await client.batches.create({
          input_file_id: file.id,
          endpoint: CHAT,
          completion_window: '24h',
        })
        const answered = async () => (await client.batches.retrieve(id)).request_counts?.completed
        while (((await answered()) ?? 0) < 300);
        await client.batches.cancel(id)
        await ended(client, id)
      }
      const held = await longestTurns(50, run)
      assert.ok((held.at(-1) ?? 50) < 50, `${held} ms`)
    }))

  it('expire at the end of their window', () =>
    withServer({ stepMs: 50, maxNumSeqs: 2 }, async (client) => {
      const { id } = await upload(
        client,
        Array.from({ length: 300 }, (_, i) => line(`e${i}`)),
      )
      const batch = await client.batches.create({
        input_file_id: id,
        endpoint: CHAT,
        completion_window: '1s' as '24h',
      })
      const done = await ended(client, batch.id)
      assert.equal(done.status, 'expired')
      const failed = await linesOf(client, done.error_file_id)
      assert.ok(failed.some(({ error }) => error?.code === 'batch_expired'))
      const kept = await linesOf(client, done.output_file_id)
      assert.equal(kept.length + failed.length, 300)
    }))

  it('keep outputs as long as was asked, from when these are made', () =>
    withServer({ stepMs: 20, maxNumSeqs: 1 }, async (client) => {
      const { id: input_file_id } = await upload(
        client,
        Array.from({ length: 30 }, (_, i) => line(`k${i}`)),
      )
      const { id } = await client.batches.create({
        input_file_id,
        endpoint: CHAT,
        completion_window: '24h',
        output_expires_after: { anchor: 'created_at', seconds: 3600 },
      })
      const done = await ended(client, id)
      const { created_at, expires_at } = await client.files.retrieve(done.output_file_id ?? '')
      assert.ok(created_at > done.created_at)
      assert.equal(expires_at, created_at + 3600)
    }))

  it('go on after a stop, and ask no line again that was answered', async () => {
    const dataDir = newFolder()
    const options = { dataDir, stepMs: 10, maxNumSeqs: 4 }
    const ids = Array.from({ length: 60 }, (_, i) => `r${i}`)
    let server = await startHarness(options)
    const { id } = await start(
      clientOf(server),
      ids.map((one) => line(one)),
    )
    let begun = 0
    while (begun === 0) {
      await new Promise((done) => setTimeout(done, 20))
      begun = (await clientOf(server).batches.retrieve(id)).request_counts?.completed ?? 0
    }
    await server.close()
    server = await startHarness(options)
    const answered = (await clientOf(server).batches.retrieve(id)).request_counts?.completed ?? 0
    assert.ok(answered >= begun && answered < 60)
    const done = await ended(clientOf(server), id)
    assert.deepEqual(done.request_counts, { total: 60, completed: 60, failed: 0 })
    assert.deepEqual(names(await linesOf(clientOf(server), done.output_file_id)), ids)
    const metrics = await (await fetch(`${server.url}/metrics`)).text()
    assert.match(metrics, new RegExp(`outcome="completed"} ${60 - answered}\\n`))
    await server.close()
  })

  it('leave the places to those who ask over HTTP, and give way to them', () =>
    withServer({ stepMs: 10, maxNumSeqs: 4, maxWaiting: 0 }, async (client, server) => {
      const { id } = await start(
        client,
        Array.from({ length: 40 }, (_, i) => line(`q${i}`)),
      )
      // Those that run, and as many behind them.
      for (let i = 0; server.engine.requests.length < 8; i++) {
        assert.ok(i < 500)
        await new Promise((done) => setTimeout(done, 10))
      }
      assert.equal(server.engine.requests.length, 8)
      assert.equal(server.engine.stats().waiting, 0)
      const chat = { model: 'tiny-reasoner', messages: [{ role: 'user', content: 'a' }] }
      const answers = await Promise.all(
        Array.from({ length: 4 }, () => server.post(CHAT, { ...chat, max_tokens: 3 })),
      )
      for (const { status } of answers) assert.equal(status, 200)
      assert.equal((await client.batches.retrieve(id)).status, 'in_progress')
      const { completed, failed } = (await ended(client, id)).request_counts ?? {}
      assert.deepEqual([completed, failed], [40, 0])
      const asked = server.engine.requests.map(({ background }) => background === true)
      assert.deepEqual([asked.filter(Boolean).length, asked.length], [40, 44])
    }))

  it('do not wait for --request-timeout', () =>
    withServer({ stepMs: 5, config: { requestTimeout: 0.05 } }, async (client) => {
      const { id } = await start(client, [line('long')])
      const { completed } = (await ended(client, id)).request_counts ?? {}
      assert.equal(completed, 1)
    }))
})

const OK = { status: 200, text: '{}', requestId: 'r' }

/** Files and batches without a server. */
const opened = async (t: TestContext, bodyLimit = 1 << 20) => {
  const said: string[] = []
  const log = { warn: () => {}, error: (_: object, text: string) => said.push(text) }
  const folder = newFolder()
  const batches = await openBatches({ folder, fileLimit: 1 << 24, bodyLimit, log })
  let closed: Promise<void> | undefined
  const close = () => {
    closed ??= batches.close()
    return closed
  }
  t.after(close)
  const add = async (
    lines: readonly string[],
    { owner = '', seconds = 600, endpoint = CHAT, isFolder = false } = {},
  ) => {
    const file = batches.newFileId()
    const bytes = await batches.receive(file, Readable.from([lines.join('\n')]))
    const rest = { created: 0, filename: 'f', purpose: 'batch', expires: null } as const
    batches.addFile({ id: file, owner, bytes, ...rest })
    if (isFolder) {
      rmSync(batches.pathOf(file))
      mkdirSync(batches.pathOf(file))
    }
    const given = { owner, endpoint, input: file, window: '24h', seconds }
    const { id } = batches.addBatch({ ...given, metadata: null, keep: null })
    return { id, row: () => batches.batch(owner, id) }
  }
  return { batches, said, add, folder, close }
}

describe('the work on batches', () => {
  it('rests for one of which a line could not be asked, as the log says, and goes on for others', async (t) => {
    const { batches, said, add } = await opened(t)
    const asked: number[] = []
    batches.begin({
      atOnce: 1,
      ask: async () => {
        asked.push(performance.now())
        if (asked.length === 1) throw new Error('no')
        return OK
      },
    })
    const bad = await add([line('a'), line('b')])
    await until(() => asked.length === 1, 'a line is asked')
    const good = await add([line('c')])
    await until(() => good.row().status === 'completed', 'the end of the other')
    assert.deepEqual([bad.row().completed, asked.length], [0, 2])
    await until(() => bad.row().status === 'completed', 'an end')
    const { completed, failed } = bad.row()
    assert.deepEqual([completed, failed, asked.length], [2, 0, 4])
    assert.deepEqual(said, ['a batch waits: asking a line failed'])
    assert.ok((asked[2] ?? 0) - (asked[0] ?? 0) > 4500)
  })

  it('tries one whose input cannot be read until its window ends, and goes on for others', async (t) => {
    const { batches, said, add } = await opened(t)
    batches.begin({ atOnce: 1, ask: async () => OK })
    const bad = await add([line('a')], { seconds: 5, isFolder: true })
    await until(() => said.length > 0, 'the log says so')
    const good = await add([line('b')])
    await until(() => good.row().status === 'completed', 'the end of the other')
    assert.equal(bad.row().status, 'validating')
    await until(() => bad.row().status === 'expired', 'the end of its window')
    assert.deepEqual(said, ['a batch waits: reading its input failed'])
  })

  it('has few large lines in memory at once', async (t) => {
    const { batches, add } = await opened(t, 4096)
    let running = 0
    let most = 0
    batches.begin({
      atOnce: 32,
      ask: async () => {
        most = Math.max(most, ++running)
        await new Promise((done) => setTimeout(done, 20))
        running--
        return OK
      },
    })
    const run = async (content: string) => {
      most = 0
      const messages = [{ role: 'user', content }]
      const { row } = await add(Array.from({ length: 60 }, (_, i) => line(`m${i}`, { messages })))
      await until(() => row().status === 'completed', 'an end')
      assert.equal(row().completed, 60)
      return most
    }
    // Eight times 4096 bytes, and one.
    const large = await run('x'.repeat(3000))
    assert.ok(large >= 8 && large <= 11, `${large} at once`)
    assert.equal(await run('x'), 32)
  })

  it('is done for owners in turn, and of each for the batch that ends first', async (t) => {
    const { batches, add } = await opened(t)
    const asked: string[] = []
    let isReady = false
    batches.begin({
      atOnce: 1,
      ask: async (_, body) => {
        asked.push(JSON.parse(body).messages[0].content)
        await until(() => isReady, 'all are read')
        return OK
      },
    })
    const named = (name: string, count: number) =>
      Array.from({ length: count }, (_, i) => line(`${name}${i}`))
    const all = [await add(named('a', 4), { owner: 'first' })]
    await until(() => asked.length === 1, 'a line is asked')
    all.push(await add(named('soon', 2), { owner: 'first', seconds: 60 }))
    all.push(await add(named('b', 3), { owner: 'second' }))
    await until(() => all.every(({ row }) => row().status === 'in_progress'), 'all are read')
    isReady = true
    await until(() => all.every(({ row }) => row().status === 'completed'), 'their ends')
    assert.deepEqual(asked, ['a0', 'b0', 'soon0', 'b1', 'soon1', 'b2', 'a1', 'a2', 'a3'])
  })

  it('may wait for a hundred batches of each owner', async (t) => {
    const { add } = await opened(t)
    for (let i = 0; i < 100; i++) await add([line('a')], { owner: 'first' })
    await assert.rejects(add([line('a')], { owner: 'first' }), { code: 'too_many_batches' })
    await add([line('a')], { owner: 'second' })
  })
})

describe('the data folder', () => {
  it('is needed, and the error says how to give it', async () => {
    const server = await startHarness()
    const answer = await fetch(`${server.url}/v1/batches`)
    assert.equal(answer.status, 404)
    assert.match((await readAnswer(answer)).error.message, /--data-dir/)
    await server.close()
  })

  const open = (folder: string) =>
    openBatches({
      folder,
      fileLimit: 1 << 20,
      bodyLimit: 1 << 20,
      log: { warn: () => {}, error: () => {} },
    })

  it('is one server’s alone', async () => {
    const folder = newFolder()
    const first = await open(folder)
    await assert.rejects(open(folder), /another server has this --data-dir/)
    await first.close()
    await (await open(folder)).close()
  })

  it('of another version or of something else is refused, and left as it is', async () => {
    const folder = newFolder()
    await (await open(folder)).close()
    const path = join(folder, 'batches.sqlite')
    const db = new Database(path)
    db.exec('PRAGMA user_version = 7')
    db.close()
    await assert.rejects(open(folder), /has version 7 and this server knows 1/)
    const other = newFolder()
    writeFileSync(join(other, 'batches.sqlite'), 'no database, but long enough to be taken for one')
    await assert.rejects(open(other), /is no ledger/)
  })

  it('that is damaged, or no place to write, is refused by its name', async () => {
    const folder = newFolder()
    await (await open(folder)).close()
    const path = join(folder, 'batches.sqlite')
    const bytes = readFileSync(path)
    writeFileSync(path, bytes.fill(0xab, 100, 3000))
    await assert.rejects(open(folder), /batches\.sqlite is damaged: put a copy/)
    await assert.rejects(open(path), /batches\.sqlite cannot be written \(EEXIST\): a file has/)
    const other = newFolder()
    mkdirSync(join(other, 'batches.sqlite'))
    await assert.rejects(open(other), /batches\.sqlite cannot be opened: check what it is/)
  })

  it('whose inputs somebody takes away or changes ends those batches alone', async () => {
    const folder = newFolder()
    const options = { dataDir: folder, stepMs: 20, maxNumSeqs: 2 }
    const lines = Array.from({ length: 60 }, (_, i) => line(`l${i}`))
    await withServer(options, async (client, server) => {
      const gone = await start(client, lines)
      const changed = await start(client, lines)
      for (const { id } of [gone, changed])
        await until(
          async () => (await client.batches.retrieve(id)).status === 'in_progress',
          'it is read',
        )
      await until(() => server.engine.requests.length > 0, 'lines are asked')
      rmSync(join(folder, 'files', gone.input_file_id))
      writeFileSync(join(folder, 'files', changed.input_file_id), ' '.repeat(100_000))
      for (const { id } of [gone, changed]) {
        const done = await ended(client, id)
        assert.equal(done.status, 'completed')
        const failed = await linesOf(client, done.error_file_id)
        assert.deepEqual(
          new Set(failed.map(({ error }) => error?.code)),
          new Set(['input_file_lost']),
        )
        assert.equal((await linesOf(client, done.output_file_id)).length + failed.length, 60)
      }
    })
    const ledger = await open(folder)
    const file = ledger.newFileId()
    ledger.addFile({
      ...{ id: file, owner: '', bytes: 9, created: 0, filename: 'f', purpose: 'batch' },
      expires: null,
    })
    await ledger.close()
    await withServer(options, async (client) => {
      const { id } = await client.batches.create({
        input_file_id: file,
        endpoint: CHAT,
        completion_window: '24h',
      })
      const done = await ended(client, id)
      assert.deepEqual([done.status, done.errors?.data?.[0]?.code], ['failed', 'input_file_lost'])
      assert.equal((await ended(client, (await start(client, lines)).id)).status, 'completed')
    })
  })

  it('without an endpoint that a batch is for ends that batch with errors', async (t) => {
    const { add, folder, close } = await opened(t)
    const url = '/v1/gone'
    const { id } = await add([line('a', {}, { url }), line('b', {}, { url })], { endpoint: url })
    await close()
    await withServer({ dataDir: folder }, async (client) => {
      assert.equal((await ended(client, (await start(client, [line('c')])).id)).status, 'completed')
      const done = await ended(client, id)
      assert.deepEqual(done.request_counts, { total: 2, completed: 0, failed: 2 })
      const told = await linesOf(client, done.error_file_id)
      assert.deepEqual(
        told.map(({ response }) => response?.status_code),
        [404, 404],
      )
    })
  })

  it('is swept of the lines of batches that ended before a kill', async () => {
    const folder = newFolder()
    const path = join(folder, 'batches.sqlite')
    const server = await startHarness({ dataDir: folder })
    const client = clientOf(server)
    const { id } = await ended(client, (await start(client, [line('a')])).id)
    await server.close()
    const ledger = openLedger(path)
    const left = { customId: null, at: 0, size: 1, answer: '{}' }
    ledger.save(() => {
      for (let number = 1; number <= 1200; number++) ledger.addLine(id, { number, ...left })
    })
    assert.deepEqual(ledger.endedWithLines(), [{ id }])
    ledger.close()
    await withServer({ dataDir: folder }, async (other) => {
      assert.equal((await ended(other, (await start(other, [line('b')])).id)).status, 'completed')
    })
    const after = openLedger(path)
    assert.deepEqual(after.told(id, 0, 1), [])
    after.close()
  })

  it('is swept of files that were never finished', async () => {
    const folder = newFolder()
    await (await open(folder)).close()
    writeFileSync(join(folder, 'files', `file-${'0'.repeat(32)}.part`), 'half')
    writeFileSync(join(folder, 'files', 'notes.txt'), 'not ours')
    mkdirSync(join(folder, 'files', 'lost+found'))
    await (await open(folder)).close()
    assert.ok(existsSync(join(folder, 'files')))
    assert.deepEqual(readdirSync(join(folder, 'files')), ['lost+found', 'notes.txt'])
  })
})
