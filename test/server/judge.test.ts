// Judges (GenRM): what they wrote as numbers, tournaments of answers on /v1/reward, and best of N by them.

import assert from 'node:assert/strict'
import { after, before, describe, it, test } from 'node:test'
import { pointsOf, readJudgement } from '../../server/scoring/judgement.js'
import { chatCheckpoint } from './chat-checkpoint.js'
import { type Harness, readAnswer, startHarness } from './harness.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

describe('what a judge wrote', () => {
  const json = (one: number, two: number, ranking: number) =>
    `{"score_1": ${one}, "score_2": ${two}, "ranking": ${ranking}}`

  test('JSON behind the thinking, the last of several, in a fence or below "overall"', () => {
    const expected = { scores: [4, 2], ranking: 1 }
    for (const text of [
      json(4, 2, 1),
      `<think>${json(1, 1, 6)} or so</think>\nSo: ${json(4, 2, 1)}.`,
      `${json(1, 5, 6)} No: ${json(4, 2, 1)}`,
      `\`\`\`json\n{\n  "score_1": 4,\n  "score_2": 2,\n  "ranking": 1\n}\n\`\`\``,
      `{"rubric": [{"a": "}{"}], "overall": ${json(4, 2, 1)}}`,
      `{broken ${json(4, 2, 1)}`,
    ])
      assert.deepEqual(readJudgement(text, 2), expected, text)
  })

  test('braces in texts are no objects, and many of them take no time', () => {
    const text = '{"why": "uses {x}", "score_1": 4, "score_2": 2, "ranking": 1}'
    assert.deepEqual(readJudgement(text, 2), { scores: [4, 2], ranking: 1 })
    const began = performance.now()
    for (const braces of ['{', '{"', '{"a":', '{}'])
      assert.equal(readJudgement(braces.repeat(50_000), 2), undefined)
    assert.ok(performance.now() - began < 2000)
  })

  test('boxes, as older releases write them', () => {
    const text = `[The Begin of Analysis on Response 1]\n\\boxed{9}\n[The End of Analysis on Response 1]
[The Begin of Individual Scores]\n\\boxed{4, 2}\n[The End of Individual Scores]
[The Begin of Ranking Score]\n\\boxed{1}\n[The End of Ranking Score]`
    assert.deepEqual(readJudgement(text, 2), { scores: [4, 2], ranking: 1 })
    const one = '[The Begin of Individual Scores]\n\\boxed{3} \n[The End of Individual Scores]'
    assert.deepEqual(readJudgement(one, 1), { scores: [3], ranking: undefined })
  })

  test('nothing is guessed', () => {
    for (const text of [
      '',
      'Both are fine.',
      '{"score_1": 4, "score_2": 2}',
      json(4, 2, 7),
      json(0, 2, 3),
      '{"score_1": "4", "score_2": 2, "ranking": 1}',
      `<think>${json(4, 2, 1)}</think> I cannot say.`,
      json(4, 2, 1).slice(0, -1),
      '[The Begin of Individual Scores]\\boxed{4}[The Begin of Ranking Score]\\boxed{1}',
    ])
      assert.equal(readJudgement(text, 2), undefined, text)
  })

  test('the ranking decides between equal scores, and only there', () => {
    assert.deepEqual(pointsOf({ scores: [4, 2], ranking: 6 }), [4, 2])
    assert.deepEqual(pointsOf({ scores: [3, 3], ranking: 2 }), [4.5, 1.5])
    assert.deepEqual(pointsOf({ scores: [3, 3], ranking: 6 }), [0.5, 5.5])
    assert.deepEqual(pointsOf({ scores: [5], ranking: undefined }), [5])
  })
})

const GENRM = 'Llama-3_3-Nemotron-Super-49B-GenRM'
const user = { role: 'user', content: 'What is 1+1?' }
const textOf = (prompt: string, role: string) =>
  prompt.split(`${role}\n\n`)[1]?.split(/response_2|assistant/)[0] ?? ''

/** The number in an answer is its score; of equal ones the first is preferred, unless it says "last". */
const judge = (prompt: string): string => {
  const scoreOf = (role: string) => Number(/\d/.exec(textOf(prompt, role))?.[0] ?? 1)
  if (prompt.includes('mumble')) return '<think>Hm.</think>I cannot say.'
  if (!prompt.includes('response_2')) return `{"score_1": ${scoreOf('response_1')}}`
  const [one, two] = [scoreOf('response_1'), scoreOf('response_2')]
  return `<think>Well.</think>\n{"score_1": ${one}, "score_2": ${two}, "ranking": ${one < two ? 5 : 2}}`
}

describe('a judge on /v1/reward', () => {
  let h: Harness
  before(async () => {
    h = await startHarness({
      reward: { judge },
      answer: (_, __, choice) => ({ pieces: [['bad 1', 'good 5', 'fair 3', ''][choice] ?? '2'] }),
    })
  })
  after(() => h.close())
  const reward = async (body: object, status = 200) => {
    const response = await h.post('/v1/reward', { model: 'tiny-reward', ...body })
    const answer = await readAnswer(response)
    assert.equal(response.status, status, JSON.stringify(answer))
    return status === 200 ? answer : answer.error
  }

  it('compares each two answers in both orders', async () => {
    const answer = await reward({ messages: [user], responses: ['a 2', 'b 5', 'c 2'] })
    assert.deepEqual(
      answer.comparisons.map(({ responses }: { responses: number[] }) => responses.join('')),
      ['01', '10', '02', '20', '12', '21'],
    )
    assert.deepEqual(answer.comparisons[0], {
      input: 0,
      responses: [0, 1],
      scores: [2, 5],
      ranking: 5,
    })
    assert.deepEqual(
      answer.data.map(({ reward: value, scores }: { reward: number; scores: number[] }) => [
        value,
        scores,
      ]),
      // Whoever stands first wins a tie by 1.5: in both orders that is nothing.
      [
        [2, [2]],
        [5, [5]],
        [2, [2]],
      ],
    )
    assert.ok(answer.usage.completion_tokens > 0)
    assert.equal(
      answer.usage.total_tokens,
      answer.usage.prompt_tokens + answer.usage.completion_tokens,
    )
  })

  it('in one order, with votes and its text, by the seed', async () => {
    const answer = await reward({
      messages: [user],
      responses: ['a 2', 'b 2'],
      judge: { both_orders: false, votes: 3, return_text: true, seed: 7, temperature: 0 },
    })
    assert.equal(answer.comparisons.length, 3)
    assert.match(answer.comparisons[0].text, /^<think>Well/)
    assert.deepEqual(
      answer.data.map((one: { reward: number }) => one.reward),
      [3.5, 0.5],
    )
  })

  it('one answer by itself, and many conversations', async () => {
    const answer = await reward({
      inputs: [
        { messages: [user, { role: 'assistant', content: 'It is 4' }] },
        { messages: [user], responses: ['3', '5'] },
      ],
    })
    assert.deepEqual(
      answer.data.map((one: { input: number; reward: number }) => [one.input, one.reward]),
      [
        [0, 4],
        [1, 3],
        [1, 5],
      ],
    )
  })

  it('says what it could not read: nothing is made up', async () => {
    const answer = await reward({ messages: [user], responses: ['mumble', '5'] })
    assert.deepEqual(
      answer.comparisons.map((one: { scores: null }) => one.scores),
      [null, null],
    )
    assert.deepEqual(
      answer.data.map((one: { reward: null; scores: number[] }) => [one.reward, one.scores]),
      [
        [null, []],
        [null, []],
      ],
    )
  })

  it('says what is wrong, and where', async () => {
    const cases: [object, string, RegExp][] = [
      [{ messages: [user] }, 'messages', /judges answers: give 'responses'/],
      [{ messages: [user], responses: ['a', ' '] }, 'responses.1', /nothing to judge/],
      [{ messages: [user], responses: ['a', 'b'], pairwise: true }, 'pairwise', /'comparisons'/],
      [
        { messages: [user], responses: Array(65).fill('a') },
        'responses',
        /4160 comparisons of 1 votes each: at most 4096/,
      ],
      [{ messages: [user], responses: ['a', 'b'.repeat(600)] }, 'responses.1', /context length/],
      [
        { messages: [user], responses: ['a', 'b'], judge: { max_tokens: 500 } },
        'responses.1',
        /context length/,
      ],
      [{ messages: [user], responses: ['a'], judge: { votes: 0 } }, 'judge.votes', /votes/],
    ]
    for (const [body, param, message] of cases) {
      const error = await reward(body, 400)
      assert.equal(error.param, param, JSON.stringify(error))
      assert.match(error.message, message)
    }
  })

  it('may write as much as there is room for, and no more', async (t) => {
    let lengths: (number | undefined)[] = []
    const one = await startHarness({
      reward: {
        judge: (prompt, { sampling }) => {
          lengths.push(sampling?.maxTokens)
          return judge(prompt)
        },
      },
    })
    t.after(() => one.close())
    const judged = async (more: object) => {
      lengths = []
      const body = { model: 'tiny-reward', messages: [user], responses: ['a 2', 'b 5'], ...more }
      const response = await one.post('/v1/reward', body)
      const { error } = await readAnswer(response)
      return { status: response.status, message: String(error?.message), lengths }
    }
    const { message } = await judged({ judge: { max_tokens: 500 } })
    const [, context, prompt] =
      /is (\d+) tokens.*\((\d+) in the prompt, 500 for/.exec(message) ?? []
    const room = Number(context) - Number(prompt)
    assert.ok(room > 1, message)
    const most = await judged({ judge: { max_tokens: room } })
    assert.deepEqual([most.status, most.lengths], [200, [room, room]])
    const more = await judged({ judge: { max_tokens: room + 1 } })
    assert.equal(more.status, 400)
    assert.match(more.message, /context length/)
    // Without a length of the caller's: the judge's own, or what is left, if only one token.
    const beside = (length: number) => judged({ responses: ['a 2', `b 5${'b'.repeat(length)}`] })
    assert.deepEqual((await beside(room - 1)).lengths, [1, 1])
    assert.equal((await beside(room)).status, 400)
  })

  it('is told a principle before the answers, of each input, where its template shows one', async () => {
    const seen: string[] = []
    const own = await startHarness({
      reward: {
        judge: (prompt) => {
          seen.push(prompt)
          return '{"score_1": 4, "score_2": 2, "ranking": 1}'
        },
      },
      answer: (_, __, choice) => ({ pieces: [['one', 'two'][choice] ?? ''] }),
    })
    const inputs = [
      { messages: [user], responses: ['a', 'b'], principle: 'brevity' },
      { messages: [user], responses: ['a', 'b'] },
    ]
    const body = { model: 'tiny-reward', inputs, principle: 'wit', judge: { both_orders: false } }
    const response = await own.post('/v1/reward', body)
    assert.equal(response.status, 200)
    const best = await own.post('/v1/chat/completions', {
      ...{ model: 'tiny-reasoner', messages: [user], n: 1, best_of: 2 },
      reward: { model: 'tiny-reward', principle: 'rhyme' },
    })
    assert.equal(best.status, 200)
    await own.close()
    // The text without control tokens: the question, the principle, the answers.
    assert.deepEqual(
      seen.map(
        (prompt) => /1\+1\?principle\n\n(\w+)response_1\n\n\w+response_2\n/.exec(prompt)?.[1],
      ),
      ['brevity', 'wit', 'rhyme', 'rhyme'],
    )
    // One template goes past a role that it does not know, another refuses it.
    for (const unknown of ['', "{{ raise_exception('no such role') }}"]) {
      const template = `Judge correctness and wit.{% for m in messages %}{% if m.role in ['user', 'response_1', 'response_2'] %}{{ m.content }}{% else %}${unknown}{% endif %}{% endfor %}`
      const other = await startHarness({ id: GENRM, template })
      for (const [param, body] of [
        ['principle', { messages: [user], responses: ['a'], principle: 'x' }],
        ['inputs.1.principle', { inputs: [inputs[1], inputs[0]] }],
      ] as const) {
        const refused = await other.post('/v1/reward', { model: GENRM, ...body })
        const { error } = await readAnswer(refused)
        assert.equal(refused.status, 400)
        assert.equal(error.param, param)
        assert.match(error.message, /judges answers by no principle/)
      }
      await other.close()
    }
  })

  it('is no chat model and reads no raw text', async () => {
    const messages = [user, { role: 'assistant', content: '2' }]
    for (const [path, body] of [
      ['/v1/chat/completions', { messages }],
      ['/pooling', { messages }],
      ['/classify', { text: 'a' }],
      ['/v1/rerank', { query: 'a', documents: ['b'] }],
      ['/v1/score', { text_1: 'a', text_2: 'b' }],
    ] as const) {
      const response = await h.post(path, { model: 'tiny-reward', ...body })
      assert.equal(response.status, 400)
      assert.match((await readAnswer(response)).error.message, /is a judge: it answers at/)
    }
  })

  it('picks the best of N', async () => {
    const response = await h.post('/v1/chat/completions', {
      model: 'tiny-reasoner',
      messages: [user],
      n: 2,
      best_of: 4,
      reward: { model: 'tiny-reward' },
    })
    const answer = await readAnswer(response)
    assert.deepEqual(answer.reward.scores, [1, 5, 3, null])
    assert.deepEqual(
      answer.choices.map((one: { message: { content: string } }) => one.message.content),
      ['good 5', 'fair 3'],
    )
  })

  it('judges candidates and edits by the seed of the request', async () => {
    const seeds: unknown[] = []
    const seeded = await startHarness({
      answer: (_, __, choice) => ({ pieces: [`fair ${choice}`] }),
      reward: {
        judge: (prompt, request) => {
          seeds.push(request.sampling?.seed)
          return judge(prompt)
        },
      },
    })
    const asked = async (path: string, body: object) => {
      seeds.length = 0
      const response = await seeded.post(path, {
        model: 'tiny-reasoner',
        messages: [user],
        ...body,
      })
      assert.equal(response.status, 200, await response.text())
      return seeds.map((seed) => (seed === undefined ? undefined : Number(seed)))
    }
    const reward = { model: 'tiny-reward' }
    const best = { n: 1, best_of: 2, reward }
    const stage = { model: 'tiny-reasoner', n: 1 }
    const refined = { drafts: 1, feedback: stage, edit: { model: stage.model }, select: reward }
    const path = '/v1/chat/completions'
    try {
      assert.deepEqual(await asked(path, { ...best, seed: 7 }), [7, 8])
      assert.deepEqual(await asked('/v1/refine', { ...refined, seed: 7 }), [7, 8])
      // Also of the last one that a number keeps, each comparison has a seed of its own.
      const seed = Number.MAX_SAFE_INTEGER
      await asked(path, { ...best, best_of: 3, seed })
      assert.equal(new Set(seeds).size, seeds.length)
      await asked('/v1/refine', { ...refined, drafts: 3, seed })
      assert.equal(new Set(seeds).size, seeds.length)
      assert.deepEqual(await asked(path, best), [undefined, undefined])
    } finally {
      await seeded.close()
    }
  })

  it('other reward models refuse what is for judges', async () => {
    const other = await startHarness({ reward: { score: () => [1] } })
    const response = await other.post('/v1/reward', {
      model: 'tiny-reward',
      messages: [user],
      responses: ['a'],
      judge: { votes: 2 },
    })
    const { error } = await readAnswer(response)
    await other.close()
    assert.equal(error.param, 'judge')
  })

  it('a template that does not show the answers is refused', async () => {
    const template =
      "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    const other = await startHarness({ id: 'Llama-3_3-Nemotron-Super-49B-GenRM', template })
    // The latter two stand in the question.
    for (const responses of [
      ['12', '34'],
      ['1', '1+1'],
    ]) {
      const body = { model: 'Llama-3_3-Nemotron-Super-49B-GenRM', messages: [user], responses }
      const { error } = await readAnswer(await other.post('/v1/reward', body))
      assert.match(error.message, /does not show a message of role 'response_1'/)
    }
    await other.close()
  })
})

describe('a judge on the native engine', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({
      max_model_len: 512,
      models: [
        {
          model: chatCheckpoint(),
          served_model_name: 'genrm',
          reward: { judge: { temperature: 0.6, top_p: 0.95, max_tokens: 12 } },
        },
      ],
    })
  })
  after(() => server.close())

  it('writes the same judgements by the same seed, and makes none up', async () => {
    const judged = async (body: object) => {
      const response = await server.post('/v1/reward', {
        ...{ model: 'genrm', messages: [user], responses: ['1', '2', '3'] },
        ...body,
      })
      const answer = await readAnswer(response)
      assert.equal(response.status, 200, JSON.stringify(answer))
      return answer
    }
    const judge = { seed: 3, votes: 2, return_text: true }
    const [one, two, other] = [
      await judged({ judge }),
      await judged({ judge }),
      await judged({ judge: { ...judge, seed: 4 } }),
    ]
    assert.equal(one.comparisons.length, 12)
    assert.deepEqual(two.comparisons, one.comparisons)
    assert.notDeepEqual(other.comparisons, one.comparisons)
    assert.equal(new Set(one.comparisons.map((all: { text: string }) => all.text)).size, 12)
    // Random weights write no scores.
    for (const { scores, ranking } of one.comparisons)
      assert.deepEqual([scores, ranking], [null, null])
    for (const { reward, scores } of one.data) assert.deepEqual([reward, scores], [null, []])
    assert.ok(one.usage.completion_tokens <= 12 * 12 && one.usage.completion_tokens > 12)
  })

  it('is no chat model', async () => {
    const response = await server.post('/v1/chat/completions', { model: 'genrm', messages: [user] })
    assert.equal(response.status, 400)
    assert.match((await readAnswer(response)).error.message, /'genrm' is a reward model/)
  })
})
