// Where well-tested parts meet: what is lost, counted twice or done for nobody shows only here.

import assert from 'node:assert/strict'
import { createConnection } from 'node:net'
import { describe, mock, test } from 'node:test'
import { chatCheckpoint } from './chat-checkpoint.js'
import {
  chatBody,
  type Harness,
  type HarnessOptions,
  readAnswer,
  readEvents,
  startHarness,
  until,
} from './harness.js'
import { noAddon, startReal } from './real-server.js'

const CHAT = '/v1/chat/completions'
const COMPLETIONS = '/v1/completions'

const withHarness = async (options: HarnessOptions, act: (harness: Harness) => Promise<void>) => {
  const harness = await startHarness(options)
  try {
    await act(harness)
  } finally {
    await harness.close()
  }
}

/** Never comes to an end by itself. */
const waiting = () => ({ pieces: ['late'], delaySteps: 1_000_000 })
const judge = { reward: { score: () => [1] } }
const best = (n: number, more: object = {}) =>
  chatBody({ best_of: n, n, reward: { model: 'tiny-reward' }, ...more })

const metric = async (harness: Harness, name: string): Promise<number> => {
  const lines = (await harness.server.metrics.text()).split('\n')
  return lines
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}

describe('streams', () => {
  // More than the kernel holds for a reader, so that the server has to wait for it.
  for (const [version, moment] of [
    ['1.1', 'while more comes'],
    ['1.1', 'when all is there'],
    ['1.0', 'while more comes'],
  ] as const)
    test(`a reader over HTTP/${version} that catches up ${moment} gets all of it`, () => {
      const piece = 'x'.repeat(100_000)
      const count = 600
      const answer = () => ({ pieces: Array.from({ length: count }, () => piece) })
      const info = { maxModelLen: 100_000_000 }
      const config = { writeIdleTimeout: 20 }
      return withHarness({ answer, info, config }, async (harness) => {
        const body = JSON.stringify(chatBody({ stream: true, max_tokens: 90_000_000 }))
        const socket = createConnection(harness.port, '127.0.0.1')
        socket.write(
          `POST ${CHAT} HTTP/${version}\r\nhost: localhost\r\ncontent-type: application/json\r\n` +
            `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
        )
        socket.pause()
        const { engine } = harness
        await until(() => engine.requests.length === 1, 'submitted')
        const first = engine.stats().steps
        await until(() => engine.stats().steps > first + count / 2, 'half of it')
        if (moment === 'when all is there')
          await until(() => engine.stats().running === 0, 'the engine is done')
        let text = ''
        socket.setEncoding('utf8')
        for await (const chunk of socket) text += chunk
        const sent = text.match(/x+/g)?.filter((run) => run.length > 1000) ?? []
        const characters = sent.reduce((sum, run) => sum + run.length, 0)
        assert.equal(characters, count * piece.length)
        assert.ok(text.includes('data: [DONE]'))
      })
    })

  test('a reader that caught up in time is not cut off later', async () => {
    const answer = () => ({
      pieces: [...Array(100).fill('x'.repeat(500_000)), ...Array(550).fill('y')],
    })
    const options = { answer, stepMs: 10, info: { maxModelLen: 100_000_000 } }
    await withHarness({ ...options, config: { writeIdleTimeout: 4 } }, async (harness) => {
      const body = chatBody({ stream: true, max_tokens: 90_000_000 })
      const response = await harness.post(CHAT, body)
      // The server has filled the kernel's room.
      await until(() => harness.engine.stats().steps > 40, 'the first of it')
      const { done, chunks } = await readEvents(response)
      assert.ok(done)
      const contents = chunks.map(({ choices }) => choices[0]?.delta?.content ?? '')
      assert.equal(contents.join('').length, 100 * 500_000 + 550)
    })
  })

  test('the timer of pings ends with the last stream, though its client left', () =>
    withHarness({ answer: waiting }, async (harness) => {
      const started = mock.method(globalThis, 'setInterval')
      const stopped = mock.method(globalThis, 'clearInterval')
      try {
        const client = new AbortController()
        const { signal } = client
        const headers = { 'content-type': 'application/json' }
        const body = JSON.stringify(chatBody({ stream: true }))
        const gone = fetch(`${harness.url}${CHAT}`, { method: 'POST', headers, body, signal })
        gone.catch(() => {})
        await until(() => harness.engine.requests.length === 1, 'submitted')
        const timer = started.mock.calls.find((call) => call.arguments[1] === 250)?.result
        assert.ok(timer)
        client.abort()
        await until(
          () => stopped.mock.calls.some((call) => call.arguments[0] === timer),
          'the timer is stopped',
        )
      } finally {
        started.mock.restore()
        stopped.mock.restore()
      }
    }))

  test("a stream has the whole answer's headers", () =>
    withHarness({}, async (harness) => {
      const ask = async (stream: boolean) => {
        const headers = { origin: 'http://localhost:3000', 'x-request-id': 'mine' }
        const response = await harness.post(CHAT, chatBody({ stream, unheard_of: 1 }), headers)
        await response.text()
        const names = ['x-request-id', 'x-ignored-params', 'x-content-type-options', 'vary']
        return [...names, 'access-control-allow-origin', 'access-control-expose-headers'].map(
          (name) => [name, response.headers.get(name)],
        )
      }
      const whole = await ask(false)
      assert.deepEqual(await ask(true), whole)
      const given = new Map(whole as [string, string | null][])
      assert.equal(given.get('x-request-id'), 'mine')
      assert.equal(given.get('x-ignored-params'), 'unheard_of')
      assert.ok(given.get('access-control-allow-origin'))
    }))

  test('stop_reason is shown only for what was asked', () =>
    withHarness({ answer: () => ({ pieces: ['a'], stopReason: 260 }) }, async (harness) => {
      const reason = async (more: Record<string, unknown>) => {
        const whole = await readAnswer(await harness.post(CHAT, chatBody(more)))
        const { chunks } = await readEvents(
          await harness.post(CHAT, chatBody({ ...more, stream: true })),
        )
        const completed = { model: 'tiny-reasoner', prompt: 'p', ...more }
        const completion = await readAnswer(await harness.post(COMPLETIONS, completed))
        const told = [whole.choices[0], chunks.at(-1).choices[0], completion.choices[0]]
        return told.map((choice) => choice.stop_reason)
      }
      assert.deepEqual(await reason({}), [undefined, undefined, undefined])
      assert.deepEqual(await reason({ stop_token_ids: [97] }), [undefined, undefined, undefined])
      assert.deepEqual(await reason({ stop_token_ids: [260] }), [260, 260, 260])
    }))

  test('thinking that the limit cut off is not given as the answer', () =>
    withHarness(
      { answer: () => ({ pieces: ['<think>', '\nlong', ' thoughts', ' without end'] }) },
      async (harness) => {
        const ask = { max_tokens: 20, reasoning_effort: 'high' }
        const { choices } = await readAnswer(await harness.post(CHAT, chatBody(ask)))
        assert.equal(choices[0].finish_reason, 'length')
        assert.equal(choices[0].message.content ?? '', '')
        assert.match(choices[0].message.reasoning_content, /^long thou/)
        const { chunks } = await readEvents(
          await harness.post(CHAT, chatBody({ ...ask, stream: true })),
        )
        const content = chunks.map((one) => one.choices[0]?.delta.content ?? '').join('')
        assert.equal(content, '')
      },
    ))
})

describe('logprobs', () => {
  test("a prompt's ranks start at 1", () =>
    withHarness({}, async (harness) => {
      const ask = { model: 'tiny-reasoner', prompt: [97, 98], prompt_logprobs: 2, max_tokens: 1 }
      const { choices } = await readAnswer(await harness.post(COMPLETIONS, ask))
      const [first, second] = choices[0].prompt_logprobs
      assert.equal(first, null)
      const ranks = Object.values(second as Record<string, { readonly rank: number }>)
      assert.deepEqual(ranks.map(({ rank }) => rank).sort(), [1, 2])
    }))

  test('text_offset counts characters, also beyond the first plane', () =>
    withHarness({ answer: () => ({ pieces: ['a', '😀', 'b'] }) }, async (harness) => {
      const ask = { model: 'tiny-reasoner', prompt: 'p', logprobs: 0, max_tokens: 10 }
      const { choices } = await readAnswer(await harness.post(COMPLETIONS, ask))
      const { tokens, text_offset: offsets } = choices[0].logprobs
      assert.equal(choices[0].text, 'a😀b')
      assert.equal(tokens.length, 6)
      // The four bytes of one character begin where it does.
      assert.deepEqual(offsets, [0, 1, 1, 1, 1, 2])
    }))
})

describe('the mode line', () => {
  test("the caller's own goes before a field", () =>
    withHarness({}, async (harness) => {
      for (const [mode, effort] of [
        ['on', 'none'],
        ['off', 'high'],
      ]) {
        const system = { role: 'system', content: `detailed thinking ${mode}` }
        const messages = [system, { role: 'user', content: 'Hi' }]
        const body = { model: 'tiny-reasoner', messages, reasoning_effort: effort }
        const shown = await readAnswer(await harness.post(`${CHAT}/render`, body))
        const prompt = JSON.stringify(shown)
        assert.match(prompt, new RegExp(`detailed thinking ${mode}`))
        assert.doesNotMatch(prompt, new RegExp(`detailed thinking ${mode === 'on' ? 'off' : 'on'}`))
        assert.doesNotMatch(prompt, /<think>/)
      }
    }))
})

describe('best of N', () => {
  test('ties keep the order of the candidates', () =>
    withHarness(
      { answer: (_, __, choice) => ({ pieces: [`candidate ${choice}`] }), ...judge },
      async (harness) => {
        const { choices } = await readAnswer(await harness.post(CHAT, best(5)))
        assert.deepEqual(
          choices.map((choice: { message: { content: string } }) => choice.message.content),
          [0, 1, 2, 3, 4].map((i) => `candidate ${i}`),
        )
      },
    ))

  test('a client that leaves stops the judge', () =>
    withHarness({ answer: () => ({ pieces: ['a'] }), ...judge }, async (harness) => {
      const model = harness.server.models().find(({ id }) => id === 'tiny-reward')
      assert.ok(model)
      let asked = 0
      let stopped = 0
      const score: typeof model.engine.score = (_, { signal } = {}) =>
        new Promise((_resolve, reject) => {
          asked++
          signal?.addEventListener('abort', () => {
            stopped++
            reject(new Error('aborted'))
          })
        })
      Object.assign(model.engine, { score })
      for (const stream of [false, true]) {
        asked = 0
        stopped = 0
        const gone = new AbortController()
        const { signal } = gone
        const body = JSON.stringify(best(3, { stream }))
        const left = fetch(`${harness.url}${CHAT}`, { method: 'POST', body, signal })
        left.then((response) => response.text()).catch(() => {})
        await until(() => asked === 3, 'the judge is asked')
        gone.abort()
        await until(() => stopped === 3, 'the judge is stopped')
      }
    }))

  test('a judge that fails is told, and its places are free again', () =>
    withHarness({ answer: () => ({ pieces: ['a'] }), ...judge }, async (harness) => {
      const model = harness.server.models().find(({ id }) => id === 'tiny-reward')
      assert.ok(model)
      const { score } = model.engine
      Object.assign(model.engine, { score: () => Promise.reject(new Error('broken')) })
      const answer = await harness.post(CHAT, best(3))
      assert.equal(answer.status, 500)
      await answer.text()
      assert.equal(model.pace.inFlight(), 0)
      Object.assign(model.engine, { score })
      assert.equal((await harness.post(CHAT, best(3))).status, 200)
      assert.equal(model.pace.inFlight(), 0)
    }))
})

describe('metrics', () => {
  test('a finished choice is not counted again when the rest is aborted', () =>
    withHarness(
      { answer: (_, __, choice) => (choice === 0 ? { pieces: ['done'] } : waiting()) },
      async (harness) => {
        const gone = new AbortController()
        const body = JSON.stringify(chatBody({ n: 2, stream: true }))
        const { signal } = gone
        const response = await fetch(`${harness.url}${CHAT}`, { method: 'POST', body, signal })
        const reader = response.body?.getReader()
        let text = ''
        while (!text.includes('"finish_reason":"stop"'))
          text += new TextDecoder().decode((await reader?.read())?.value)
        gone.abort()
        await until(() => harness.lines.length === 1, 'its line')
        const ended = () => metric(harness, 'vllm:request_success_total')
        await until(async () => (await ended()) === 2, 'the end of the other')
        const lines = (await harness.server.metrics.text()).split('\n')
        const reasons = lines
          .filter((line) => line.startsWith('vllm:request_success_total{'))
          .filter((line) => Number(line.split(' ').at(-1)) > 0)
          .map((line) => /finished_reason="(\w+)"/.exec(line)?.[1])
        assert.deepEqual(reasons.sort(), ['abort', 'stop'])
      },
    ))

  test('times between tokens count tokens, not deltas', () =>
    withHarness({ answer: () => ({ pieces: ['a', 'bcd', 'ef'] }) }, async (harness) => {
      await (await harness.post(CHAT, chatBody())).text()
      // The first delta has no time before it; the other five tokens have.
      assert.equal(await metric(harness, 'vllm:inter_token_latency_seconds_count'), 5)
    }))
})

describe('keys', { skip: noAddon }, () => {
  test('one does not learn from an answer or the metrics what another has asked', async () => {
    const server = await startReal({ model: chatCheckpoint(), api_key: ['one', 'two', 'three'] })
    const headers = (key: string) => ({
      'content-type': 'application/json',
      authorization: `Bearer ${key}`,
    })
    const misses = async () => {
      const text = await (await fetch(`${server.url}/metrics`, { headers: headers('two') })).text()
      return text.split('\n').filter((line) => line.startsWith('nemotron:prefix_cache_misses'))
    }
    const models = await fetch(`${server.url}/v1/models`, { headers: headers('two') })
    const [{ id: model }] = (await readAnswer(models)).data
    const ask = async (key: string, prompt: string) => {
      const before = await misses()
      const answer = await fetch(`${server.url}${COMPLETIONS}`, {
        method: 'POST',
        headers: headers(key),
        body: JSON.stringify({ model, prompt, max_tokens: 1, timings: true }),
      })
      assert.equal(answer.status, 200)
      const after = await misses()
      return {
        miss: (await readAnswer(answer)).timings.cache_miss,
        counted: after.map(
          (line, i) => Number(line.split(' ')[1]) - Number(before[i]?.split(' ')[1]),
        ),
      }
    }
    try {
      await ask('one', 'a'.repeat(300))
      const unheard = await ask('two', 'b'.repeat(300))
      assert.deepEqual(unheard.miss, { reason: 'never_seen', position: 0 })
      assert.ok(unheard.counted.includes(1))
      assert.deepEqual(await ask('three', 'a'.repeat(300)), unheard)
    } finally {
      await server.close()
    }
  })
})

describe('draining', { skip: noAddon }, () => {
  test('waits for every model, not for the first', async () => {
    const folder = () => chatCheckpoint({ config: { max_position_embeddings: 16_384 } })
    const models = ['a', 'b'].map((name) => ({ model: folder(), served_model_name: name }))
    const server = await startReal({ models, drain_timeout: 60 })
    const ask = { max_tokens: 3000, ignore_eos: true, stream: true, temperature: 0 }
    const messages = [{ role: 'user', content: 'Hi' }]
    const running = await server.post(CHAT, { model: 'b', messages, ...ask })
    const [{ chunks, done }] = await Promise.all([readEvents(running), server.close()])
    assert.ok(done)
    assert.equal(chunks.at(-1).choices[0].finish_reason, 'length')
  })
})
