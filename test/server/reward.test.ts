// /v1/reward and its relatives, and best-of-N, over scripted engines.

import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { type Harness, readAnswer, readEvents, startHarness } from './harness.js'

/** Longer answers are better: the score is the length of what stands between the last two headers. */
const answerLength = (prompt: string): readonly number[] => {
  const answer = prompt.split('assistant\n\n').at(-1) ?? ''
  return [answer.length]
}

const user = { role: 'user', content: 'What is 1+1?' }
const assistant = (content: string) => ({ role: 'assistant', content })

const errorOf = async (response: Response, status = 400) => {
  assert.equal(response.status, status)
  const { error } = await readAnswer(response)
  assert.deepEqual(Object.keys(error).sort(), ['code', 'message', 'param', 'type'])
  return error
}

describe('/v1/reward', () => {
  let h: Harness
  before(async () => {
    h = await startHarness({ reward: { score: answerLength } })
  })
  after(() => h.close())
  const reward = (body: object) => h.post('/v1/reward', { model: 'tiny-reward', ...body })

  it('scores one conversation', async () => {
    const response = await reward({ messages: [user, assistant('2')] })
    assert.equal(response.status, 200)
    const answer = await readAnswer(response)
    assert.match(answer.id, /^reward-/)
    assert.equal(answer.object, 'list')
    assert.equal(answer.model, 'tiny-reward')
    assert.deepEqual(answer.data, [
      { object: 'reward', index: 0, input: 0, response: 0, reward: 1, scores: [1] },
    ])
    assert.equal(answer.usage.prompt_tokens, answer.usage.total_tokens)
    assert.equal(answer.usage.prompt_tokens_details.cached_tokens, 8)
  })

  it('scores candidates of one prompt in the order given', async () => {
    const answer = await readAnswer(
      await reward({ messages: [user], responses: ['12', '1', '1234'], pairwise: true }),
    )
    assert.deepEqual(
      answer.data.map((one: { reward: number; response: number; input: number }) => [
        one.input,
        one.response,
        one.reward,
      ]),
      [
        [0, 0, 2],
        [0, 1, 1],
        [0, 2, 4],
      ],
    )
    assert.equal(answer.preferences.length, 3)
    assert.deepEqual(
      answer.preferences.map((one: { chosen: number; rejected: number }) => [
        one.chosen,
        one.rejected,
      ]),
      [
        [0, 1],
        [2, 0],
        [2, 1],
      ],
    )
    assert.ok(Math.abs(answer.preferences[0].probability - 1 / (1 + Math.exp(-1))) < 1e-12)
  })

  it('flattens many inputs and says where each belongs', async () => {
    const answer = await readAnswer(
      await reward({
        inputs: [
          { messages: [user, assistant('abc')] },
          { messages: [user], responses: ['a', 'ab'] },
        ],
        pairwise: true,
      }),
    )
    assert.deepEqual(
      answer.data.map((one: { index: number; input: number; response: number; reward: number }) => [
        one.index,
        one.input,
        one.response,
        one.reward,
      ]),
      [
        [0, 0, 0, 3],
        [1, 1, 0, 1],
        [2, 1, 1, 2],
      ],
    )
    assert.deepEqual(
      answer.preferences.map((one: { chosen: number; rejected: number }) => [
        one.chosen,
        one.rejected,
      ]),
      [[2, 1]],
    )
  })

  it('refuses what cannot be scored, naming the field', async () => {
    const cases: [object, string | null, RegExp][] = [
      [{}, 'messages', /messages/],
      [{ messages: [] }, 'messages', /at least 1/],
      [{ messages: [user] }, 'messages', /must be the assistant's/],
      [{ messages: [user, assistant('')] }, 'messages', /empty/],
      [{ messages: [user, assistant('2')], responses: ['2'] }, 'messages', /before the answer/],
      [{ messages: [user], responses: [] }, 'responses', /at least 1/],
      [{ messages: [user], responses: ['2', ''] }, 'responses.1', /empty/],
      [{ messages: [user], responses: ['2', 3] }, 'responses.1', /expected a string/],
      [{ responses: ['2'] }, 'messages', /Missing/],
      [{ inputs: [{ messages: [user, assistant('2')] }], responses: ['2'] }, 'responses', /cannot/],
      [{ inputs: [{ messages: [] }] }, 'inputs.0.messages', /at least 1/],
      [{ inputs: [{ messages: [user], responses: [] }] }, 'inputs.0.responses', /at least 1/],
      [{ inputs: [{ messages: [user, assistant('2')] }, null] }, 'inputs.1', /inputs\.1/],
      [{ messages: [user, assistant('x'.repeat(600))] }, 'messages', /context length is 512/],
      [{ inputs: [] }, 'inputs', /at least 1/],
      [
        { inputs: [{ messages: [user, assistant('2')] }], messages: [user] },
        'messages',
        /cannot both/,
      ],
      [
        { inputs: [{ messages: [user, assistant('2')] }, { messages: [user] }] },
        'inputs.1.messages',
        /inputs\.1/,
      ],
      [
        {
          inputs: [
            { messages: [user, assistant('2')] },
            { messages: [user], responses: ['2', 'x'.repeat(600)] },
          ],
        },
        'inputs.1.responses.1',
        /^inputs\.1\.responses\.1: .*maximum context length is 512/,
      ],
    ]
    for (const [body, param, message] of cases) {
      const error = await errorOf(await reward(body))
      assert.equal(error.param, param, JSON.stringify(body).slice(0, 80))
      assert.match(error.message, message)
    }
    const { requests } = h.engine
    assert.equal(requests.length, 0)
  })

  it('names the models that can when a chat model is asked, and 404s an unknown one', async () => {
    const wrong = await errorOf(
      await h.post('/v1/reward', { model: 'tiny-reasoner', messages: [user, assistant('2')] }),
    )
    assert.match(wrong.message, /'tiny-reward'/)
    for (const [path, body] of [
      ['/pooling', { messages: [user, assistant('2')] }],
      ['/classify', { text: 'x' }],
    ] as const)
      assert.match(
        (await errorOf(await h.post(path, { model: 'tiny-reasoner', ...body }))).message,
        /'tiny-reward'/,
      )
    const unknown = await errorOf(
      await h.post('/v1/reward', { model: 'gpt-9', messages: [user, assistant('2')] }),
      404,
    )
    assert.equal(unknown.code, 'model_not_found')
  })

  it('names the models that write answers when a reward model is asked for one', async () => {
    for (const [path, body] of [
      ['/v1/completions', { prompt: 'x' }],
      ['/v1/chat/completions', { messages: [user] }],
    ] as const)
      assert.match(
        (await errorOf(await h.post(path, { model: 'tiny-reward', ...body }))).message,
        /is a reward model.*'tiny-reasoner'/,
      )
    for (const [more, param] of [
      [{ stream: true }, 'stream'],
      [{ n: 2 }, 'n'],
      [{ reward: { model: 'tiny-reward' } }, 'model'],
    ] as const) {
      const body = { model: 'tiny-reward', messages: [user, assistant('2')], ...more }
      assert.equal((await errorOf(await h.post('/v1/chat/completions', body))).param, param)
    }
  })

  it('answers chat completions as NIM does', async () => {
    const answer = await readAnswer(
      await h.post('/v1/chat/completions', {
        model: 'tiny-reward',
        messages: [user, assistant('42')],
      }),
    )
    assert.equal(answer.choices[0].message.content, 'reward:2')
    assert.deepEqual(
      answer.choices[0].logprobs.content.map((one: { token: string; logprob: number }) => [
        one.token,
        one.logprob,
      ]),
      [['reward', 2]],
    )
    const error = await errorOf(
      await h.post('/v1/chat/completions', { model: 'tiny-reward', messages: [user] }),
    )
    assert.match(error.message, /assistant/)
  })

  it('answers in the shapes of /pooling and /classify', async () => {
    const pooling = await readAnswer(
      await h.post('/pooling', { model: 'tiny-reward', messages: [user, assistant('42')] }),
    )
    assert.deepEqual(pooling.data, [{ index: 0, object: 'pooling', data: [2] }])
    const one = await readAnswer(await h.post('/classify', { text: 'assistant\n\nabc' }))
    assert.deepEqual(one.embedding, [3])
    const many = await readAnswer(
      await h.post('/classify', { model: 'tiny-reward', text: ['assistant\n\nabc', 'x'] }),
    )
    assert.deepEqual(
      many.map((item: { embedding: number[] }) => item.embedding),
      [[3], [1]],
    )
  })
})

describe('several outputs', () => {
  const labels = ['a', 'b', 'helpfulness', 'correctness']
  const score = () => [9, 9, 1.5, 0.25]

  it('has no scalar without weights', async (t) => {
    const h = await startHarness({ reward: { score, labels } })
    t.after(() => h.close())
    const body = { model: 'tiny-reward', messages: [user], responses: ['x', 'y'] }
    const answer = await readAnswer(await h.post('/v1/reward', body))
    assert.equal(answer.data[0].reward, null)
    assert.deepEqual(answer.data[0].attributes, { a: 9, b: 9, helpfulness: 1.5, correctness: 0.25 })
    const error = await errorOf(await h.post('/v1/reward', { ...body, pairwise: true }))
    assert.equal(error.param, 'pairwise')
  })

  it('adds up with weights and shows the named ones', async (t) => {
    const h = await startHarness({
      reward: {
        score,
        labels,
        readout: { weights: [0, 0, 0.3, 0.74], attributes: { helpfulness: 2, correctness: 3 } },
      },
    })
    t.after(() => h.close())
    const answer = await readAnswer(
      await h.post('/v1/reward', { model: 'tiny-reward', messages: [user, assistant('x')] }),
    )
    assert.ok(Math.abs(answer.data[0].reward - (0.3 * 1.5 + 0.74 * 0.25)) < 1e-12)
    assert.deepEqual(answer.data[0].attributes, { helpfulness: 1.5, correctness: 0.25 })
    const nim = await readAnswer(
      await h.post('/v1/chat/completions', {
        model: 'tiny-reward',
        messages: [user, assistant('x')],
      }),
    )
    assert.equal(nim.choices[0].message.content, 'helpfulness:1.5,correctness:0.25')
  })
})

describe('best of N', () => {
  const texts = ['ab', 'abcd', 'a', 'abc']
  let h: Harness
  before(async () => {
    h = await startHarness({
      answer: (_, __, choice) => ({ pieces: [...(texts[choice] ?? '')] }),
      reward: { score: answerLength },
    })
  })
  after(() => h.close())
  const chat = (body: object) =>
    h.post('/v1/chat/completions', { model: 'tiny-reasoner', messages: [user], ...body })
  const ask = { best_of: 4, n: 2, reward: { model: 'tiny-reward' } }

  it('returns the best, best first, with all scores', async () => {
    const answer = await readAnswer(await chat(ask))
    assert.deepEqual(
      answer.choices.map((one: { message: { content: string }; reward: number; index: number }) => [
        one.index,
        one.message.content,
        one.reward,
      ]),
      [
        [0, 'abcd', 4],
        [1, 'abc', 3],
      ],
    )
    assert.deepEqual(answer.reward, { model: 'tiny-reward', scores: [2, 4, 1, 3] })
    assert.equal(answer.usage.completion_tokens, 10)
  })

  it('streams the winner, equal to the whole answer', async () => {
    const events = await readEvents(await chat({ ...ask, n: 1, stream: true }))
    assert.ok(events.done)
    const text = events.chunks.map((one) => one.choices[0]?.delta.content ?? '').join('')
    assert.equal(text, 'abcd')
    const last = events.chunks.at(-1)
    assert.equal(last.choices[0].finish_reason, 'stop')
    assert.equal(last.choices[0].reward, 4)
    assert.deepEqual(last.reward.scores, [2, 4, 1, 3])
    assert.ok(events.text.startsWith(': ping\n\n'))
  })

  it('tells of the prompt and of the tokens of the winners', async () => {
    const asked = { ...ask, logprobs: true, prompt_logprobs: 1, return_token_ids: true }
    const answer = await readAnswer(await chat(asked))
    assert.equal(answer.prompt_logprobs.length, answer.prompt_token_ids.length)
    for (const { message, token_ids, logprobs } of answer.choices) {
      assert.equal(String(Buffer.from(token_ids)), message.content)
      const tokens = logprobs.content.map((one: { token: string }) => one.token)
      assert.equal(tokens.join(''), message.content)
    }
    const { chunks } = await readEvents(await chat({ ...asked, n: 1, stream: true }))
    assert.deepEqual(chunks[0].prompt_logprobs, answer.prompt_logprobs)
    assert.deepEqual(chunks[0].choices[0].token_ids, answer.choices[0].token_ids)
    assert.deepEqual(chunks[0].choices[0].logprobs, answer.choices[0].logprobs)
  })

  it('scores the answer alone where the thinking is left in the text, and keeps the order of ties', async (t) => {
    const replies = [
      '<think>a long one</think>ab',
      '<think>b</think>abcd',
      'ab',
      '<think></think>xy',
    ]
    const thinking = await startHarness({
      answer: (_, __, choice) => ({ pieces: [...(replies[choice] ?? '')] }),
      reward: { score: answerLength },
    })
    t.after(() => thinking.close())
    const post = (more: object) =>
      thinking.post('/v1/chat/completions', {
        model: 'tiny-reasoner',
        messages: [user],
        ...ask,
        n: 4,
        ...more,
      })
    const split = await readAnswer(await post({}))
    const whole = await readAnswer(await post({ reasoning_format: 'none' }))
    assert.deepEqual(split.reward.scores, [2, 4, 2, 2])
    assert.deepEqual(whole.reward.scores, [2, 4, 2, 2])
    assert.deepEqual(
      whole.choices.map((one: { message: { content: string } }) => one.message.content),
      [1, 0, 2, 3].map((i) => replies[i]),
    )
  })

  it('puts a candidate last that is too long for the judge, and says so', async (t) => {
    const long = 'x'.repeat(600)
    const candidates = [long, 'ab', long, 'abc']
    const wide = await startHarness({
      answer: (_, __, choice) => ({ pieces: [candidates[choice] ?? ''] }),
      reward: { score: answerLength },
    })
    t.after(() => wide.close())
    const post = (body: object) =>
      wide.post('/v1/chat/completions', { model: 'tiny-reasoner', messages: [user], ...body })
    const answer = await readAnswer(await post({ ...ask, n: 3 }))
    assert.deepEqual(answer.reward.scores, [null, 2, null, 3])
    assert.deepEqual(
      answer.choices.map((one: { message: { content: string }; reward: number | null }) => [
        one.message.content,
        one.reward,
      ]),
      [
        ['abc', 3],
        ['ab', 2],
        [long, null],
      ],
    )
    candidates.fill(long)
    const error = await errorOf(await post(ask))
    assert.equal(error.code, 'context_length_exceeded')
    assert.equal(error.param, 'max_tokens')
    assert.match(error.message, /None of the 4 candidates can be scored/)
  })

  it('is a 429 while the judge has no place, and so is every way to ask it', async () => {
    const judge = h.server.models().find(({ id }) => id === 'tiny-reward')
    assert.ok(judge)
    let isFull = true
    Object.assign(judge.engine, { isFull: () => isFull })
    const { requests } = h.engine
    const before = requests.length
    for (const stream of [false, true]) {
      const response = await chat({ ...ask, stream })
      assert.ok(Number(response.headers.get('retry-after')) > 0)
      assert.equal((await errorOf(response, 429)).code, 'rate_limit_exceeded')
    }
    for (const path of ['/v1/reward', '/v1/rerank', '/v1/score', '/pooling', '/classify'])
      await errorOf(await h.post(path, '{'), 429)
    assert.equal(requests.length, before)
    isFull = false
    assert.equal((await chat(ask)).status, 200)
  })

  it('refuses what makes no sense', async () => {
    const cases: [object, string][] = [
      [{ best_of: 4 }, 'reward'],
      [{ best_of: 1, n: 2, reward: { model: 'tiny-reward' } }, 'best_of'],
      [{ best_of: 2, reward: { model: 'tiny-reasoner' } }, 'reward.model'],
      [{ best_of: 2, reward: {} }, 'reward.model'],
    ]
    for (const [body, param] of cases) {
      assert.equal((await errorOf(await chat(body))).param, param, JSON.stringify(body))
    }
    const unknown = await errorOf(await chat({ best_of: 2, reward: { model: 'nobody' } }), 404)
    assert.equal(unknown.param, 'reward.model')
  })
})
