import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { APICallError, generateText, streamText } from 'ai'
import fc from 'fast-check'
import { createEventReader } from '../../bench/event-reader.js'
import { type Harness, startHarness } from './harness.js'

describe("Vercel's AI SDK", () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({
      answer: () => ({ pieces: ['<think>\nLet me', ' see.\n</thi', 'nk>\n\nIt is', ' 3.'] }),
    })
  })
  after(() => harness.close())
  const model = (name = 'tiny-reasoner') =>
    createOpenAICompatible({ name: 'ours', baseURL: `${harness.url}/v1`, includeUsage: true })(name)

  test('generates text and reasoning', async () => {
    const answer = await generateText({
      model: model(),
      prompt: 'Hi',
      system: 'detailed thinking on',
    })
    assert.equal(answer.text, 'It is 3.')
    assert.equal(answer.reasoningText, 'Let me see.')
    assert.equal(answer.finishReason, 'stop')
    assert.equal(
      answer.usage.outputTokenDetails.reasoningTokens,
      '<think>\nLet me see.\n</think>'.length,
    )
  })

  test('streams them', async () => {
    const stream = streamText({ model: model(), prompt: 'Hi', system: 'detailed thinking on' })
    let [text, reasoning] = ['', '']
    for await (const part of stream.fullStream) {
      if (part.type === 'text-delta') text += part.text
      if (part.type === 'reasoning-delta') reasoning += part.text
    }
    assert.deepEqual([text, reasoning], ['It is 3.', 'Let me see.'])
    assert.ok(((await stream.usage).inputTokens ?? 0) > 0)
  })

  test('knows our errors', async () => {
    await assert.rejects(
      generateText({ model: model('none'), prompt: 'Hi', maxRetries: 0 }),
      (error) => APICallError.isInstance(error) && error.statusCode === 404 && !error.isRetryable,
    )
  })
})

describe("the bench client's event reader", () => {
  test('reads the same events however the bytes are cut', () => {
    const data = fc
      .string({ unit: 'grapheme', maxLength: 12 })
      .map((text) => text.replace(/[\r\n]/g, ' '))
    const event = fc.record({
      data: fc.array(data, { minLength: 1, maxLength: 3 }),
      comment: fc.boolean(),
      space: fc.boolean(),
    })
    fc.assert(
      fc.property(
        fc.array(event, { maxLength: 6 }),
        fc.constantFrom('\n', '\r\n', '\r'),
        fc.array(fc.nat(), { maxLength: 8 }),
        (events, eol, cuts) => {
          const text = events
            .map(({ data: lines, comment, space }) =>
              [
                ...(comment ? [': ping'] : []),
                ...lines.map((line) => `data:${space || line.startsWith(' ') ? ' ' : ''}${line}`),
                '',
                '',
              ].join(eol),
            )
            .join('')
          // A last \r could be half of \r\n: the byte after it settles that.
          const bytes = Buffer.from(`${text}:\n`)
          const at = [0, ...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort(
            (a, b) => a - b,
          )
          const seen: string[] = []
          const reader = createEventReader((one) => seen.push(one))
          at.slice(1).forEach((end, i) => {
            reader.push(bytes.subarray(at[i], end))
          })
          assert.deepEqual(
            seen,
            events.map(({ data: lines }) => lines.join('\n')),
          )
        },
      ),
      { numRuns: 1000 },
    )
  })
})
