// /v1/refine: drafts, feedback, edits, and the best of them.

import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { type Harness, readAnswer, startHarness } from './harness.js'

const user = { role: 'user', content: 'What is 1+1?' }
const last = (prompt: string) => prompt.split('user\n\n').at(-1) ?? ''

describe('/v1/refine', () => {
  let h: Harness
  let prompts: string[] = []
  before(async () => {
    h = await startHarness({
      // Drafts are "1", "2", ...; a feedback says its number; an edit has as many x as the feedback says.
      answer: (prompt, _, choice) => {
        prompts.push(prompt)
        const asked = last(prompt)
        if (asked.startsWith('Evaluate')) return { pieces: [`more: ${choice + 1}`] }
        const told = /more: (\d)/.exec(asked)?.[1]
        if (told !== undefined) return { pieces: ['x'.repeat(Number(told))] }
        return { pieces: [`${choice + 1}`] }
      },
      reward: { score: (prompt) => [(prompt.split('assistant\n\n').at(-1) ?? '').length] },
    })
  })
  after(() => h.close())
  const refine = async (body: object, status = 200) => {
    prompts = []
    const response = await h.post('/v1/refine', {
      messages: [user],
      feedback: { model: 'tiny-reasoner', n: 3 },
      edit: { model: 'tiny-reasoner' },
      select: { model: 'tiny-reward' },
      ...body,
    })
    const answer = await readAnswer(response)
    assert.equal(response.status, status, JSON.stringify(answer))
    return status === 200 ? answer : answer.error
  }

  it('writes drafts, feedback and edits, and chooses the best', async () => {
    const answer = await refine({ model: 'tiny-reasoner', drafts: 2, seed: 5 })
    assert.equal(answer.object, 'refinement')
    assert.equal(answer.content, 'xxx')
    assert.equal(answer.best, 4)
    assert.deepEqual(
      answer.candidates.map((one: Record<string, unknown>) => [
        one.kind,
        one.draft,
        one.feedback,
        one.content,
        one.reward,
      ]),
      [
        ['draft', 0, null, '1', 1],
        ['draft', 1, null, '2', 1],
        ['edit', 0, 0, 'x', 1],
        ['edit', 0, 1, 'xx', 2],
        ['edit', 0, 2, 'xxx', 3],
        ['edit', 1, 3, 'x', 1],
        ['edit', 1, 4, 'xx', 2],
        ['edit', 1, 5, 'xxx', 3],
      ],
    )
    assert.deepEqual(answer.feedbacks[4], {
      ...{ index: 4, draft: 1, content: 'more: 2', finish_reason: 'stop' },
    })
    const { usage } = answer
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    // One call for the drafts, one of each draft, one of each edit; each choice of the script is called.
    assert.equal(h.engine.requests.slice(-9)[0]?.n, 2)
    const seeds = h.engine.requests.slice(-9).map((one) => one.sampling?.seed)
    assert.equal(new Set(seeds).size, 9)
  })

  it("takes the caller's drafts, prompts and temperatures", async () => {
    const answer = await refine({
      responses: ['a draft'],
      feedback: { model: 'tiny-reasoner', n: 1, prompt: 'Evaluate it, please.', temperature: 0.5 },
      edit: { model: 'tiny-reasoner', prompt: 'Now <{feedback}>.', temperature: 0 },
      max_tokens: 7,
    })
    assert.equal(answer.candidates.length, 2)
    assert.equal(answer.content, 'a draft')
    assert.ok(
      prompts[0]?.includes('a draft') && last(prompts[0]).startsWith('Evaluate it, please.'),
    )
    assert.ok(last(prompts[1] ?? '').startsWith('Now <more: 1>.'))
    assert.deepEqual(
      h.engine.requests
        .slice(-2)
        .map(({ sampling, admitted }) => [sampling?.temperature, sampling?.maxTokens, admitted]),
      [
        [0.5, 7, false],
        [0, 7, true],
      ],
    )
  })

  it('says what is wrong, and where', async () => {
    const cases: [object, string, RegExp][] = [
      [{}, 'model', /Missing required parameter: 'model'/],
      [{ model: 'tiny-reasoner', responses: ['a'] }, 'model', /cannot both be given/],
      [{ responses: ['a', ''] }, 'responses.1', /nothing to edit/],
      [{ model: 'tiny-reward' }, 'model', /is a reward model: it writes no text/],
      [
        { responses: ['a'], select: { model: 'tiny-reasoner' } },
        'select.model',
        /gives no rewards/,
      ],
      [{ responses: ['a'], edit: { model: 'nobody' } }, 'edit.model', /does not exist/],
      [
        { responses: ['a'], feedback: { model: 'tiny-reward' } },
        'feedback.model',
        /is a reward model: it writes no text/,
      ],
      [{ responses: ['a'], stream: true }, 'stream', /known when all are written/],
      [{ responses: ['a'], n: 2 }, 'n', /the best text is one/],
      [
        { responses: ['a'], edit: { model: 'tiny-reasoner', prompt: 'Edit.' } },
        'edit.prompt',
        /\{feedback\}/,
      ],
      [
        { responses: Array(5).fill('a'), feedback: { model: 'tiny-reasoner', n: 64 } },
        'feedback.n',
        /320 edits: at most 256/,
      ],
      [
        { responses: ['a'], select: { model: 'tiny-reward', principle: 'wit' } },
        'select.principle',
        /by no principle/,
      ],
    ]
    for (const [body, param, message] of cases) {
      const error = await refine(body, param === 'edit.model' ? 404 : 400)
      assert.equal(error.param, param, JSON.stringify(error))
      assert.match(error.message, message)
    }
    for (const [stage, count, tokens] of [
      ["select by 'tiny-reward'", 600, 40],
      ["feedback by 'tiny-reasoner'", 10, 1_000_000],
    ] as const) {
      const { code, message } = await refine(
        {
          responses: ['a'],
          messages: [{ role: 'user', content: 'b'.repeat(count) }],
          max_tokens: tokens,
        },
        400,
      )
      assert.equal(code, 'context_length_exceeded')
      assert.ok(message.startsWith(`${stage}: This model's maximum context`), message)
    }
    const chat = await h.post('/v1/chat/completions', {
      ...{ model: 'tiny-reasoner', messages: [user] },
      reward: { model: 'tiny-reward', pipeline: {} },
    })
    const { error } = await readAnswer(chat)
    assert.equal(error.param, 'reward.pipeline')
    assert.match(error.message, /POST \/v1\/refine does feedback, edit and select/)
  })

  it('chooses by a judge, too', async () => {
    const judge = await startHarness({
      answer: (prompt) => ({ pieces: [last(prompt).startsWith('Edit') ? 'better' : 'good'] }),
      reward: {
        judge: (prompt) =>
          `{"score_1": ${prompt.includes('response_1\n\nbetter') ? 5 : 2}, "score_2": ${prompt.includes('response_2\n\nbetter') ? 5 : 2}, "ranking": 3}`,
      },
    })
    const response = await judge.post('/v1/refine', {
      messages: [user],
      model: 'tiny-reasoner',
      feedback: { model: 'tiny-reasoner', n: 1 },
      edit: { model: 'tiny-reasoner' },
      select: { model: 'tiny-reward' },
    })
    const answer = await readAnswer(response)
    await judge.close()
    assert.equal(answer.content, 'better')
    assert.deepEqual(
      answer.candidates.map((one: { reward: number }) => one.reward),
      [2, 5],
    )
  })
})
