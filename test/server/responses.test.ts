// OpenAI's Responses API, by its clients and by hand, over a scripted engine.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createOpenAI } from '@ai-sdk/openai'
import { Agent, tool as agentTool, OpenAIProvider, Runner } from '@openai/agents'
import { generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai'
import OpenAI from 'openai'
import { zodTextFormat } from 'openai/helpers/zod'
import { z } from 'zod'
import { readGrammar, recognises } from '../../bench/grammar/recogniser.js'
import { readCall } from '../../server/api/responses/call.js'
import { ResponsesRequest } from '../../server/api/responses/schema.js'
import type { ServedModel } from '../../server/model/served-model.js'
import { chatBody, type Harness, readAnswer, startHarness } from './harness.js'

const SCHEMA = {
  type: 'object' as const,
  properties: { city: { type: 'string' as const } },
  required: ['city'],
  additionalProperties: false as const,
}
const WEATHER = {
  type: 'function' as const,
  name: 'get_weather',
  description: 'The weather',
  parameters: SCHEMA,
  strict: true,
}
const CALL = '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</TOOLCALL>'
const THOUGHT = ['<think>\nLet me', ' see.\n</thi', 'nk>\n\nIt is', ' 3.']
const BODY = { model: 'tiny-reasoner', input: 'Hello' }

type Json = Record<string, unknown>

const readNamed = async (response: Response): Promise<readonly Json[]> => {
  const blocks = (await response.text()).split('\n\n').filter((one) => one && !one.startsWith(':'))
  return blocks.map((block, i) => {
    const [, event, text = ''] = /^event: ([\w.]+)\ndata: (.*)$/.exec(block) ?? []
    const data = JSON.parse(text)
    assert.equal(data.type, event)
    assert.equal(data.sequence_number, i)
    return data
  })
}

describe('items of responses', () => {
  test('a thought is its content, or its summary where that is empty or not there', () => {
    const summary = [
      { type: 'summary_text' as const, text: 'in short' },
      { type: 'summary_text' as const, text: 'and clear' },
    ]
    const content = [{ type: 'reasoning_text' as const, text: 'at length' }]
    const answer = { type: 'message' as const, role: 'assistant' as const, content: 'Done.' }
    const thoughtOf = (given: object): string | undefined => {
      const input = [{ role: 'user', content: 'Hi' }, { type: 'reasoning', ...given }, answer]
      const body = ResponsesRequest.parse({ ...BODY, input })
      const model = { profile: {} } as unknown as ServedModel
      const [, message] = readCall(body, model).messages
      assert.equal(message?.content, 'Done.')
      return message?.reasoning
    }
    assert.equal(thoughtOf({ summary, content }), 'at length')
    assert.equal(thoughtOf({ summary, content: [] }), 'in short\nand clear')
    assert.equal(thoughtOf({ summary }), 'in short\nand clear')
    assert.equal(thoughtOf({ summary: [], content: [] }), '')
  })
})

describe('responses', () => {
  let harness: Harness
  let client: OpenAI
  let script: (prompt: string) => readonly string[] = () => []
  before(async () => {
    harness = await startHarness({
      answer: (prompt) => ({ pieces: script(prompt) }),
      reward: { score: () => [1] },
      info: { maxModelLen: 8192 },
    })
    client = new OpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'none', maxRetries: 0 })
  })
  after(() => harness.close())
  const post = (more: Json) => harness.post('/v1/responses', { ...BODY, ...more })
  const promptOf = () =>
    Buffer.from(
      Array.from(harness.engine.requests.at(-1)?.promptTokenIds ?? []).filter((id) => id < 256),
    ).toString()
  const says = (...pieces: string[]) => {
    script = () => pieces
  }
  /** A call, and once its result is there, an answer. */
  const loops = () => {
    script = (prompt) => (prompt.includes('sunny') ? ['It is ', 'sunny.'] : [CALL])
  }

  test('the openai SDK: a response with its reasoning, usage and form', async () => {
    says(...THOUGHT)
    const response = await client.responses.create({ ...BODY, reasoning: { effort: 'high' } })
    assert.equal(response.output_text, 'It is 3.')
    assert.equal(response.status, 'completed')
    const [reasoning] = response.output
    assert.deepEqual(reasoning?.type === 'reasoning' && reasoning.summary, [
      { type: 'summary_text', text: 'Let me see.' },
    ])
    assert.equal(response.usage?.output_tokens, THOUGHT.join('').length)
    assert.equal(
      response.usage?.output_tokens_details.reasoning_tokens,
      '<think>\nLet me see.\n</think>'.length,
    )
    says('{"city": "Oslo"}')
    const parsed = await client.responses.parse({
      ...BODY,
      text: { format: zodTextFormat(z.object({ city: z.string() }), 'place') },
    })
    assert.deepEqual(parsed.output_parsed, { city: 'Oslo' })
    const grammar = readGrammar(
      harness.engine.grammarText(harness.engine.requests.at(-1)?.grammar) ?? '',
    )
    assert.ok(recognises(grammar, '{"city": "Oslo"}') && !recognises(grammar, '{"city": 1}'))
  })

  test("the openai SDK's stream helper puts together what a whole answer is", async () => {
    for (const pieces of [THOUGHT, [CALL], ['Hm', '.'], []]) {
      says(...pieces)
      for (const more of [{}, { max_output_tokens: 3 }]) {
        const asked = { ...BODY, tools: [WEATHER], reasoning: { effort: 'high' as const }, ...more }
        const plain = (response: object) =>
          JSON.parse(
            JSON.stringify(response, (key, value) =>
              ['id', 'call_id', 'created_at', 'completed_at', '_request_id'].includes(key) ||
              /parsed/.test(key)
                ? undefined
                : value,
            ),
          )
        const whole = await client.responses.create(asked)
        const streamed = await client.responses.stream(asked).finalResponse()
        assert.deepEqual(plain(streamed), plain(whole))
      }
    }
  })

  test('events come in order, numbered', async () => {
    says('<think>\nHm\n</think>\n\nI', ' look.\n', CALL)
    const events = await readNamed(
      await post({ stream: true, tools: [WEATHER], reasoning: { effort: 'high' } }),
    )
    const kinds = events.map(({ type, output_index: at }) =>
      `${String(type).slice(9)} ${at ?? ''}`.trim(),
    )
    const item = (at: number, ...inner: string[]) => [
      `output_item.added ${at}`,
      ...inner.map((one) => `${one} ${at}`),
      `output_item.done ${at}`,
    ]
    assert.deepEqual(
      kinds.filter((kind, i) => kind !== kinds[i - 1]),
      [
        'created',
        'in_progress',
        ...item(
          0,
          'reasoning_summary_part.added',
          'reasoning_summary_text.delta',
          'reasoning_summary_text.done',
          'reasoning_summary_part.done',
        ),
        ...item(
          1,
          'content_part.added',
          'output_text.delta',
          'output_text.done',
          'content_part.done',
        ),
        ...item(2, 'function_call_arguments.delta', 'function_call_arguments.done'),
        'completed',
      ],
    )
    const last = events.at(-1)?.response as { output: readonly Json[]; usage: Json }
    assert.deepEqual(
      last.output,
      events.filter(({ type }) => type === 'response.output_item.done').map(({ item: one }) => one),
    )
    assert.equal(last.usage.input_tokens, harness.engine.requests.at(-1)?.promptTokenIds.length)
  })

  test('a text that is too long for one turn is told whole in its last events', async () => {
    const pieces = [
      ...Array.from({ length: 40 }, (_, i) => `${i} "${'long '.repeat(500)}"\n`),
      CALL,
    ]
    const server = await startHarness({
      answer: () => ({ pieces }),
      info: { maxModelLen: 1 << 18 },
    })
    const body = { ...BODY, tools: [WEATHER], stream: true }
    const events = await readNamed(await server.post('/v1/responses', body))
    const text = pieces.slice(0, -1).join('')
    const of = (type: string) => events.filter((event) => event.type === type)
    assert.equal(of('response.output_text.done')[0]?.text, text)
    const added = of('response.output_text.delta').map(({ delta }) => delta)
    assert.equal(added.join(''), text)
    const names = events.map(({ type }) => type)
    assert.equal(names.at(-1), 'response.completed')
    const [done, call] = ['response.output_text.done', 'response.function_call_arguments.delta']
    assert.ok(names.indexOf(done) < names.indexOf(call))
    const { response } = events.at(-1) as { readonly response: { readonly output: Json[] } }
    assert.equal(response.output.length, 2)
    assert.deepEqual(response.output[0]?.content, [
      { type: 'output_text', text, annotations: [], logprobs: [] },
    ])
    await server.close()
  })

  test("the AI SDK's default provider: tools in steps, a stream", async () => {
    const openai = createOpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'none' })
    const model = openai('tiny-reasoner')
    loops()
    const { text } = await generateText({
      model,
      prompt: 'Weather?',
      tools: {
        get_weather: tool({
          inputSchema: jsonSchema<{ city: string }>(SCHEMA),
          execute: async ({ city }) => `${city}: sunny`,
        }),
      },
      stopWhen: stepCountIs(3),
      // Else it names the items of the first step instead of sending them.
      providerOptions: { openai: { store: false } },
    })
    assert.equal(text, 'It is sunny.')
    says('It is', ' 3.')
    const stream = streamText({ model, prompt: 'Hi' })
    let answer = ''
    for await (const part of stream.fullStream) {
      if (part.type === 'text-delta') answer += part.text
      assert.notEqual(part.type, 'error')
    }
    assert.equal(answer, 'It is 3.')
    const { inputTokens } = await stream.usage
    assert.equal(inputTokens, harness.engine.requests.at(-1)?.promptTokenIds.length)
  })

  test("OpenAI's Agents SDK runs its tools, whole and streamed", async () => {
    loops()
    const provider = new OpenAIProvider({
      baseURL: `${harness.url}/v1`,
      apiKey: 'none',
      useResponses: true,
    })
    const runner = new Runner({ modelProvider: provider, tracingDisabled: true })
    const agent = new Agent({
      name: 'Weather',
      instructions: 'Be short.',
      model: 'tiny-reasoner',
      tools: [
        agentTool({
          name: 'get_weather',
          description: 'The weather',
          parameters: z.object({ city: z.string() }),
          execute: async ({ city }) => `${city}: sunny`,
        }),
      ],
    })
    const whole = await runner.run(agent, 'Weather?')
    assert.equal(whole.finalOutput, 'It is sunny.')
    assert.match(promptOf(), /Be short\..*Paris: sunny/s)
    const streamed = await runner.run(agent, 'Weather?', { stream: true })
    await streamed.completed
    assert.equal(streamed.finalOutput, 'It is sunny.')
  })

  test('an exchange as Codex has it: stateless, all items each time', async () => {
    const common = {
      model: 'tiny-reasoner',
      instructions: 'You are a coding agent.',
      tools: [{ ...WEATHER, name: 'shell', strict: false }],
      tool_choice: 'auto',
      parallel_tool_calls: false,
      reasoning: { effort: 'medium', summary: 'auto' },
      store: false,
      stream: true,
      include: ['reasoning.encrypted_content'],
      prompt_cache_key: '0198',
    }
    const user = {
      type: 'message',
      role: 'user',
      content: [{ type: 'input_text', text: 'List the files.' }],
    }
    says('<think>\nHm\n</think>\n\n', CALL.replace('get_weather', 'shell'))
    const first = await readNamed(await post({ ...common, input: [user] }))
    const done = first
      .filter(({ type }) => type === 'response.output_item.done')
      .map(({ item }) => item as Json)
    assert.deepEqual(
      done.map(({ type }) => type),
      ['reasoning', 'function_call'],
    )
    assert.equal(done[0]?.encrypted_content, 'unencrypted')
    says('There is a.txt.')
    const output = { type: 'function_call_output', call_id: done[1]?.call_id, output: 'a.txt' }
    const second = await readNamed(await post({ ...common, input: [user, ...done, output] }))
    assert.equal(second.at(-1)?.type, 'response.completed')
    assert.match(promptOf(), /coding agent.*List the files.*"Paris".*a\.txt/s)
  })

  test('functions of namespaces are called by both names, and tools of OpenAI alone left out', async () => {
    const inside = { ...WEATHER, strict: false }
    const tools = [
      { type: 'web_search', external_web_access: false },
      { type: 'namespace', name: 'mcp__sky', description: 'The sky', tools: [inside] },
      { ...WEATHER, name: 'shell', strict: false },
      { type: 'image_generation', output_format: 'png' },
      { type: 'web_search' },
    ]
    says(CALL.replace('get_weather', 'mcp__sky.get_weather'))
    const response = await post({ tools })
    assert.equal(
      response.headers.get('x-ignored-params'),
      'tools.web_search, tools.image_generation',
    )
    const answer = await readAnswer(response)
    assert.deepEqual(answer.tools, tools.slice(1, 3))
    const [call] = answer.output
    assert.deepEqual([call.name, call.namespace], ['get_weather', 'mcp__sky'])
    const shown = promptOf()
    assert.match(shown, /AVAILABLE_TOOLS>\[\{"name": "mcp__sky\.get_weather", .*\{"name": "shell"/)
    assert.doesNotMatch(shown, /web_search|image_generation/)
    const events = await readNamed(await post({ tools, stream: true }))
    for (const type of ['response.output_item.added', 'response.output_item.done']) {
      const { item } = events.find((event) => event.type === type) as { readonly item: Json }
      assert.deepEqual([item.name, item.namespace], ['get_weather', 'mcp__sky'])
    }
    says('It is sunny.')
    const output = { type: 'function_call_output', call_id: call.call_id, output: 'sunny' }
    const input = [{ role: 'user', content: 'Sky?' }, call, output]
    assert.equal((await post({ tools, input })).status, 200)
    assert.match(promptOf(), /"name": "mcp__sky\.get_weather", "arguments": \{"city": "Paris"\}/)
    // Nothing that is left out is asked for.
    assert.equal((await post({ tools: tools.slice(0, 1) })).status, 200)
    const strict = await startHarness({ config: { strictParams: true } })
    try {
      const refused = await strict.post('/v1/responses', { ...BODY, tools })
      assert.equal(refused.status, 400)
      assert.equal((await readAnswer(refused)).error.param, 'tools.web_search')
    } finally {
      await strict.close()
    }
  })

  test('has the prompt and the sampling of the same chat', async () => {
    const fn = { name: 'get_weather', arguments: '{"city":"Oslo"}' }
    const { type, ...weather } = WEATHER
    const chat = {
      messages: [
        { role: 'system', content: 'Be short.' },
        { role: 'developer', content: 'Be kind.' },
        { role: 'user', content: 'A\nB' },
        {
          role: 'assistant',
          content: 'I look.',
          reasoning: 'Hm',
          tool_calls: [{ id: 'c1', type, function: fn }],
        },
        { role: 'tool', tool_call_id: 'c1', content: 'closed' },
        { role: 'user', content: 'And now?' },
      ],
      tools: [{ type, function: weather }],
      tool_choice: { type, function: { name: 'get_weather' } },
      reasoning_effort: 'high',
      max_tokens: 99,
      temperature: 0.5,
      top_p: 0.9,
    }
    const ours = {
      instructions: 'Be short.',
      input: [
        { role: 'developer', content: 'Be kind.' },
        {
          role: 'user',
          content: [
            { type: 'input_text', text: 'A' },
            { type: 'input_text', text: 'B' },
          ],
        },
        { type: 'reasoning', id: 'rs_1', summary: [{ type: 'summary_text', text: 'Hm' }] },
        {
          type: 'message',
          role: 'assistant',
          content: [{ type: 'output_text', text: 'I look.', annotations: [] }],
        },
        { type: 'function_call', call_id: 'c1', ...fn },
        { type: 'function_call_output', call_id: 'c1', output: 'closed' },
        { role: 'user', content: 'And now?' },
      ],
      tools: [WEATHER],
      tool_choice: { type, name: 'get_weather' },
      reasoning: { effort: 'high' },
      max_output_tokens: 99,
      temperature: 0.5,
      top_p: 0.9,
    }
    says(CALL)
    assert.equal((await post(ours)).status, 200)
    assert.equal((await harness.post('/v1/chat/completions', chatBody(chat))).status, 200)
    const [a, b] = harness.engine.requests.slice(-2)
    const same = { grammar: undefined, since: 0 }
    assert.deepEqual({ ...a, ...same }, { ...b, ...same })
    const text = (one: typeof a) => harness.engine.grammarText(one?.grammar)
    assert.ok(text(a))
    assert.equal(text(a), text(b))
  })

  test('nothing is stored, and it says so', async () => {
    says('Hi')
    for (const store of [undefined, true, false]) {
      const answer = await readAnswer(await post({ store, metadata: { a: 'b' } }))
      assert.equal(answer.store, false)
      assert.deepEqual(answer.metadata, { a: 'b' })
    }
  })

  test('a null asks for nothing, as its types allow', async () => {
    says('Hi')
    const named = ['instructions', 'max_output_tokens', 'temperature', 'top_p', 'metadata', 'store']
    const others = ['parallel_tool_calls', 'stream', 'truncation', 'include', 'reasoning', 'text']
    const nulls = [...named, ...others, 'tools', 'tool_choice'].map((name) => [name, null])
    const response = await post(Object.fromEntries(nulls))
    assert.equal(response.status, 200, await response.clone().text())
  })

  describe('refuses by name', () => {
    const call = { type: 'function_call', call_id: 'c1', name: 'f', arguments: '{}' }
    const output = { type: 'function_call_output', call_id: 'c1', output: 'x' }
    const user = (...content: Json[]) => ({ input: [{ role: 'user', content }] })
    const callsAtOnce = (count: number) =>
      [call, output].flatMap((one) =>
        Array.from({ length: count }, (_, i) => ({ ...one, call_id: `c${i}` })),
      )
    const BAD: (readonly [param: string, body: Json, message?: RegExp])[] = [
      ['previous_response_id', { previous_response_id: 'resp_1' }, /nothing is kept/],
      ['conversation', { conversation: 'conv_1' }, /nothing is kept/],
      ['background', { background: true }],
      ['prompt', { prompt: { id: 'p' } }],
      ['truncation', { truncation: 'auto' }, /"disabled"/],
      ['tools.1.name', { tools: [WEATHER, WEATHER] }],
      ['tools.0.parameters', { tools: [{ ...WEATHER, parameters: { type: 'string' } }] }],
      ['tool_choice.type', { tools: [WEATHER], tool_choice: { type: 'mcp' } }],
      ['tool_choice.name', { tools: [WEATHER], tool_choice: { type: 'function', name: 'x' } }],
      ['input.0.content.0.type', user({ type: 'input_image' }), /text only/],
      ['input.0.type', { input: [{ type: 'item_reference', id: 'x' }] }, /"store": false/],
      ['input.0.type', { input: [{ type: 'web_search_call' }] }, /OpenAI runs/],
      ['input.0.type', { input: [{ type: 'nonsense' }] }, /"function_call_output"/],
      ['input.0.call_id', { input: [output] }, /'c1'/],
      ['input.0.call_id', { input: [call, { role: 'user', content: 'x' }] }, /'c1'/],
      ['input.1.call_id', { input: [call, call, output] }, /'c1'/],
      ['input.2.call_id', { input: [call, output, output] }, /'c1'/],
      ['input.0', { input: [{ type: 'reasoning', summary: [] }] }, /led to/],
      [
        'input',
        { input: Array.from({ length: 2049 }, () => ({ role: 'user', content: 'a' })) },
        /2049 .* 2048/,
      ],
      ['input', { input: callsAtOnce(129) }, /129 calls.* 128/],
      ['input', { input: [] }],
      ['input', { input: undefined }],
      ['include.0', { include: ['message.output_text.logprobs'] }],
      ['max_output_tokens', { max_output_tokens: 9000 }, /8192/],
      [
        'text.format.schema',
        { text: { format: { type: 'json_schema', name: 'x', schema: { type: 'no' } } } },
      ],
      ['messages', { messages: [{}] }, /'input'/],
      ['max_tokens', { max_tokens: 5 }, /'max_output_tokens'/],
      ['model', { model: 'tiny-reward' }, /POST \/v1\/reward/],
    ]
    const HOSTED = /that OpenAI runs/
    const BUILT_IN = /built into OpenAI's models/
    const CUSTOM = /JSON arguments/
    // Each type of an item, a part and a tool that the SDK knows and this server does not serve.
    const ITEMS: readonly (readonly [type: string, why: RegExp])[] = [
      ...[
        ...['file_search_call', 'web_search_call', 'tool_search_call', 'tool_search_output'],
        ...['image_generation_call', 'code_interpreter_call', 'program', 'program_output'],
        ...['mcp_list_tools', 'mcp_approval_request', 'mcp_approval_response', 'mcp_call'],
      ].map((type) => [type, HOSTED] as const),
      ...[
        ...['computer_call', 'computer_call_output', 'local_shell_call', 'local_shell_call_output'],
        ...['shell_call', 'shell_call_output', 'apply_patch_call', 'apply_patch_call_output'],
      ].map((type) => [type, BUILT_IN] as const),
      ['custom_tool_call', CUSTOM],
      ['custom_tool_call_output', CUSTOM],
      ['additional_tools', /'tools'/],
      ['compaction', /nothing is kept/],
      ['compaction_trigger', /nothing is kept/],
    ]
    for (const [type, why] of ITEMS) BAD.push(['input.0.type', { input: [{ type }] }, why])
    for (const type of ['file_search', 'mcp', 'code_interpreter', 'tool_search'])
      BAD.push(['tools.0.type', { tools: [{ type }] }, HOSTED])
    for (const type of ['computer_use_preview', 'local_shell', 'shell', 'apply_patch'])
      BAD.push(['tools.0.type', { tools: [{ type }] }, BUILT_IN])
    BAD.push(['tools.0.type', { tools: [{ type: 'custom', name: 'x' }] }, CUSTOM])
    const space = (...tools: readonly object[]) => ({ type: 'namespace', name: 'x', tools })
    const one = { type: 'function', name: 'a' }
    const search = { type: 'web_search' }
    BAD.push(['tools.0.tools', { tools: [{ type: 'namespace', name: 'x' }] }, /Missing/])
    BAD.push(['tools.0.tools.0.type', { tools: [space({ type: 'custom', name: 'x' })] }, CUSTOM])
    BAD.push(['tools.1.tools.1.name', { tools: [search, space(one, one)] }, /named 'x.a' too/])
    BAD.push([
      'tool_choice',
      { tools: [search], tool_choice: 'required' },
      /when 'tools' are given/,
    ])
    const parameters = { type: 'object', properties: { a: { contains: {} } } }
    BAD.push([
      'tools.1.tools.0.parameters',
      { tools: [search, space({ ...one, parameters, strict: true })] },
      /contains/,
    ])
    const many = (count: number) =>
      Array.from({ length: count }, (_, i) => ({ type: 'function', name: `f${i}` }))
    BAD.push(['tools', { tools: [space(...many(100)), ...many(29)] }, /129 functions/])
    BAD.push(['input.0.content.0.type', user({ type: 'refusal', refusal: 'x' }), /output_text/])
    for (const [param, body, message] of BAD) {
      test(`${param}: ${JSON.stringify(body).slice(0, 60)}`, async () => {
        const response = await post(body)
        const { error } = await readAnswer(response)
        assert.equal(response.status, 400, JSON.stringify(error))
        assert.equal(error.param, param, error.message)
        if (message) assert.match(error.message, message)
      })
    }
  })

  test('an error inside a stream is told, and is the end', async () => {
    const failing = await startHarness({
      answer: () => ({ pieces: ['a', 'b'], finish: 'error', error: 'broken' }),
    })
    try {
      const asked = { ...BODY, stream: true as const }
      const events = await readNamed(await failing.post('/v1/responses', asked))
      assert.deepEqual(
        events.slice(-2).map(({ type }) => type),
        ['response.failed', 'error'],
      )
      const sdk = new OpenAI({ baseURL: `${failing.url}/v1`, apiKey: 'none', maxRetries: 0 })
      const seen: string[] = []
      const read = async () => {
        for await (const { type } of await sdk.responses.create(asked)) seen.push(type)
      }
      await assert.rejects(read, (error) => {
        assert.ok(error instanceof OpenAI.APIError)
        assert.deepEqual([error.code, error.param], [events.at(-1)?.code, null])
        assert.match(error.message, /broken/)
        return true
      })
      assert.deepEqual(
        seen,
        events.slice(0, -1).map(({ type }) => type),
      )
      // OpenAI's own form, beside what its clients look for.
      const { type, sequence_number: _, error, ...flat } = events.at(-1) ?? {}
      assert.deepEqual(error, { type, ...flat })
    } finally {
      await failing.close()
    }
  })

  test('an error before the first token comes in a response that has begun', async (t) => {
    const slow = await startHarness({
      answer: () => ({ pieces: ['a'], delaySteps: 10_000 }),
      stepMs: 10,
      config: { pingInterval: 0.1 },
    })
    t.after(() => slow.close())
    const asked = { ...BODY, stream: true as const }
    const headers = { 'X-Request-Timeout': '1' }
    const events = await readNamed(await slow.post('/v1/responses', asked, headers))
    const types = ['response.created', 'response.in_progress', 'response.failed', 'error']
    assert.deepEqual(
      events.map(({ type }) => type),
      types,
    )
    const sdk = new OpenAI({ baseURL: `${slow.url}/v1`, apiKey: 'none', maxRetries: 0 })
    const told = sdk.responses.stream(BODY, { headers }).finalResponse()
    await assert.rejects(told, { message: /longer than its limit of 1 s/ })
  })
})
