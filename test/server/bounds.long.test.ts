// How long costly bodies, and random ones, hold the event loop. The client is a thread of its own.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import fc from 'fast-check'
import { loadTokenizer } from '../../server/tokenizer/tokenizer.js'
import { packagePath } from '../../server/version.js'
import { chatBody, type Harness, startHarness } from './harness.js'
import { longestTurn } from './turns.js'

/** What docs/http.md promises. The least of several tries counts: the first ones run code that has not
 * been compiled yet, and memory of the tries before is freed in any of them. */
const MOST_MS = 50
const TRIES = 8
const BODY_LIMIT = 16 << 20

/** Posts a body and gives the status. */
const CLIENT = `
  const { request } = require('node:http')
  const { parentPort } = require('node:worker_threads')
  parentPort.on('message', ({ url, body }) => {
    const headers = { 'content-type': 'application/json', 'content-length': body.length }
    const outgoing = request(url, { method: 'POST', headers, agent: false }, (incoming) => {
      incoming.resume()
      incoming.on('end', () => parentPort.postMessage(incoming.statusCode))
    })
    outgoing.on('error', (error) => parentPort.postMessage(String(error)))
    outgoing.end(body)
  })`

const CHAT = '/v1/chat/completions'
const COMPLETIONS = '/v1/completions'
const REWARD = '/v1/reward'
const RESPONSES = '/v1/responses'
const MESSAGES = '/v1/messages'
const DECISIONS = '/v1/decisions'

const many = <T>(count: number, one: T): readonly T[] => Array.from({ length: count }, () => one)
const numbered = (count: number, prefix = '') =>
  Object.fromEntries(many(count, 0).map((_, i) => [`${prefix}${i}`, 1]))
const user = (content: unknown) => ({ role: 'user', content })
const saying = (content: unknown) => chatBody({ max_tokens: 1, messages: [user(content)] })
const calling = (text: string) =>
  chatBody({
    messages: [
      user('a'),
      {
        role: 'assistant',
        content: '',
        tool_calls: [{ function: { name: 'f', arguments: text } }],
      },
    ],
  })
const complete = (more: object) => ({ model: 'tiny-reasoner', max_tokens: 1, ...more })
const scored = (more: object) => ({ model: 'tiny-reward', messages: [user('a')], ...more })

const respond = (more: object) => ({ model: 'tiny-reasoner', max_output_tokens: 1, ...more })
const itemOf = (content: unknown) => ({ type: 'message', role: 'user', content })
const inputText = (text: string) => ({ type: 'input_text', text })
const message = (more: object) => ({
  ...{ model: 'tiny-reasoner', max_tokens: 1, messages: [user('a')] },
  ...more,
})
const decide = (more: object) => ({ model: 'tiny-reasoner', input: 'a', ...more })
const question = (instructions = 'a') => ({ type: 'predicate', instructions })
const choice = (count: number, name = 'choice') => ({
  ...{ type: 'choice', instructions: 'a' },
  choices: many(count, 0).map((_, i) => ({ value: `${name} ${i}` })),
})

const talk = (turns: number) =>
  Array.from({ length: turns }, (_, i) => [
    user(`question ${i}`),
    { role: 'assistant', content: `<think>\n${i}\n</think>\n\nanswer ${i}` },
  ]).flat()

const formed = (schema: unknown) =>
  chatBody({
    max_tokens: 1,
    response_format: { type: 'json_schema', json_schema: { name: 'a', schema } },
  })
const deep = (levels: number) => {
  let schema: unknown = { type: 'null' }
  for (let i = 0; i < levels; i++) schema = { type: 'array', items: schema }
  return schema
}
const fieldsOf = (count: number, schema: unknown) => ({
  type: 'object',
  properties: Object.fromEntries(many(count, 0).map((_, i) => [`field ${i}`, schema])),
})
const tool = (name: string, parameters: unknown, strict = true) => ({
  type: 'function',
  function: { name, parameters, strict },
})

const SHAPES: readonly (readonly [name: string, path: string, body: unknown])[] = [
  ['15 MB of text', CHAT, saying('ab '.repeat(5_000_000))],
  ['15 MB of signs', CHAT, saying('<'.repeat(15_000_000))],
  ['4 MB of text', CHAT, saying('ab '.repeat(1_390_000))],
  ['4 MB of signs', CHAT, saying('<'.repeat(4_190_000))],
  ['a long text to render', `${CHAT}/render`, saying('ab <|x|> '.repeat(50_000))],
  ['text beyond Latin', CHAT, saying('ü '.repeat(2_000_000))],
  ['messages', CHAT, chatBody({ messages: many(2048, user('a')) })],
  ['messages with signs', CHAT, chatBody({ messages: many(2048, user('a<|x|>'.repeat(330))) })],
  ['messages to render', `${CHAT}/render`, chatBody({ messages: many(2048, user('a')) })],
  ['parts', CHAT, saying(many(1024, { type: 'text', text: 'a' }))],
  ['a text of arguments', CHAT, calling(JSON.stringify('\n"'.repeat(1_000_000)))],
  ['many arguments', CHAT, calling(JSON.stringify(many(19_000, '<|a|>')))],
  ['numbers in arguments', CHAT, calling(JSON.stringify(many(1_900_000, 1)))],
  ['arguments that are no JSON', CHAT, calling('<|a|>'.repeat(800_000))],
  ['nested arguments', CHAT, calling('['.repeat(4_000_000))],
  ['a text in kwargs', CHAT, chatBody({ chat_template_kwargs: { a: '<'.repeat(15_000_000) } })],
  ['texts in kwargs', CHAT, chatBody({ chat_template_kwargs: { a: many(19_000, '<|a|>') } })],
  ['an unknown text', CHAT, chatBody({ x: '\n'.repeat(7_000_000) })],
  ['an unknown text of quotes', CHAT, chatBody({ x: '"'.repeat(7_000_000) })],
  ['unknown keys', CHAT, chatBody(numbered(30_000, 'k'))],
  ['long unknown keys', CHAT, chatBody(numbered(1500, 'k'.repeat(10_000)))],
  ['the name of a model', CHAT, chatBody({ model: 'x'.repeat(15_000_000) })],
  ['an unknown effort', CHAT, chatBody({ reasoning_effort: 'x'.repeat(15_000_000) })],
  ['long stop strings', CHAT, chatBody({ stop: many(4, 'a'.repeat(3_500_000)) })],
  ['bad words', CHAT, chatBody({ bad_words: many(128, 'a '.repeat(500)), max_tokens: 1 })],
  ['long bad words', CHAT, chatBody({ bad_words: many(128, 'a '.repeat(50_000)) })],
  ['biases', CHAT, chatBody({ logit_bias: numbered(60_000) })],
  ['allowed ids', CHAT, chatBody({ allowed_token_ids: many(1_000_000, 1), max_tokens: 1 })],
  ['a million ids', COMPLETIONS, complete({ prompt: many(1_000_000, 65) })],
  ['eight prompts of ids', COMPLETIONS, complete({ prompt: many(8, many(131_000, 65)) })],
  ['prompts', COMPLETIONS, complete({ prompt: many(320, 'ab ') })],
  ['prompts of many tokens', COMPLETIONS, complete({ prompt: many(40, 'ab '.repeat(60_000)) })],
  [
    'prompts of many tokens, cut',
    COMPLETIONS,
    complete({ prompt: many(40, 'ab '.repeat(100_000)), truncate_prompt_tokens: 10 }),
  ],
  ['fractions', COMPLETIONS, complete({ prompt: many(800_000, 0.1234567890123) })],
  ['keys of a message', CHAT, chatBody({ messages: [{ ...user('a'), ...numbered(30_000, 'k') }] })],
  ['keys in kwargs', CHAT, chatBody({ chat_template_kwargs: numbered(30_000, 'k') })],
  ['escapes', CHAT, chatBody({ x: '\u0001'.repeat(2_600_000) })],
  ['answers to continue', CHAT, chatBody({ messages: talk(1024) })],
  ['long prompts', COMPLETIONS, complete({ prompt: many(64, 'ab '.repeat(5_000)) })],
  ['a long prompt', COMPLETIONS, complete({ prompt: 'ab '.repeat(1_390_000) })],
  ['a text of names', COMPLETIONS, complete({ prompt: '<|eot_id|>a'.repeat(380_000) })],
  ['a text to cut', COMPLETIONS, complete({ prompt: '<|'.repeat(10_000), n: 128 })],
  ['a million ids to text', '/detokenize', { tokens: many(1_000_000, 65) }],
  ['ids to text', '/detokenize', { tokens: many(260_000, 65) }],
  ['text to tokens', '/tokenize', { prompt: 'ab '.repeat(150_000), return_token_strs: true }],
  ['a long text to tokens', '/tokenize', { prompt: 'ab '.repeat(5_000_000) }],
  ['responses', REWARD, scored({ responses: many(1024, 'a b '.repeat(2000)) })],
  [
    'responses to a long text',
    REWARD,
    scored({ messages: [user('ab '.repeat(1_000_000))], responses: many(1024, 'a') }),
  ],
  [
    'inputs with responses',
    REWARD,
    {
      model: 'tiny-reward',
      pairwise: true,
      inputs: many(2000, { messages: [user('a')], responses: many(2, 'b') }),
    },
  ],
  ['pairs', REWARD, scored({ responses: many(280, 'a'), pairwise: true })],
  ['a schema of choices', CHAT, formed({ enum: many(60_000, 0).map((_, i) => `choice ${i}`) })],
  ['a schema of fields', CHAT, formed(fieldsOf(9_000, { type: 'integer' }))],
  ['a schema of long texts', CHAT, formed({ enum: many(15, 'é'.repeat(50_000)) })],
  ['a schema of longer texts', CHAT, formed({ enum: many(15, 'é'.repeat(300_000)) })],
  ['a schema that is deep', CHAT, formed(deep(28))],
  ['a schema of references', CHAT, formed({ anyOf: many(20_000, { $ref: '#' }) })],
  [
    'a schema of names',
    CHAT,
    formed({ $ref: '#/$defs/k1', $defs: numbered(30_000, 'k'), description: 'a' }),
  ],
  [
    'a schema as text',
    CHAT,
    chatBody({ guided_json: `${'{"items":'.repeat(400_000)}{}${'}'.repeat(400_000)}` }),
  ],
  [
    'a long schema as text',
    COMPLETIONS,
    complete({ prompt: 'a', guided_json: JSON.stringify({ enum: many(700_000, 'ab') }) }),
  ],
  ['a pattern', CHAT, chatBody({ guided_regex: '(a|b)?'.repeat(1_000_000) })],
  ['a pattern of brackets', CHAT, chatBody({ guided_regex: '('.repeat(15_000_000) })],
  ['choices', CHAT, chatBody({ guided_choice: many(60_000, 0).map((_, i) => `choice ${i}`) })],
  ['long choices', CHAT, chatBody({ guided_choice: many(4, 'a'.repeat(3_500_000)) })],
  ['a grammar', CHAT, chatBody({ guided_grammar: `root ::= ${'"a" | '.repeat(1_900_000)}"b"` })],
  ['a grammar of rules', CHAT, chatBody({ grammar: 'a ::= "b"\n'.repeat(1_100_000) })],
  [
    'tools with schemas',
    CHAT,
    chatBody({
      tool_choice: 'required',
      tools: many(128, 0).map((_, i) => tool(`f${i}`, fieldsOf(120, { type: 'string' }))),
    }),
  ],
  [
    'tools with long descriptions',
    CHAT,
    chatBody({
      tools: many(128, 0).map((_, i) => ({
        ...tool(`f${i}`, { type: 'object', description: '<|a|>'.repeat(20_000) }, false),
      })),
    }),
  ],
  ['a tool with many values', CHAT, chatBody({ tools: [tool('f', { enum: many(60_000, 'a') })] })],
  ['halves of pairs', CHAT, chatBody({ x: many(60_000, '😀'.repeat(20)), y: '\ud83d' })],
  ['half a pair in a long text', CHAT, saying(`${'😀'.repeat(2_000_000)}\ud83d`)],
  ['raw inputs', '/pooling', { model: 'tiny-reward', input: many(2048, 'ab '.repeat(100)) }],
  ['conversations', `${CHAT}/batch`, chatBody({ messages: many(320, [user('a')]) })],
  ['long conversations', `${CHAT}/batch`, chatBody({ messages: many(8, talk(900)) })],
  [
    'conversations with a schema',
    `${CHAT}/batch`,
    { ...formed(fieldsOf(2000, { type: 'integer' })), messages: many(320, [user('a')]) },
  ],
  ['items', RESPONSES, respond({ input: many(4000, itemOf('a')) })],
  ['an item of parts', RESPONSES, respond({ input: [itemOf(many(1000, inputText('a')))] })],
  ['a long item', RESPONSES, respond({ input: 'ab <|x|> '.repeat(400_000) })],
  ['bad items', RESPONSES, respond({ input: many(60_000, {}) })],
  [
    'outputs without calls',
    RESPONSES,
    respond({ input: many(4000, { type: 'function_call_output', call_id: 'a', output: 'b' }) }),
  ],
  [
    'calls and their outputs',
    RESPONSES,
    respond({
      input: many(1900, 0).flatMap((_, i) => [
        { type: 'function_call', call_id: `c${i}`, name: 'f', arguments: '{"a":1}' },
        { type: 'function_call_output', call_id: `c${i}`, output: 'b' },
      ]),
    }),
  ],
  ['instructions', RESPONSES, respond({ input: 'a', instructions: '<'.repeat(4_000_000) })],
  ['texts in metadata', RESPONSES, respond({ input: 'a', metadata: numbered(30_000, 'k') })],
  [
    'tools of responses',
    RESPONSES,
    respond({
      input: 'a',
      tools: many(128, 0).map((_, i) => ({
        ...{ type: 'function', name: `f${i}`, parameters: fieldsOf(120, { type: 'string' }) },
      })),
    }),
  ],
  ['blocks', MESSAGES, message({ messages: [user(many(1000, { type: 'text', text: 'a' }))] })],
  ['many messages', MESSAGES, message({ messages: many(2000, user('a')) })],
  ['a long system text', MESSAGES, message({ system: 'ab <|x|> '.repeat(400_000) })],
  ['long stop sequences', MESSAGES, message({ stop_sequences: many(4, 'a'.repeat(3_500_000)) })],
  [
    'uses and their results',
    MESSAGES,
    message({
      messages: many(900, 0).flatMap((_, i) => [
        user(i === 0 ? 'a' : [{ type: 'tool_result', tool_use_id: `t${i - 1}`, content: 'b' }]),
        { role: 'assistant', content: [{ type: 'tool_use', id: `t${i}`, name: 'f', input: {} }] },
      ]),
    }),
  ],
  [
    'a use of many values',
    MESSAGES,
    message({
      messages: [
        user('a'),
        {
          role: 'assistant',
          content: [{ type: 'tool_use', id: 't', name: 'f', input: { a: many(60_000, 1) } }],
        },
        user([{ type: 'tool_result', tool_use_id: 't', content: 'b' }]),
      ],
    }),
  ],
  ['tokens to count', `${MESSAGES}/count_tokens`, message({ system: 'ab '.repeat(150_000) })],
  ['predicates', DECISIONS, decide({ questions: many(400, question()) })],
  ['choices to decide', DECISIONS, decide({ questions: many(60, choice(255)) })],
  ['long instructions', DECISIONS, decide({ questions: [question('ab '.repeat(1_000_000))] })],
  [
    'long instructions often',
    DECISIONS,
    decide({ questions: many(400, question('ab '.repeat(9_000))) }),
  ],
  [
    'a long input',
    DECISIONS,
    decide({ input: 'ab <|x|> '.repeat(400_000), questions: [question()] }),
  ],
  [
    'a long input for many',
    DECISIONS,
    decide({ input: 'ab '.repeat(30_000), questions: many(400, question()) }),
  ],
  ['bad questions', DECISIONS, decide({ questions: many(60_000, {}) })],
  ['long names of choices', DECISIONS, decide({ questions: [choice(255, 'ab '.repeat(15_000))] })],
  ['documents', '/v1/rerank', { model: 'tiny-reward', query: 'a', documents: many(1000, 'a b ') }],
  [
    'long documents',
    '/v1/rerank',
    { model: 'tiny-reward', query: 'a', documents: many(300, 'a b '.repeat(9_000)) },
  ],
  [
    'texts to score',
    '/v1/score',
    { model: 'tiny-reward', text_1: 'ab '.repeat(9_000), text_2: many(1000, 'a b ') },
  ],
  [
    'items with labels',
    '/generative_scoring',
    {
      ...{ model: 'tiny-reasoner', query: 'ab '.repeat(3_000), items: many(300, 'a b ') },
      label_token_ids: many(64, 0).map((_, i) => i),
    },
  ],
  [
    'items of ids',
    '/generative_scoring',
    { model: 'tiny-reasoner', query: [1], items: many(8000, many(100, 65)), label_token_ids: [1] },
  ],
]

describe('no body holds the event loop', () => {
  let harness: Harness
  const client = new Worker(CLIENT, { eval: true })
  before(async () => {
    const tokenizer = await loadTokenizer(packagePath('models/tiny/tiny-reasoner'))
    harness = await startHarness({
      answer: () => ({ pieces: ['ok'] }),
      reward: { score: () => [1] },
      config: { bodyLimit: BODY_LIMIT },
      info: { maxModelLen: 131_072, vocabSize: tokenizer.vocabSize },
      tokenizer,
    })
  })
  after(async () => {
    await client.terminate()
    await harness.close()
  })

  const send = (path: string, body: Buffer): Promise<number> =>
    new Promise((resolve, reject) => {
      client.once('message', (status) =>
        typeof status === 'number' ? resolve(status) : reject(new Error(status)),
      )
      client.postMessage({ url: `${harness.url}${path}`, body })
    })

  const measure = async (path: string, body: Buffer) => {
    let least = Number.POSITIVE_INFINITY
    let status = 0
    for (let i = 0; i < TRIES && least >= MOST_MS; i++) {
      const ms = await longestTurn(async () => {
        status = await send(path, body)
      })
      least = Math.min(least, ms)
    }
    return { ms: least, status }
  }

  for (const [name, path, body] of SHAPES)
    test(name, async (context) => {
      const { ms, status } = await measure(path, Buffer.from(JSON.stringify(body)))
      context.diagnostic(`${status}, ${ms.toFixed(0)} ms`)
      assert.ok(status === 200 || status === 400 || status === 404, `status ${status}`)
      assert.ok(ms < MOST_MS, `${ms} ms`)
    })

  test('of any random shape', async () => {
    const names = 'messages prompt stop bad_words logit_bias chat_template_kwargs tools inputs'
    const forms =
      'response_format structured_outputs guided_json guided_choice guided_regex grammar'
    const more =
      'responses questions system input stop_token_ids allowed_token_ids x reward tokens text'
    const field = fc.constantFrom(...`${names} ${more} ${forms}`.split(' '))
    const element = fc.constantFrom<unknown>(
      ...[1, -1, 1.5, 'a', '', null, [], {}, [1], 'long text '.repeat(20)],
      user('a'),
      { type: 'text', text: 'a' },
      user([{ type: 'text', text: 'a' }]),
    )
    const value = fc.oneof(
      fc
        .tuple(element, fc.integer({ min: 0, max: 200_000 }))
        .map(([one, count]) => many(count, one)),
      fc
        .tuple(element, fc.integer({ min: 0, max: 50_000 }))
        .map(([one, count]) =>
          Object.fromEntries(Array.from({ length: count }, (_, i) => [`${i}`, one])),
        ),
      fc
        .tuple(fc.constantFrom('ab ', '<|', '"', '\n'), fc.integer({ min: 0, max: 2_000_000 }))
        .map(([one, count]) => one.repeat(count)),
      element,
    )
    const chats = [CHAT, COMPLETIONS, `${CHAT}/render`, REWARD, RESPONSES, MESSAGES, DECISIONS]
    const path = fc.constantFrom(...chats, '/tokenize', '/detokenize', '/pooling', '/classify')
    await fc.assert(
      fc.asyncProperty(path, field, value, field, value, async (route, a, x, b, y) => {
        const body = Buffer.from(JSON.stringify({ model: 'tiny-reasoner', [a]: x, [b]: y }))
        if (body.length > BODY_LIMIT) return
        const { ms, status } = await measure(route, body)
        assert.ok(status < 500, `status ${status}`)
        assert.ok(ms < MOST_MS, `${ms} ms`)
      }),
      { numRuns: 300, endOnFailure: true },
    )
  })
})
