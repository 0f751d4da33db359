import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { z } from 'zod'
import { createEngine, RequestError, type RewardingEngine } from '../../server/index.js'
import { noAddon } from '../server/real-server.js'
import { prompt, smallEngine } from './support.js'
import { tinyCheckpoint } from './tiny_checkpoint.js'

describe('generateValue()', { skip: noAddon }, () => {
  let engine: RewardingEngine
  before(async () => {
    engine = await createEngine(smallEngine(tinyCheckpoint()))
  })
  after(() => engine.close())

  const schema = z.object({
    name: z.string().max(5),
    size: z.int().min(1).max(40),
    parts: z
      .array(z.enum(['a', 'b']))
      .max(3)
      .default([]),
  })

  test('resolves with a typed value, whatever the weights are', async () => {
    for (let seed = 0; seed < 8; seed++) {
      const { value, text, tokenIds, timings } = await engine.generateValue({
        promptTokenIds: prompt,
        schema,
        sampling: { maxTokens: 400, seed },
      })
      const size: number = value.size
      assert.ok(size >= 1 && size <= 40 && value.name.length <= 5)
      assert.deepEqual(schema.parse(JSON.parse(text)), value)
      assert.ok(tokenIds.length > 10 && timings !== undefined)
    }
    const { value } = await engine.generateValue({
      promptTokenIds: prompt,
      schema: { enum: ['yes', 'no'] },
    })
    assert.ok(value === 'yes' || value === 'no')
  })

  test('says what is wrong', async () => {
    const refused = async (promise: Promise<unknown>, param: string, message: RegExp) =>
      assert.rejects(promise, (error) => {
        assert.ok(error instanceof RequestError, String(error))
        assert.equal(error.param, param)
        assert.match(error.message, message)
        return true
      })
    const ask = (given: z.ZodType | Record<string, unknown>, maxTokens = 100) =>
      engine.generateValue({ promptTokenIds: prompt, schema: given, sampling: { maxTokens } })
    await refused(ask(z.object({ at: z.date() })), 'schema', /Date/)
    await refused(
      ask({ type: 'object', properties: { a: { contains: {} } } }),
      'schema',
      /#\/properties\/a\/contains/,
    )
    await refused(ask(schema, 3), 'sampling.maxTokens', /cut after 3 tokens/)
    const gone = AbortSignal.abort()
    await assert.rejects(engine.generateValue({ promptTokenIds: prompt, schema }, { signal: gone }))
  })

  test('says what is no request and no option', async () => {
    const request = { promptTokenIds: prompt, schema: { type: 'integer' } }
    for (const [given, options, message] of [
      [undefined, undefined, /^the request must be an object, found undefined/],
      [null, undefined, /^the request must be an object, found null/],
      [{ ...request, n: 2 }, undefined, /^n is no field of generateValue/],
      [{ ...request, grammarAfter: ['x'] }, undefined, /^grammarAfter is no field/],
      [request, null, /^options must be an object, found null/],
      [request, { signal: 5 }, /^signal must be an AbortSignal, found 5/],
      [request, { sginal: 5 }, /^sginal is no field of options: signal/],
    ] as const)
      await assert.rejects(engine.generateValue(given as never, options as never), {
        name: 'EngineFailure',
        message,
      })
  })

  test('compileGrammar() says where a text is wrong', async () => {
    await assert.rejects(engine.compileGrammar('root ::= "a'), /line 1, column/)
    const grammar = await engine.compileGrammar('root ::= "ab" | "cd"')
    let text = ''
    for await (const delta of engine.generate({ promptTokenIds: prompt, grammar }))
      text += delta.text
    assert.match(text, /^(ab|cd)$/)
  })
})

test('createEngine says what is wrong with its options before it reads a file', async () => {
  for (const [options, message] of [
    [undefined, /^options must be an object, found undefined/],
    [null, /^options must be an object, found null/],
    [5, /^options must be an object, found 5/],
    [{}, /^model must be the path/],
    [{ model: '' }, /^model must be the path/],
    [{ model: 5 }, /^model must be a string, found 5/],
    [{ model: '/nowhere' }, /^model \/nowhere is not there/],
    [{ model: 'a\0b' }, /is not there/],
    [{ modle: 'x' }, /^modle is no field of options/],
    [{ model: 'x', threads: 1025 }, /^threads must be an integer from 1 to 1024, found 1025/],
    [{ model: 'x', reward: null }, /^reward: /],
    [{ model: 'x', reward: { rowz: [0] } }, /^reward: .*"rowz"/],
    [{ model: 'x', reward: { rows: [] } }, /^reward\.rows: /],
    [{ model: 'x', reward: { rows: [0.5] } }, /^reward\.rows\.0: /],
    [{ model: 'x', reward: { judge: {} } }, /^reward\.judge\.temperature: /],
    [{ model: 'x', reward: { question: 5 } }, /^reward\.question: /],
  ] as const)
    await assert.rejects(createEngine(options as never), { name: 'EngineFailure', message })
  for (const tokenizer of [null, 5, {}, { encode: () => [] }])
    await assert.rejects(createEngine({ model: 'x' }, tokenizer as never), {
      name: 'EngineFailure',
      message: /^tokenizer must be what loadTokenizer\(\) gives/,
    })
})
