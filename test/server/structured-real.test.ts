// Answers held to a form by the native engine, through unmodified clients: the embedded reasoner, and random
// weights, which write whatever the grammar lets them.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { after, before, describe, test } from 'node:test'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { ChatOpenAI } from '@langchain/openai'
import { Agent, tool as agentTool, OpenAIProvider, Runner } from '@openai/agents'
import { generateObject, streamObject } from 'ai'
import OpenAI from 'openai'
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod'
import { z } from 'zod'
import { createRandom, randomSchema } from '../grammar/random-schema.js'
import { chatCheckpoint } from './chat-checkpoint.js'
import { readAnswer } from './harness.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

const require = createRequire(import.meta.url)
const Ajv = require('ajv/dist/2020').default
const addFormats = require('ajv-formats').default

const Trip = z.object({
  city: z.enum(['Paris', 'Rome']),
  days: z.number().int().min(1).max(14),
  tags: z.array(z.enum(['sea', 'art'])).max(3),
  hotel: z.object({ stars: z.number().int().min(1).max(5) }).nullable(),
})
const QUESTION = [{ role: 'user' as const, content: 'Plan a trip to Paris.' }]

describe('the embedded reasoner and unmodified clients', { skip: noAddon }, () => {
  let server: RealServer
  let client: OpenAI
  before(async () => {
    server = await startReal({ max_model_len: 2048 })
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
  })
  after(() => server.close())

  const params = { model: 'tiny-reasoner', messages: QUESTION, max_tokens: 600 }

  for (const reasoning_effort of ['none', 'high'] as const)
    test(`chat.completions.parse, reasoning ${reasoning_effort}`, async () => {
      for (const temperature of [0, 1.5]) {
        const completion = await client.chat.completions.parse({
          ...params,
          temperature,
          seed: 7,
          n: 3,
          reasoning_effort,
          thinking_token_budget: 40,
          response_format: zodResponseFormat(Trip, 'trip'),
        })
        for (const { message, finish_reason: finish } of completion.choices) {
          assert.equal(finish, 'stop')
          assert.deepEqual(Trip.parse(message.parsed), JSON.parse(message.content ?? ''))
          const { reasoning } = message as { reasoning?: string | null }
          assert.ok(!message.content?.includes('think'))
          if (reasoning_effort === 'none') assert.equal(reasoning ?? null, null)
        }
      }
    })

  test('chat.completions.stream gives what parse gives', async () => {
    const asked = { ...params, temperature: 0, response_format: zodResponseFormat(Trip, 'trip') }
    const whole = await client.chat.completions.parse({ ...asked, logprobs: true, top_logprobs: 2 })
    const stream = client.chat.completions.stream(asked)
    assert.deepEqual(
      (await stream.finalChatCompletion()).choices[0]?.message.parsed,
      Trip.parse(whole.choices[0]?.message.parsed),
    )
    assert.ok((whole.choices[0]?.logprobs?.content?.length ?? 0) > 5)
  })

  test('tools: required, named and strict, whole and streamed', async () => {
    const tools = [
      zodFunction({ name: 'plan_trip', parameters: Trip }),
      zodFunction({ name: 'get_time', parameters: z.object({ zone: z.enum(['CET', 'UTC']) }) }),
    ]
    const named = { type: 'function' as const, function: { name: 'get_time' } }
    for (const [tool_choice, temperature] of [
      ['required', 0],
      ['required', 1.5],
      [named, 0],
      [named, 1.5],
    ] as const) {
      const asked = {
        ...params,
        tools,
        tool_choice,
        temperature,
        seed: 3,
        reasoning_effort: 'none' as const,
        parallel_tool_calls: false,
      }
      const { choices } = await client.chat.completions.parse(asked)
      const calls = choices[0]?.message.tool_calls ?? []
      assert.equal(choices[0]?.finish_reason, 'tool_calls')
      assert.equal(choices[0]?.message.content, null)
      assert.equal(calls.length, 1)
      const { name, parsed_arguments: args } = calls[0]?.function ?? {}
      if (tool_choice === named) assert.equal(name, 'get_time')
      if (name === 'get_time') assert.match(String((args as { zone: string }).zone), /^(CET|UTC)$/)
      else Trip.parse(args)

      const streamed = await client.chat.completions.stream(asked).finalChatCompletion()
      assert.equal(streamed.choices[0]?.finish_reason, 'tool_calls')
      assert.deepEqual(
        streamed.choices[0]?.message.tool_calls?.map((call) => call.function.arguments),
        calls.map((call) => call.function.arguments),
      )
    }
  })

  test("the AI SDK's generateObject and streamObject", async () => {
    const provider = createOpenAICompatible({
      name: 'nemotron',
      baseURL: `${server.url}/v1`,
      supportsStructuredOutputs: true,
    })
    const asked = {
      model: provider('tiny-reasoner'),
      schema: Trip,
      prompt: 'A trip to Rome',
      maxOutputTokens: 600,
      temperature: 1,
    }
    const { object } = await generateObject(asked)
    assert.deepEqual(Trip.parse(object), object)
    const list = await generateObject({
      ...asked,
      temperature: 0,
      output: 'array',
      schema: Trip.pick({ city: true }),
    })
    for (const one of list.object) assert.match(one.city, /^(Paris|Rome)$/)
    const { schema: _, ...plain } = asked
    const one = await generateObject({ ...plain, output: 'enum', enum: ['sea', 'art'] })
    assert.match(one.object, /^(sea|art)$/)
    const stream = streamObject(asked)
    for await (const _ of stream.partialObjectStream);
    const streamed = await stream.object
    assert.deepEqual(Trip.parse(streamed), streamed)
  })

  test("LangChain's withStructuredOutput", async () => {
    const options = {
      model: 'tiny-reasoner',
      apiKey: 'none',
      maxTokens: 600,
      configuration: { baseURL: `${server.url}/v1` },
    }
    const chat = new ChatOpenAI(options)
    for (const method of ['jsonSchema', 'functionCalling'] as const) {
      const value = await chat
        .withStructuredOutput(Trip, { name: 'trip', method })
        .invoke('A trip to Rome')
      assert.deepEqual(Trip.parse(value), value)
    }
    // With nothing that bounds it the model would say one word to the end.
    const any = await new ChatOpenAI({ ...options, frequencyPenalty: 2 })
      .withStructuredOutput(z.record(z.string(), z.unknown()), { name: 'any', method: 'jsonMode' })
      .invoke('A trip to Rome')
    assert.equal(typeof any, 'object')
  })

  for (const useResponses of [false, true])
    test(`OpenAI's agents: typed answers and tools, responses: ${useResponses}`, async () => {
      const modelProvider = new OpenAIProvider({
        ...{ baseURL: `${server.url}/v1`, apiKey: 'none', useResponses },
      })
      const runner = new Runner({ modelProvider, tracingDisabled: true })
      const agent = { name: 'guide', model: 'tiny-reasoner', instructions: 'Plan trips.' }
      const modelSettings = { maxTokens: 600, temperature: 0 }
      const typed = new Agent({ ...agent, outputType: Trip, modelSettings })
      Trip.parse((await runner.run(typed, 'A trip to Rome')).finalOutput)
      const seen: unknown[] = []
      const plan = agentTool({
        name: 'plan_trip',
        description: 'Plan a trip',
        parameters: Trip,
        execute: async (trip) => `${seen.push(Trip.parse(trip))} planned`,
      })
      const caller = new Agent({
        ...{ ...agent, tools: [plan], toolUseBehavior: 'stop_on_first_tool' as const },
        modelSettings: { ...modelSettings, toolChoice: 'required', parallelToolCalls: false },
      })
      const { finalOutput } = await runner.run(caller, 'A trip to Rome')
      assert.equal(finalOutput, '1 planned')
      assert.equal(seen.length, 1)
    })

  test('a form may have the tags of thinking, where the model cannot think', async () => {
    const { choices } = await client.chat.completions.create({
      ...params,
      reasoning_effort: 'none',
      // @ts-expect-error: vLLM's
      guided_regex: '<think>[a-z]{3}</think>',
    })
    assert.match(choices[0]?.message.content ?? '', /^<think>[a-z]{3}<\/think>$/)
  })

  test('completions, several prompts at once', async () => {
    const { choices } = await client.completions.create({
      model: 'tiny-reasoner',
      prompt: ['Yes or no? ', 'Once more: '],
      n: 2,
      // @ts-expect-error: vLLM's
      structured_outputs: { choice: ['yes', 'no'] },
    })
    assert.equal(choices.length, 4)
    for (const { text, finish_reason: finish } of choices) {
      assert.match(text, /^(yes|no)$/)
      assert.equal(finish, 'stop')
    }
  })

  test('an answer that is cut is the beginning of a valid one', async () => {
    const { choices } = await client.chat.completions.create({
      ...params,
      max_tokens: 5,
      reasoning_effort: 'none',
      response_format: zodResponseFormat(Trip, 'trip'),
    })
    assert.equal(choices[0]?.finish_reason, 'length')
    assert.match(choices[0]?.message.content ?? '', /^\{\s*("(c(i(ty?)?)?)?|"city".*)?$/s)
  })
})

describe('random weights', { skip: noAddon }, () => {
  let server: RealServer
  before(async () => {
    server = await startReal({ model: chatCheckpoint(), served_model_name: 'random' })
  })
  after(() => server.close())

  test('whatever is finished is valid under Ajv', async () => {
    const count = process.env.NEMOTRON_TEST_LONG === '1' ? 500 : 40
    const random = createRandom(20_261_129)
    let [served, finished] = [0, 0]
    const ask = async (i: number) => {
      const schema = randomSchema(random)
      const response = await server.post('/v1/chat/completions', {
        model: 'random',
        messages: [{ role: 'user', content: 'x' }],
        max_tokens: 400,
        seed: i,
        temperature: 1,
        reasoning_effort: 'none',
        response_format: { type: 'json_schema', json_schema: { name: 'x', schema } },
      })
      const answer = await readAnswer(response)
      if (response.status === 400) {
        assert.match(answer.error.param, /^response_format/)
        return
      }
      assert.equal(response.status, 200, JSON.stringify(answer))
      served++
      const { message, finish_reason: finish } = answer.choices[0]
      if (finish !== 'stop') return
      finished++
      const ajv = new Ajv({ strict: false })
      addFormats(ajv)
      const isValid = ajv.compile(schema)
      assert.ok(
        isValid(JSON.parse(message.content)),
        `${message.content}: ${ajv.errorsText(isValid.errors)}: ${JSON.stringify(schema)}`,
      )
    }
    for (let i = 0; i < count; i += 8)
      await Promise.all(Array.from({ length: Math.min(8, count - i) }, (_, k) => ask(i + k)))
    console.log(
      `random schemas, random weights: ${served} of ${count} served, ${finished} finished, all valid`,
    )
    assert.ok(served > count * 0.6, `${served} served`)
    assert.ok(finished > served * 0.5, `${finished} finished`)
  })
})
