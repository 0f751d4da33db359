import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import OpenAI from 'openai'
import { chatBody, type Harness, readAnswer, readEvents, startHarness } from './harness.js'

describe('chat completions', () => {
  let harness: Harness
  let client: OpenAI
  before(async () => {
    harness = await startHarness({
      answer: (prompt) =>
        prompt.includes('detailed thinking on')
          ? { pieces: ['<th', 'ink>\nLet me', ' see.\n</thi', 'nk>\n\nIt is', ' 3.'] }
          : { pieces: ['Hel', 'lo, ', 'wor', 'ld ', '😀'] },
    })
    client = new OpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'none', maxRetries: 0 })
  })
  after(() => harness.close())

  const ask = { model: 'tiny-reasoner', messages: [{ role: 'user' as const, content: 'Hi' }] }

  test('the official client gets an answer', async () => {
    const answer = await client.chat.completions.create(ask)
    assert.equal(answer.choices[0]?.message.content, 'Hello, world 😀')
    assert.equal(answer.choices[0]?.message.role, 'assistant')
    assert.equal(answer.choices[0]?.finish_reason, 'stop')
    assert.equal(answer.object, 'chat.completion')
    assert.match(answer.id, /^chatcmpl-/)
    assert.equal(answer.usage?.completion_tokens, 17)
    assert.equal(
      answer.usage?.total_tokens,
      (answer.usage?.prompt_tokens ?? 0) + (answer.usage?.completion_tokens ?? 0),
    )
  })

  test('a stream has one id, the role first, the finish reason alone in the last', async () => {
    const response = await harness.post('/v1/chat/completions', chatBody({ stream: true }))
    assert.equal(response.status, 200)
    assert.match(response.headers.get('content-type') ?? '', /^text\/event-stream/)
    const { chunks, done } = await readEvents(response)
    assert.ok(done)
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1)
    assert.equal(chunks[0].choices[0].delta.role, 'assistant')
    assert.ok(chunks.slice(1).every((chunk) => chunk.choices[0].delta.role === undefined))
    assert.deepEqual(chunks.at(-1).choices[0].delta, {})
    assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop')
    assert.ok(chunks.slice(0, -1).every((chunk) => chunk.choices[0].finish_reason === null))
    assert.ok(chunks.every((chunk) => !('usage' in chunk)))
  })

  test('a stream adds up to the unstreamed answer, thinking and content apart', async () => {
    const body = { ...ask, chat_template_kwargs: { enable_thinking: true } }
    const whole = await readAnswer(await harness.post('/v1/chat/completions', body))
    const { message } = whole.choices[0]
    assert.equal(message.reasoning_content, 'Let me see.')
    assert.equal(message.reasoning, 'Let me see.')
    assert.equal(message.content, 'It is 3.')
    const { chunks } = await readEvents(
      await harness.post('/v1/chat/completions', {
        ...body,
        stream: true,
        stream_options: { include_usage: true },
      }),
    )
    const join = (key: string) => chunks.map((chunk) => chunk.choices[0]?.delta[key] ?? '').join('')
    assert.equal(join('content'), message.content)
    assert.equal(join('reasoning_content'), message.reasoning_content)
    assert.equal(join('reasoning'), message.reasoning)
    assert.deepEqual(chunks.at(-1).choices, [])
    assert.deepEqual(chunks.at(-1).usage, whole.usage)
    assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null))
    assert.equal(
      whole.usage.completion_tokens_details.reasoning_tokens,
      '<think>\nLet me see.\n</think>'.length,
    )
  })

  test('the official client streams', async () => {
    let text = ''
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true }))
      text += chunk.choices[0]?.delta.content ?? ''
    assert.equal(text, 'Hello, world 😀')
  })
})
