// A server that its clients pause: what goes on, what waits, what ends, and that no token changes.

import assert from 'node:assert/strict'
import { createConnection } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { createByteTokenizer } from './byte-tokenizer.js'
import { chatBody, type HarnessOptions, startHarness, until } from './harness.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

const eventually = async (condition: () => Promise<boolean>): Promise<void> => {
  while (!(await condition())) await new Promise((done) => setTimeout(done, 5))
}

const CHAT = '/v1/chat/completions'
const LONG = {
  model: 'tiny-reasoner',
  messages: [{ role: 'user', content: 'How many r in strawberry?' }],
  temperature: 1,
  seed: 5,
  ignore_eos: true,
  max_tokens: 500,
  n: 2,
}
const PAIR = {
  model: 'tiny-reward',
  messages: [
    { role: 'user', content: 'Hi' },
    { role: 'assistant', content: 'Hello!' },
  ],
}

describe('a pause', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({ max_model_len: 1024, allow_pause: true, stall_timeout: 1 })
  })
  after(() => server.close())

  const post = async (path: string, body: object = {}) => {
    const response = await server.post(path, body)
    return { status: response.status, body: JSON.parse(await response.text()) }
  }
  const get = async (path: string) => {
    const response = await fetch(server.url + path)
    return { status: response.status, body: JSON.parse(await response.text()) }
  }
  const stats = async () => {
    const text = await (await fetch(`${server.url}/metrics`)).text()
    const of = (name: string) =>
      [...text.matchAll(new RegExp(`^vllm:${name}\\{[^}]*\\} (\\d+)`, 'gm'))].reduce(
        (sum, [, value]) => sum + Number(value),
        0,
      )
    return { running: of('num_requests_running'), waiting: of('num_requests_waiting') }
  }
  const untilStats = async (running: number, waiting: number) => {
    await eventually(async () => {
      const now = await stats()
      return now.running === running && now.waiting === waiting
    })
  }

  test('that keeps: nothing runs, and all goes on with the same tokens', async () => {
    const free = (await post(CHAT, LONG)).body.choices
    await post('/pause?mode=keep')
    const answer = post(CHAT, LONG)
    await untilStats(0, 2)
    for (let i = 0; i < 3; i++) {
      await post('/resume')
      await new Promise((done) => setTimeout(done, 10))
      assert.deepEqual((await post('/pause?mode=keep')).body, { status: 'paused' })
    }
    assert.deepEqual((await get('/is_paused')).body, { is_paused: true })
    const there = await stats()
    const [later, reward] = [post(CHAT, { ...LONG, n: 1, max_tokens: 3 }), post('/v1/reward', PAIR)]
    await eventually(async () => (await stats()).waiting === there.waiting + 2)
    const before = await stats()
    await new Promise((done) => setTimeout(done, 1200))
    assert.equal((await get('/health')).status, 200, 'a pause is no stall')
    assert.deepEqual(await stats(), before)
    assert.deepEqual((await post('/resume')).body, { status: 'resumed' })
    assert.deepEqual((await get('/is_paused')).body, { is_paused: false })
    assert.deepEqual((await answer).body.choices, free)
    assert.equal((await later).body.usage.completion_tokens, 3)
    assert.equal((await reward).status, 200)
  })

  test('that waits: what is there ends, what comes does not begin', async () => {
    await post('/pause?mode=keep')
    const answer = post(CHAT, LONG)
    await untilStats(0, 2)
    assert.equal((await post('/pause?mode=wait')).status, 200)
    assert.equal((await answer).body.usage.completion_tokens, 1000)
    const later = post(CHAT, { ...LONG, n: 1, max_tokens: 3 })
    await untilStats(0, 1)
    // Asked for again it waits for nobody whom it holds.
    assert.equal((await post('/pause?mode=wait')).status, 200)
    await untilStats(0, 1)
    await post('/resume')
    assert.equal((await later).body.usage.completion_tokens, 3)
  })

  test('that waits: what an answer takes of several engines goes on to its end', async () => {
    const best = { ...LONG, n: 1, best_of: 3, max_tokens: 200, reward: { model: 'tiny-reward' } }
    const answer = post(CHAT, best)
    await untilStats(3, 0)
    assert.equal((await post('/pause?mode=wait')).status, 200)
    const late = new Promise<undefined>((done) => setTimeout(done, 5000, undefined))
    const told = await Promise.race([answer, late])
    assert.equal(told?.status, 200)
    assert.equal(told?.body.choices.length, 1)
    const later = post('/v1/reward', PAIR)
    await untilStats(0, 1)
    await post('/resume')
    assert.equal((await later).status, 200)
  })

  test('that waits for one model does not wait for what only others do', async () => {
    const answer = post(CHAT, { ...LONG, max_tokens: 900 })
    await untilStats(2, 0)
    assert.equal((await post('/pause?mode=wait&model=tiny-reward')).status, 200)
    assert.equal((await stats()).running, 2)
    await post('/pause?mode=abort')
    assert.equal((await answer).status, 503)
    await post('/resume')
  })

  test("that waits: what comes to stand still in another model's pause has no end", async () => {
    await post('/pause?mode=keep&model=tiny-reward')
    const best = { ...LONG, n: 1, best_of: 3, max_tokens: 200, reward: { model: 'tiny-reward' } }
    const answer = post(CHAT, best)
    await untilStats(3, 0)
    const late = new Promise<undefined>((done) => setTimeout(done, 30_000, undefined))
    for (let times = 0; times < 2; times++) {
      const waits = post('/pause?mode=wait&model=tiny-reasoner')
      assert.equal((await Promise.race([waits, late]))?.status, 200)
      await untilStats(0, 3)
    }
    await post('/resume')
    assert.equal((await answer).status, 200)
  })

  test('that waits, ended and asked for again: who came between goes on', async () => {
    const first = post(CHAT, { ...LONG, n: 1 })
    await untilStats(1, 0)
    const waits = post('/pause?mode=wait')
    await eventually(async () => (await get('/is_paused')).body.is_paused)
    const between = post(CHAT, LONG)
    await eventually(async () => (await stats()).waiting === 2)
    await post('/resume')
    assert.equal((await post('/pause?mode=wait')).status, 200)
    assert.equal((await between).body.usage.completion_tokens, 1000)
    assert.equal((await first).body.usage.completion_tokens, 500)
    assert.equal((await waits).status, 200)
    await post('/resume')
  })

  test('that aborts: what is there is told so, what comes waits', async () => {
    await post('/pause?mode=keep')
    const [answer, stream] = [post(CHAT, LONG), server.post(CHAT, { ...LONG, stream: true })]
    await untilStats(0, 4)
    assert.equal((await post('/pause')).status, 200)
    const { status, body } = await answer
    assert.deepEqual([status, body.error.code], [503, 'paused'])
    assert.match(await (await stream).text(), /"code":"paused"/)
    const later = post(CHAT, { ...LONG, n: 1, max_tokens: 3 })
    await untilStats(0, 1)
    await post('/resume')
    assert.equal((await later).status, 200)
  })

  test("of one model is no other's", async () => {
    await post('/pause?mode=keep&model=tiny-reasoner')
    assert.equal((await post('/v1/reward', PAIR)).status, 200)
    assert.equal((await get('/is_paused?model=tiny-reward')).body.is_paused, false)
    assert.equal((await get('/is_paused?model=tiny-reasoner')).body.is_paused, true)
    await post('/resume')
  })

  test("in vLLM's older words", async () => {
    await post('/pause?mode=keep')
    const answer = post(CHAT, LONG)
    await untilStats(0, 2)
    await post('/pause?wait_for_inflight_requests=true&clear_cache=False')
    assert.equal((await answer).body.usage.completion_tokens, 1000)
    assert.equal((await get('/is_paused')).body.is_paused, true)
    await post('/resume')
  })

  test('with a wrong parameter is refused by its name', async () => {
    for (const [path, status, param] of [
      ['/pause?mode=stop', 400, 'mode'],
      ['/pause?clear_cache=maybe', 400, 'clear_cache'],
      ['/pause?flush=true', 400, 'flush'],
      ['/pause?model=nobody', 404, 'model'],
      ['/resume?mode=keep', 400, 'mode'],
    ] as const) {
      const answer = await post(path)
      assert.deepEqual([answer.status, answer.body.error.param], [status, param], path)
    }
    assert.equal((await get('/is_paused')).body.is_paused, false)
  })

  test('does not hold up a server that is told to go', async () => {
    const own = await startReal({ max_model_len: 1024, allow_pause: true })
    await own.post('/pause?mode=keep', {})
    const answer = own.post(CHAT, { ...LONG, n: 1, max_tokens: 3 })
    await eventually(async () => {
      const text = await (await fetch(`${own.url}/metrics`)).text()
      return /num_requests_waiting\{[^}]*\} 1/.test(text)
    })
    const began = performance.now()
    const gone = own.close()
    assert.equal((await answer).status, 200)
    await gone
    assert.ok(performance.now() - began < 20_000)
  })

  test('is for servers that allow it', async () => {
    const harness = await startHarness({ config: { allowPause: false } })
    for (const path of ['/pause', '/resume']) {
      const response = await harness.post(path, {})
      assert.equal(response.status, 403)
      assert.match(await response.text(), /--allow-pause on/)
    }
    assert.equal((await fetch(`${harness.url}/is_paused`)).status, 403)
    await harness.close()
  })
})

/** A server whose engines' pauses let go on who came before, and wait for what is in them. */
const startWaiting = async (options: HarnessOptions) => {
  const harness = await startHarness(options)
  const scripted = [harness.engine, ...harness.server.models().map(({ engine }) => engine)]
  for (const engine of new Set(scripted)) {
    let began = 0
    Object.assign(engine, {
      pause: async () => {
        began = performance.now()
        await until(() => engine.stats().running + engine.stats().waiting === 0, 'ended')
      },
      isPaused: () => began > 0,
      goesOn: (since: number) => since < began,
    })
  }
  /** Of one model, or of all. */
  const pause = (model?: string) =>
    harness.post(`/pause?mode=wait${model === undefined ? '' : `&model=${model}`}`, {})
  return { harness, pause }
}

/** Something that comes when it is let. */
const createGate = () => {
  let open = () => {}
  let asked = 0
  const opened = new Promise<void>((done) => {
    open = done
  })
  const pass = async () => {
    asked++
    await opened
  }
  return { pass, open: () => open(), asked: () => asked }
}

/** The status of an answer that comes in so many milliseconds. */
const statusIn = async (ms: number, answer: Promise<Response>): Promise<number | undefined> => {
  const later = new Promise<undefined>((done) => setTimeout(done, ms, undefined))
  return (await Promise.race([answer, later]))?.status
}

describe('a pause that waits', () => {
  const select = { model: 'tiny-reward' }
  const writer = { model: 'tiny-reasoner' }
  const messages = [{ role: 'user', content: 'Hi' }]
  for (const [path, body] of [
    [CHAT, chatBody({ best_of: 2, reward: select })],
    ['/v1/refine', { ...writer, messages, feedback: writer, edit: writer, select }],
  ] as const)
    test(`waits for the scores of ${path}, where their model is meant`, async (t) => {
      const { harness, pause } = await startWaiting({ reward: { score: () => [1] } })
      t.after(() => harness.close())
      const gate = createGate()
      for (const { engine } of harness.server.models()) {
        const { score } = engine
        Object.assign(engine, {
          score: async (...given: Parameters<typeof score>) => {
            await gate.pass()
            return score(...given)
          },
        })
      }
      const answer = harness.post(path, body)
      await until(() => gate.asked() > 0, 'scored')
      assert.equal(await statusIn(10_000, pause('tiny-reasoner')), 200)
      const [one, all] = [pause('tiny-reward'), pause()]
      assert.equal(await statusIn(300, one), undefined)
      assert.equal(await statusIn(300, all), undefined)
      gate.open()
      assert.equal((await answer).status, 200)
      assert.equal((await one).status, 200)
      assert.equal((await all).status, 200)
    })

  test('waits for the scores that come after a model that is not paused', async (t) => {
    const { harness, pause } = await startWaiting({
      answer: () => ({ pieces: Array<string>(200).fill('a') }),
      reward: { score: () => [1] },
      stepMs: 5,
    })
    t.after(() => harness.close())
    const answer = harness.post(CHAT, chatBody({ best_of: 2, reward: select, max_tokens: 200 }))
    await until(() => harness.engine.stats().running > 0, 'it runs')
    assert.equal((await pause('tiny-reward')).status, 200)
    assert.equal(harness.engine.stats().running, 0)
    assert.equal((await answer).status, 200)
  })

  test('waits for what is still planned', async (t) => {
    const tokenizer = createByteTokenizer()
    const gate = createGate()
    const encodeParts: typeof tokenizer.encodeParts = async (parts) => {
      await gate.pass()
      return tokenizer.encodeParts(parts)
    }
    const { harness, pause } = await startWaiting({ tokenizer: { ...tokenizer, encodeParts } })
    t.after(() => harness.close())
    const answer = harness.post(CHAT, chatBody())
    await until(() => gate.asked() > 0, 'planned')
    const paused = pause()
    assert.equal(await statusIn(300, paused), undefined)
    gate.open()
    assert.equal((await answer).status, 200)
    assert.equal((await paused).status, 200)
  })

  test('does not wait for who reads slowly', async (t) => {
    const size = 20_000_000
    const { harness, pause } = await startWaiting({
      answer: () => ({ pieces: Array<string>(200).fill('x'.repeat(size / 200)) }),
      info: { maxModelLen: 10 * size },
    })
    t.after(() => harness.close())
    const text = JSON.stringify(chatBody({ stream: true, max_tokens: size }))
    const socket = createConnection(harness.port, '127.0.0.1')
    t.after(() => socket.destroy())
    socket.pause()
    socket.write(
      `POST ${CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n\r\n${text}`,
    )
    await until(() => harness.engine.stats().running > 0, 'it runs')
    const paused = pause()
    await until(() => harness.engine.stats().running === 0, 'it has ended')
    assert.equal(await statusIn(5000, paused), 200)
    const [reading] = harness.server.live
    assert.equal(reading?.path, CHAT)
    assert.equal(reading?.isTold(), false)
  })
})
