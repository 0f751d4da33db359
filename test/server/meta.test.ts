import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import OpenAI from 'openai'
import { routes } from '../../server/app.js'
import { packagePath } from '../../server/version.js'
import { chatBody, type Harness, readAnswer, readEvents, startHarness, until } from './harness.js'

type Operation = { readonly summary: string }

describe('models, tokens, metrics, pages', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({ id: 'nvidia/tiny-reasoner' })
  })
  after(() => harness.close())
  const get = async (path: string) => readAnswer(await fetch(`${harness.url}${path}`))

  test('the document lists every route', () => {
    const text = readFileSync(packagePath('docs/http.md'), 'utf8')
    const listed = [
      ...(/\n## Routes\n([\s\S]*?)\n\n[A-Z]/.exec(text)?.[1] ?? '').matchAll(/`([^`]+)`/g),
    ]
      .map(([, word = '']) => word.replace(/^[A-Z]+ /, ''))
      .filter((word) => word.startsWith('/'))
    const served = routes(harness.server).map(({ path }) =>
      path.replace(/:(\w+)(?:\{.*\})?/, '{$1}'),
    )
    assert.deepEqual(
      [...new Set(listed)].sort(),
      [...new Set(served)].filter((path) => path !== '/').sort(),
    )
  })

  test('models, by id with a slash, encoded or not', async () => {
    const client = new OpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'x' })
    const list = await client.models.list()
    assert.deepEqual(
      list.data.map((model) => model.id),
      ['nvidia/tiny-reasoner'],
    )
    const one = await client.models.retrieve('nvidia/tiny-reasoner')
    assert.equal(one.object, 'model')
    const plain = await get('/v1/models/nvidia/tiny-reasoner')
    assert.equal(plain.max_model_len, 1024)
    assert.equal(plain.root, '/models/nvidia/tiny-reasoner')
    assert.deepEqual(plain, { ...one })
    const nameless = await fetch(`${harness.url}/v1/models/`)
    assert.equal(nameless.status, 404)
    assert.equal((await readAnswer(nameless)).error.code, 'model_not_found')
    assert.equal((await fetch(`${harness.url}/version/`)).status, 200)
  })

  test('tokenize and detokenize', async () => {
    const text = await readAnswer(await harness.post('/tokenize', { prompt: 'a<|eot_id|>é' }))
    assert.deepEqual(text, {
      count: 5,
      max_model_len: 1024,
      tokens: [256, 97, 260, 195, 169],
      token_strs: null,
    })
    const bare = await readAnswer(
      await harness.post('/tokenize', {
        model: 'nvidia/tiny-reasoner',
        prompt: 'a',
        add_special_tokens: false,
      }),
    )
    assert.deepEqual(bare.tokens, [97])
    const back = await readAnswer(await harness.post('/detokenize', { tokens: text.tokens }))
    assert.deepEqual(back, { prompt: '<|begin_of_text|>a<|eot_id|>é' })
    assert.equal((await harness.post('/detokenize', { tokens: [99999] })).status, 400)
    assert.equal((await harness.post('/detokenize', { tokens: 'x' })).status, 400)
    assert.equal((await harness.post('/tokenize', {})).status, 400)
    assert.equal((await harness.post('/tokenize', { model: 'none', prompt: 'x' })).status, 404)
  })

  test('render and tokenize agree, and say what chat would run', async () => {
    const body = { ...chatBody(), model: 'nvidia/tiny-reasoner' }
    const rendered = await readAnswer(await harness.post('/v1/chat/completions/render', body))
    const tokens = await readAnswer(await harness.post('/tokenize', body))
    assert.deepEqual(rendered.prompt_token_ids, tokens.tokens)
    await harness.post('/v1/chat/completions', body)
    assert.deepEqual(
      Array.from(harness.engine.requests.at(-1)?.promptTokenIds ?? []),
      tokens.tokens,
    )
    const parsed = await readAnswer(await harness.post('/tokenize', { prompt: rendered.prompt }))
    assert.deepEqual(parsed.tokens, tokens.tokens)
  })

  test('tokenizer_info, as lm_eval asks for it', async () => {
    const info = await get('/tokenizer_info')
    assert.equal(info.eos_token, '<|eot_id|>')
    assert.equal(info.bos_token, '<|begin_of_text|>')
    assert.match(info.chat_template, /start_header_id/)
  })

  test('version', async () => assert.match((await get('/version')).version, /^\d+\.\d+\.\d+/))

  test("every series of vLLM's usual board is there", async () => {
    await readEvents(
      await harness.post('/v1/chat/completions', {
        ...chatBody({ stream: true }),
        model: 'nvidia/tiny-reasoner',
      }),
    )
    await until(() => harness.lines.length > 0, 'a line')
    const response = await fetch(`${harness.url}/metrics`)
    assert.match(response.headers.get('content-type') ?? '', /^text\/plain; version=0.0.4/)
    const text = await response.text()
    const labels = 'model_name="nvidia/tiny-reasoner",engine="0"'
    for (const name of [
      'e2e_request_latency_seconds_sum',
      'e2e_request_latency_seconds_count',
      'e2e_request_latency_seconds_bucket',
      'prompt_tokens_total',
      'generation_tokens_total',
      'request_time_per_output_token_seconds_sum',
      'request_time_per_output_token_seconds_bucket',
      'time_per_output_token_seconds_bucket',
      'inter_token_latency_seconds_bucket',
      'inter_token_latency_seconds_sum',
      'num_requests_running',
      'num_requests_waiting',
      'time_to_first_token_seconds_sum',
      'time_to_first_token_seconds_bucket',
      'kv_cache_usage_perc',
      'gpu_cache_usage_perc',
      'request_prompt_tokens_bucket',
      'request_generation_tokens_bucket',
      'request_success_total',
      'request_queue_time_seconds_sum',
      'request_prefill_time_seconds_sum',
      'request_decode_time_seconds_sum',
      'request_inference_time_seconds_sum',
      'request_max_num_generation_tokens_sum',
      'request_params_max_tokens_sum',
      'request_params_n_sum',
      'request_prefill_kv_computed_tokens_sum',
      'prefix_cache_queries_total',
      'prefix_cache_hits_total',
      'gpu_prefix_cache_hits_total',
      'gpu_prefix_cache_queries_total',
      'num_preemptions_total',
      'cache_config_info',
      'iteration_tokens_total_bucket',
      'iteration_tokens_total_sum',
    ])
      assert.ok(
        text
          .split('\n')
          .some(
            (line) =>
              line.startsWith(`vllm:${name}{`) &&
              line.includes('model_name="nvidia/tiny-reasoner"'),
          ),
        name,
      )
    assert.ok(
      text.includes(`vllm:request_success_total{${labels},finished_reason="stop"} `),
      'finished_reason',
    )
    assert.ok(
      text.includes('vllm:time_to_first_token_seconds_bucket{le="0.001",') ||
        /time_to_first_token_seconds_bucket\{[^}]*le="0.001"/.test(text),
    )
    assert.match(
      text,
      /http_requests_total\{handler="\/v1\/chat\/completions",method="POST",status="2xx"\} \d+/,
    )
    assert.match(text, /inter_token_latency_seconds_bucket\{[^}]*le="\+Inf"\} [1-9]/)
    for (const line of text.split('\n')) assert.match(line, /^(#.*|[\w:]+(\{.*\})? [-+\w.]+|)$/)
  })

  test('what is read twice is counted once, and the process says what it uses', async (t) => {
    const one = await startHarness({ dataDir: mkdtempSync(join(tmpdir(), 'nemotron-meta-')) })
    t.after(() => one.close())
    const drafts = {
      grammar: { drafted: 5, accepted: 4 },
      lookup: { drafted: 7, accepted: 6 },
      model: { drafted: 9, accepted: 8 },
    }
    Object.assign(one.engine.override, { missNeverSeen: 3, missEvicted: 2, drafts })
    assert.equal((await one.post('/v1/chat/completions', chatBody())).status, 200)
    const read = async () => {
      const text = await (await fetch(`${one.url}/metrics`)).text()
      const lines = text.split('\n').filter((line) => /^[a-z]/.test(line))
      return new Map(lines.map((line) => [line.split(' ')[0], Number(line.split(' ')[1])]))
    }
    const used = () => {
      const { user, system } = process.cpuUsage()
      return (user + system) / 1e6
    }
    const before = used()
    const [first, second] = [await read(), await read()]
    const after = used()
    const counted = /^(?!http_|process_)\w*(?::\w+)?_(?:total|sum|count|bucket)(?:\{|$)/
    const names = [...second.keys()].filter((name) => counted.test(name ?? ''))
    assert.ok(names.length > 100)
    for (const name of names) assert.equal(second.get(name), first.get(name), name)
    const labels = 'model_name="tiny-reasoner",engine="0"'
    for (const [name, value] of [
      [`nemotron:prefix_cache_misses_total{${labels},reason="never_seen"}`, 3],
      [`nemotron:prefix_cache_misses_total{${labels},reason="evicted"}`, 2],
      [`nemotron:drafted_tokens_total{${labels},source="model"}`, 9],
      [`nemotron:accepted_tokens_total{${labels},source="lookup"}`, 6],
    ] as const)
      assert.equal(second.get(name), value, name)
    const processor = [first, second].map((all) => all.get('process_cpu_seconds_total'))
    const rising = [before, ...processor, after]
    assert.deepEqual(
      rising.toSorted((a = 0, b = 0) => a - b),
      rising,
    )
    const resident = second.get('process_resident_memory_bytes') ?? 0
    assert.ok(Math.abs(resident / process.memoryUsage.rss() - 1) < 0.5, `${resident}`)
    const began = Date.now() / 1000 - process.uptime()
    assert.ok(Math.abs((second.get('process_start_time_seconds') ?? 0) - began) < 5)
  })

  test('the description is whole and the page loads nothing from elsewhere', async () => {
    const spec = await get('/openapi.json')
    assert.equal(spec.openapi, '3.1.0')
    assert.ok(spec.components.schemas.ChatRequest.properties.messages)
    assert.ok(spec.components.schemas.ChatRequest.required.includes('model'))
    const references = JSON.stringify(spec).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)
    for (const [, name] of references) assert.ok(spec.components.schemas[name ?? ''], name)
    // What is routed, no more and no less, each with a summary and who may call it.
    const described = Object.entries(spec.paths as Record<string, Record<string, Operation>>)
      .flatMap(([path, methods]) => Object.keys(methods).map((method) => `${method} ${path}`))
      .sort()
    const table = routes(harness.server)
    assert.deepEqual(
      described,
      table
        .map(
          ({ method, path }) =>
            `${method.toLowerCase()} ${path.replace(/:(\w+)(?:\{[^}]*\})?/, '{$1}')}`,
        )
        .sort(),
    )
    for (const route of table) {
      const { method, path, open } = route
      const operation =
        spec.paths[path.replace(/:(\w+)(?:\{[^}]*\})?/, '{$1}')][method.toLowerCase()]
      assert.ok(operation.summary)
      assert.equal(operation.security !== undefined, open === true, path)
      assert.equal('401' in operation.responses, open !== true, path)
      const hasBody = route.method === 'POST' && route.body !== undefined
      assert.equal('requestBody' in operation, hasBody, path)
    }
    const page = await fetch(`${harness.url}/docs`)
    const policy = page.headers.get('content-security-policy') ?? ''
    assert.match(policy, /default-src 'none'/)
    const html = await page.text()
    assert.ok(!/(src|href)="(https?:)?\/\//.test(html))
  })
})
