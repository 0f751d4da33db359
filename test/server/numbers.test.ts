import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { Delta } from '../../server/engine/types.js'
import { EngineFailure } from '../../server/failure.js'
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

  test('what a reward engine refuses is no error of the engine', async (t) => {
    const one = await startHarness({
      reward: {
        score: (prompt) => {
          if (prompt.includes('refused'))
            throw new EngineFailure({ code: 'invalid_argument', message: 'prompt_token_ids: no' })
          if (prompt.includes('broken'))
            throw new EngineFailure({ code: 'internal', message: 'the device failed' })
          return [1]
        },
      },
    })
    t.after(() => one.close())
    const errors = async (): Promise<number> => {
      const text = await (await fetch(`${one.url}/metrics`)).text()
      const line = text
        .split('\n')
        .find((each) =>
          /^vllm:request_success_total.*"error".*tiny-reward|^vllm:request_success_total.*tiny-reward.*"error"/.test(
            each,
          ),
        )
      return Number(line?.split(' ').at(-1) ?? 0)
    }
    const score = async (text: string): Promise<number> => {
      const messages = [
        { role: 'user', content: 'a' },
        { role: 'assistant', content: text },
      ]
      return (await one.post('/v1/reward', { model: 'tiny-reward', messages })).status
    }
    assert.equal(await score('fine'), 200)
    assert.equal(await score('refused'), 400)
    assert.equal(await errors(), 0)
    assert.equal(await score('broken'), 500)
    assert.equal(await errors(), 1)
  })

  test('/render and /tokenize of a reward model refuse what asks for an answer', async (t) => {
    const one = await startHarness({ reward: { score: () => [1] } })
    t.after(() => one.close())
    const messages = [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
    ]
    for (const path of ['/v1/chat/completions/render', '/tokenize']) {
      const ask = (more: object) => one.post(path, { model: 'tiny-reward', messages, ...more })
      assert.equal((await ask({ add_generation_prompt: false })).status, 200)
      for (const [field, value] of [
        ['add_generation_prompt', true],
        ['continue_final_message', true],
        ['reasoning_effort', 'high'],
      ] as const) {
        const response = await ask({ [field]: value })
        assert.equal(response.status, 400, `${path} ${field}`)
        assert.equal((await readAnswer(response)).error.param, field)
      }
    }
  })

  test('a key that is wrong is told what it would be', async () => {
    const response = await harness.post(
      '/v1/chat/completions',
      chatBody({ logit_bias: { 'a b': 1 } }),
    )
    const { error } = await readAnswer(response)
    assert.equal(error.message, "Invalid key 'a b' in 'logit_bias': keys are token ids.")
    assert.equal(error.param, 'logit_bias.a b')
  })

  test('an error of a union is that of the branch that was meant', async () => {
    for (const [path, body, message] of [
      ['/v1/chat/completions', chatBody({ stop: Array(17).fill('a') }), /16/],
      ['/v1/completions', { model: 'tiny-reasoner', prompt: [] }, /'prompt'/],
      ['/v1/completions', { model: 'tiny-reasoner', prompt: [[]] }, /'prompt.0': it has 0 token/],
    ] as const) {
      const response = await harness.post(path, body)
      assert.equal(response.status, 400)
      const { error } = await readAnswer(response)
      assert.match(error.message, message)
      assert.doesNotMatch(error.message, /expected (a )?string/)
    }
  })
})
