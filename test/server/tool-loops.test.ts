// Agents' loops of unmodified clients: the embedded reasoner calls a tool, gets its result and answers.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import {
  type AIMessage,
  type AIMessageChunk,
  HumanMessage,
  ToolMessage,
} from '@langchain/core/messages'
import { ChatOpenAI } from '@langchain/openai'
import { generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai'
import OpenAI from 'openai'
import { noAddon, type RealServer, startReal } from './real-server.js'

const QUESTION = 'What is the weather in Paris?'
const ANSWER = 'It is 17 degrees and cloudy in Paris.'
/** Spaced as the reasoner has learned it. */
const RESULT = '{"temperature": 17, "condition": "cloudy"}'
const DESCRIPTION = 'Get the weather in a city'
const PARAMETERS = {
  type: 'object' as const,
  properties: { city: { type: 'string' as const } },
  required: ['city'],
}

describe('tool loops with the embedded reasoner', { skip: noAddon }, () => {
  let server: RealServer
  let seen: unknown[] = []
  const weather = (args: unknown) => {
    seen.push(args)
    return RESULT
  }
  before(async () => {
    server = await startReal({ max_model_len: 1024 })
  })
  after(() => server.close())

  describe("the official client's runTools", () => {
    const params = {
      model: 'tiny-reasoner',
      temperature: 0,
      reasoning_effort: 'high' as const,
      messages: [{ role: 'user' as const, content: QUESTION }],
      tools: [
        {
          type: 'function' as const,
          function: {
            name: 'get_weather',
            description: DESCRIPTION,
            parameters: PARAMETERS,
            parse: JSON.parse,
            function: weather,
          },
        },
      ],
    }
    const check = async (runner: {
      readonly messages: readonly OpenAI.ChatCompletionMessageParam[]
      readonly finalContent: () => Promise<string | null>
    }) => {
      assert.equal(await runner.finalContent(), ANSWER)
      assert.deepEqual(seen, [{ city: 'Paris' }])
      const [, call, result] = runner.messages
      assert.ok(call?.role === 'assistant' && result?.role === 'tool')
      assert.equal(call.content, null)
      const [asked] = call.tool_calls ?? []
      assert.equal(asked?.id, result.tool_call_id)
      assert.ok(asked?.type === 'function')
      const { name, arguments: text } = asked.function
      assert.deepEqual([name, text], ['get_weather', '{"city": "Paris"}'])
    }

    test('in one piece', async () => {
      seen = []
      const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' })
      await check(client.chat.completions.runTools(params))
    })

    test('as a stream', async () => {
      seen = []
      const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' })
      await check(client.chat.completions.runTools({ ...params, stream: true }))
    })
  })

  describe("Vercel's AI SDK", () => {
    const params = () => ({
      model: createOpenAICompatible({ name: 'ours', baseURL: `${server.url}/v1` })('tiny-reasoner'),
      temperature: 0,
      system: 'detailed thinking on',
      prompt: QUESTION,
      stopWhen: stepCountIs(3),
      tools: {
        get_weather: tool({
          description: DESCRIPTION,
          inputSchema: jsonSchema(PARAMETERS),
          execute: weather,
        }),
      },
    })

    test('generateText', async () => {
      seen = []
      const { text, steps } = await generateText(params())
      assert.equal(text, ANSWER)
      assert.deepEqual(seen, [{ city: 'Paris' }])
      assert.deepEqual(
        steps.map(({ finishReason }) => finishReason),
        ['tool-calls', 'stop'],
      )
    })

    test('streamText', async () => {
      seen = []
      const { fullStream } = streamText(params())
      let [text, input] = ['', '']
      for await (const part of fullStream) {
        if (part.type === 'text-delta') text += part.text
        if (part.type === 'tool-input-delta') input += part.delta
      }
      assert.equal(text, ANSWER)
      assert.equal(input, '{"city": "Paris"}')
      assert.deepEqual(seen, [{ city: 'Paris' }])
    })
  })

  describe("LangChain's loop", () => {
    const model = () =>
      new ChatOpenAI({
        model: 'tiny-reasoner',
        apiKey: 'none',
        temperature: 0,
        configuration: { baseURL: `${server.url}/v1` },
        modelKwargs: { reasoning_effort: 'high' },
      }).bindTools([
        {
          type: 'function',
          function: { name: 'get_weather', description: DESCRIPTION, parameters: PARAMETERS },
        },
      ])
    const loop = async (
      ask: (
        messages: (HumanMessage | AIMessage | ToolMessage)[],
      ) => Promise<AIMessage | AIMessageChunk>,
    ) => {
      const question = new HumanMessage(QUESTION)
      const call = await ask([question])
      const [asked] = call.tool_calls ?? []
      assert.ok(asked?.id)
      assert.deepEqual([asked.name, asked.args], ['get_weather', { city: 'Paris' }])
      assert.equal(call.response_metadata.finish_reason, 'tool_calls')
      const result = new ToolMessage({ content: RESULT, tool_call_id: asked.id })
      assert.equal((await ask([question, call, result])).content, ANSWER)
    }

    test('in one piece', () => loop((messages) => model().invoke(messages)))

    test('as a stream', () =>
      loop(async (messages) => {
        let all: AIMessageChunk | undefined
        for await (const chunk of await model().stream(messages)) all = all?.concat(chunk) ?? chunk
        assert.ok(all)
        return all
      }))
  })
})
