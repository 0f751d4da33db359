// engine.reward(): conversations to scores in process, as /v1/reward gives them.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import {
  type CreateEngineOptions,
  createEngine,
  loadTokenizer,
  type RewardingEngine,
} from '../../server/index.js'
import { packagePath } from '../../server/version.js'
import { smallEngine } from './support.js'

const folder = packagePath('test/golden/reward_nine_outputs')
type Turn = { readonly role: 'system' | 'user' | 'assistant'; readonly content: string }
type Golden = {
  readonly conversations: readonly {
    readonly messages: readonly Turn[]
    readonly ids: readonly number[]
    readonly scores: readonly number[]
  }[]
  readonly attributes: Record<string, number>
  readonly weights: readonly number[]
  readonly rewards: readonly number[]
}
const golden: Golden = JSON.parse(readFileSync(join(folder, 'golden.json'), 'utf8'))
const names = Object.keys(golden.attributes)
const question: Turn = { role: 'user', content: 'What is 1+1?' }

const isClose = (got: number | null | undefined, want: number | undefined): boolean =>
  got != null && want !== undefined && Math.abs(got - want) <= 0.01 * Math.max(Math.abs(want), 1)

test('createEngine and loadTokenizer know the models of the package by name', async () => {
  const tokenizer = await loadTokenizer('tiny-reward')
  const small = { ...smallEngine('tiny-reward'), maxModelLen: 1024 }
  const engine = await createEngine(small, tokenizer)
  const { data } = await engine.reward({
    messages: [{ role: 'user', content: 'Thanks!' }],
    responses: ['You are welcome!', 'Goodbye!'],
  })
  await engine.close()
  assert.ok((data[0]?.reward ?? 0) > 0 && (data[1]?.reward ?? 0) < 0)
})

describe('engine.reward()', () => {
  let engine: RewardingEngine
  before(async () => {
    engine = await createEngine({
      ...smallEngine(folder),
      reward: {
        attributes: golden.attributes,
        weights: Object.fromEntries(names.map((name, i) => [name, golden.weights[i] ?? 0])),
      },
    })
  })
  after(() => engine.close())

  test("gives transformers' scores for whole conversations", async () => {
    const { data, usage } = await engine.reward({
      inputs: golden.conversations.map(({ messages }) => ({ messages })),
    })
    assert.equal(
      usage.prompt_tokens,
      golden.conversations.reduce((sum, { ids }) => sum + ids.length, 0),
    )
    for (const [i, { ids, scores }] of golden.conversations.entries()) {
      const item = data[i]
      assert.ok(item?.scores.every((score, k) => isClose(score, scores[k])))
      assert.ok(isClose(item?.reward, golden.rewards[i]))
      assert.deepEqual(Object.keys(item?.attributes ?? {}), names)
      // The same call, one level down.
      assert.deepEqual((await engine.score({ promptTokenIds: ids })).scores, item?.scores)
    }
  })

  test('scores candidates of one prompt, with preferences, the same alone', async () => {
    const responses = ['2', 'Three.', 'It is 2.']
    const { data, preferences } = await engine.reward({
      messages: [question],
      responses,
      pairwise: true,
    })
    assert.deepEqual(
      data.map(({ index, input, response }) => [index, input, response]),
      [
        [0, 0, 0],
        [1, 0, 1],
        [2, 0, 2],
      ],
    )
    assert.equal(preferences?.length, 3)
    for (const [i, content] of responses.entries()) {
      const messages: Turn[] = [question, { role: 'assistant', content }]
      assert.deepEqual((await engine.reward({ messages })).data[0]?.scores, data[i]?.scores)
    }
  })

  test('names the field that is wrong, and scores nothing of a bad batch', async () => {
    const good = { messages: [question, { role: 'assistant', content: '2' } as const] }
    const before = engine.stats().promptTokens
    const cases: readonly [Parameters<typeof engine.reward>[0], string, RegExp][] = [
      [{}, 'messages', /Missing/],
      [{ messages: [] }, 'messages', /at least 1/],
      [{ messages: [question] }, 'messages', /must be the assistant's/],
      [{ messages: [question], responses: [] }, 'responses', /at least 1/],
      [{ inputs: [] }, 'inputs', /at least 1/],
      [{ inputs: [good], messages: good.messages }, 'messages', /cannot both/],
      [{ inputs: [good, { messages: [question] }] }, 'inputs.1.messages', /inputs\.1/],
      [
        { inputs: [good, { messages: [question], responses: ['2', 'x'.repeat(600)] }] },
        'inputs.1.responses.1',
        /maximum context length/,
      ],
    ]
    for (const [call, param, message] of cases)
      await assert.rejects(engine.reward(call), (error: { param: string; message: string }) => {
        assert.equal(error.param, param)
        assert.match(error.message, message)
        return true
      })
    assert.equal(engine.stats().promptTokens, before)
  })

  test('refuses what is no call and no option', async () => {
    const call = { messages: [question], responses: ['2'] }
    for (const [given, options, message] of [
      [undefined, undefined, /^the call must be an object, found undefined/],
      [null, undefined, /^the call must be an object, found null/],
      [5, undefined, /^the call must be an object, found 5/],
      [call, null, /^options must be an object, found null/],
      [call, { signal: {} }, /^signal must be an AbortSignal, found an object/],
      [call, { timeout: 5 }, /^timeout is no field of options: signal/],
    ] as const)
      await assert.rejects(engine.reward(given as never, options as never), {
        name: 'EngineFailure',
        message,
      })
  })

  test('refuses half of a surrogate pair, as /v1/reward does', async () => {
    const call = { messages: [question], responses: ['2', 'x\ud83d'] }
    await assert.rejects(engine.reward(call), {
      name: 'RequestError',
      param: 'responses.1',
      message: /half of a surrogate pair/,
    })
  })

  test('an abort rejects', async () => {
    const signal = AbortSignal.abort()
    const call = { messages: [question], responses: ['2'] }
    await assert.rejects(engine.reward(call, { signal }), { code: 'aborted' })
  })
})

describe('what cannot give rewards', () => {
  test('a chat model says so', async () => {
    const chat = await createEngine(smallEngine(packagePath('test/golden/reward_row')))
    const call = { messages: [question], responses: ['2'] }
    await assert.rejects(chat.reward(call), { name: 'RequestError', message: /is a chat model/ })
    await chat.close()
  })

  test('a read-out that does not fit the head is refused', async () => {
    const cases: readonly (readonly [NonNullable<CreateEngineOptions['reward']>, RegExp])[] = [
      [{ weights: [1, 2] }, /reward\.weights has 2 values; .* has 9 outputs/],
      [{ attributes: { helpfulness: 9 } }, /output 9; .* has 9 outputs/],
      [{ weights: { helpfulness: 1 } }, /reward\.weights\.helpfulness: .* no such attribute/],
    ]
    for (const [reward, message] of cases)
      await assert.rejects(createEngine({ ...smallEngine(folder), reward }), {
        name: 'EngineFailure',
        message,
      })
  })
})
