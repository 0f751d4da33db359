// Every read-out through HTTP and the native engine, on checkpoints whose scores transformers gave
// (test/golden/make.py), and the embedded models.

import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { packagePath } from '../../server/version.js'
import { readAnswer, readEvents } from './harness.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

type Turn = { readonly role: string; readonly content: string }
type Golden = {
  readonly conversations: readonly {
    readonly messages: readonly Turn[]
    readonly ids: readonly number[]
    readonly scores: readonly number[]
  }[]
  readonly attributes?: Readonly<Record<string, number>>
  readonly weights?: readonly number[]
  readonly rewards?: readonly number[]
}
type Item = {
  readonly index: number
  readonly input: number
  readonly response: number
  readonly reward: number | null
  readonly scores: readonly number[]
  readonly attributes?: Readonly<Record<string, number>>
}

const folderOf = (name: string): string => packagePath(`test/golden/${name}`)
const goldenOf = (name: string): Golden =>
  JSON.parse(readFileSync(join(folderOf(name), 'golden.json'), 'utf8'))

/** 1e-2 of the score, and of 1 for a score that is nearly nothing. */
const assertClose = (got: number, want: number, what: string): void =>
  assert.ok(
    Math.abs(got - want) <= 0.01 * Math.max(Math.abs(want), 1),
    `${what}: ${got}, transformers has ${want}`,
  )

/** Under the name that models/registry.json knows. */
const registered = (): string => {
  const path = join(mkdtempSync(join(tmpdir(), 'nemotron-')), 'Nemotron-4-340B-Reward')
  symlinkSync(folderOf('reward_nine_outputs'), path)
  return path
}

/** The checkpoint's own template, with text after the last turn. */
const trailingTemplate = (): string => {
  const own = readFileSync(join(folderOf('reward_row'), 'tokenizer_config.json'), 'utf8')
  const path = join(mkdtempSync(join(tmpdir(), 'nemotron-')), 'template.jinja')
  writeFileSync(path, `${JSON.parse(own).chat_template}\n\nThat was it.`)
  return path
}

const names = ['reward_row', 'reward_one_label', 'reward_five_labels', 'reward_nine_outputs']
const nine = goldenOf('reward_nine_outputs')

describe('read-outs of real checkpoints', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({
      max_model_len: 256,
      block_size: 16,
      models: [
        { model: folderOf('reward_row'), reward: { rows: [0] } },
        { model: folderOf('reward_one_label') },
        {
          model: folderOf('reward_question'),
          max_model_len: 512,
          reward: {
            rows: [77, 200],
            attributes: { yes: 0, no: 1 },
            weights: { yes: 1, no: -1 },
            question:
              'Evaluate the response to the previous prompt in terms of whether it satisfies this principle: {principle}. Only answer Yes or No.',
          },
        },
        { model: folderOf('reward_five_labels') },
        { model: folderOf('reward_nine_outputs') },
        { model: registered() },
        {
          model: folderOf('reward_nine_outputs'),
          served_model_name: 'by-config',
          reward: {
            attributes: nine.attributes,
            weights: [0, 0, 0, 0, ...(nine.weights ?? [])],
          },
        },
        { model: folderOf('reward_row'), served_model_name: 'chat' },
        {
          model: folderOf('reward_row'),
          served_model_name: 'trailing',
          reward: { rows: [0] },
          chat_template: trailingTemplate(),
        },
      ],
    })
  })
  after(() => server.close())

  const reward = async (body: object): Promise<{ data: Item[]; usage: Usage }> => {
    const response = await server.post('/v1/reward', body)
    const answer = await readAnswer(response)
    assert.equal(response.status, 200, JSON.stringify(answer))
    return answer
  }

  for (const name of names) {
    test(`${name}: transformers' scores, in every route's form, batched and single`, async () => {
      const { conversations } = goldenOf(name)
      const inputs = conversations.map(({ messages }) => ({ messages }))
      const batch = await reward({ model: name, inputs })
      assert.equal(batch.data.length, conversations.length)
      assert.equal(
        batch.usage.prompt_tokens,
        conversations.reduce((sum, { ids }) => sum + ids.length, 0),
      )
      for (const [i, { messages, ids, scores }] of conversations.entries()) {
        const item = batch.data[i]
        assert.equal(item?.index, i)
        assert.equal(item?.scores.length, scores.length)
        scores.forEach((want, k) => {
          assertClose(item?.scores[k] ?? Number.NaN, want, `${name} ${i}.${k}`)
        })
        // The head's outputs as they are: float32, not rounded.
        assert.ok(item?.scores.every((score) => Math.fround(score) === score))
        const single = await reward({ model: name, messages })
        assert.deepEqual(single.data[0]?.scores, item?.scores)
        assert.equal(single.usage.prompt_tokens, ids.length)
        const asked = await reward({
          model: name,
          messages: messages.slice(0, -1),
          responses: [messages.at(-1)?.content, 'Another answer.'],
        })
        assert.deepEqual(asked.data[0]?.scores, item?.scores)
        const pooled = await readAnswer(await server.post('/pooling', { model: name, messages }))
        assert.deepEqual(pooled.data[0].data, item?.scores)
        const packed = await readAnswer(
          await server.post('/pooling', { model: name, input: ids, encoding_format: 'base64' }),
        )
        const bytes = Buffer.from(packed.data[0].data, 'base64')
        assert.deepEqual(
          Array.from(scores, (_, k) => bytes.readFloatLE(4 * k)),
          item?.scores,
        )
        const classified = await readAnswer(
          await server.post('/classify', { model: name, input_ids: ids }),
        )
        assert.deepEqual(classified.embedding, item?.scores)
        assert.equal(classified.meta_info.prompt_tokens, ids.length)
      }
    })
  }

  test('the score is read at the last token that the template writes, whatever it is', async () => {
    const [{ messages } = { messages: [] }] = goldenOf('reward_row').conversations
    const [own] = (await reward({ model: 'reward_row', messages })).data
    const [trailing] = (await reward({ model: 'trailing', messages })).data
    assert.notDeepEqual(trailing?.scores, own?.scores)
    const { prompt_token_ids: ids } = await readAnswer(
      await server.post('/v1/chat/completions/render', { model: 'trailing', messages }),
    )
    const raw = await readAnswer(await server.post('/pooling', { model: 'reward_row', input: ids }))
    assert.deepEqual(raw.data[0].data, trailing?.scores)
  })

  describe('a question about the answer, two logits, a template of ordinary text', () => {
    const model = 'reward_question'
    const principle = 'correctness'
    const { conversations } = goldenOf(model)

    test("transformers' ids and scores", async () => {
      const inputs = conversations.map(({ messages }) => ({ messages }))
      const { data, usage } = await reward({ model, inputs, principle })
      assert.equal(
        usage.prompt_tokens,
        conversations.reduce((sum, { ids }) => sum + ids.length, 0),
      )
      for (const [i, { messages, ids, scores }] of conversations.entries()) {
        const item = data[i]
        scores.forEach((want, k) => {
          assertClose(item?.scores[k] ?? Number.NaN, want, `${i}.${k}`)
        })
        const [yes = Number.NaN, no = Number.NaN] = item?.scores ?? []
        assert.equal(item?.reward, yes - no)
        assert.deepEqual(item?.attributes, { yes, no })
        const body = { model, messages, principle }
        const rendered = await readAnswer(await server.post('/v1/chat/completions/render', body))
        assert.deepEqual(rendered.prompt_token_ids, ids)
        const pooled = await readAnswer(await server.post('/pooling', body))
        assert.deepEqual(pooled.data[0].data, item?.scores)
        const raw = await readAnswer(await server.post('/pooling', { model, input: ids }))
        assert.deepEqual(raw.data[0].data, item?.scores)
        const chat = await readAnswer(await server.post('/v1/chat/completions', body))
        assert.equal(chat.choices[0].message.content, `yes:${yes},no:${no}`)
      }
    })

    test('each conversation may have a principle of its own; candidates share their prompt', async () => {
      const { messages = [] } = conversations[0] ?? {}
      const other = 'The answer is short.'
      const alone = await reward({ model, messages, principle: other })
      const { data } = await reward({
        model,
        principle,
        inputs: [{ messages }, { messages, principle: other }],
      })
      assert.deepEqual(data[1]?.scores, alone.data[0]?.scores)
      assert.notDeepEqual(data[0]?.scores, data[1]?.scores)
      const asked = await reward({
        model,
        messages: messages.slice(0, -1),
        responses: [messages.at(-1)?.content, 'Four.'],
        principle: other,
        pairwise: true,
      })
      assert.deepEqual(asked.data[0]?.scores, alone.data[0]?.scores)
    })

    test('a principle that is missing, or that nobody asks for, is refused by name', async () => {
      const { messages } = conversations[0] ?? {}
      for (const [path, body, param] of [
        ['/v1/reward', { model, messages }, 'principle'],
        [
          '/v1/reward',
          { model, inputs: [{ messages, principle }, { messages }] },
          'inputs.1.principle',
        ],
        ['/v1/reward', { model: 'reward_row', messages, principle }, 'principle'],
        ['/v1/reward', { model, messages, principle: '' }, 'principle'],
        ['/pooling', { model, messages }, 'principle'],
        ['/pooling', { model, input: 'a', principle }, 'principle'],
        ['/v1/chat/completions/render', { model, messages }, 'principle'],
        ['/v1/chat/completions', { model, messages }, 'principle'],
        ['/v1/chat/completions', { model: 'chat', messages, principle }, 'principle'],
      ] as const) {
        const response = await server.post(path, body)
        const { error } = await readAnswer(response)
        assert.equal(response.status, 400, path)
        assert.equal(error.param, param, error.message)
      }
    })

    test('it picks the best of several by a principle', async () => {
      const best = (judge: object) =>
        server.post('/v1/chat/completions', {
          model: 'chat',
          messages: [{ role: 'user', content: 'Hi' }],
          max_tokens: 4,
          n: 3,
          reward: { model, ...judge },
        })
      const answer = await readAnswer(await best({ principle }))
      const rewards = answer.choices.map((choice: { reward: number }) => choice.reward)
      assert.deepEqual(
        rewards,
        [...rewards].sort((a, b) => b - a),
      )
      const refused = await best({})
      assert.equal(refused.status, 400)
      assert.equal((await readAnswer(refused)).error.param, 'reward.principle')
    })
  })

  test('one label is the reward; several without weights are none', async () => {
    const { conversations } = goldenOf('reward_one_label')
    const messages = conversations[0]?.messages
    const one = (await reward({ model: 'reward_one_label', messages })).data[0]
    assert.equal(one?.reward, one?.scores[0])
    assert.equal(one?.attributes, undefined)
    const row = (await reward({ model: 'reward_row', messages })).data[0]
    assert.equal(row?.reward, row?.scores[0])
    const five = (await reward({ model: 'reward_five_labels', messages })).data[0]
    assert.equal(five?.reward, null)
    assert.deepEqual(
      Object.entries(five?.attributes ?? {}),
      ['helpfulness', 'correctness', 'coherence', 'complexity', 'verbosity'].map((label, i) => [
        label,
        five?.scores[i],
      ]),
    )
  })

  test('the 340B form: five of nine outputs, weighted, as the registry or the config file says', async () => {
    const inputs = nine.conversations.map(({ messages }) => ({ messages }))
    const byRegistry = await reward({ model: 'Nemotron-4-340B-Reward', inputs })
    const byConfig = await reward({ model: 'by-config', inputs })
    assert.deepEqual(byConfig.data, byRegistry.data)
    for (const [i, item] of byRegistry.data.entries()) {
      assert.equal(item.scores.length, 9)
      assert.deepEqual(
        item.attributes,
        Object.fromEntries(
          Object.entries(nine.attributes ?? {}).map(([label, k]) => [label, item.scores[k]]),
        ),
      )
      assertClose(item.reward ?? Number.NaN, nine.rewards?.[i] ?? Number.NaN, `reward ${i}`)
    }
    // The checkpoint itself names nothing.
    const [plain] = (await reward({ model: 'reward_nine_outputs', inputs })).data
    assert.equal(plain?.reward, null)
    assert.deepEqual(Object.keys(plain?.attributes ?? {}), [
      ...Array.from({ length: 9 }, (_, i) => `LABEL_${i}`),
    ])
    assert.deepEqual(plain?.scores, byRegistry.data[0]?.scores)
  })

  test("NVIDIA's clients read the chat form", async () => {
    const { messages } = nine.conversations[2] ?? {}
    const [item] = (await reward({ model: 'Nemotron-4-340B-Reward', messages })).data
    const answer = await readAnswer(
      await server.post('/v1/chat/completions', { model: 'Nemotron-4-340B-Reward', messages }),
    )
    const [choice] = answer.choices
    const read = choice.message.content
      .split(',')
      .map((part: string) => part.split(':'))
      .map(([label, value]: string[]) => [label, Number(value)])
    assert.deepEqual(Object.fromEntries(read), item?.attributes)
    assert.deepEqual(
      Object.fromEntries(
        choice.logprobs.content.map(({ token, logprob }: { token: string; logprob: number }) => [
          token,
          logprob,
        ]),
      ),
      item?.attributes,
    )
    const scalar = await readAnswer(
      await server.post('/v1/chat/completions', { model: 'reward_row', messages }),
    )
    const [row] = (await reward({ model: 'reward_row', messages })).data
    assert.equal(scalar.choices[0].message.content, `reward:${row?.reward}`)
    assert.equal(scalar.choices[0].logprobs.content[0].token, 'reward')
    assert.equal(scalar.choices[0].logprobs.content[0].logprob, row?.reward)
  })

  test('candidates share their prompt, and pairs get Bradley-Terry odds', async () => {
    const prompt = { role: 'user', content: 'What is 1+1? '.repeat(9) }
    const responses = Array.from({ length: 16 }, (_, i) => `Answer ${String(i).padStart(2, '0')}`)
    const body = { model: 'reward_row', messages: [prompt], responses, pairwise: true }
    const response = await server.post('/v1/reward', { ...body, cache_salt: 'fresh' })
    const answer = await readAnswer(response)
    assert.equal(response.status, 200, JSON.stringify(answer))
    const length = answer.usage.prompt_tokens / responses.length
    // All but the first find every token before the answers part, which is two digits and a closing
    // token before their end; some find the first digit too.
    const shared = length - 3
    assert.ok(shared >= 112)
    const cached = answer.usage.prompt_tokens_details.cached_tokens
    assert.ok(cached >= 15 * shared && cached < 15 * (shared + 2), String(cached))
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens)
    const rewards = answer.data.map((item: Item) => item.reward)
    assert.equal(answer.preferences.length, (16 * 15) / 2)
    for (const { chosen, rejected, probability } of answer.preferences) {
      assert.ok(rewards[chosen] >= rewards[rejected])
      const odds = 1 / (1 + Math.exp(rewards[rejected] - rewards[chosen]))
      assert.ok(Math.abs(probability - odds) < 1e-12)
    }
    for (const [i, one] of responses.entries()) {
      const messages = [prompt, { role: 'assistant', content: one }]
      const alone = await reward({ model: 'reward_row', messages, cache_salt: `alone ${i}` })
      assert.equal(alone.data[0]?.reward, rewards[i])
      assert.equal(alone.usage.prompt_tokens_details.cached_tokens, 0)
    }
  })

  test('a checkpoint without a read-out is a chat model', async () => {
    const { messages } = goldenOf('reward_row').conversations[0] ?? {}
    const response = await server.post('/v1/reward', { model: 'chat', messages })
    assert.equal(response.status, 400)
    const { error } = await readAnswer(response)
    assert.match(error.message, /'reward_row', 'reward_one_label'.*'Nemotron-4-340B-Reward'/)
    const completion = await server.post('/v1/completions', { model: 'reward_row', prompt: 'a' })
    assert.equal(completion.status, 400)
  })
})

type Usage = {
  readonly prompt_tokens: number
  readonly prompt_tokens_details: { readonly cached_tokens: number }
}

describe('the embedded models', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({ max_model_len: 1024 })
  })
  after(() => server.close())

  const question = [{ role: 'user', content: 'What is 2 + 3?' }]
  const ask = {
    model: 'tiny-reasoner',
    messages: question,
    max_tokens: 48,
    temperature: 1,
    seed: 7,
    reward: { model: 'tiny-reward' },
  }
  const score = async (content: string): Promise<number> => {
    const messages = [...question, { role: 'assistant', content }]
    const response = await server.post('/v1/reward', { model: 'tiny-reward', messages })
    return (await readAnswer(response)).data[0].reward
  }

  test('the best of eight, scored as /v1/reward scores them', async () => {
    const response = await server.post('/v1/chat/completions', { ...ask, n: 3, best_of: 8 })
    const answer = await readAnswer(response)
    assert.equal(response.status, 200, JSON.stringify(answer))
    assert.equal(answer.choices.length, 3)
    assert.equal(answer.reward.model, 'tiny-reward')
    assert.equal(answer.reward.scores.length, 8)
    const best = [...answer.reward.scores].sort((a, b) => b - a).slice(0, 3)
    assert.deepEqual(
      answer.choices.map((choice: { reward: number }) => choice.reward),
      best,
    )
    const tokens = answer.usage.completion_tokens
    assert.ok(tokens > 8 && tokens <= 8 * 48)
    for (const { message, reward } of answer.choices)
      assert.equal(reward, await score(message.content))
    // All eight are those of a plain request with n: 8.
    const { reward: _, ...plain } = ask
    const all = await readAnswer(
      await server.post('/v1/chat/completions', { ...plain, n: 8, max_tokens: 48 }),
    )
    const scores: number[] = []
    for (const { message } of all.choices) scores.push(await score(message.content))
    assert.deepEqual(answer.reward.scores, scores)
    assert.equal(all.usage.completion_tokens, tokens)
  })

  test('thinking is scored only when asked', async () => {
    const thinking = { ...ask, best_of: 4, chat_template_kwargs: { enable_thinking: true } }
    const one = async (reward: object) =>
      readAnswer(
        await server.post('/v1/chat/completions', { ...thinking, max_tokens: 200, reward }),
      )
    const without = await one({ model: 'tiny-reward' })
    const [winner] = without.choices
    assert.equal(winner.reward, await score(winner.message.content))
    const withThinking = await one({ model: 'tiny-reward', include_thinking: true })
    assert.ok(without.choices[0].message.reasoning_content)
    assert.notDeepEqual(withThinking.reward.scores, without.reward.scores)
  })

  test('a stream of the best equals the whole answer', async () => {
    const body = { ...ask, best_of: 4 }
    const whole = await readAnswer(await server.post('/v1/chat/completions', body))
    const { chunks, done } = await readEvents(
      await server.post('/v1/chat/completions', {
        ...body,
        stream: true,
        stream_options: { include_usage: true },
      }),
    )
    assert.ok(done)
    assert.equal(
      chunks.map(({ choices: [one] }) => one?.delta.content ?? '').join(''),
      whole.choices[0].message.content,
    )
    const last = chunks.find(({ choices: [one] }) => one?.finish_reason)
    assert.equal(last.choices[0].reward, whole.choices[0].reward)
    assert.deepEqual(last.reward, whole.reward)
    assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens)
  })
})
