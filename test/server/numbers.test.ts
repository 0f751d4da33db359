import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { Delta } from '../../server/engine/types.js'
import { EngineFailure } from '../../server/failure.js'
import { startRun } from '../../server/generation/run.js'
import { newRequestLog } from '../../server/log.js'
import { packagePath } from '../../server/version.js'
import { chatBody, type Harness, readAnswer, startHarness, until } from './harness.js'
import { noAddon, startReal } from './real-server.js'

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

  /** A run of three choices whose deltas the test emits, and what it counts. */
  const watchedRun = () => {
    const [model] = harness.server.models()
    assert.ok(model)
    const choices: [string, number][] = []
    const ends: object[] = []
    const errors: string[] = []
    let emit: (one: Delta) => void = () => {}
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
            choiceDone: ({ finish, tokens }) => choices.push([finish, tokens]),
            requestDone: ({ seconds: _, ...end }) => ends.push(end),
          },
        },
        requests: [{ promptTokenIds: [1, 2], n: 3, sampling: { maxTokens: 9 } }],
        record: newRequestLog(),
        arrival: performance.now(),
      },
      {
        onDelta: () => {},
        onDone: () => errors.push('done'),
        onError: ({ message }) => errors.push(message),
      },
    )
    return { run, emit, choices, ends, errors }
  }
  const ended = { promptTokens: 2, cachedTokens: 0, choices: 3, maxTokens: 9 }

  test('an aborted run counts what each choice had, and a finished one once', () => {
    const { run, emit, choices, ends, errors } = watchedRun()
    emit(delta(0, [1, 2]))
    emit(delta(1, [1, 2, 3], 'stop'))
    emit(delta(0, [3, 4, 5]))
    run.abort()
    run.abort()
    assert.equal(run.counts.completionTokens, 8)
    // A step was under way: what it draws is the engine's count, and so ours.
    emit(delta(0, [6], 'abort'))
    emit(delta(2, [], 'abort'))
    assert.deepEqual(choices, [
      ['stop', 3],
      ['abort', 6],
      ['abort', 0],
    ])
    assert.equal(run.counts.completionTokens, 8)
    assert.deepEqual(ends, [{ ...ended, mostTokens: 6 }])
    assert.deepEqual(errors, [])
  })

  test('a run that fails counts what each choice had, once', () => {
    const { run, emit, choices, ends, errors } = watchedRun()
    emit(delta(0, [1, 2], 'stop'))
    emit(delta(1, [3, 4, 5]))
    const error = { code: 'internal', message: 'the device failed' } as const
    emit({ ...delta(2, [6], 'error'), error })
    const all = [
      ['stop', 2],
      ['error', 3],
      ['error', 1],
    ]
    assert.deepEqual(choices, all)
    assert.deepEqual(ends, [{ ...ended, mostTokens: 3 }])
    assert.equal(errors.length, 1)
    // What comes after it is nobody's.
    emit(delta(1, [7], 'stop'))
    emit({ ...delta(0, [], 'error'), error })
    run.abort()
    assert.deepEqual([choices, ends.length, errors.length], [all, 1, 1])
    assert.equal(run.counts.completionTokens, 6)
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

  /** What a server has counted for a model, by the beginning of a line of its metrics. */
  const counted = async (one: Harness, model = 'tiny-reasoner') => {
    const lines = (await (await fetch(`${one.url}/metrics`)).text()).split('\n')
    return (name: string, label = ''): number => {
      const line = lines.find(
        (each) =>
          each.startsWith(`${name}{`) && each.includes(`"${model}"`) && each.includes(label),
      )
      return Number(line?.split(' ').at(-1) ?? 0)
    }
  }
  const refineBody = (feedbacks: number) => ({
    ...{ messages: [{ role: 'user', content: 'Hi' }], responses: ['a draft'] },
    ...{ feedback: { model: 'tiny-reasoner', n: feedbacks }, edit: { model: 'tiny-reasoner' } },
    select: { model: 'tiny-reward' },
  })

  test('the stages of /v1/refine count each choice by itself', async (t) => {
    const one = await startHarness({
      // Feedbacks of one, two and three tokens, and edits of one.
      answer: (prompt, _, choice) => {
        const isFeedback = prompt.includes('Evaluate the response')
        return { pieces: isFeedback ? Array(choice + 1).fill('x') : ['y'] }
      },
      reward: { score: () => [1] },
    })
    t.after(() => one.close())
    assert.equal((await one.post('/v1/refine', refineBody(3))).status, 200)
    const count = await counted(one)
    // Four requests of the engine, of at most 3, 1, 1 and 1 tokens.
    assert.equal(count('vllm:request_max_num_generation_tokens_count'), 4)
    assert.equal(count('vllm:request_max_num_generation_tokens_sum'), 6)
    assert.equal(count('vllm:request_generation_tokens_count'), 6)
    assert.equal(count('vllm:request_generation_tokens_sum'), 9)
    assert.equal(count('vllm:request_generation_tokens_bucket', 'le="1"'), 4)
    assert.equal(count('vllm:request_success_total', '"stop"'), 6)
  })

  test('a stage of /v1/refine that fails is counted, and one whose client left', async (t) => {
    let edit: object = { finish: 'error' }
    const one = await startHarness({
      answer: (prompt, _, choice) =>
        prompt.includes('Evaluate the response')
          ? { pieces: Array(choice + 1).fill('x') }
          : { pieces: ['y', 'y'], ...edit },
      reward: { score: () => [1] },
    })
    t.after(() => one.close())
    assert.equal((await one.post('/v1/refine', refineBody(1))).status, 500)
    let count = await counted(one)
    assert.equal(count('vllm:request_success_total', '"stop"'), 1)
    assert.equal(count('vllm:request_success_total', '"error"'), 1)
    assert.equal(count('vllm:e2e_request_latency_seconds_count'), 2)
    edit = { delaySteps: 1e9 }
    const gone = new AbortController()
    const left = fetch(`${one.url}/v1/refine`, {
      method: 'POST',
      body: JSON.stringify(refineBody(2)),
      signal: gone.signal,
    })
    await until(() => one.engine.requests.length === 5, 'both edits run')
    gone.abort()
    await assert.rejects(left)
    await until(() => one.server.live.size === 0 && one.model.pace.inFlight() === 0, 'its end')
    count = await counted(one)
    assert.equal(count('vllm:request_success_total', '"abort"'), 2)
    assert.equal(count('vllm:e2e_request_latency_seconds_count'), 5)
    assert.equal(count('vllm:request_success_total', '"stop"'), 3)
  })

  test('each vote of a judge is a choice', async (t) => {
    const judge = (_: string, __: unknown, choice: number) =>
      `{"score_1": 3}${' '.repeat(10 * choice)}`
    const one = await startHarness({ reward: { judge } })
    t.after(() => one.close())
    const messages = [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
    ]
    const body = { model: 'tiny-reward', messages, judge: { votes: 3 } }
    const response = await one.post('/v1/reward', body)
    assert.equal(response.status, 200)
    const count = await counted(one, 'tiny-reward')
    assert.equal(count('vllm:request_success_total', '"stop"'), 3)
    assert.equal(count('vllm:request_max_num_generation_tokens_sum'), judge('', 0, 2).length)
    const { usage } = await readAnswer(response)
    assert.equal(count('vllm:request_generation_tokens_sum'), usage.completion_tokens)
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

describe('with a model', { skip: noAddon }, () => {
  test('clients that leave are in the sum of choices as in the count of tokens', async () => {
    const server = await startReal({
      models: [{ model: packagePath('models/tiny/tiny-reasoner') }],
    })
    try {
      const read = async (): Promise<(name: string) => number> => {
        const lines = (await (await fetch(`${server.url}/metrics`)).text()).split('\n')
        return (name) =>
          lines
            .filter((line) => line.startsWith(`${name}{`))
            .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
      }
      const clients = Array.from({ length: 4 }, async (_, i) => {
        const gone = new AbortController()
        const response = await fetch(`${server.url}/v1/completions`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({
            model: 'tiny-reasoner',
            prompt: 'a',
            stream: true,
            n: 2,
            max_tokens: 400,
            ignore_eos: true,
          }),
          signal: gone.signal,
        })
        const reader = response.body?.getReader()
        for (let read = 0; read <= 2 * i; read++) await reader?.read()
        gone.abort()
      })
      await Promise.all(clients)
      let get = await read()
      await until(async () => {
        get = await read()
        return get('vllm:request_success_total') === 8
      }, 'the ends of all choices')
      const tokens = get('vllm:generation_tokens_total')
      assert.ok(tokens > 8)
      assert.equal(get('vllm:request_generation_tokens_sum'), tokens)
      assert.equal(get('vllm:request_generation_tokens_count'), 8)
      assert.ok(get('vllm:request_max_num_generation_tokens_sum') > 0)
    } finally {
      await server.close()
    }
  })
})
