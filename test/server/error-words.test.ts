// Whatever is wrong with a body of any dialect, the error names the field and says in our words what would be right.

import assert from 'node:assert/strict'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { checkLine } from '../../server/batch/input.js'
import { messageOf } from '../../server/failure.js'
import { createEngine } from '../../server/library.js'
import { readSettings } from '../../server/settings/read.js'
import { type Harness, readAnswer, startHarness } from './harness.js'

/** How zod begins to speak, and what only it calls a thing. */
const FOREIGN =
  /Invalid input|Invalid option|Invalid string|Invalid element|Invalid (number|discriminator)|Too (big|small)|Unrecognized key|[Nn]o matching|must match pattern|nonoptional|expected (a |an )?(record|unknown|never|nan|map|custom|null)\b|undefined|\[object/

const call = { id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } }
const messages = [
  { role: 'system', content: [{ type: 'text', text: 'a' }] },
  { role: 'user', content: 'a', name: 'n' },
  { role: 'assistant', content: null, reasoning_content: 'r', tool_calls: [call] },
  { role: 'tool', content: 'a', tool_call_id: 'c1' },
  { role: 'user', content: [{ type: 'text', text: 'a' }] },
]
const schema = { type: 'object', properties: { a: { type: 'string' } } }
const tools = [
  { type: 'function', function: { name: 'f', description: 'd', parameters: schema, strict: true } },
]
const generation = {
  ...{ model: 'tiny-reasoner', n: 1, temperature: 1, top_p: 1, top_k: 1, min_p: 0 },
  ...{ max_tokens: 4, stop: ['x'], stop_token_ids: [5] },
  ...{ seed: 1, prompt_logprobs: 1, logprob_token_ids: [1], logprobs_mode: 'raw_logprobs' },
  ...{ logit_bias: { 5: 1 }, presence_penalty: 0, repetition_penalty: 1, min_tokens: 0 },
  ...{ ignore_eos: false, stream: false, priority: 0, cache_salt: 's', timings: false },
  ...{ truncate_prompt_tokens: -1, thinking_token_budget: 5 },
}
const chat = {
  ...generation,
  ...{ logprobs: true, top_logprobs: 2, reasoning_effort: 'low', reasoning_format: 'auto' },
  ...{ chat_template_kwargs: { a: 1 }, include_reasoning: true, keep_thinking: false },
}
const reward = { model: 'tiny-reward', priority: 0, cache_salt: 's' }
const pair = [
  { role: 'user', content: 'a' },
  { role: 'assistant', content: 'b' },
]
const items = [
  { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'a' }] },
  { role: 'assistant', content: [{ type: 'output_text', text: 'a' }] },
  { type: 'function_call', call_id: 'c', name: 'f', arguments: '{}' },
  { type: 'function_call_output', call_id: 'c', output: 'a' },
]

/** Bodies that are right, of every schema and every branch of it. */
const BODIES: readonly (readonly [path: string, body: Readonly<Record<string, unknown>>])[] = [
  ['/v1/chat/completions', { ...chat, messages, tools, tool_choice: 'auto' }],
  ['/v1/chat/completions', { ...chat, messages, tools, tool_choice: tools[0] }],
  [
    '/v1/chat/completions',
    {
      ...{ model: 'tiny-reasoner', messages, tools, stream: true, stream_options: {} },
      tool_choice: {
        type: 'allowed_tools',
        allowed_tools: { mode: 'auto', tools: [{ type: 'function', function: { name: 'f' } }] },
      },
    },
  ],
  [
    '/v1/chat/completions',
    {
      ...{ model: 'tiny-reasoner', messages },
      response_format: { type: 'json_schema', json_schema: { name: 'n', schema, strict: true } },
    },
  ],
  ['/v1/chat/completions', { model: 'tiny-reasoner', messages, guided_choice: ['a'] }],
  ['/v1/chat/completions', { model: 'tiny-reasoner', messages, guided_json: schema }],
  [
    '/v1/chat/completions',
    { model: 'tiny-reasoner', messages, structured_outputs: { regex: 'a' } },
  ],
  [
    '/v1/chat/completions',
    { model: 'tiny-reasoner', prompt_token_ids: [1, 2], allowed_token_ids: [65], bad_words: ['x'] },
  ],
  [
    '/v1/chat/completions',
    {
      ...{ model: 'tiny-reasoner', messages, n: 1, best_of: 2 },
      reward: { model: 'tiny-reward', include_thinking: false },
    },
  ],
  ['/v1/chat/completions/batch', { model: 'tiny-reasoner', messages: [messages, pair] }],
  ['/v1/chat/completions/render', { model: 'tiny-reasoner', messages, tools }],
  ['/v1/completions', { ...generation, prompt: 'a', echo: true, logprobs: 1 }],
  ['/v1/completions', { model: 'tiny-reasoner', prompt: ['a', 'b'] }],
  ['/v1/completions', { model: 'tiny-reasoner', prompt: [1, 2] }],
  ['/v1/completions', { model: 'tiny-reasoner', prompt: [[1], [2]] }],
  ['/v1/completions', { model: 'tiny-reasoner', prompt_token_ids: [[1], [2]] }],
  [
    '/v1/responses',
    {
      ...{ model: 'tiny-reasoner', input: items, instructions: 'a', max_output_tokens: 4 },
      ...{ temperature: 1, top_p: 1, parallel_tool_calls: true, truncation: 'disabled' },
      ...{ store: false, include: [], metadata: { a: 'b' }, reasoning: { effort: 'low' } },
      text: { format: { type: 'json_schema', name: 'n', schema, strict: true } },
    },
  ],
  [
    '/v1/responses',
    {
      ...{ model: 'tiny-reasoner', input: 'a', stream: true },
      tools: [{ type: 'function', name: 'f', parameters: schema, strict: true }],
      tool_choice: {
        ...{ type: 'allowed_tools', mode: 'auto' },
        tools: [{ type: 'function', name: 'f' }],
      },
    },
  ],
  [
    '/v1/messages',
    {
      ...{ model: 'tiny-reasoner', max_tokens: 8, system: [{ type: 'text', text: 'a' }] },
      messages: [
        { role: 'user', content: 'a' },
        {
          role: 'assistant',
          content: [
            { type: 'thinking', thinking: 'a', signature: '' },
            { type: 'tool_use', id: 'c', name: 'f', input: {} },
          ],
        },
        {
          role: 'user',
          content: [
            {
              ...{ type: 'tool_result', tool_use_id: 'c', is_error: false },
              content: [{ type: 'text', text: 'a' }],
            },
          ],
        },
      ],
      tools: [{ name: 'f', description: 'd', input_schema: schema, strict: true }],
      tool_choice: { type: 'tool', name: 'f', disable_parallel_tool_use: true },
      thinking: { type: 'enabled', budget_tokens: 4, display: 'omitted' },
      ...{ stop_sequences: ['x'], temperature: 1, top_p: 1, top_k: 1, metadata: { user_id: 'u' } },
    },
  ],
  [
    '/v1/messages',
    {
      ...{ model: 'tiny-reasoner', max_tokens: 8, messages: [{ role: 'user', content: 'a' }] },
      ...{ thinking: { type: 'adaptive' }, stream: true },
      output_config: { format: { type: 'json_schema', schema } },
    },
  ],
  [
    '/v1/messages/count_tokens',
    { model: 'tiny-reasoner', messages: [{ role: 'user', content: 'a' }], system: 'a' },
  ],
  [
    '/v1/decisions',
    {
      ...{ model: 'tiny-reasoner', priority: 0, cache_salt: 's' },
      input: [
        items[0],
        { role: 'system', content: 'a' },
        items[1],
        ...items.slice(2),
        { type: 'custom_tool_call', call_id: 'd', name: 'f', input: 'a' },
        { type: 'custom_tool_call_output', call_id: 'd', output: 'a' },
        { role: 'user', content: [{ type: 'input_json', data: { a: 1 } }] },
      ],
      questions: [
        { type: 'predicate', name: 'n', instructions: 'a' },
        {
          ...{ type: 'choice', instructions: [{ type: 'input_text', text: 'a' }] },
          choices: [{ value: 'a', description: 'd' }, { value: true }],
        },
        { type: 'score', instructions: 'a', levels: [{ label: 'a' }, { label: 'b' }] },
      ],
    },
  ],
  [
    '/v1/systemone',
    {
      ...{ model: 'tiny-reasoner', state: { a: 1 }, instructions: 'a' },
      questions: {
        a: { type: 'noul', instructions: 'a', criteria: 'c' },
        b: { type: 'choice', instructions: 'a', criteria: { x: null, y: 'd' } },
        c: { type: 'score', instructions: 'a', criteria: ['x', 'y'] },
      },
      ...{ chat_template_kwargs: { enable_thinking: false }, seed: 1 },
    },
  ],
  ['/v1/reward', { ...reward, messages: pair }],
  ['/v1/reward', { ...reward, messages: [pair[0]], responses: ['a', 'b'], pairwise: true }],
  [
    '/v1/reward',
    { ...reward, inputs: [{ messages: pair }, { messages: [pair[0]], responses: ['a'] }] },
  ],
  [
    '/v1/refine',
    {
      ...{ model: 'tiny-reasoner', messages: [pair[0]], drafts: 1, temperature: 1, max_tokens: 8 },
      feedback: { model: 'tiny-reasoner', n: 1, temperature: 1, prompt: 'p' },
      edit: { model: 'tiny-reasoner', prompt: 'p {feedback}' },
      select: { model: 'tiny-reward' },
    },
  ],
  ['/v1/rerank', { ...reward, query: 'a', documents: ['a', { text: 'b' }], top_n: 1 }],
  ['/v1/score', { ...reward, text_1: 'a', text_2: ['a', 'b'] }],
  ['/v1/score', { ...reward, queries: ['a'], documents: 'b' }],
  [
    '/generative_scoring',
    { model: 'tiny-reasoner', query: 'a', items: ['a', 'b'], label_token_ids: [65, 66] },
  ],
  [
    '/generative_scoring',
    { model: 'tiny-reasoner', query: [1], items: [[1], [2]], label_token_ids: [65, 66] },
  ],
  ['/pooling', { ...reward, messages: pair, encoding_format: 'float' }],
  ['/pooling', { ...reward, input: ['a', 'b'] }],
  ['/classify', { ...reward, text: 'a' }],
  ['/classify', { ...reward, input_ids: [[1], [2]] }],
  ['/tokenize', { model: 'tiny-reasoner', messages, tools, return_token_strs: true }],
  ['/tokenize', { model: 'tiny-reasoner', prompt: 'a' }],
  ['/detokenize', { model: 'tiny-reasoner', tokens: [65] }],
  [
    '/v1/batches',
    {
      ...{ input_file_id: 'file-a', endpoint: '/v1/completions', completion_window: '24h' },
      metadata: { a: 'b' },
      output_expires_after: { anchor: 'created_at', seconds: 3600 },
    },
  ],
]

type Path = readonly (string | number)[]

const WRONG: readonly unknown[] = [
  ...[null, true, false, 0, -3, 0.5, 1e300, '', 'zz', [], [7], [[]], [null], [{}], ['zz']],
  ...[{}, { type: 'zz' }, { role: 'zz' }, { type: 7 }, { a: 7 }, { '': '' }],
]

/** Every place in a value. */
function* places(value: unknown, at: Path = []): Generator<Path> {
  if (typeof value !== 'object' || value === null) return
  for (const [key, one] of Object.entries(value)) {
    const path = [...at, Array.isArray(value) ? Number(key) : key]
    yield path
    yield* places(one, path)
  }
}

/** The value with another one at a place; undefined: with none. */
const replaced = (value: unknown, [key, ...rest]: Path, by: unknown): unknown => {
  if (key === undefined) return by
  if (Array.isArray(value)) {
    const next = value.map((one, i) => (i === key ? replaced(one, rest, by) : one))
    return by === undefined && rest.length === 0 ? next.filter((_, i) => i !== key) : next
  }
  const given = value as Readonly<Record<string, unknown>>
  return { ...given, [key]: replaced(given[key], rest, by) }
}

const spoilt = function* (body: unknown) {
  for (const path of places(body))
    for (const by of [undefined, ...WRONG]) yield { at: path, by, body: replaced(body, path, by) }
}

const problemOf = (message: string, param?: string | null): string | undefined => {
  if (FOREIGN.test(message)) return 'foreign words'
  if (/: \.|: $/.test(message)) return 'it says nothing'
  if (typeof param !== 'string') return undefined
  // A key that is wrong is named beside the object that has it.
  const places = [param, param.slice(0, param.lastIndexOf('.'))]
  return places.some((one) => message.includes(`'${one}'`)) ? undefined : 'it names no field'
}

/** All shapes in the long tests, else every few of them. */
const EVERY = process.env.NEMOTRON_TEST_LONG === '1' ? 1 : 7

describe('an error', () => {
  let harness: Harness
  before(async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'nemotron-words-'))
    harness = await startHarness({
      ...{ answer: () => ({ pieces: ['ok'] }), reward: { score: () => [1] }, dataDir },
    })
  })
  after(() => harness.close())

  test('of any field of any route is in our words and names the field', async () => {
    const found: string[] = []
    let count = 0
    for (const [path, body] of BODIES) {
      const right = await harness.post(path, body)
      const said = await right.text()
      // There is no such file.
      assert.ok(right.status === 200 || path === '/v1/batches', `${path}: ${said}`)
      for (const { at, by, body: bad } of spoilt(body)) {
        if (count++ % EVERY > 0) continue
        const response = await harness.post(path, bad)
        const text = await response.text()
        const where = `${path} ${at.join('.')} = ${JSON.stringify(by)}: ${text}`
        assert.ok([200, 400, 404].includes(response.status), where)
        if (response.status !== 400) continue
        const { message, param } = JSON.parse(text).error
        const problem = problemOf(message, param)
        if (problem !== undefined) found.push(`${problem}: ${where}`)
      }
    }
    assert.deepEqual(found, [])
  })

  test('of a number of any route says what was found and all that would be right', async () => {
    const { paths, components } = await readAnswer(await fetch(`${harness.url}/openapi.json`))
    const told =
      /: expected (an integer|a number)( from \S+ to \S+| of at (least|most) \S+| above .*)?, but got (a string|a boolean|0\.5|1e\+300)\.$/
    let count = 0
    for (const path of new Set(BODIES.map(([one]) => one))) {
      const body = BODIES.find(([one]) => one === path)?.[1]
      const { $ref } = paths[path].post.requestBody.content['application/json'].schema
      const { properties } = components.schemas[String($ref).split('/').at(-1) ?? '']
      for (const [name, { type }] of Object.entries<{ readonly type?: unknown }>(properties)) {
        const isInteger = [type].flat().includes('integer')
        if (!isInteger && ![type].flat().includes('number')) continue
        for (const given of ['5', true, 1e300, ...(isInteger ? [0.5] : [])]) {
          const response = await harness.post(path, { ...body, [name]: given })
          const text = await response.text()
          assert.equal(response.status, 400, `${path} ${name} ${given}: ${text}`)
          const { message, param } = JSON.parse(text).error
          if (param !== undefined) assert.equal(param, name)
          assert.match(message, told)
          assert.ok(message.includes(`'${name}'`), message)
          count++
        }
      }
    }
    assert.ok(count > 150, `${count}`)
    const chats = { model: 'tiny-reasoner', messages: [pair[0]] }
    for (const [seed, words] of [
      ['7', 'type'],
      [2 ** 53, 'value'],
      [2 ** 64, 'value'],
      [-(2 ** 53), 'value'],
    ] as const) {
      const response = await harness.post('/v1/chat/completions', { ...chats, seed })
      const { error } = JSON.parse(await response.text())
      const limits = ` from -${Number.MAX_SAFE_INTEGER} to ${Number.MAX_SAFE_INTEGER}`
      assert.equal(
        error.message,
        words === 'type'
          ? "Invalid type for 'seed': expected an integer, but got a string."
          : `Invalid value for 'seed': expected an integer${limits}, but got ${seed}.`,
      )
    }
    for (const seed of [0, -1, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER])
      assert.equal((await harness.post('/v1/chat/completions', { ...chats, seed })).status, 200)
    for (const [more, message] of [
      [{ stop_token_ids: [1, '5'] }, "'stop_token_ids.1': expected a token id, but got a string."],
      [{ stop_token_ids: [-1] }, "'stop_token_ids.0': expected a token id, but got -1."],
      [
        { logit_bias: { 5: 101 } },
        "'logit_bias.5': expected a number from -100 to 100, but got 101.",
      ],
      [
        { truncate_prompt_tokens: 0 },
        "'truncate_prompt_tokens': expected -1 or at least 1, but got 0.",
      ],
    ] as const) {
      const response = await harness.post('/v1/chat/completions', { ...chats, ...more })
      assert.equal(JSON.parse(await response.text()).error.message, `Invalid value for ${message}`)
    }
  })

  test('of a line of a batch is too', () => {
    const line = { custom_id: 'a', method: 'POST', url: '/v1/completions', body: { a: 1 } }
    const found = new Set<string>()
    for (const { body } of [...spoilt(line), ...WRONG.map((body) => ({ body }))]) {
      const { problem } = checkLine(body, '/v1/completions')
      if (problem && problemOf(problem.message) !== undefined) found.add(problem.message)
    }
    assert.deepEqual([...found], [])
    const messageOf = (given: unknown) => checkLine(given, '/v1/completions').problem?.message ?? ''
    assert.match(messageOf({ ...line, body: 'x' }), /^body: expected an object.*A line is /)
    assert.match(
      messageOf({ ...line, method: 'GET' }),
      /^method: "GET"\. Supported values are: "POST"/,
    )
    assert.match(messageOf({ ...line, custom_id: '' }), /^custom_id: at least 1 characters/)
    assert.match(messageOf({ ...line, url: undefined }), /^url: missing/)
    const deep = JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`)
    for (const name of ['custom_id', 'method', 'url', 'body'])
      assert.match(
        messageOf({ ...line, [name]: deep }),
        new RegExp(`^${name}: .*an (array|object)`),
        name,
      )
  })

  test('of a file of settings is too', () => {
    const folder = mkdtempSync(join(tmpdir(), 'nemotron-words-'))
    const file = join(folder, 'config.json')
    const settings = {
      models: [
        {
          ...{ model: 'm', served_model_name: ['a'], device: 'cpu', kv_cache_memory: '1GiB' },
          reward: {
            ...{ rows: [1], question: 'q', attributes: { a: 0 }, weights: { a: 1 } },
            judge: { temperature: 1, top_p: 1, max_tokens: 1 },
          },
        },
        { model: 'n', reward: { weights: [1] } },
      ],
      ...{ port: 1, max_num_seqs: 4, log_level: 'info' },
    }
    const refusalOf = (given: unknown): string => {
      writeFileSync(file, JSON.stringify(given))
      try {
        readSettings({}, {}, file)
        return ''
      } catch (error) {
        return messageOf(error)
      }
    }
    assert.equal(refusalOf(settings), '')
    const found = new Set<string>()
    for (const { body } of spoilt(settings)) {
      const message = refusalOf(body)
      if (problemOf(message) !== undefined) found.add(message)
    }
    assert.deepEqual([...found], [])
    const ofReward = (reward: object) => refusalOf({ models: [{ model: 'm', reward }] })
    assert.match(
      ofReward({ attributes: { a: 'x' } }),
      /reward.attributes.a: expected a number, but got a string/,
    )
    assert.match(
      ofReward({ weights: { a: 'x' } }),
      /reward.weights.a: expected a number, but got a string/,
    )
    assert.match(ofReward({ weights: 3 }), /reward.weights: expected an object or an array/)
  })

  test('of the settings of a reward model in process is too', async () => {
    await assert.rejects(
      createEngine({ model: 'x', reward: { weights: { a: 'x' } } as never }),
      /reward\.weights\.a: expected a number, but got a string/,
    )
  })
})
