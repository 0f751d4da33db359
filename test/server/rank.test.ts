// /v1/rerank and /v1/score: the rewards of /v1/reward under vLLM's names.

import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { packagePath } from '../../server/version.js'
import { type Harness, readAnswer, startHarness } from './harness.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

const query = 'What is 1+1?'
const DOCUMENTS = ['12', '1', '1234', '34']

/** Longer answers are better. */
const answerLength = (prompt: string): readonly number[] => [
  (prompt.split('assistant\n\n').at(-1) ?? '').length,
]

const refused = async (response: Response) => {
  const answer = await readAnswer(response)
  assert.equal(response.status, 400, JSON.stringify(answer))
  return answer.error
}

describe('/v1/rerank and /v1/score', () => {
  let h: Harness
  before(async () => {
    h = await startHarness({ reward: { score: answerLength } })
  })
  after(() => h.close())
  const post = (path: string, body: object) => h.post(path, { model: 'tiny-reward', ...body })
  const answerOf = async (path: string, body: object) => {
    const response = await post(path, body)
    const answer = await readAnswer(response)
    assert.equal(response.status, 200, JSON.stringify(answer))
    return answer
  }

  it("answers under each path of its origins' clients", async () => {
    const ranked = { query, documents: DOCUMENTS }
    const { results } = await answerOf('/v1/rerank', ranked)
    for (const path of ['/v2/rerank', '/rerank'])
      assert.deepEqual((await answerOf(path, ranked)).results, results, path)
    const scored = { text_1: query, text_2: DOCUMENTS }
    const { data } = await answerOf('/v1/score', scored)
    assert.deepEqual((await answerOf('/score', scored)).data, data)
  })

  it('orders documents, the best first, and of equals the first', async () => {
    const answer = await answerOf('/v1/rerank', { query, documents: DOCUMENTS })
    assert.match(answer.id, /^rerank-/)
    assert.equal(answer.model, 'tiny-reward')
    assert.deepEqual(answer.results, [
      { index: 2, document: { text: '1234' }, relevance_score: 4 },
      { index: 0, document: { text: '12' }, relevance_score: 2 },
      { index: 3, document: { text: '34' }, relevance_score: 2 },
      { index: 1, document: { text: '1' }, relevance_score: 1 },
    ])
    assert.equal(answer.usage.completion_tokens, 0)
    assert.equal(answer.usage.prompt_tokens, answer.usage.total_tokens)
  })

  it('takes objects, gives the best few, and leaves texts out', async () => {
    const documents = DOCUMENTS.map((text) => ({ text }))
    const two = { query, documents, top_n: 2, return_documents: false }
    assert.deepEqual((await answerOf('/v1/rerank', two)).results, [
      { index: 2, relevance_score: 4 },
      { index: 0, relevance_score: 2 },
    ])
    for (const top_n of [0, 9]) {
      const { results } = await answerOf('/v1/rerank', { query, documents, top_n })
      assert.equal(results.length, 4)
    }
  })

  it('scores pairs in the order given, under each name of the two sides', async () => {
    for (const [left, right] of [
      ['text_1', 'text_2'],
      ['data_1', 'data_2'],
      ['queries', 'documents'],
      ['queries', 'items'],
    ] as const) {
      const answer = await answerOf('/v1/score', { [left]: query, [right]: DOCUMENTS })
      assert.match(answer.id, /^score-/)
      assert.equal(answer.object, 'list')
      assert.deepEqual(
        answer.data,
        [2, 1, 4, 2].map((score, index) => ({ index, object: 'score', score })),
      )
    }
    const pairs = await answerOf('/v1/score', { text_1: ['a', 'b'], text_2: ['1', '123'] })
    assert.deepEqual(
      pairs.data.map(({ score }: { score: number }) => score),
      [1, 3],
    )
    const one = await answerOf('/v1/score', { text_1: query, text_2: '12345' })
    assert.deepEqual(one.data, [{ index: 0, object: 'score', score: 5 }])
  })

  it('names the field that is wrong', async () => {
    const long = 'x'.repeat(5000)
    for (const [path, body, param] of [
      ['/v1/rerank', { documents: ['a'] }, 'query'],
      ['/v1/rerank', { query: '', documents: ['a'] }, 'query'],
      ['/v1/rerank', { query, documents: [] }, 'documents'],
      ['/v1/rerank', { query, documents: ['a', long] }, 'documents.1'],
      ['/v1/rerank', { query, documents: ['a'], top_n: -1 }, 'top_n'],
      ['/v1/score', { text_1: 'a', text_2: 'b', instruction: 'c' }, 'instruction'],
      ['/v1/rerank', { query, documents: ['a'], principle: 'truth' }, 'principle'],
      ['/v1/score', {}, 'text_1'],
      ['/v1/score', { text_1: 'a' }, 'text_1'],
      ['/v1/score', { text_1: 'a', documents: 'b' }, 'documents'],
      ['/v1/score', { text_1: 'a', text_2: 'b', items: 'c' }, 'items'],
      ['/v1/score', { text_1: ['a', 'b'], text_2: ['c'] }, 'text_2'],
      ['/v1/score', { text_1: ['a', 'b'], text_2: 'c' }, 'text_2'],
      ['/v1/score', { text_1: 'a', text_2: long }, 'text_2'],
      ['/v1/score', { text_1: 'a', text_2: ['c', long] }, 'text_2.1'],
      ['/v1/score', { text_1: 'a', text_2: [] }, 'text_2'],
    ] as const)
      assert.equal(
        (await refused(await post(path, body))).param,
        param,
        JSON.stringify(body).slice(0, 99),
      )
    const chat = await refused(
      await post('/v1/rerank', { model: 'tiny-reasoner', query, documents: ['a'] }),
    )
    assert.match(chat.message, /'tiny-reward'/)
  })

  it('ranks by no model that has several scores and no weights', async (t) => {
    const several = await startHarness({ reward: { score: () => [1, 2], labels: ['a', 'b'] } })
    t.after(() => several.close())
    for (const [path, body] of [
      ['/v1/rerank', { query, documents: ['a'] }],
      ['/v1/score', { text_1: query, text_2: 'a' }],
    ] as const) {
      const error = await refused(await several.post(path, { model: 'tiny-reward', ...body }))
      assert.equal(error.param, 'model')
      assert.match(error.message, /no weights/)
    }
  })
})

describe('rerank and score of a checkpoint', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({
      max_model_len: 256,
      block_size: 16,
      models: [{ model: packagePath('test/golden/reward_row'), reward: { rows: [0] } }],
    })
  })
  after(() => server.close())

  it("are /v1/reward's, to the bit", async () => {
    const model = 'reward_row'
    const ask = async (path: string, body: object) => {
      const response = await server.post(path, { model, ...body })
      const answer = await readAnswer(response)
      assert.equal(response.status, 200, JSON.stringify(answer))
      return answer
    }
    const messages = [{ role: 'user', content: query }]
    const { data } = await ask('/v1/reward', { messages, responses: DOCUMENTS })
    const rewards: readonly number[] = data.map(({ reward }: { reward: number }) => reward)
    assert.equal(new Set(rewards).size, DOCUMENTS.length, 'documents that differ')
    const scored = await ask('/v1/score', { text_1: query, text_2: DOCUMENTS })
    assert.deepEqual(
      scored.data.map(({ score }: { score: number }) => score),
      rewards,
    )
    const { results } = await ask('/v1/rerank', { query, documents: DOCUMENTS })
    assert.deepEqual(
      results.map((one: { index: number; relevance_score: number }) => [
        one.index,
        one.relevance_score,
      ]),
      [...rewards.entries()].sort(([, a], [, b]) => b - a),
    )
  })
})
