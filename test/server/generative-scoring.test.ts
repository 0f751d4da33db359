// /generative_scoring: the probabilities that /v1/completions tells of the same tokens.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { packagePath } from '../../server/version.js'
import { readAnswer } from './harness.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

const FOLDER = packagePath('test/golden/reward_row')
const model = 'chat'
const QUERY = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]
const ITEMS = [[30, 31], [40], [50, 51, 52]]

const eosId = (): number => {
  const { eos_token_id: given } = JSON.parse(readFileSync(join(FOLDER, 'config.json'), 'utf8'))
  return [given].flat()[0]
}

describe('/generative_scoring', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({
      max_model_len: 64,
      block_size: 16,
      models: [
        { model: FOLDER, served_model_name: model },
        { model: FOLDER, served_model_name: 'rewards', reward: { rows: [0] } },
      ],
    })
  })
  after(() => server.close())

  const answerOf = async (path: string, body: object) => {
    const response = await server.post(path, { model, ...body })
    const answer = await readAnswer(response)
    assert.equal(response.status, 200, JSON.stringify(answer))
    return answer
  }
  const scores = async (body: object): Promise<number[]> => {
    const { data } = await answerOf('/generative_scoring', body)
    return data.map((one: { index: number; object: string; score: number }, i: number) => {
      assert.deepEqual([one.index, one.object], [i, 'score'])
      return one.score
    })
  }
  const errorOf = async (body: object) => {
    const response = await server.post('/generative_scoring', { model, ...body })
    const answer = await readAnswer(response)
    assert.equal(response.status, 400, JSON.stringify(answer))
    return answer.error
  }
  /** What /v1/completions says of a token after others. */
  const probability = async (prompt: readonly number[], label: number): Promise<number> => {
    const { choices } = await answerOf('/v1/completions', {
      prompt: [...prompt, label],
      max_tokens: 1,
      prompt_logprobs: 0,
    })
    return Math.exp(choices[0].prompt_logprobs.at(-1)[label].logprob)
  }

  it('gives the probability in the whole vocabulary, to the bit', async () => {
    const got = await scores({
      query: QUERY,
      items: ITEMS,
      label_token_ids: [77, 200],
      apply_softmax: false,
    })
    const wanted: number[] = []
    for (const item of ITEMS) wanted.push(await probability([...QUERY, ...item], 77))
    assert.deepEqual(got, wanted)
    assert.equal(new Set(got).size, 3)
  })

  it('or among the labels, of which one may end the text', async () => {
    const many = Array.from({ length: 40 }, (_, i) => 60 + i)
    for (const labels of [[77, 200], [200, 77], [eosId(), 77], many, [77]]) {
      const got = await scores({ query: QUERY, items: ITEMS, label_token_ids: labels })
      for (const [i, item] of ITEMS.entries()) {
        const each: number[] = []
        for (const label of labels) each.push(await probability([...QUERY, ...item], label))
        const wanted = (each[0] ?? 0) / each.reduce((sum, one) => sum + one, 0)
        const far = Math.abs((got[i] ?? 0) - wanted)
        assert.ok(far < 1e-5, `${labels}: ${got[i]}, by /v1/completions ${wanted}`)
      }
    }
  })

  it('has the same bits alone, together and again', async () => {
    for (const apply_softmax of [true, false]) {
      const body = { query: QUERY, label_token_ids: [77, 200], apply_softmax }
      const together = await scores({ ...body, items: ITEMS })
      const alone: number[] = []
      for (const item of ITEMS) alone.push(...(await scores({ ...body, items: [item] })))
      assert.deepEqual(alone, together)
      assert.deepEqual(await scores({ ...body, items: ITEMS }), together)
    }
  })

  it('computes the query once', async () => {
    const body = { query: QUERY, items: ITEMS, label_token_ids: [77, 200], cache_salt: 'once' }
    await answerOf('/generative_scoring', body)
    const { usage } = await answerOf('/generative_scoring', body)
    assert.equal(usage.prompt_tokens, 3 * QUERY.length + 6)
    // All but the last token of each.
    assert.equal(usage.prompt_tokens_details.cached_tokens, 3 * (QUERY.length + 1))
    assert.equal(usage.completion_tokens, 0)
  })

  it('tokenizes query and item by themselves, and begins the text once', async () => {
    const tokens = async (prompt: string, add_special_tokens: boolean): Promise<number[]> =>
      (await answerOf('/tokenize', { prompt, add_special_tokens })).tokens
    const [query, item, labels] = ['Is it so? ', 'Yes', { label_token_ids: [77, 200] }]
    for (const add_special_tokens of [true, false]) {
      const q = await tokens(query, add_special_tokens)
      const i = await tokens(item, false)
      assert.deepEqual(
        await scores({ query, items: [item], add_special_tokens, ...labels }),
        await scores({ query: q, items: [i], ...labels }),
      )
      assert.deepEqual(
        await scores({ query, items: [item], add_special_tokens, item_first: true, ...labels }),
        await scores({
          query: [],
          items: [[...(await tokens(item, add_special_tokens)), ...(await tokens(query, false))]],
          ...labels,
        }),
      )
    }
  })

  it('names the field that is wrong', async () => {
    const right = { query: QUERY, items: ITEMS, label_token_ids: [77, 200] }
    const { vocab_size: beyond } = JSON.parse(readFileSync(join(FOLDER, 'config.json'), 'utf8'))
    for (const [body, param] of [
      [{ query: undefined }, 'query'],
      [{ items: [] }, 'items'],
      [{ items: [[1], Array(60).fill(1)] }, 'items.1'],
      [{ items: [[1], [beyond]] }, 'items.1.0'],
      [{ query: [beyond] }, 'query.0'],
      [{ query: [], items: [[1], []] }, 'items.1'],
      [{ label_token_ids: [] }, 'label_token_ids'],
      [{ label_token_ids: [1, beyond] }, 'label_token_ids.1'],
      [{ label_token_ids: [1, 2, 1] }, 'label_token_ids.2'],
      [{ label_token_ids: Array.from({ length: 129 }, (_, i) => i) }, 'label_token_ids'],
      [{ items: Array(5000).fill([1]) }, 'items'],
      [{ items: Array(2048).fill([1]), label_token_ids: [1, 2, 3, 4, 5] }, 'items'],
      [{ apply_softmax: 'yes' }, 'apply_softmax'],
      [{ model: 'rewards' }, 'model'],
    ] as const)
      assert.equal((await errorOf({ ...right, ...body })).param, param, JSON.stringify(body))
  })
})
