// The load of `bench -- serve`: when requests are sent, what is asked, how times are counted, and the page.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { Agent, createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, type TestContext, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import type { Browser } from 'playwright-core'
import { churn } from '../../bench/http.js'
import { createTarget, findModel, runLoad, streamOnce } from '../../bench/load-generator.js'
import { watchHealth } from '../../bench/overload.js'
import { type Arrivals, planArrivals, planSeconds } from '../../bench/serve/arrivals.js'
import { converse, readScripts, requireTexts } from '../../bench/serve/conversations.js'
import { type Loaded, metrics, type Outcome, runOf } from '../../bench/serve/figures.js'
import { writePage } from '../../bench/serve/page.js'
import { makeResult } from '../../bench/serve/result-file.js'
import { noBrowser, openBrowser, openPage } from '../web/browser.js'

const createRandom = (seed: number) => {
  let state = seed
  return (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const planned = (arrivals: Arrivals, requests: number, rate: number, burst = 4): number[] => {
  const duration = planSeconds(arrivals, rate, requests)
  const plan = planArrivals({ arrivals, rate, burst, duration, random: createRandom(7) })
  return Array.from({ length: requests }, () => Number(plan.next().value))
}

describe('arrivals', () => {
  test('constant, burst and ramp are where they say', () => {
    assert.deepEqual(planned('constant', 5, 4), [0, 0.25, 0.5, 0.75, 1])
    assert.deepEqual(planned('burst', 6, 2, 3), [0, 0, 0, 1.5, 1.5, 1.5])
    // A ramp that ends at 10 a second takes 20 s for 100; half of its time has a quarter of them.
    const ramp = planned('ramp', 100, 10)
    assert.equal(planSeconds('ramp', 10, 100), 20)
    assert.equal(ramp.filter((at) => at < 10).length, 25)
    const last = ramp.slice(-10)
    assert.ok(Math.abs((last[9] ?? 0) - (last[0] ?? 0) - 0.9) < 0.1, 'the end has 10 a second')
  })

  test('Poisson: the gaps have the mean and the deviation of the rate', () => {
    const times = planned('poisson', 20_000, 50)
    const gaps = times.map((at, i) => at - (times[i - 1] ?? 0))
    const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length
    const deviation = Math.sqrt(gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / gaps.length)
    assert.ok(Math.abs(mean - 0.02) < 0.0005, `mean ${mean}`)
    assert.ok(Math.abs(deviation - 0.02) < 0.001, `deviation ${deviation}`)
    assert.ok(gaps.every((gap) => gap >= 0))
  })
})

const fileOf = (text: string): string => {
  const path = join(mkdtempSync(join(tmpdir(), 'nemotron-load-')), 'data.jsonl')
  writeFileSync(path, text)
  return path
}

describe('datasets', () => {
  const form = { model: 'm', endpoint: 'chat' as const, fields: { max_tokens: 3 } }

  test('prompts, messages and ShareGPT, a line each or as one list', () => {
    const items = [
      { prompt: 'one' },
      {
        messages: [
          { role: 'system', content: 'S' },
          { role: 'user', content: 'two' },
          { role: 'assistant', content: 'recorded' },
          { role: 'user', content: 'three' },
        ],
      },
      {
        id: 'x',
        conversations: [
          { from: 'human', value: 'four' },
          { from: 'gpt', value: 'r' },
        ],
      },
    ]
    const lines = readScripts(fileOf(items.map((item) => `${JSON.stringify(item)}\n`).join('\n')))
    assert.deepEqual(readScripts(fileOf(JSON.stringify(items, null, 1))), lines)
    assert.equal(lines.length, 3)
    const [one, talk, sharegpt] = lines.map((script) => converse(script, form))
    assert.deepEqual(one?.([]), {
      ...{ model: 'm', messages: [{ role: 'user', content: 'one' }], max_tokens: 3 },
    })
    assert.equal(one?.(['answer']), undefined)
    // The second request has what the server answered, not what was recorded.
    assert.deepEqual(talk?.(['its own']), {
      model: 'm',
      messages: [
        { role: 'system', content: 'S' },
        { role: 'user', content: 'two' },
        { role: 'assistant', content: 'its own' },
        { role: 'user', content: 'three' },
      ],
      max_tokens: 3,
    })
    assert.equal(talk?.(['a', 'b']), undefined)
    assert.equal(sharegpt?.(['a']), undefined)
    assert.throws(() => requireTexts(lines), /conversations need chat/)
  })

  test('bad lines are named with what is wrong', () => {
    const bad = [
      '{"prompt":"good"}',
      '{"prompt":',
      '7',
      '{"text":"x"}',
      '{"messages":[{"role":"user"}]}',
      '{"conversations":[{"from":"alien","value":"x"}]}',
      '{"messages":[{"role":"assistant","content":"x"}]}',
    ]
    const why = (text: string): string => {
      try {
        readScripts(fileOf(text))
      } catch (error) {
        return String(error)
      }
      return 'it was taken'
    }
    const all = why(bad.join('\n'))
    assert.match(all, /line 2: it is no JSON; line 3: it is no JSON object; line 4: it has no text/)
    assert.match(all, /line 5: a message needs "role" and "content".*line 6: .*; 1 more$/)
    assert.match(why(''), /it is empty/)
    assert.match(why('[{"prompt":"x"},{}]'), /item 2: it has no text "prompt"/)
    assert.throws(() => readScripts('/no/such/file'), /there is no file \/no\/such\/file/)
  })
})

const outcome = (one: Partial<Outcome>): Outcome => ({
  ...{ error: undefined, planned: 0, late: 0, promptTokens: 10, cachedTokens: 0 },
  ...{ outputTokens: 5, reasoningTokens: 0, ttft: 1, ttfo: 1, e2el: 2, itl: [] },
  ...one,
})

const random = createRandom(3)
const loaded: Loaded = {
  outcomes: Array.from({ length: 301 }, (_, i) => {
    const ttft = 1000 * random() ** 3
    const itl = Array.from({ length: 4 }, () => 50 * random() ** 2)
    const e2el = ttft + itl.reduce((sum, gap) => sum + gap, 0)
    return outcome({ planned: 10 * i, ttft, ttfo: ttft, itl, e2el })
  }),
  ...{ seconds: 4, chunks: [100, 200, 300, 400], busy: 0.1 },
}

const python = spawnSync('python3', ['--version']).status === 0 ? false : 'there is no python3'

test("percentiles are those of Python's statistics", { skip: python }, () => {
  const run = runOf({ rate: 10, concurrency: undefined }, loaded, [])
  const samples = Object.fromEntries(
    metrics.map((metric) => [
      metric,
      loaded.outcomes.flatMap((one) =>
        metric === 'tpot' ? (one.e2el - one.ttft) / 4 : metric === 'itl' ? one.itl : one[metric],
      ),
    ]),
  )
  const script = `
import json, statistics, sys
out = {}
for name, values in json.load(sys.stdin).items():
    cuts = statistics.quantiles(values, n=100, method='inclusive')
    out[f'mean_{name}_ms'] = statistics.fmean(values)
    out[f'std_{name}_ms'] = statistics.pstdev(values)
    out[f'median_{name}_ms'] = statistics.median(values)
    for p in (50, 90, 95, 99): out[f'p{p}_{name}_ms'] = cuts[p - 1]
print(json.dumps(out))`
  const { stdout, stderr } = spawnSync('python3', ['-c', script], {
    ...{ input: JSON.stringify(samples), encoding: 'utf8' },
  })
  assert.equal(stderr, '')
  const expected: Record<string, number> = JSON.parse(stdout)
  assert.deepEqual(Object.keys(run.latencies).toSorted(), Object.keys(expected).toSorted())
  for (const [name, value] of Object.entries(expected))
    assert.ok(Math.abs((run.latencies[name] ?? Number.NaN) - value) < 0.001, name)
  for (const metric of metrics) {
    const curve = new Map(run.curves[metric])
    assert.ok(Math.abs((curve.get(99) ?? 0) - (expected[`p99_${metric}_ms`] ?? 1)) < 0.001, metric)
    assert.equal(curve.get(100), Math.max(...(samples[metric] ?? [])))
  }
})

test('goodput counts the answers within every limit; failures are in no latency', () => {
  const outcomes = [
    outcome({ ttft: 100, e2el: 140 }),
    outcome({ ttft: 600, e2el: 640 }),
    outcome({ ttft: 100, e2el: 900 }),
    outcome({ error: 'HTTP 429', ttft: Number.NaN, e2el: 3 }),
  ]
  const goodput = [
    { metric: 'ttft', limit: 500 },
    { metric: 'tpot', limit: 50 },
  ] as const
  const { figures, latencies, requests } = runOf(
    { rate: undefined, concurrency: 8 },
    { outcomes, seconds: 2, chunks: [], busy: 0 },
    goodput,
  )
  assert.equal(figures.request_goodput, 0.5)
  assert.equal(figures.request_throughput, 1.5)
  assert.deepEqual([figures.completed, figures.failed], [3, 1])
  assert.equal(latencies.median_e2el_ms, 640)
  assert.equal(requests[3]?.error, 'HTTP 429')
})

test('what was not measured is within no limit', () => {
  const goodputOf = (metric: 'ttft' | 'ttfo' | 'tpot' | 'e2el', one: Partial<Outcome>) => {
    const load = { outcomes: [outcome(one)], seconds: 1, chunks: [], busy: 0 }
    const goodput = [{ metric, limit: 1e9 }]
    return runOf({ rate: undefined, concurrency: 1 }, load, goodput).figures.request_goodput
  }
  for (const metric of ['ttft', 'ttfo', 'e2el'] as const) {
    assert.equal(goodputOf(metric, { [metric]: 1 }), 1, metric)
    assert.equal(goodputOf(metric, { [metric]: Number.NaN }), 0, metric)
  }
  // One token has no time between tokens; several without a time of the first one were not measured.
  assert.equal(goodputOf('tpot', { outputTokens: 1 }), 1)
  assert.equal(goodputOf('tpot', { outputTokens: 5, ttft: Number.NaN }), 0)
})

/** A server of one answer, given by `answer`; its address with /v1. */
const serve = async (answer: RequestListener) => {
  const server = createServer(answer).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/v1`,
    close: () => server.close(),
    closeAll: () => server.closeAllConnections(),
  }
}

const stream = (text: string): string =>
  `data: ${JSON.stringify({ choices: [{ delta: { content: text } }] })}\n\n`

test('a kept connection that is closed as it is used again is no error: it is asked once more', async (t) => {
  const used = new WeakSet<object>()
  let answers = 0
  const server = await serve((request, response) => {
    if (used.has(request.socket)) return void request.socket.resetAndDestroy()
    used.add(request.socket)
    answers++
    request.resume()
    response.end(`${stream('x')}data: [DONE]\n\n`)
  })
  t.after(server.close)
  const target = createTarget(server.url, undefined, 'chat')
  const { outcomes } = await runLoad(target, {
    conversation: (i) => (i < 5 ? ([last]) => (last === undefined ? {} : undefined) : undefined),
    concurrency: 1,
  })
  target.agent.destroy()
  assert.deepEqual(
    outcomes.map(({ error }) => error),
    Array(5).fill(undefined),
  )
  assert.equal(answers, 5)
})

test('a server that stalls is charged with every request that was due meanwhile', async (t) => {
  const began = performance.now()
  const STALL = 1000
  const server = await serve((request, response) => {
    request.resume()
    const wait = Math.max(0, STALL - (performance.now() - began))
    setTimeout(() => response.end(`${stream('a')}data: [DONE]\n\n`), wait)
  })
  const target = createTarget(server.url, undefined, 'chat')
  t.after(() => {
    target.agent.destroy()
    server.close()
  })
  const duration = 1.5
  const load = (concurrency: number) =>
    runLoad(target, {
      conversation: () => (answers) => (answers.length === 0 ? {} : undefined),
      arrivals: planArrivals({ arrivals: 'constant', rate: 40, burst: 1, duration, random }),
      ...{ concurrency, duration },
    })
  // One place: the first request is held for the stall, the others wait here. Counted from sending they
  // would take a millisecond each.
  const { outcomes } = await load(1)
  assert.equal(outcomes.length, 60)
  assert.ok(outcomes.every(({ error }) => error === undefined))
  const charged = outcomes.filter(({ planned }) => planned < 800)
  assert.ok(charged.length >= 31)
  for (const { planned, e2el, late } of charged) {
    assert.ok(e2el >= STALL - planned - 50, `due after ${planned} ms, it took ${e2el}`)
    assert.ok(planned === 0 || late >= STALL - planned - 50)
  }
})

test('a call of a tool is an answer: its time is measured', async (t) => {
  const server = await serve((request, response) => {
    request.resume()
    const thought = { choices: [{ delta: { reasoning_content: 'hm' } }] }
    const called = { choices: [{ delta: { tool_calls: [{ index: 0, function: {} }] } }] }
    response.write(`data: ${JSON.stringify(thought)}\n\n`)
    setTimeout(() => response.end(`data: ${JSON.stringify(called)}\n\ndata: [DONE]\n\n`), 30)
  })
  const target = createTarget(server.url, undefined, 'chat')
  t.after(() => {
    target.agent.destroy()
    server.close()
  })
  const { error, ttft, ttfo, itl } = await streamOnce(target, {})
  assert.equal(error, undefined)
  assert.ok(ttft < ttfo, `${ttft} ${ttfo}`)
  assert.equal(itl.length, 1)
})

describe('a server that stands still', () => {
  /** Takes each request and says nothing, or goes on with comments alone once a stream has begun. */
  const silent = async (
    t: TestContext,
    how: 'nothing' | 'comments',
    onRequest: () => void = () => {},
  ) => {
    const { url, close, closeAll } = await serve((request, response) => {
      request.resume()
      onRequest()
      if (how === 'nothing') return
      response.write(stream('a'))
      const timer = setInterval(() => response.write(': ping\n\n'), 20)
      response.on('close', () => clearInterval(timer))
    })
    t.after(() => {
      closeAll()
      close()
    })
    return url
  }
  const endless = { conversation: () => () => ({}), concurrency: 3 }

  for (const how of ['nothing', 'comments'] as const)
    test(`has failed after --timeout, where it says ${how}`, async (t) => {
      const target = createTarget(await silent(t, how), undefined, 'chat', 0.2)
      const began = performance.now()
      const { outcomes } = await runLoad(target, { ...endless, duration: 0.1 })
      assert.deepEqual(
        outcomes.map(({ error }) => error),
        Array(3).fill('no answer in 0.2 s'),
      )
      assert.ok(performance.now() - began >= 200)
    })

  for (const arrivals of [undefined, [0, 0.01, 0.02, 1e5]])
    test(`${arrivals ? 'a plan' : 'a closed loop'} that is interrupted has what there is`, async (t) => {
      const controller = new AbortController()
      let asked = 0
      const url = await silent(t, 'comments', () => {
        if (++asked === 3) controller.abort()
      })
      const plan = arrivals && { arrivals: arrivals.values() }
      const { outcomes } = await runLoad(createTarget(url, undefined, 'chat'), {
        ...endless,
        ...plan,
        signal: controller.signal,
      })
      assert.deepEqual(
        outcomes.map(({ error }) => error),
        Array(3).fill('it was interrupted'),
      )
    })

  test('lists no models: that is said', async (t) => {
    const url = await silent(t, 'nothing')
    await assert.rejects(findModel(url, undefined, undefined, { timeout: 0.2 }), {
      message: `${url}/models cannot be reached: no answer in 0.2 s; --base-url says where the server is`,
    })
  })

  test('is a timeout of connection churn', async (t) => {
    const load = { headers: {}, connections: 2, duration: 0.1, timeout: 0.2 }
    const { ok, errors, timeouts } = await churn({ ...load, url: await silent(t, 'nothing') })
    assert.deepEqual([ok, errors, timeouts], [0, 2, 2])
  })
})

test('a health connection that breaks is red, and the watch goes on', async (t) => {
  let asked = 0
  const server = await serve((request, response) => {
    if (++asked === 1) request.socket.destroy()
    else response.end()
  })
  const agent = new Agent({ keepAlive: false })
  t.after(() => {
    agent.destroy()
    server.close()
  })
  const load = { url: server.url, agent, body: '', seconds: 1, mainThreadMs: () => 0 }
  const stop = watchHealth(load)
  while (asked < 2) await new Promise((done) => setTimeout(done, 5))
  const statuses = (await stop()).map(({ status }) => status)
  assert.deepEqual(statuses.slice(0, 2), [0, 200])
})

test('a conversation goes on with the answers; its next request is due when the last ended', async (t) => {
  const bodies: { messages: { content: string }[] }[] = []
  const server = await serve((request, response) => {
    let text = ''
    request.on('data', (chunk) => {
      text += chunk
    })
    request.on('end', () => {
      bodies.push(JSON.parse(text))
      const answer = `answer ${bodies.length}`
      setTimeout(() => response.end(`${stream(answer)}data: [DONE]\n\n`), 50)
    })
  })
  const target = createTarget(server.url, undefined, 'chat')
  t.after(() => {
    target.agent.destroy()
    server.close()
  })
  const messages = (content: string) => [{ role: 'user', content }]
  const script = { turns: [messages('one'), messages('two')] }
  const form = { model: 'm', endpoint: 'chat', fields: {} } as const
  const { outcomes } = await runLoad(target, {
    conversation: (i) => (i === 0 ? converse(script, form) : undefined),
    concurrency: 1,
  })
  assert.deepEqual(
    bodies.map(({ messages }) => messages.map(({ content }) => content)),
    [['one'], ['one', 'answer 1', 'two']],
  )
  assert.equal(outcomes.length, 2)
  assert.ok((outcomes[1]?.planned ?? 0) >= 45)
  assert.ok((outcomes[1]?.ttft ?? 0) < 500)
})

test('what is no server says so in one sentence', async (t) => {
  const page = await serve((_, response) => response.end('<html>\nwelcome</html>'))
  const closed = await serve((_, response) => {
    response.statusCode = 401
    response.end('{"error":"key"}')
  })
  t.after(() => {
    page.close()
    closed.close()
  })
  await assert.rejects(findModel(page.url, undefined, undefined), {
    message: `${page.url}/models is no list of models: <html> welcome</html>; --base-url ends in /v1 for most servers`,
  })
  await assert.rejects(findModel(closed.url, undefined, undefined), /HTTP 401: .*--api-key is sent/)
  const keyFlag = '--peer-api-key'
  await assert.rejects(
    findModel(closed.url, 'k', undefined, { keyFlag }),
    /; --peer-api-key is sent/,
  )
})

describe('the page', { skip: noBrowser }, () => {
  let browser: Browser
  before(async () => {
    browser = await openBrowser()
  })
  after(() => browser?.close())

  const open = async (results: Parameters<typeof writePage>[1]) => {
    const path = join(mkdtempSync(join(tmpdir(), 'nemotron-page-')), 'page.html')
    await writePage(path, results)
    const { page, complaints } = await openPage(browser, pathToFileURL(path).href)
    return { page, complaints: complaints.filter((one) => !one.includes(path)) }
  }

  test('draws each plot of a sweep, and asks nobody', async () => {
    const runs = [1, 2].map((rate) => runOf({ rate, concurrency: undefined }, loaded, []))
    const name = '</script><b>x'
    const { page, complaints } = await open([{ name, result: makeResult({ rate: [1, 2] }, runs) }])
    // Throughput against latency, percentiles, and two of each run's timeline.
    await page.waitForFunction(`document.querySelectorAll('.uplot canvas').length === 3 + 4 + 4`)
    const drawn =
      await page.evaluate(`[...document.querySelectorAll('.uplot canvas')].every((canvas) => {
      const { width, height } = canvas
      return new Set(canvas.getContext('2d').getImageData(0, 0, width, height).data).size > 10
    })`)
    assert.ok(drawn, 'an empty canvas')
    assert.deepEqual(await page.locator('h2').allTextContents(), [
      'Runs',
      'Throughput against latency',
      'Percentiles',
      'Timeline, 1/s',
      'Timeline, 2/s',
      `How ${name} was measured`,
    ])
    assert.deepEqual(complaints, [])
  })

  test('without an answer it says so, and why', async () => {
    const outcomes = [outcome({ error: 'HTTP 503: draining' })]
    const run = runOf({ rate: 1, concurrency: undefined }, { ...loaded, outcomes }, [])
    const { page, complaints } = await open([{ name: 'm', result: makeResult({}, [run]) }])
    const text = await page.locator('main').textContent()
    assert.match(text ?? '', /1 times: HTTP 503: draining/)
    assert.match(text ?? '', /No request was answered/)
    assert.equal(await page.locator('canvas').count(), 0)
    assert.deepEqual(complaints, [])
  })
})
