// Calls of tools over HTTP, with scripted answers.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import OpenAI from 'openai'
import { readGrammar, recognises } from '../../bench/grammar/recogniser.js'
import { BUILT_IN } from '../../server/prompt/builtin-templates.js'
import { chatBody, type Harness, readAnswer, readEvents, startHarness } from './harness.js'

const tool = (name: string, more: Record<string, unknown> = {}) => ({
  type: 'function' as const,
  function: {
    name,
    description: `Does ${name}`,
    parameters: { type: 'object', properties: { city: { type: 'string' } } },
    ...more,
  },
})
const WEATHER = tool('get_weather')
const CLOCK = tool('get_time')
const BOTH =
  '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "get_time", "arguments": {"zone": "é😀"}}]</TOOLCALL>'
const CALLS = [
  ['get_weather', '{"city": "Paris"}'],
  ['get_time', '{"zone": "é😀"}'],
]

type Message = {
  readonly content: string | null
  readonly reasoning?: string | null
  readonly tool_calls?: readonly {
    readonly id: string
    readonly type: string
    readonly function: { readonly name: string; readonly arguments: string }
  }[]
}

const callsOf = (message: Message) =>
  (message.tool_calls ?? []).map(({ id, type, function: { name, arguments: text } }) => {
    assert.match(id, /^call_/)
    assert.equal(type, 'function')
    return [name, text]
  })

describe('tools over HTTP', () => {
  let harness: Harness
  let client: OpenAI
  let script: readonly string[] = []
  before(async () => {
    harness = await startHarness({
      answer: () => ({ pieces: script }),
      reward: { score: (prompt) => [prompt.length] },
      info: { maxModelLen: 8192 },
    })
    client = new OpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'none', maxRetries: 0 })
  })
  after(() => harness.close())

  const chat = (more: Record<string, unknown>) =>
    harness.post('/v1/chat/completions', chatBody({ tools: [WEATHER, CLOCK], ...more }))
  const whole = async (text: string, more: Record<string, unknown> = {}) => {
    script = [text]
    const response = await chat(more)
    const answer = await readAnswer(response)
    assert.equal(response.status, 200, JSON.stringify(answer))
    return answer
  }
  /** The choices of a stream put together as clients do; the pieces of calls keep their order. */
  const streamed = async (pieces: readonly string[], more: Record<string, unknown> = {}) => {
    script = pieces
    const { chunks, done } = await readEvents(await chat({ stream: true, ...more }))
    assert.ok(done)
    return chunks
  }

  const TEXTS = [
    BOTH,
    `Let me see.\n${BOTH}`,
    `${BOTH}\n\nThere.`,
    `<think>\nI call <TOOLCALL>[{"name": "no", "arguments": {}}]</TOOLCALL>\n</think>\n\n${BOTH}`,
    `<think>\nI call ${BOTH}`,
    'No call at all, but a < and a <TOOL and {"name": "x"}.',
    '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": Paris}}]</TOOLCALL>',
  ]

  test('a call is told apart from the text', async () => {
    const answers = []
    for (const text of TEXTS) answers.push((await whole(text)).choices[0])
    const [pure, before, behind, thought, unfinished, none, malformed] = answers
    assert.deepEqual(callsOf(pure.message), CALLS)
    assert.equal(pure.message.content, null)
    assert.equal(pure.finish_reason, 'tool_calls')
    assert.equal(before.message.content, 'Let me see.\n')
    assert.equal(before.finish_reason, 'tool_calls')
    assert.equal(behind.message.content, '\n\nThere.')
    assert.deepEqual(callsOf(thought.message), CALLS)
    assert.equal(thought.message.content, null)
    assert.match(thought.message.reasoning, /"no"/)
    assert.ok(!('tool_calls' in unfinished.message))
    assert.equal(unfinished.finish_reason, 'stop')
    assert.equal(none.message.content, TEXTS[5])
    assert.equal(none.finish_reason, 'stop')
    assert.equal(malformed.message.content, TEXTS[6])
    assert.equal(malformed.finish_reason, 'stop')
  })

  test('a stream adds up to the same, wherever its pieces are cut', async () => {
    const forms = [{}, { reasoning_format: 'none' }, { include_reasoning: false }, { n: 2 }]
    for (const text of TEXTS)
      for (const form of forms) {
        const answer = (await whole(text, form)).choices.at(-1)
        for (const pieces of [[text], [...text], text.match(/[\s\S]{1,5}/gu) ?? []]) {
          const chunks = await streamed(pieces, form)
          const mine = chunks.flatMap((chunk) =>
            chunk.choices.filter(({ index }: { index: number }) => index === answer.index),
          )
          let content: string | null = null
          let reasoning = ''
          const calls: string[][] = []
          for (const { delta } of mine) {
            if (delta.content != null) content = (content ?? '') + delta.content
            reasoning += delta.reasoning ?? ''
            for (const piece of delta.tool_calls ?? []) {
              if (piece.id !== undefined) {
                assert.deepEqual(Object.keys(piece), ['index', 'id', 'type', 'function'])
                assert.deepEqual(Object.keys(piece.function), ['name', 'arguments'])
                assert.equal(piece.function.arguments, '')
                assert.equal(piece.index, calls.length)
                calls.push([piece.function.name, ''])
              } else {
                assert.deepEqual(Object.keys(piece), ['index', 'function'])
                assert.deepEqual(Object.keys(piece.function), ['arguments'])
                const call = calls[piece.index]
                assert.ok(call)
                call[1] += piece.function.arguments
              }
            }
          }
          const { message } = answer
          assert.deepEqual(calls, callsOf(message), text)
          assert.equal(content ?? '', message.content ?? '', text)
          if (calls.length > 0 && message.content === null) assert.equal(content, null)
          assert.equal(reasoning, message.reasoning ?? '', text)
          assert.equal(mine[0].delta.role, 'assistant')
          assert.ok(mine.slice(1).every(({ delta }) => delta.role === undefined))
          assert.deepEqual(mine.at(-1).delta, {})
          assert.equal(mine.at(-1).finish_reason, answer.finish_reason)
        }
      }
  })

  test('thinking that is left in the text keeps its calls', async () => {
    const { message } = (await whole(TEXTS[3] ?? '', { reasoning_format: 'none' })).choices[0]
    assert.deepEqual(callsOf(message), CALLS)
    assert.match(message.content, /^<think>\nI call <TOOLCALL>\[\{"name": "no".*<\/think>\n\n$/s)
  })

  test('with thinking on, an answer may be a call at once', async () => {
    const on = { chat_template_kwargs: { enable_thinking: true } }
    const { message, finish_reason } = (await whole(BOTH, on)).choices[0]
    assert.deepEqual(callsOf(message), CALLS)
    assert.equal(message.reasoning, null)
    assert.equal(finish_reason, 'tool_calls')
    const untagged = (await whole(`So: ${BOTH}`, on)).choices[0]
    assert.equal(untagged.message.reasoning, `So: ${BOTH}`)
    assert.deepEqual(callsOf(untagged.message), CALLS)
  })

  test('a limit leaves what was cut as text, and says so', async () => {
    const cut = BOTH.length - 30
    const { message, finish_reason } = (await whole(BOTH, { max_tokens: cut })).choices[0]
    assert.equal(finish_reason, 'length')
    assert.deepEqual(callsOf(message), CALLS.slice(0, 1))
    assert.ok(message.content.startsWith(', {"name": "get_time"'), message.content)
  })

  test('tokens and log probabilities are those of all that was written', async () => {
    const answer = await whole(BOTH, { logprobs: true, return_token_ids: true })
    const [choice] = answer.choices
    assert.equal(Buffer.from(choice.token_ids).toString(), BOTH)
    assert.equal(choice.logprobs.content.length, Buffer.byteLength(BOTH))
    assert.equal(answer.usage.completion_tokens, Buffer.byteLength(BOTH))
    const chunks = await streamed([...BOTH], { logprobs: true, return_token_ids: true })
    const ids = chunks.flatMap((chunk) => chunk.choices[0]?.token_ids ?? [])
    assert.equal(Buffer.from(ids).toString(), BOTH)
  })

  test('best of N scores calls as they are written', async () => {
    const more = { reward: { model: 'tiny-reward' }, best_of: 2 }
    const plain = (await whole('.', more)).choices[0]
    const called = (await whole(BOTH, more)).choices[0]
    assert.equal(called.reward - plain.reward, BOTH.length - 1)
    assert.deepEqual(callsOf(called.message), CALLS)
    assert.equal(called.finish_reason, 'tool_calls')
  })

  test('the prompt shows their schemas as they are written, in every dialect', async () => {
    const ask = async (path: string, body: string): Promise<string> => {
      const response = await fetch(`${harness.url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
      })
      assert.equal(response.status, 200, await response.text())
      const tokens = Array.from(harness.engine.requests.at(-1)?.promptTokenIds ?? [])
      return (await readAnswer(await harness.post('/detokenize', { tokens }))).prompt
    }
    const members = [
      '"type": "object"',
      '"minimum": 1.0',
      '"maximum": 12345678901234567890',
      '"multipleOf": 1e-3',
      '"b": {"default": -0.0, "10": "x", "2": ["{\\"", 2.50]}',
    ]
    const schema = `{${members.join(', ')}}`
    const input = '{"n": 1.0, "id": 98765432109876543210, "9": [{}], "1": {"x": 3.10}}'
    const named = '"name": "f", "description": "d\\"{["'
    // The first of two keys is gone, and how it was written too.
    const twice =
      '"tools": [{"type": "function", "function": {"name": "g", "parameters": {"y": 9.0}}}]'
    const chat = `{"model": "tiny-reasoner", ${twice}, "messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function", "function": {${named}, "parameters": ${schema}}}]}`
    const chatPrompt = await ask('/v1/chat/completions', chat)
    assert.ok(chatPrompt.includes(`"parameters": ${schema}`), chatPrompt)
    assert.ok(!chatPrompt.includes('9.0'), chatPrompt)
    const responses = `{"model": "tiny-reasoner", "input": "Hi", "tools": [{"type": "function", ${named}, "parameters": ${schema}}]}`
    assert.ok((await ask('/v1/responses', responses)).includes(`"parameters": ${schema}`))
    const messages = `{"model": "tiny-reasoner", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": ${input}}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "7"}]}], "tools": [{${named}, "input_schema": ${schema}}]}`
    const messagesPrompt = await ask('/v1/messages', messages)
    assert.ok(messagesPrompt.includes(`"parameters": ${schema}`), messagesPrompt)
    assert.ok(messagesPrompt.includes(input), messagesPrompt)
  })

  test('results are shown in the order of their calls, in every dialect', async () => {
    const prompts = async (path: string, body: object): Promise<string> => {
      const at = harness.engine.requests.length
      const response = await harness.post(path, { model: 'tiny-reasoner', ...body })
      assert.equal(response.status, 200, await response.text())
      const tokens = Array.from(harness.engine.requests[at]?.promptTokenIds ?? [])
      return (await readAnswer(await harness.post('/detokenize', { tokens }))).prompt
    }
    script = ['ok']
    const ask = { role: 'user', content: 'Weather, and time?' }
    const names = { a: 'get_weather', b: 'get_time', c: 'get_weather' }
    type Id = keyof typeof names
    const ids = Object.keys(names) as Id[]
    const said = (id: string) => `said by ${id}`
    const chatOf = (...results: readonly (readonly [id: string | undefined, text: string])[]) => ({
      messages: [
        ask,
        {
          role: 'assistant',
          content: null,
          tool_calls: ids.map((id) => ({
            id,
            type: 'function',
            function: { name: names[id], arguments: '{}' },
          })),
        },
        ...results.map(([id, content]) => ({ role: 'tool', tool_call_id: id, content })),
      ],
    })
    const dialects: Record<string, (order: readonly Id[]) => object> = {
      '/v1/chat/completions': (order) => chatOf(...order.map((id) => [id, said(id)] as const)),
      '/v1/messages': (order) => ({
        max_tokens: 9,
        messages: [
          ask,
          {
            role: 'assistant',
            content: ids.map((id) => ({ type: 'tool_use', id, name: names[id], input: {} })),
          },
          {
            role: 'user',
            content: order.map((id) => ({
              type: 'tool_result',
              tool_use_id: id,
              content: said(id),
            })),
          },
        ],
      }),
      '/v1/responses': (order) => ({ input: items(order) }),
      '/v1/decisions': (order) => ({
        input: items(order),
        questions: [{ type: 'predicate', instructions: 'It is late.' }],
      }),
    }
    const call = (id: Id) => ({
      type: 'function_call',
      call_id: id,
      name: names[id],
      arguments: '{}',
    })
    const output = (id: Id) => ({
      type: 'function_call_output',
      call_id: id,
      output: said(id),
    })
    const items = (order: readonly Id[]) => [ask, ...ids.map(call), ...order.map(output)]
    const shown = `<TOOL_RESPONSE>[${ids.map(said).join(', ')}]</TOOL_RESPONSE>`
    for (const [path, body] of Object.entries(dialects)) {
      const prompt = await prompts(path, body(ids))
      assert.ok(prompt.includes(shown), prompt)
      assert.equal(await prompts(path, body(['c', 'a', 'b'])), prompt, path)
    }
    // Two messages of the assistant may have called.
    const apart = (...order: readonly Id[]) => {
      const words = { role: 'assistant', content: 'And the time.' }
      return { input: [ask, call('a'), words, call('b'), ...order.map(output)] }
    }
    const prompt = await prompts('/v1/responses', apart('a', 'b'))
    assert.match(prompt, /And the time.*\[said by a, said by b\]/s)
    assert.equal(await prompts('/v1/responses', apart('b', 'a')), prompt)
    // Those that do not say whose they are stay where they are.
    const inPlace = async (results: readonly (string | undefined)[], expected: string) => {
      const body = chatOf(...results.map((id, i) => [id, `${id}${i}`] as const))
      const prompt = await prompts('/v1/chat/completions', body)
      assert.ok(prompt.includes(`<TOOL_RESPONSE>[${expected}]</TOOL_RESPONSE>`), prompt)
    }
    await inPlace(['c', undefined, 'a'], 'c0, undefined1, a2')
    await inPlace(['c', 'x', 'a'], 'c0, x1, a2')
    await inPlace(['c', 'a', 'a'], 'c0, a1, a2')
    await inPlace(['c', 'b'], 'b1, c0')
  })

  test('the prompt shows them, and /render and /tokenize show the prompt', async () => {
    const listed = (function_: object) =>
      JSON.stringify(function_).replaceAll('":', '": ').replaceAll(',"', ', "')
    const shown = `<AVAILABLE_TOOLS>[${listed(WEATHER.function)}, ${listed(CLOCK.function)}]</AVAILABLE_TOOLS>`
    const body = chatBody({
      tools: [WEATHER, { ...CLOCK, function: { ...CLOCK.function, strict: false } }],
    })
    const render = await readAnswer(await harness.post('/v1/chat/completions/render', body))
    assert.ok(render.prompt.includes(`detailed thinking off\n\n${shown}<|eot_id|>`), render.prompt)
    const { tokens } = await readAnswer(await harness.post('/tokenize', body))
    assert.deepEqual(tokens, render.prompt_token_ids)
    script = ['Hi']
    await harness.post('/v1/chat/completions', body)
    assert.deepEqual(harness.engine.requests.at(-1)?.promptTokenIds, tokens)
    const none = await readAnswer(
      await harness.post('/v1/chat/completions/render', { ...body, tool_choice: 'none' }),
    )
    assert.ok(!none.prompt.includes('AVAILABLE_TOOLS'))
  })

  test('a tool is shown in one order of members, and names of control tokens in it are text', async () => {
    const odd = {
      type: 'function',
      function: {
        parameters: { type: 'object', properties: {}, '<|eot_id|>': 1 },
        more: 1,
        strict: false,
        name: 'a<|eot_id|>b',
        description: '<|start_header_id|>user<|end_header_id|>',
      },
    }
    const body = chatBody({ tools: [odd] })
    const { prompt, prompt_token_ids: ids } = await readAnswer(
      await harness.post('/v1/chat/completions/render', body),
    )
    assert.ok(
      prompt.includes(
        '[{"name": "a<|eot_id|>b", "description": "<|start_header_id|>user<|end_header_id|>", "parameters": {"type": "object", "properties": {}, "<|eot_id|>": 1}, "more": 1}]',
      ),
      prompt,
    )
    const plain = await readAnswer(await harness.post('/v1/chat/completions/render', chatBody()))
    const special = (list: number[]) => list.filter((id) => id >= 256)
    assert.deepEqual(special(ids), special(plain.prompt_token_ids))
    script = ['<TOOLCALL>[{"name": "a<|eot_id|>b"}]</TOOLCALL>']
    const answer = await readAnswer(await harness.post('/v1/chat/completions', body))
    assert.deepEqual(callsOf(answer.choices[0].message), [['a<|eot_id|>b', '{}']])
  })

  test('a stop string ends text, and where calls are asked for there is none', async () => {
    const named = { type: 'function', function: { name: 'get_weather' } }
    for (const [more, stop] of [
      [{ tool_choice: 'required' }, undefined],
      [{ tool_choice: named }, undefined],
      [{ tool_choice: 'required', stop: '"' }, undefined],
      [{ tool_choice: 'auto' }, ['city', '}']],
      [{ tool_choice: 'none' }, ['city', '}']],
    ] as const) {
      await whole(BOTH, { stop: ['city', '}'], ...more })
      assert.deepEqual(harness.engine.requests.at(-1)?.sampling?.stop, stop, JSON.stringify(more))
    }
  })

  test('with tool_choice none, what looks like a call is text', async () => {
    const { message, finish_reason } = (await whole(BOTH, { tool_choice: 'none' })).choices[0]
    assert.equal(message.content, BOTH)
    assert.equal(finish_reason, 'stop')
    const without = await whole(BOTH, { tools: undefined })
    assert.equal(without.choices[0].message.content, BOTH)
  })

  test('what is wrong is named', async () => {
    const named = (name: string) => ({ type: 'function', function: { name } })
    const allowed = (mode: string, ...names: string[]) => ({
      type: 'allowed_tools',
      allowed_tools: { mode, tools: names.map(named) },
    })
    for (const [more, param, message] of [
      [{ tools: [], tool_choice: 'required' }, 'tool_choice', /when 'tools' are given/],
      [{ tools: undefined, tool_choice: named('get_weather') }, 'tool_choice', /when 'tools'/],
      [{ tools: undefined, tool_choice: allowed('auto', 'a') }, 'tool_choice', /when 'tools'/],
      [
        { tool_choice: named('nothing') },
        'tool_choice.function.name',
        /'nothing'.*'get_weather', 'get_time'/,
      ],
      [
        { tool_choice: allowed('auto', 'get_time', 'x') },
        'tool_choice.allowed_tools.tools.1.function.name',
        /no tool is named 'x'/,
      ],
      [
        { tool_choice: allowed('any', 'get_time') },
        'tool_choice.allowed_tools.mode',
        /"auto", "required"/,
      ],
      [{ tool_choice: allowed('auto') }, 'tool_choice.allowed_tools.tools', /at least 1/],
      [{ tool_choice: 'any' }, 'tool_choice', /"none", "auto", "required"/],
      [{ tool_choice: { type: 'custom' } }, 'tool_choice.type', /"function", "allowed_tools"/],
      [{ tool_choice: { type: 'function' } }, 'tool_choice.function', /Missing/],
      [
        { tools: [WEATHER, WEATHER] },
        'tools.1.function.name',
        /another tool is named 'get_weather'/,
      ],
      [{ tools: [{ type: 'custom' }] }, 'tools.0.type', /"function"/],
      [{ tools: [{ type: 'function' }] }, 'tools.0.function', /Missing/],
      [{ tools: [tool('')] }, 'tools.0.function.name', /at least 1/],
      [
        { tools: [tool('f', { parameters: { type: 'array' } })] },
        'tools.0.function.parameters',
        /is "object"/,
      ],
      [
        { tools: [tool('f', { parameters: [] })] },
        'tools.0.function.parameters',
        /expected an object/,
      ],
      [{ tools: [tool('f', { strict: 1 })] }, 'tools.0.function.strict', /a boolean/],
      [{ tools: {} }, 'tools', /Invalid type/],
      [{ tools: Array.from({ length: 129 }, (_, i) => tool(`f${i}`)) }, 'tools', /at most 128/],
      [{ parallel_tool_calls: 'no' }, 'parallel_tool_calls', /a boolean/],
      [{ functions: [{ name: 'f' }] }, 'functions', /use 'tools'/],
      [{ function_call: { name: 'f' } }, 'function_call', /use 'tool_choice'/],
      [{ chat_template_kwargs: { tools: [WEATHER] } }, 'chat_template_kwargs.tools', /use 'tools'/],
      [
        {
          model: 'tiny-reward',
          messages: [
            { role: 'user', content: '' },
            { role: 'assistant', content: 'a' },
          ],
        },
        'tools',
        /'tiny-reward'/,
      ],
    ] as const)
      for (const path of ['/v1/chat/completions', '/v1/chat/completions/render']) {
        // Rendering knows no fields of generation.
        if (path.endsWith('render') && /^function/.test(param)) continue
        const response = await harness.post(path, chatBody({ tools: [WEATHER, CLOCK], ...more }))
        const { error } = await readAnswer(response)
        assert.equal(response.status, 400, JSON.stringify(more))
        assert.equal(error.param, param, error.message)
        assert.match(error.message, message)
      }
  })

  test('what the model alone cannot promise is held to a grammar', async () => {
    const named = { type: 'function', function: { name: 'get_time' } }
    const allowed = (mode: string) => ({
      type: 'allowed_tools',
      allowed_tools: { mode, tools: [named] },
    })
    /** The texts of these that the answer's grammar admits, and what it follows. */
    const asked = async (more: Record<string, unknown>, texts: readonly string[]) => {
      script = ['']
      const response = await chat(more)
      assert.equal(response.status, 200, await response.text())
      const { grammar, grammarAfter } = harness.engine.requests.at(-1) ?? {}
      const text = harness.engine.grammarText(grammar)
      if (text === undefined) return undefined
      const read = readGrammar(text)
      return [texts.map((one) => recognises(read, one)), grammarAfter]
    }
    const one = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
    const other = '{"name": "get_time", "arguments": {}}'
    const loose = '{"name": "get_weather", "arguments": {"city": 5}}'
    const whole = (...calls: string[]) => `<TOOLCALL>[${calls.join(', ')}]</TOOLCALL>`
    const behind = (...calls: string[]) => `${calls.join(', ')}]</TOOLCALL>`

    const texts = [whole(one), whole(other), whole(one, other), whole(loose), 'Hi']
    const rest = [behind(one), behind(other), behind(one, other), behind(loose), 'Hi']
    const after = ['<TOOLCALL>[']
    assert.deepEqual(await asked({ tool_choice: 'required' }, texts), [
      [true, true, true, false, false],
      undefined,
    ])
    for (const choice of [named, allowed('required')])
      assert.deepEqual(await asked({ tool_choice: choice }, texts), [
        [false, true, false, false, false],
        undefined,
      ])
    assert.deepEqual(await asked({ tool_choice: allowed('auto') }, rest), [
      [false, true, false, false, false],
      after,
    ])
    assert.deepEqual(await asked({ parallel_tool_calls: false }, rest), [
      [true, true, false, true, false],
      after,
    ])
    const strict = [tool('get_weather', { strict: true }), CLOCK]
    assert.deepEqual(await asked({ tools: strict }, rest), [
      [true, true, true, false, false],
      after,
    ])
    assert.equal(await asked({}, []), undefined)
    assert.equal(await asked({ tool_choice: 'none', parallel_tool_calls: false }, []), undefined)

    // A call, or an answer of the form that is asked for.
    const both = { response_format: { type: 'json_object' } }
    assert.deepEqual(await asked(both, [...texts, '{"a": 1}']), [
      [true, true, true, true, false, true],
      undefined,
    ])
    const mixed = await chat({ grammar: 'root ::= "a"' })
    assert.equal(mixed.status, 400)
    assert.equal((await readAnswer(mixed)).error.param, 'grammar')
  })

  test('a schema of arguments that is not served is refused with its place', async () => {
    const parameters = { type: 'object', properties: { a: { contains: {} } } }
    const response = await chat({ tools: [tool('f', { parameters, strict: true })] })
    const { error } = await readAnswer(response)
    assert.equal(response.status, 400)
    assert.equal(error.param, 'tools.0.function.parameters')
    assert.match(error.message, /#\/properties\/a\/contains/)
    // Without strict and a choice they are only shown.
    await whole('Hi', { tools: [tool('f', { parameters })] })
  })

  test('a schema that is not served and not strict asks for any object, and is named', async () => {
    const parameters = {
      type: 'object',
      properties: { a: { type: 'array', items: { type: 'string' }, uniqueItems: true } },
    }
    const odd = tool('f', { parameters })
    const [one, other] = [
      '{"name": "f", "arguments": {"b": 5}}',
      '{"name": "get_weather", "arguments": {"city": 5}}',
    ]
    const admitted = () => {
      const text = harness.engine.grammarText(harness.engine.requests.at(-1)?.grammar)
      assert.ok(text)
      const grammar = readGrammar(text)
      return [one, other].map((call) => recognises(grammar, `<TOOLCALL>[${call}]</TOOLCALL>`))
    }
    script = [`<TOOLCALL>[${one}]</TOOLCALL>`]
    for (const stream of [false, true]) {
      const asked = { tools: [WEATHER, odd], tool_choice: 'required', stream, what: 1 }
      const response = await chat(asked)
      assert.equal(response.status, 200, await response.text())
      const named = 'what, tools.1.function.parameters'
      assert.equal(response.headers.get('x-ignored-params'), named)
      // The others keep to theirs.
      assert.deepEqual(admitted(), [true, false])
    }
    const { name, parameters: schema } = odd.function
    const inResponses = await harness.post('/v1/responses', {
      model: 'tiny-reasoner',
      input: 'Hi',
      tools: [{ type: 'function', name, parameters: schema }],
      tool_choice: 'required',
    })
    assert.equal(inResponses.status, 200)
    assert.equal(inResponses.headers.get('x-ignored-params'), 'tools.0.parameters')
    const inMessages = await harness.post('/v1/messages', {
      ...chatBody({ max_tokens: 50 }),
      tools: [{ name, input_schema: schema }],
      tool_choice: { type: 'any' },
    })
    assert.equal(inMessages.status, 200)
    assert.equal(inMessages.headers.get('x-ignored-params'), 'tools.0.input_schema')
    // Who says strict, of the tool or of all requests, is told.
    const strict = await chat({
      tools: [tool('f', { parameters, strict: true })],
      tool_choice: 'required',
    })
    assert.equal(strict.status, 400)
    const server = await startHarness({ config: { strictParams: true } })
    try {
      const body = chatBody({ tools: [WEATHER, odd], tool_choice: 'required' })
      const refused = await server.post('/v1/chat/completions', body)
      assert.equal(refused.status, 400)
      assert.equal((await readAnswer(refused)).error.param, 'tools.1.function.parameters')
    } finally {
      await server.close()
    }
  })

  test('arguments of a grammar are streamed as they come', async () => {
    script = [
      '<TOOLCALL>[{"name": "get_weather", "arguments": {"ci',
      'ty": "Par',
      'is"}}]</TOOLCALL>',
    ]
    const pieces = async (more: Record<string, unknown>) =>
      (await readEvents(await chat({ stream: true, ...more }))).chunks
        .flatMap((chunk) => chunk.choices?.[0]?.delta?.tool_calls ?? [])
        .map((call) => call.function.arguments)
    assert.deepEqual(await pieces({ tool_choice: 'required' }), ['', '{"ci', 'ty": "Par', 'is"}'])
    assert.deepEqual(await pieces({}), ['', '{"city": "Paris"}'])
  })

  test("the official client's helper runs tools, streaming and not", async () => {
    const rounds = async (stream: boolean) => {
      const seen: unknown[] = []
      let round = 0
      const turns = [
        [
          'Let me look. <TOOLCALL>[{"name": "get_wea',
          'ther", "arguments": {"city": "Par',
          'is"}}]</TOOLCALL>',
        ],
        ['It is', ' 17 degrees.'],
      ]
      script = turns[0] ?? []
      const params = {
        model: 'tiny-reasoner',
        messages: [{ role: 'user' as const, content: 'Weather in Paris?' }],
        tools: [
          {
            type: 'function' as const,
            function: {
              ...WEATHER.function,
              parse: JSON.parse,
              function: (args: unknown) => {
                seen.push(args)
                script = turns[++round] ?? []
                return '17'
              },
            },
          },
        ],
      }
      const runner = stream
        ? client.chat.completions.runTools({ ...params, stream: true })
        : client.chat.completions.runTools(params)
      const text = await runner.finalContent()
      assert.equal(text, 'It is 17 degrees.')
      assert.deepEqual(seen, [{ city: 'Paris' }])
      const [, call, result] = runner.messages
      assert.equal(call?.role === 'assistant' && call.content, 'Let me look. ')
      assert.equal(result?.role === 'tool' && result.content, '17')
      const prompt = Buffer.from(
        Array.from(harness.engine.requests.at(-1)?.promptTokenIds ?? []).filter((id) => id < 256),
      ).toString()
      assert.ok(
        prompt.includes(
          'Let me look.<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</TOOLCALL>',
        ),
      )
      assert.ok(prompt.includes('<TOOL_RESPONSE>[17]</TOOL_RESPONSE>'))
    }
    await rounds(false)
    await rounds(true)
  })
})

describe('a model without a form for tools', () => {
  test('refuses them by name', async () => {
    const harness = await startHarness({ template: BUILT_IN.nemotron_super })
    try {
      const response = await harness.post('/v1/chat/completions', chatBody({ tools: [WEATHER] }))
      const { error } = await readAnswer(response)
      assert.equal(response.status, 400)
      assert.equal(error.param, 'tools')
      assert.match(error.message, /chat template of 'tiny-reasoner'/)
    } finally {
      await harness.close()
    }
  })
})

describe("Llama's form", () => {
  test('is shown and read', async () => {
    const harness = await startHarness({
      id: 'llama',
      template: BUILT_IN.nemotron_70b,
      answer: () => ({ pieces: ['{"name": "get_weather", ', '"parameters": {"city": "Paris"}}'] }),
      info: { maxModelLen: 8192 },
    })
    try {
      const body = chatBody({ model: 'llama', tools: [WEATHER] })
      const { choices } = await readAnswer(await harness.post('/v1/chat/completions', body))
      assert.deepEqual(callsOf(choices[0].message), [['get_weather', '{"city": "Paris"}']])
      assert.equal(choices[0].message.content, null)
      assert.equal(choices[0].finish_reason, 'tool_calls')
      const { prompt } = await readAnswer(await harness.post('/v1/chat/completions/render', body))
      assert.ok(prompt.includes(`${JSON.stringify(WEATHER, null, 4)}\n\nHello<|eot_id|>`), prompt)
    } finally {
      await harness.close()
    }
  })

  test('of several calls goes on to its answer, though its template shows one a message', async () => {
    const calls = [
      '{"name": "get_weather", "parameters": {"city": "Paris"}}',
      '{"name": "get_time", "parameters": {"zone": "CET"}}',
    ]
    const texts = [calls.join('; '), 'It is 17 degrees at noon.']
    const prompts: string[] = []
    const harness = await startHarness({
      id: 'llama',
      template: BUILT_IN.nemotron_70b,
      answer: (prompt) => {
        prompts.push(prompt)
        return { pieces: [texts[prompts.length - 1] ?? ''] }
      },
      info: { maxModelLen: 8192 },
    })
    try {
      const client = new OpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'none', maxRetries: 0 })
      const run = (one: typeof WEATHER, result: string) => ({
        type: 'function' as const,
        function: { ...one.function, parse: JSON.parse, function: () => result },
      })
      const runner = client.chat.completions.runTools({
        model: 'llama',
        messages: [{ role: 'user', content: 'Weather and time?' }],
        tools: [run(WEATHER, '17'), run(CLOCK, 'noon')],
      })
      assert.equal(await runner.finalContent(), texts[1])
      // As the harness tells a prompt: without its control tokens.
      const turns = calls.map((call, i) => `assistant\n\n${call}ipython\n\n"${['17', 'noon'][i]}"`)
      assert.ok(prompts[1]?.includes(turns.join('')), prompts[1])
    } finally {
      await harness.close()
    }
  })
})
