// Anthropic's Messages API, by its clients and by hand, over a scripted engine.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createAnthropic } from '@ai-sdk/anthropic'
import Anthropic from '@anthropic-ai/sdk'
import { betaTool } from '@anthropic-ai/sdk/helpers/beta/json-schema'
import { ChatAnthropic } from '@langchain/anthropic'
import { generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai'
import { readGrammar, recognises } from '../../bench/grammar/recogniser.js'
import { chatBody, type Harness, rawRequest, readAnswer, startHarness } from './harness.js'

const SCHEMA = {
  type: 'object' as const,
  properties: { city: { type: 'string' as const } },
  required: ['city'],
  additionalProperties: false,
}
const WEATHER = { name: 'get_weather', description: 'The weather', input_schema: SCHEMA }
const CALL = '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</TOOLCALL>'
const THOUGHT = ['<think>\nLet me', ' see.\n</thi', 'nk>\n\nIt is', ' 3.']
const HELLO = [{ role: 'user' as const, content: 'Hello' }]
const BODY = { model: 'tiny-reasoner', max_tokens: 512, messages: HELLO }

type Json = Record<string, unknown>
type Named = { readonly event: string; readonly data: Json }

/** Named events, each of whose names is the type of its data. */
const readNamed = async (response: Response): Promise<readonly Named[]> => {
  assert.match(response.headers.get('content-type') ?? '', /^text\/event-stream/)
  const blocks = (await response.text()).split('\n\n').filter((one) => one && !one.startsWith(':'))
  return blocks.map((block) => {
    const [, event = '', text = ''] = /^event: (\w+)\ndata: (.*)$/.exec(block) ?? []
    const data = JSON.parse(text)
    assert.equal(data.type, event)
    return { event, data }
  })
}

describe('messages', () => {
  let harness: Harness
  let client: Anthropic
  let script: (prompt: string) => readonly string[] = () => []
  let stopReason: string | undefined
  before(async () => {
    harness = await startHarness({
      answer: (prompt) => ({
        pieces: script(prompt),
        ...(stopReason !== undefined && { stopReason }),
      }),
      reward: { score: () => [1] },
      info: { maxModelLen: 8192 },
    })
    client = new Anthropic({ baseURL: harness.url, apiKey: 'none', maxRetries: 0 })
  })
  after(() => harness.close())
  const post = (more: Json, headers = {}) =>
    harness.post('/v1/messages', { ...BODY, ...more }, headers)
  const promptOf = (at = -1) =>
    Buffer.from(
      Array.from(harness.engine.requests.at(at)?.promptTokenIds ?? []).filter((id) => id < 256),
    ).toString()
  const says = (...pieces: string[]) => {
    script = () => pieces
    stopReason = undefined
  }
  /** A call, and once its result is there, an answer. */
  const loops = () => {
    stopReason = undefined
    script = (prompt) => (prompt.includes('sunny') ? ['It is ', 'sunny.'] : ['I look.\n', CALL])
  }

  describe('by @anthropic-ai/sdk', () => {
    test('a message: text, thinking, usage, ids', async () => {
      says(...THOUGHT)
      const thinking = { type: 'enabled' as const, budget_tokens: 100 }
      const message = await client.messages.create({ ...BODY, thinking })
      assert.deepEqual(message.content, [
        { type: 'thinking', thinking: 'Let me see.', signature: 'unsigned' },
        { type: 'text', text: 'It is 3.' },
      ])
      assert.equal(message.stop_reason, 'end_turn')
      assert.match(message.id, /^msg_/)
      assert.equal(message.usage.output_tokens, THOUGHT.join('').length)
      assert.equal(
        message.usage.output_tokens_details?.thinking_tokens,
        '<think>\nLet me see.\n</think>'.length,
      )
      assert.match(message._request_id ?? '', /^req_/)
      assert.equal(harness.engine.requests.at(-1)?.sampling?.thinkingBudget, 100)
      assert.match(promptOf(), /detailed thinking on/)
      // What it thought goes back as it came.
      const more = [...HELLO, { role: 'assistant' as const, content: message.content }, ...HELLO]
      says('Yes.')
      const again = await client.messages.create({ ...BODY, messages: more })
      assert.equal(again.content[0]?.type === 'text' && again.content[0].text, 'Yes.')
      assert.match(promptOf(), /It is 3\./)
    })

    test('the stream helper puts together what a whole answer is', async () => {
      for (const pieces of [THOUGHT, ['I look.\n', CALL], [CALL], ['Hm', '.'], []]) {
        says(...pieces)
        const thinking = { type: 'adaptive' as const }
        const asked = { ...BODY, tools: [{ ...WEATHER, strict: true }], thinking }
        const whole = await client.messages.create({ ...asked })
        const streamed = await client.messages.stream(asked).finalMessage()
        const plain = (message: object) =>
          JSON.parse(
            JSON.stringify(message, (key, value) =>
              key === 'id' || key === '_request_id' || key === 'parsed_output' || key === 'parsed'
                ? undefined
                : value,
            ),
          )
        assert.deepEqual(plain(streamed), plain(whole))
      }
    })

    test('counts the tokens that a message has', async () => {
      says('Hi')
      const asked = { model: BODY.model, messages: HELLO, system: 'Be short.', tools: [WEATHER] }
      const { input_tokens: counted } = await client.messages.countTokens(asked)
      const message = await client.messages.create({ ...asked, max_tokens: 9 })
      assert.equal(message.usage.input_tokens, counted)
      assert.equal(counted, harness.engine.requests.at(-1)?.promptTokenIds.length)
    })

    test('its tool runner calls and answers', async () => {
      loops()
      const weather = betaTool({
        name: 'get_weather',
        description: 'The weather',
        inputSchema: SCHEMA,
        run: ({ city }) => `${city}: sunny`,
      })
      for (const stream of [false, true]) {
        const runner = client.beta.messages.toolRunner({ ...BODY, tools: [weather], stream })
        const last = await runner.runUntilDone()
        assert.deepEqual(
          last.content.map((block) => block.type === 'text' && block.text),
          ['It is sunny.'],
        )
        assert.match(promptOf(), /Paris: sunny/)
      }
    })

    test('knows our errors', async () => {
      const refused = (more: Json) => client.messages.create({ ...BODY, ...more })
      await assert.rejects(refused({ model: 'none' }), Anthropic.NotFoundError)
      await assert.rejects(refused({ max_tokens: 0 }), Anthropic.BadRequestError)
    })
  })

  test("the AI SDK's provider: tools in steps, thinking, a stream", async () => {
    const provider = createAnthropic({ baseURL: `${harness.url}/v1`, apiKey: 'none' })
    const model = provider('tiny-reasoner')
    loops()
    const { text, steps } = await generateText({
      model,
      prompt: 'Weather?',
      tools: {
        get_weather: tool({
          inputSchema: jsonSchema<{ city: string }>(SCHEMA),
          execute: async ({ city }) => `${city}: sunny`,
        }),
      },
      stopWhen: stepCountIs(3),
    })
    assert.equal(text, 'It is sunny.')
    assert.equal(steps.length, 2)
    says(...THOUGHT)
    const stream = streamText({
      model,
      prompt: 'Hi',
      providerOptions: { anthropic: { thinking: { type: 'enabled', budgetTokens: 64 } } },
    })
    let [answer, reasoning] = ['', '']
    for await (const part of stream.fullStream) {
      if (part.type === 'text-delta') answer += part.text
      if (part.type === 'reasoning-delta') reasoning += part.text
      assert.notEqual(part.type, 'error')
    }
    assert.deepEqual([answer, reasoning], ['It is 3.', 'Let me see.'])
    const { inputTokens, outputTokens } = await stream.usage
    assert.equal(inputTokens, harness.engine.requests.at(-1)?.promptTokenIds.length)
    assert.equal(outputTokens, THOUGHT.join('').length)
  })

  test('what a coding agent sends, by its beta route', async () => {
    const cached = { cache_control: { type: 'ephemeral' as const } }
    const text = (one: string) => ({ type: 'text' as const, text: one, ...cached })
    says(...THOUGHT)
    const stream = client.beta.messages.stream({
      model: BODY.model,
      max_tokens: 32_000,
      thinking: { type: 'enabled', budget_tokens: 31_999 },
      metadata: { user_id: 'user_1' },
      system: [text('You are an agent.'), text('Be brief.')],
      tools: [{ ...WEATHER, ...cached, eager_input_streaming: true }],
      context_management: { edits: [{ type: 'clear_thinking_20251015', keep: 'all' }] },
      output_config: { effort: 'high' },
      betas: ['interleaved-thinking-2025-05-14', 'context-management-2025-06-27'],
      messages: [
        { role: 'user', content: [text('A reminder.'), text('Weather?')] },
        {
          role: 'assistant',
          content: [
            { type: 'thinking', thinking: 'hm', signature: 'unsigned' },
            { type: 'text', text: 'I look.' },
            { type: 'tool_use', id: 'toolu_1', name: WEATHER.name, input: { city: 'Paris' } },
          ],
        },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'toolu_1', content: [text('sunny')], ...cached },
            text('And now?'),
          ],
        },
      ],
    })
    const { content, stop_reason, context_management } = await stream.finalMessage()
    assert.deepEqual(
      content.map(({ type }) => type),
      ['thinking', 'text'],
    )
    assert.equal(stop_reason, 'end_turn')
    assert.deepEqual(context_management, { applied_edits: [] })
    for (const one of ['Be brief.', 'A reminder.', 'Paris', 'sunny', 'And now?'])
      assert.ok(promptOf().includes(one), one)
    // By these words it knows that it has to shorten what it sends.
    const long = { role: 'user' as const, content: 'x'.repeat(9000) }
    await assert.rejects(
      client.messages.create({ ...BODY, messages: [long] }),
      /prompt is too long/,
    )
  })

  test("LangChain's ChatAnthropic: a call, its result, a stream", async () => {
    loops()
    const model = new ChatAnthropic({
      model: 'tiny-reasoner',
      apiKey: 'none',
      anthropicApiUrl: harness.url,
      maxTokens: 200,
    })
    const bound = model.bindTools([WEATHER])
    const answer = await bound.invoke('Weather?')
    assert.deepEqual(
      answer.tool_calls?.map(({ name, args }) => [name, args]),
      [['get_weather', { city: 'Paris' }]],
    )
    const [call] = answer.tool_calls ?? []
    const last = await bound.invoke([
      { role: 'user', content: 'Weather?' },
      answer,
      { role: 'tool', content: 'sunny', tool_call_id: call?.id ?? '' },
    ])
    assert.equal(last.text, 'It is sunny.')
    says('one ', 'two')
    let text = ''
    for await (const chunk of await model.stream('Count')) text += chunk.text
    assert.equal(text, 'one two')
  })

  test('events come in order, with the real number of input tokens first', async () => {
    says('<think>\nHm\n</think>\n\nI', ' look.\n', CALL)
    const asked = {
      stream: true,
      tools: [WEATHER],
      thinking: { type: 'enabled', budget_tokens: 9 },
    }
    const events = await readNamed(await post(asked))
    const kinds = events.map(({ event, data }) => {
      const { index, content_block: block, delta } = data as Record<string, Json>
      return [event, index, block?.type ?? delta?.type].filter((one) => one !== undefined).join(' ')
    })
    assert.deepEqual(
      kinds.filter((kind, i) => kind !== kinds[i - 1]),
      [
        'message_start',
        'ping',
        'content_block_start 0 thinking',
        'content_block_delta 0 thinking_delta',
        'content_block_delta 0 signature_delta',
        'content_block_stop 0',
        'content_block_start 1 text',
        'content_block_delta 1 text_delta',
        'content_block_stop 1',
        'content_block_start 2 tool_use',
        'content_block_delta 2 input_json_delta',
        'content_block_stop 2',
        'message_delta',
        'message_stop',
      ],
    )
    const start = events[0]?.data.message as { usage: Json; content: unknown }
    assert.equal(start.usage.input_tokens, harness.engine.requests.at(-1)?.promptTokenIds.length)
    assert.deepEqual(start.content, [])
    const { delta, usage } = (events.at(-2)?.data ?? {}) as Record<string, Json>
    assert.equal(delta?.stop_reason, 'tool_use')
    assert.ok(Number(usage?.output_tokens) > 0)
  })

  test('takes edits of earlier thinking, which the prompt has not, and no others', async () => {
    says('Hi.')
    const managed = (edits: readonly Json[]) => post({ context_management: { edits } })
    for (const edits of [[], [{ type: 'clear_thinking_20251015', keep: 'all' }]])
      assert.equal((await managed(edits)).status, 200)
    const kept = await readAnswer(await managed([{ type: 'clear_thinking_20251015' }]))
    assert.deepEqual(kept.context_management, { applied_edits: [] })
    const refused = await managed([
      { type: 'clear_thinking_20251015' },
      { type: 'clear_tool_uses_20250919' },
    ])
    assert.equal(refused.status, 400)
    assert.match(await refused.text(), /'context_management\.edits\.1\.type'/)
  })

  test('leaves the block of thinking empty whose text is to be left out', async () => {
    says(...THOUGHT)
    const asked = { thinking: { type: 'adaptive', display: 'omitted' } }
    const { content, usage } = await readAnswer(await post(asked))
    assert.deepEqual(content, [
      { type: 'thinking', thinking: '', signature: 'unsigned' },
      { type: 'text', text: 'It is 3.' },
    ])
    assert.ok(usage.output_tokens_details.thinking_tokens > 0)
    const events = await readNamed(await post({ ...asked, stream: true }))
    const told = events.map(({ data }) => JSON.stringify(data)).join('')
    assert.ok(told.includes(' 3.') && !told.includes('see') && !told.includes('thinking_delta'))
    const streamed = await client.messages
      .stream({ ...BODY, thinking: { type: 'adaptive', display: 'omitted' } })
      .finalMessage()
    assert.deepEqual(
      streamed.content.map(({ type }) => type),
      ['thinking', 'text'],
    )
  })

  test('the input of a call is what the model wrote, to the digit and in its order', async () => {
    const input =
      '{"id": 1234567890123456789, "most": 1e400, "one": 1.0, "10": [{}], "2": {"a": "\\u00e9\\"}]"}, "2": -0.0}'
    const call = `{"name": "get_weather", "arguments": ${input}}`
    // A long list of blocks, too.
    const calls = Array.from({ length: 20 }, () => call).join(', ')
    says('I look.\n', `<TOOLCALL>[${calls}]</TOOLCALL>`)
    const tools = [{ name: WEATHER.name, input_schema: { type: 'object' } }]
    const whole = await (await post({ max_tokens: 4096, tools })).text()
    assert.equal(whole.split(`"input":${input},`).length, 21)
    const { content, stop_reason } = JSON.parse(whole)
    assert.deepEqual([content.length, stop_reason], [21, 'tool_use'])
    assert.equal(content[20].input.one, 1)
    const events = await readNamed(await post({ max_tokens: 4096, tools, stream: true }))
    const streamed = events
      .map(({ data }) => data as { index?: number; delta?: { partial_json?: string } })
      .filter(({ index }) => index === 20)
      .map(({ delta }) => delta?.partial_json ?? '')
    assert.equal(streamed.join(''), input)
  })

  test('says why it stopped', async () => {
    says('one two')
    stopReason = ' three'
    const stopped = await readAnswer(await post({ stop_sequences: [' three'] }))
    assert.deepEqual([stopped.stop_reason, stopped.stop_sequence], ['stop_sequence', ' three'])
    says('one two')
    const cut = await readAnswer(await post({ max_tokens: 3 }))
    assert.deepEqual([cut.stop_reason, cut.stop_sequence], ['max_tokens', null])
    // More than the model has room for is as much as it has.
    says('x'.repeat(9000))
    const asked = { max_tokens: 32_000 }
    const full = await readAnswer(await post(asked))
    assert.equal(full.stop_reason, 'model_context_window_exceeded')
    assert.equal(full.usage.output_tokens, 8192 - full.usage.input_tokens)
    const last = (await readNamed(await post({ ...asked, stream: true }))).at(-2)?.data
      .delta as Json
    assert.equal(last.stop_reason, 'model_context_window_exceeded')
    says(CALL)
    const half = await readAnswer(
      await post({ max_tokens: 50, tools: [WEATHER], tool_choice: { type: 'any' } }),
    )
    // A call without its whole input is none that could be made.
    assert.deepEqual([half.stop_reason, half.content], ['max_tokens', []])
  })

  test('has the prompt and the sampling of the same chat', async () => {
    const call = { id: 'c1', type: 'tool_use', name: 'get_weather', input: { city: 'Oslo' } }
    const fn = { name: 'get_weather', arguments: '{"city":"Oslo"}' }
    const tools = [WEATHER]
    const chatTools = [
      {
        type: 'function',
        function: { name: 'get_weather', description: 'The weather', parameters: SCHEMA },
      },
    ]
    const pairs: (readonly [Json, Json])[] = [
      [
        {
          system: [
            { type: 'text', text: 'Be', cache_control: { type: 'ephemeral' } },
            { type: 'text', text: 'short.' },
          ],
          thinking: { type: 'disabled' },
          temperature: 0.5,
          top_p: 0.9,
          top_k: 7,
          stop_sequences: ['x'],
        },
        {
          messages: [{ role: 'system', content: 'Be\nshort.' }, ...HELLO],
          reasoning_effort: 'none',
          temperature: 0.5,
          top_p: 0.9,
          top_k: 7,
          stop: ['x'],
        },
      ],
      [
        {
          tools,
          messages: [
            ...HELLO,
            { role: 'assistant', content: [{ type: 'text', text: 'I look.' }, call] },
            {
              role: 'user',
              content: [
                { type: 'tool_result', tool_use_id: 'c1', is_error: true, content: 'closed' },
                { type: 'text', text: 'And now?' },
              ],
            },
          ],
        },
        {
          tools: chatTools,
          messages: [
            ...HELLO,
            {
              role: 'assistant',
              content: 'I look.',
              tool_calls: [{ id: 'c1', type: 'function', function: fn }],
            },
            { role: 'tool', tool_call_id: 'c1', content: 'Error: closed' },
            { role: 'user', content: 'And now?' },
          ],
        },
      ],
      [
        { messages: [...HELLO, { role: 'assistant', content: 'One, ' }] },
        {
          messages: [...HELLO, { role: 'assistant', content: 'One, ' }],
          continue_final_message: true,
        },
      ],
    ]
    const calls = ['c1', 'c2'].map((id) => ({ ...call, id }))
    const answered = calls.map(({ id }) => ({ type: 'tool_result', tool_use_id: id, content: id }))
    const called = calls.map(({ id }) => ({ id, type: 'function', function: fn }))
    const results = ['c1', 'c2'].map((id) => ({ role: 'tool', tool_call_id: id, content: id }))
    const say = (role: string, content: unknown) => ({ role, content })
    pairs.push(
      // Messages of one role that follow one another are one turn.
      [
        { messages: [say('user', 'One'), say('user', [{ type: 'text', text: 'Two' }])] },
        { messages: [say('user', 'One\nTwo')] },
      ],
      [
        {
          tools,
          messages: [
            ...HELLO,
            say('assistant', 'I look.'),
            ...calls.map((one) => say('assistant', [one])),
            ...answered.map((one) => say('user', [one])),
            say('user', 'And now?'),
          ],
        },
        {
          tools: chatTools,
          messages: [
            ...HELLO,
            { role: 'assistant', content: 'I look.', tool_calls: called },
            ...results,
            say('user', 'And now?'),
          ],
        },
      ],
      [
        {
          messages: [
            ...HELLO,
            { role: 'system', content: 'Be short.', clear_at: 'next_user_message' },
            say('assistant', 'Hi.'),
            say('user', 'Bye'),
            { role: 'system', content: 'Be long.', clear_at: 'next_user_message' },
            { role: 'system', content: [], output_config: { effort: 'low' } },
          ],
        },
        {
          messages: [
            ...HELLO,
            say('assistant', 'Hi.'),
            say('user', 'Bye'),
            say('system', 'Be long.'),
          ],
        },
      ],
      [
        {
          tools: [
            { name: 'now', input_schema: { type: 'object', properties: null, required: null } },
          ],
          tool_choice: { type: 'any' },
        },
        {
          messages: HELLO,
          tools: [{ type: 'function', function: { name: 'now', parameters: { type: 'object' } } }],
          tool_choice: 'required',
        },
      ],
    )
    says('ok')
    for (const [ours, chats] of pairs) {
      assert.equal((await post(ours)).status, 200)
      const response = await harness.post(
        '/v1/chat/completions',
        chatBody({ max_tokens: 512, ...chats }),
      )
      assert.equal(response.status, 200)
      const [a, b] = harness.engine.requests.slice(-2)
      assert.deepEqual({ ...a, since: 0 }, { ...b, since: 0 })
    }
  })

  test('tool_choice and output_config hold the answer to a form', async () => {
    const CLOCK = { ...WEATHER, name: 'get_time' }
    const two = CALL.replace('}]<', '}, {"name": "get_time", "arguments": {"city": "Oslo"}}]<')
    const cases: readonly (readonly [Json, Record<string, boolean>])[] = [
      [{ tool_choice: { type: 'any' } }, { [CALL]: true, [two]: true, Hello: false }],
      [
        { tool_choice: { type: 'any', disable_parallel_tool_use: true } },
        { [CALL]: true, [two]: false },
      ],
      [
        { tool_choice: { type: 'tool', name: 'get_time' } },
        { [CALL]: false, [CALL.replace('weather', 'time')]: true },
      ],
      [
        {
          tools: [],
          output_config: { effort: 'high', format: { type: 'json_schema', schema: SCHEMA } },
        },
        { '{"city": "Oslo"}': true, '{"city": 1}': false },
      ],
    ]
    for (const [asked, texts] of cases) {
      says('{"city": "Oslo"}')
      assert.equal((await post({ tools: [WEATHER, CLOCK], ...asked })).status, 200)
      const grammar = harness.engine.grammarText(harness.engine.requests.at(-1)?.grammar)
      for (const [text, isRight] of Object.entries(texts))
        assert.equal(recognises(readGrammar(grammar ?? ''), text), isRight, text)
    }
    says(CALL)
    const none = await readAnswer(await post({ tools: [WEATHER], tool_choice: { type: 'none' } }))
    assert.equal(none.content[0].text, CALL)
  })

  describe('refuses, in its own form', () => {
    const user = (...content: Json[]) => ({ messages: [{ role: 'user', content }] })
    const call = { type: 'tool_use', id: 'c1', name: 'get_weather', input: {} }
    const result = { type: 'tool_result', tool_use_id: 'c1', content: 'x' }
    const called = { role: 'assistant', content: [call] }
    const BAD: readonly (readonly [why: string, body: Json, message: RegExp])[] = [
      ['no max_tokens', { max_tokens: undefined }, /'max_tokens'/],
      ['an image', user({ type: 'image', source: {} }), /messages\.0\.content\.0.*text only/],
      ['a document', user({ type: 'document' }), /messages\.0\.content\.0.*as a block of type/],
      ['an unknown block', user({ type: 'video' }), /messages\.0\.content\.0.*"tool_result"/],
      [
        'redacted thinking',
        { messages: [...HELLO, { role: 'assistant', content: [{ type: 'redacted_thinking' }] }] },
        /messages\.1\.content\.0.*leave it out/,
      ],
      [
        'more calls at once than a message has',
        {
          messages: [
            ...HELLO,
            {
              role: 'assistant',
              content: Array.from({ length: 129 }, (_, i) => ({ ...call, id: `t${i}` })),
            },
            {
              role: 'user',
              content: Array.from({ length: 129 }, (_, i) => ({ ...result, tool_use_id: `t${i}` })),
            },
          ],
        },
        /129 calls.* 128/,
      ],
      ['a result of no call', user(result), /messages\.0\.content\.0\.tool_use_id/],
      [
        'a call without a result',
        { messages: [...HELLO, called, ...HELLO] },
        /messages\.1\.content.*'c1'/,
      ],
      ['a call at the end', { messages: [...HELLO, called] }, /messages\.1\.content.*'c1'/],
      [
        'text before a result',
        {
          messages: [
            ...HELLO,
            called,
            { role: 'user', content: [{ type: 'text', text: 'x' }, result] },
          ],
        },
        /messages\.2\.content\.1.*before the text/,
      ],
      [
        'a call twice',
        { messages: [...HELLO, { role: 'assistant', content: [call, call] }] },
        /messages\.1\.content\.1\.id/,
      ],
      [
        'a hosted tool',
        { tools: [{ type: 'web_search_20250305', name: 'web_search' }] },
        /tools\.0\.type.*"custom"/,
      ],
      [
        'a schema that is no object',
        { tools: [{ ...WEATHER, input_schema: { type: 'string' } }] },
        /'tools\.0\.input_schema'/,
      ],
      ['a tool twice', { tools: [WEATHER, WEATHER] }, /'tools\.1\.name'/],
      [
        'the choice of no tool',
        { tools: [WEATHER], tool_choice: { type: 'tool', name: 'x' } },
        /'tool_choice\.name'/,
      ],
      [
        'a budget beyond max_tokens',
        { thinking: { type: 'enabled', budget_tokens: 512 } },
        /'thinking\.budget_tokens'.*less than/,
      ],
      [
        'a schema that cannot be',
        { output_config: { format: { type: 'json_schema', schema: { type: 'nothing' } } } },
        /output_config\.format\.schema/,
      ],
      [
        'a prompt too long',
        { messages: [{ role: 'user', content: 'x'.repeat(8192) }] },
        /^prompt is too long: .*8192/,
      ],
      [
        'a tool that is to be found',
        { tools: [{ ...WEATHER, defer_loading: true }] },
        /'tools\.0\.defer_loading'/,
      ],
      [
        'a tool for code alone',
        { tools: [{ ...WEATHER, allowed_callers: ['code_execution_20260120'] }] },
        /'tools\.0\.allowed_callers'/,
      ],
      [
        'a budget for all turns',
        { output_config: { task_budget: { type: 'tokens', total: 9 } } },
        /'output_config\.task_budget'/,
      ],
      ['a summary', { compaction: { type: 'summarize' } }, /'compaction'/],
      ['thinking between tools alone', { thinking: { type: 'between_tools' } }, /'thinking\.type'/],
      ['a reward model', { model: 'tiny-reward' }, /POST \/v1\/reward/],
      ["another's stop", { stop: ['x'] }, /'stop'.*'stop_sequences'/],
      ["another's sampler", { mirostat: 2 }, /'mirostat'/],
      ['a seed', { seed: 1 }, /'seed'/],
      ['MCP servers', { mcp_servers: [{}] }, /'mcp_servers'/],
    ]
    for (const [why, body, message] of BAD) {
      test(why, async () => {
        const response = await post(body)
        const answer = await readAnswer(response)
        assert.equal(response.status, 400, JSON.stringify(answer))
        assert.deepEqual(Object.keys(answer), ['type', 'error', 'request_id'])
        assert.equal(answer.request_id, response.headers.get('request-id'))
        assert.equal(answer.type, 'error')
        assert.equal(answer.error.type, 'invalid_request_error')
        assert.match(answer.error.message, message)
      })
    }

    test('what HTTP can be wrong about', async () => {
      const of = async (response: Response) => [
        response.status,
        (await readAnswer(response)).error.type,
      ]
      assert.deepEqual(await of(await post({}, { 'content-type': 'multipart/form-data' })), [
        415,
        'invalid_request_error',
      ])
      assert.deepEqual(await of(await harness.post('/v1/messages', '{"a":')), [
        400,
        'invalid_request_error',
      ])
      assert.deepEqual(await of(await harness.post('/v1/messages/', '{"a":')), [
        400,
        'invalid_request_error',
      ])
      assert.deepEqual(await of(await harness.post('/v1/messages', ' '.repeat(2 << 20))), [
        413,
        'request_too_large',
      ])
      assert.deepEqual(await of(await fetch(`${harness.url}/v1/messages`)), [
        405,
        'invalid_request_error',
      ])
      assert.deepEqual(await of(await post({ model: 'none' })), [404, 'not_found_error'])
      for (const path of [
        '/v1/messages/batches',
        '/v1/messages/batches/b',
        '/messages',
        '/v1/messages/x',
      ])
        assert.deepEqual(await of(await harness.post(path, {})), [404, 'not_found_error'], path)
      assert.deepEqual(await of(await post({}, { 'anthropic-version': '2022-01-01' })), [
        400,
        'invalid_request_error',
      ])
      const length = await rawRequest(
        harness.port,
        'POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n' +
          'content-encoding: gzip\r\nconnection: close\r\n\r\n123456789',
      )
      assert.match(length, /\{"type":"error","error":\{"type":"invalid_request_error"/)
    })
  })

  test('/openapi.json says which form its errors have', async () => {
    const { paths, components } = await readAnswer(await fetch(`${harness.url}/openapi.json`))
    const formOf = (path: string) =>
      paths[path].post.responses[400].content['application/json'].schema.$ref
    assert.equal(formOf('/v1/messages'), '#/components/schemas/MessageError')
    assert.equal(formOf('/v1/chat/completions'), '#/components/schemas/ErrorResponse')
    assert.ok(components.schemas.MessageError.properties.error)
  })

  test('an error inside a stream is an event, and the last', async () => {
    const failing = await startHarness({
      answer: () => ({ pieces: ['a', 'b'], finish: 'error', error: 'broken' }),
    })
    try {
      const response = await failing.post('/v1/messages', { ...BODY, stream: true })
      const last = (await readNamed(response)).at(-1)
      assert.equal(last?.event, 'error')
      assert.match(JSON.stringify(last?.data.error), /"api_error"/)
      const sdk = new Anthropic({ baseURL: failing.url, apiKey: 'none', maxRetries: 0 })
      await assert.rejects(sdk.messages.stream(BODY).finalMessage(), Anthropic.APIError)
    } finally {
      await failing.close()
    }
  })

  test('takes x-api-key as it takes Bearer, and keeps callers apart', async () => {
    const closed = await startHarness({ config: { apiKeys: ['one', 'two'] } })
    try {
      const ask = (headers: Record<string, string>) => closed.post('/v1/messages', BODY, headers)
      for (const headers of [{}, { 'x-api-key': 'three' }, { authorization: 'Bearer three' }]) {
        const response = await ask(headers)
        assert.equal(response.status, 401)
        assert.equal((await readAnswer(response)).error.type, 'authentication_error')
      }
      for (const apiKey of ['one', 'two']) {
        const sdk = new Anthropic({ baseURL: closed.url, apiKey, maxRetries: 0 })
        await sdk.messages.create(BODY)
      }
      await ask({ authorization: 'Bearer one' })
      await ask({ authorization: 'Bearer three', 'x-api-key': 'two' })
      const [a, b, c, d] = closed.engine.requests.map(({ cacheSalt }) => cacheSalt)
      assert.deepEqual([a, b], [c, d])
      assert.notEqual(a, b)
    } finally {
      await closed.close()
    }
  })
})
