import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { Delta } from '../../server/engine/types.js'
import { startRun } from '../../server/generation/run.js'
import { chatBody, type Harness, readAnswer, startHarness } from './harness.js'

describe('numbers that add up', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({ answer: () => ({ pieces: ['ok'] }) })
  })
  after(() => harness.close())

  const delta = (choice: number, tokenIds: number[], finish?: Delta['finish']): Delta => ({
    choice,
    text: '',
    tokenIds,
    ...(finish && { finish }),
  })

  test('an aborted run counts what each choice had, and a finished one once', () => {
    const [model] = harness.server.models()
    assert.ok(model)
    const done: [string, number][] = []
    let emit: ((one: Delta) => void) | undefined
    const run = startRun(
      {
        model: {
          ...model,
          engine: {
            ...model.engine,
            submit: (_, onDelta) => {
              emit = onDelta
              return { id: 1, abort: () => {} }
            },
          },
          metrics: {
            ...model.metrics,
            choiceDone: ({ finish, tokens }) => done.push([finish, tokens]),
          },
        },
        requests: [{ promptTokenIds: [1], n: 3 }],
        record: {},
        arrival: performance.now(),
      },
      { onDelta: () => {}, onDone: () => {}, onError: () => {} },
    )
    emit?.(delta(0, [1, 2]))
    emit?.(delta(1, [1, 2, 3], 'stop'))
    emit?.(delta(0, [3, 4, 5]))
    run.abort()
    run.abort()
    assert.deepEqual(done, [
      ['stop', 3],
      ['abort', 5],
      ['abort', 0],
    ])
    assert.equal(run.counts.completionTokens, 8)
  })

  test('an error of a union is that of the branch that was meant', async () => {
    for (const [path, body, message] of [
      ['/v1/chat/completions', chatBody({ stop: Array(17).fill('a') }), /16/],
      ['/v1/completions', { model: 'tiny-reasoner', prompt: [] }, /'prompt'/],
    ] as const) {
      const response = await harness.post(path, body)
      assert.equal(response.status, 400)
      const { error } = await readAnswer(response)
      assert.match(error.message, message)
      assert.doesNotMatch(error.message, /expected (a )?string/)
    }
  })
})
