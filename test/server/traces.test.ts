import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { tracesProblem, wantsTraces } from '../../server/metrics/traces.js'
import { readSettings } from '../../server/settings/read.js'
import { packagePath } from '../../server/version.js'
import { chatBody, readEvents, until } from './harness.js'
import { type ReceivedSpan, startReceiver } from './otlp-receiver.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

type Receiver = Awaited<ReturnType<typeof startReceiver>>

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const PARENT = 'b7ad6b7169203331'
const SECRET = 'a sentence that no trace may have'

describe('traces of a server', { skip: noAddon }, () => {
  let receiver: Receiver
  let server: RealServer
  /** By the id that its request was given. */
  let byRequest: (id: string) => ReceivedSpan
  let below: (span: ReceivedSpan) => readonly ReceivedSpan[]
  before(async () => {
    receiver = await startReceiver()
    server = await startReal({
      kv_cache_memory: '64MiB',
      otlp_traces_endpoint: `${receiver.url}/v1/traces`,
    })
    const askWith = (headers: Record<string, string>, path: string, body: object) =>
      fetch(`${server.url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(body),
      })
    const ask = (id: string, path: string, body: object, traceparent?: string) =>
      askWith({ 'x-request-id': id, ...(traceparent && { traceparent }) }, path, body)
    const messages = [{ role: 'user', content: SECRET }]
    const short = { max_tokens: 8, ignore_eos: true, temperature: 0.5, top_p: 0.9, stop: [SECRET] }
    const streamed = chatBody({ ...short, messages, stream: true })
    await readEvents(
      await ask('stream', '/v1/chat/completions', streamed, `00-${TRACE}-${PARENT}-01`),
    )
    const unsampled = `00-${TRACE}-${PARENT}-00`
    await (await ask('unsampled', '/v1/chat/completions', chatBody(short), unsampled)).text()
    await (
      await ask('wrong', '/v1/chat/completions', { messages: SECRET }, 'no traceparent')
    ).text()
    const text = { model: 'tiny-reasoner', prompt: SECRET, max_tokens: 4, ignore_eos: true, n: 2 }
    await (await ask('text', '/v1/completions', text)).text()
    const reward = { model: 'tiny-reward', messages, responses: ['one', SECRET] }
    assert.equal((await ask('reward', '/v1/reward', reward)).status, 200)
    const best = { messages, ignore_eos: true, best_of: 2, reward: { model: 'tiny-reward' } }
    const { status } = await ask('best', '/v1/chat/completions', chatBody({ ...short, ...best }))
    assert.equal(status, 200)
    // The head of such a stream is out at once, and nothing of the answer before its end.
    const late = { 'x-request-id': 'late', 'x-request-timeout': '0.1' }
    const long = chatBody({ ...best, max_tokens: 3000, stream: true })
    await (await askWith(late, '/v1/chat/completions', long)).text()
    const model = 'tiny-reasoner'
    const refined = await ask('refine', '/v1/refine', {
      ...{ messages, responses: ['one', SECRET], select: { model: 'tiny-reward' }, max_tokens: 8 },
      ...{ feedback: { model, n: 2, temperature: 0.5 }, edit: { model } },
    })
    assert.equal(refined.status, 200)
    await (await fetch(`${server.url}/health`)).text()
    await (await ask('nowhere', `/v1/${SECRET.replaceAll(' ', '-')}`, {})).text()
    const leaving = new AbortController()
    const left = await fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-request-id': 'left' },
      body: JSON.stringify(chatBody({ stream: true, max_tokens: 4000, ignore_eos: true })),
      signal: leaving.signal,
    })
    await left.body?.getReader().read()
    leaving.abort()
    await server.close()
    byRequest = (id) => {
      const found = receiver.spans.find(
        ({ attributes }) => attributes['nemotron.request_id'] === id,
      )
      assert.ok(found, id)
      return found
    }
    below = (span) => receiver.spans.filter(({ parent }) => parent === span.id)
  })
  after(() => receiver?.close())

  test('a request is a span of the trace that its client began', () => {
    const span = byRequest('stream')
    assert.equal(span.name, 'POST /v1/chat/completions')
    assert.equal(span.kind, 2)
    assert.equal(span.trace, TRACE)
    assert.equal(span.parent, PARENT)
    assert.equal(span.attributes['http.response.status_code'], 200)
    assert.equal(span.attributes['error.type'], undefined)
    assert.equal(span.resource['service.name'], 'nemotron-server')
    assert.ok(Math.abs(span.end - Date.now()) < 60_000, String(span.end))
  })

  test('below it is the work of the engine, by the names for generative AI', () => {
    const request = byRequest('stream')
    const [work, ...more] = below(request)
    assert.ok(work && more.length === 0)
    assert.equal(work.name, 'chat tiny-reasoner')
    assert.equal(work.trace, TRACE)
    const { attributes } = work
    const input = attributes['gen_ai.usage.input_tokens']
    const first = attributes['gen_ai.response.time_to_first_chunk']
    assert.ok(typeof input === 'number' && input > 8)
    assert.ok(typeof first === 'number' && first > 0 && first * 1000 <= request.end - request.start)
    assert.deepEqual(
      { ...attributes, 'gen_ai.usage.input_tokens': 0, 'gen_ai.response.time_to_first_chunk': 0 },
      {
        'gen_ai.operation.name': 'chat',
        'gen_ai.provider.name': 'nemotron-server',
        'gen_ai.request.model': 'tiny-reasoner',
        'gen_ai.response.model': 'tiny-reasoner',
        'gen_ai.request.max_tokens': 8,
        'gen_ai.request.temperature': 0.5,
        'gen_ai.request.top_p': 0.9,
        'gen_ai.request.stream': true,
        'gen_ai.usage.input_tokens': 0,
        'gen_ai.usage.output_tokens': 8,
        'gen_ai.usage.cache_read.input_tokens': 0,
        'gen_ai.response.finish_reasons': ['length'],
        'gen_ai.response.time_to_first_chunk': 0,
      },
    )
  })

  test('queue, prefill and decode follow each other within it', () => {
    const request = byRequest('stream')
    const [work] = below(request)
    assert.ok(work)
    const stages = [...below(work)].sort((a, b) => a.start - b.start || a.end - b.end)
    assert.deepEqual(
      stages.map(({ name }) => name),
      ['queue', 'prefill', 'decode'],
    )
    const [queue, prefill, decode] = stages
    assert.ok(queue && prefill && decode)
    // Nanoseconds since 1970 are rounded on their way here.
    const near = (a: number, b: number) => assert.ok(Math.abs(a - b) < 0.01, `${a} ${b}`)
    near(queue.start, work.start)
    near(queue.end, prefill.start)
    near(prefill.end, decode.start)
    assert.ok(decode.end > decode.start && prefill.end > prefill.start)
    assert.ok(decode.end <= work.end + 0.01, `${decode.end} ${work.end}`)
    assert.ok(request.start <= work.start && work.end <= request.end + 0.01)
  })

  test('what a client does not want sampled is not sent', () => {
    const ids = receiver.spans.map(({ attributes }) => attributes['nemotron.request_id'])
    assert.ok(!ids.includes('unsampled'))
    assert.equal(receiver.spans.filter(({ trace }) => trace === TRACE).length, 5)
  })

  test('a request that is refused says why; a traceparent that is none begins a new trace', () => {
    const span = byRequest('wrong')
    assert.match(span.trace, /^[0-9a-f]{32}$/)
    assert.notEqual(span.trace, TRACE)
    assert.equal(span.parent, '')
    assert.equal(span.attributes['http.response.status_code'], 400)
    assert.equal(span.attributes['error.type'], 'invalid_request_error')
    assert.equal(span.status, 0, 'the fault of a client is none of the server')
    assert.deepEqual(below(span), [])
  })

  test('completions and rewards have their own words', () => {
    const [text] = below(byRequest('text'))
    assert.equal(text?.name, 'text_completion tiny-reasoner')
    assert.equal(text?.attributes['gen_ai.request.choice.count'], 2)
    assert.deepEqual(text?.attributes['gen_ai.response.finish_reasons'], ['length', 'length'])
    const [reward] = below(byRequest('reward'))
    assert.ok(reward)
    assert.equal(reward.name, 'score tiny-reward')
    assert.equal(reward.attributes['gen_ai.usage.output_tokens'], 0)
    assert.equal(below(reward).length, 3)
  })

  const namesBelow = (id: string): readonly string[] =>
    below(byRequest(id))
      .map(({ name }) => name)
      .sort()

  test('what an answer takes of several engines is below it, each time that one was asked', () => {
    assert.deepEqual(namesBelow('best'), ['chat tiny-reasoner', 'score tiny-reward'])
    // A call for the feedbacks of each draft, and one for each of the four edits.
    const calls = Array(6).fill('chat tiny-reasoner')
    assert.deepEqual(namesBelow('refine'), [...calls, 'score tiny-reward'])
    const works = below(byRequest('refine'))
    const choices = works.map(({ attributes }) => attributes['gen_ai.request.choice.count'])
    assert.deepEqual(choices.filter((one) => one === 2).length, 2)
    const feedback = works[choices.indexOf(2)]
    assert.ok(feedback)
    const { attributes } = feedback
    assert.equal(attributes['gen_ai.request.temperature'], 0.5)
    assert.equal(attributes['gen_ai.request.max_tokens'], 8)
    assert.equal((attributes['gen_ai.response.finish_reasons'] as string[]).length, 2)
    assert.ok(Number(attributes['gen_ai.usage.output_tokens']) > 2)
    for (const work of works) assert.equal(below(work).length, 3, work.name)
  })

  test('an answer that broke after its head is an error', () => {
    const { attributes, status } = byRequest('late')
    assert.equal(attributes['http.response.status_code'], 200)
    assert.equal(attributes['error.type'], 'request_timeout')
    assert.equal(status, 2)
    assert.equal(byRequest('best').status, 0)
  })

  test('a client that left in the middle', () => {
    const span = byRequest('left')
    assert.equal(span.attributes['error.type'], 'client_closed_request')
    const [work] = below(span)
    assert.deepEqual(work?.attributes['gen_ai.response.finish_reasons'], ['abort'])
  })

  test('probes are not traced, and no span has content', () => {
    assert.ok(receiver.spans.every(({ name }) => !name.includes('/health')))
    const unknown = byRequest('nowhere')
    assert.equal(unknown.name, 'POST', 'a path that nobody serves is no name')
    for (const body of receiver.bodies) assert.ok(!body.includes(SECRET))
  })
})

describe('whether traces are sent', () => {
  const wants = (endpoint: string | undefined, env: Record<string, string>) =>
    wantsTraces({ endpoint, env })

  test('only where a collector is named', () => {
    assert.equal(wants(undefined, {}), false)
    assert.equal(wants(undefined, { OTEL_EXPORTER_OTLP_ENDPOINT: '' }), false)
    assert.equal(wants('http://x/v1/traces', {}), true)
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://x:4318' }
    assert.equal(wants(undefined, env), true)
    assert.equal(wants(undefined, { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://x' }), true)
    assert.equal(wants(undefined, { ...env, OTEL_TRACES_EXPORTER: 'none' }), false)
    assert.equal(wants(undefined, { ...env, OTEL_SDK_DISABLED: 'true' }), false)
  })

  const problemOf = (env: Record<string, string>) => tracesProblem({ env }) ?? ''

  test('variables that cannot be followed are named', () => {
    assert.equal(problemOf({ OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf' }), '')
    assert.equal(problemOf({ OTEL_EXPORTER_OTLP_ENDPOINT: 'https://x:4318/base' }), '')
    assert.match(
      problemOf({ OTEL_EXPORTER_OTLP_ENDPOINT: 'collector:4318' }),
      /OTEL_EXPORTER_OTLP_ENDPOINT is 'collector:4318', which is no URL/,
    )
    assert.match(problemOf({ OTEL_TRACES_EXPORTER: 'zipkin' }), /'zipkin': it can be otlp or none/)
    assert.throws(
      () => readSettings({ otlp_traces_endpoint: 'collector' }, {}),
      /--otlp-traces-endpoint.*is a URL such as/,
    )
  })

  const serve = (env: Record<string, string>, ...flags: string[]) => {
    const args = [packagePath('dist/server/cli.js'), 'serve', '--port', '0', ...flags]
    return [process.execPath, args, { env: { ...process.env, ...env } }] as const
  }

  test('a server that cannot follow them does not start', () => {
    const env = {
      OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1',
      OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc',
    }
    const { status, stderr } = spawnSync(...serve(env))
    assert.equal(status, 1)
    assert.match(String(stderr), /OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc': .*http\/protobuf.*4318/)
  })

  test('the standard variables alone turn them on', { skip: noAddon }, async () => {
    const receiver = await startReceiver()
    const env = {
      OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url,
      OTEL_EXPORTER_OTLP_HEADERS: 'x-team=ours',
      OTEL_SERVICE_NAME: 'our-llm',
      OTEL_BSP_SCHEDULE_DELAY: '100',
      NEMOTRON_THREADS: '1',
    }
    const child = spawn(...serve(env))
    try {
      let said = ''
      child.stderr.on('data', (data) => {
        said += data
      })
      child.stdout.resume()
      await until(
        () => /http:\/\/127\.0\.0\.1:\d+/.test(said) || child.exitCode !== null,
        'its URL',
      )
      const [url] = /http:\/\/127\.0\.0\.1:\d+/.exec(said) ?? [said]
      await (await fetch(`${url}/version`)).text()
      await until(() => receiver.spans.length > 0, 'a span')
      const [span] = receiver.spans
      assert.equal(span?.name, 'GET /version')
      assert.equal(span?.resource['service.name'], 'our-llm')
      assert.equal(receiver.posts[0]?.path, '/v1/traces')
      assert.equal(receiver.posts[0]?.headers['x-team'], 'ours')
    } finally {
      child.kill('SIGTERM')
      if (child.exitCode === null) await once(child, 'exit')
      await receiver.close()
    }
  })

  test('a collector that is away costs one warning, no request, and little of the end', {
    skip: noAddon,
  }, async () => {
    // A port that nobody listens on.
    const free = createServer().listen(0, '127.0.0.1')
    await once(free, 'listening')
    const address = free.address()
    assert.ok(address !== null && typeof address === 'object')
    free.close()
    const child = spawn(
      ...serve(
        { OTEL_BSP_SCHEDULE_DELAY: '50', NEMOTRON_THREADS: '1' },
        '--otlp-traces-endpoint',
        `http://127.0.0.1:${address.port}/v1/traces`,
      ),
    )
    let said = ''
    let logged = ''
    child.stderr.on('data', (data) => {
      said += data
    })
    child.stdout.on('data', (data) => {
      logged += data
    })
    await until(() => /http:\/\/127\.0\.0\.1:\d+/.test(said) || child.exitCode !== null, 'its URL')
    const [url] = /http:\/\/127\.0\.0\.1:\d+/.exec(said) ?? [said]
    for (let i = 0; i < 5; i++) assert.equal((await fetch(`${url}/version`)).status, 200)
    const began = performance.now()
    child.kill('SIGTERM')
    const [code] = await once(child, 'exit')
    assert.equal(code, 0)
    assert.ok(performance.now() - began < 15_000)
    const warnings = logged.split('\n').filter((line) => line.includes('"traces: '))
    assert.ok(warnings.length <= 1, logged)
    assert.match(logged, /"trace_id":"[0-9a-f]{32}"/)
  })
})
