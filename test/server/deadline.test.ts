// X-Request-Timeout and --request-timeout: the earlier ends an answer, whole or streamed, and its blocks are free.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { chatBody, readAnswer, readEvents, startHarness, until } from './harness.js'

const CHAT = '/v1/chat/completions'

for (const [config, header, limit] of [
  [0, '0.2', '0.2'],
  [0.3, '30', '0.3'],
  [30, '0.25', '0.25'],
] as const)
  test(`the server's ${config} s and the header's ${header}: ${limit}`, async () => {
    const harness = await startHarness({
      config: { requestTimeout: config },
      answer: () => ({ pieces: Array<string>(100_000).fill('word ') }),
      stepMs: 1,
      info: { maxModelLen: 1 << 20 },
    })
    try {
      const headers = { 'x-request-timeout': header }
      const whole = await harness.post(CHAT, chatBody(), headers)
      assert.equal(whole.status, 504)
      const { error } = await readAnswer(whole)
      assert.equal(error.code, 'request_timeout')
      assert.match(error.message, new RegExp(`its limit of ${limit} s`))
      const { chunks, done } = await readEvents(
        await harness.post(CHAT, chatBody({ stream: true }), headers),
      )
      assert.ok(done)
      assert.equal(chunks.at(-1)?.error?.code, 'request_timeout')
      await until(() => harness.engine.stats().running === 0, 'both are aborted')
    } finally {
      await harness.close()
    }
  })

test('official clients do not ask again for what was late', async () => {
  const harness = await startHarness({
    answer: () => ({ pieces: Array<string>(100_000).fill('word ') }),
    stepMs: 1,
    info: { maxModelLen: 1 << 20 },
  })
  try {
    const { requests } = harness.engine
    const headers = { 'x-request-timeout': '0.2' }
    const openai = new OpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'none' })
    const message = { model: 'tiny-reasoner', messages: [{ role: 'user' as const, content: 'Hi' }] }
    await assert.rejects(openai.chat.completions.create(message, { headers }), { status: 504 })
    assert.equal(requests.length, 1)
    const anthropic = new Anthropic({ baseURL: harness.url, apiKey: 'none' })
    await assert.rejects(
      anthropic.messages.create({ ...message, max_tokens: 20_000 }, { headers }),
      { status: 504 },
    )
    assert.equal(requests.length, 2)
  } finally {
    await harness.close()
  }
})

test('a header that is no number of seconds is refused by name', async () => {
  const harness = await startHarness()
  try {
    for (const value of ['soon', '0', '-1', '1e3', '86401']) {
      const answer = await harness.post(CHAT, chatBody(), { 'x-request-timeout': value })
      assert.equal(answer.status, 400, value)
      const { error } = await readAnswer(answer)
      assert.equal(error.param, 'x-request-timeout')
      assert.match(error.message, /is seconds from above 0 to 86400, such as 30, not/)
    }
    assert.equal((await harness.post(CHAT, chatBody(), { 'x-request-timeout': '30' })).status, 200)
  } finally {
    await harness.close()
  }
})

test('what is answered in one piece has a deadline too', async () => {
  const harness = await startHarness({
    config: { requestTimeout: 0.2 },
    stepMs: 500,
  })
  const predicate = { type: 'predicate', instructions: 'It is a letter.' }
  const asked = [
    ['/v1/decisions', { model: 'tiny-reasoner', input: 'a', questions: [predicate] }],
    [
      '/v1/systemone',
      {
        model: 'tiny-reasoner',
        state: 'a',
        questions: { a: { type: 'noul', instructions: 'It is.' } },
      },
    ],
    [
      '/generative_scoring',
      { model: 'tiny-reasoner', query: 'a', items: ['b'], label_token_ids: [1, 2] },
    ],
  ] as const
  try {
    for (const [path, body] of asked) {
      const answer = await harness.post(path, body)
      assert.equal(answer.status, 504, path)
      const { error } = await readAnswer(answer)
      assert.equal(error.code, 'request_timeout')
      assert.match(error.message, /its limit of 0\.2 s/)
    }
    const message = await harness.post('/v1/messages', chatBody({ max_tokens: 5 }))
    assert.equal(message.status, 504)
    assert.equal((await readAnswer(message)).error.type, 'timeout_error')
    await until(() => harness.engine.stats().running === 0, 'all are aborted')
    const wrong = await harness.post(...asked[0], { 'x-request-timeout': 'soon' })
    assert.equal((await readAnswer(wrong)).error.param, 'x-request-timeout')
  } finally {
    await harness.close()
  }
})
