// The grammar of calls, against the slow recogniser and against the parser that reads calls.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  type Grammar,
  randomText,
  readGrammar,
  recognises,
} from '../../bench/grammar/recogniser.js'
import { createCallParser } from '../../server/chat/tools/call-parser.js'
import { writeCalls } from '../../server/chat/tools/format.js'
import { toolGrammar } from '../../server/chat/tools/grammar.js'
import { callableNames, type ToolUse } from '../../server/chat/tools/tool-use.js'
import { answerGrammar } from '../../server/grammar/answer-grammar.js'
import type { Tool } from '../../server/prompt/conversation.js'
import { RequestError } from '../../server/request-error.js'
import { LLAMA, NANO } from './tool-formats.js'

const tool = (name: string, more: Partial<Tool['function']> = {}): Tool => ({
  type: 'function',
  function: { name, ...more },
})
const CITY = {
  type: 'object',
  properties: { city: { type: 'string' }, days: { type: 'integer', minimum: 1, maximum: 14 } },
  required: ['city'],
  additionalProperties: false,
}

/** Numbers below 1, the same for a seed. */
const randomOf = (seed: number) => {
  let state = seed | 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    return (state >>> 0) / 2 ** 32
  }
}

const use = (shown: readonly Tool[], more: Partial<ToolUse> = {}): ToolUse => ({
  format: NANO,
  shown,
  callable: [...shown.keys()],
  isRequired: true,
  isSingle: false,
  unread: [],
  ...more,
})

const admits = (asked: ToolUse) => {
  const { form, after } = toolGrammar(asked)
  const text = answerGrammar(form, 'tools')
  const grammar = readGrammar(text)
  return (answer: string): boolean => {
    const at = after === undefined ? 0 : answer.indexOf(after) + after.length
    if (after !== undefined) assert.ok(at >= after.length, answer)
    return recognises(grammar, answer.slice(at))
  }
}

describe('the grammar of calls', () => {
  const calls = (...list: readonly (readonly [name: string, args: string])[]) =>
    writeCalls(
      NANO,
      list.map(([name, args]) => ({ name, arguments: args })),
    )

  test('admits calls of the tools that may be called, with arguments of their schemas', () => {
    const tools = [tool('weather', { parameters: CITY }), tool('now'), tool('no"n\\e')]
    const ok = admits(use(tools, { callable: [0, 1] }))
    assert.ok(ok(calls(['weather', '{"city": "Paris"}'])))
    assert.ok(ok(calls(['weather', '{"city":"é😀", "days":14}'], ['now', '{}'])))
    assert.ok(!ok(calls(['weather', '{"city": "Paris", "days": 15}'])))
    assert.ok(!ok(calls(['weather', '{}'])))
    assert.ok(!ok(calls(['weather', '{"city": "Paris", "more": 1}'])))
    assert.ok(!ok(calls(['now', '{"a": 1}'])))
    assert.ok(!ok(calls(['no"n\\e', '{}'])))
    assert.ok(!ok(calls(['other', '{}'])))
    assert.ok(!ok('Hello'))
    assert.ok(!ok(`Hello ${calls(['now', '{}'])}`))
    assert.ok(!ok('<TOOLCALL>[]</TOOLCALL>'))
    assert.ok(admits(use(tools))(calls(['no"n\\e', '{}'])))
  })

  test('of one call at most', () => {
    const ok = admits(use([tool('f')], { isSingle: true }))
    assert.ok(ok(calls(['f', '{}'])))
    assert.ok(!ok(calls(['f', '{}'], ['f', '{}'])))
  })

  test('of an answer that may be none begins behind the tag; arguments are free unless strict', () => {
    const tools = [
      tool('strict', { parameters: CITY, strict: true }),
      tool('free', { parameters: CITY }),
    ]
    const ok = admits(use(tools, { isRequired: false }))
    assert.ok(ok(`So. ${calls(['free', '{"a": [1, {"b": null}]}'], ['strict', '{"city": ""}'])}`))
    assert.ok(!ok(calls(['strict', '{"a": 1}'])))
    assert.ok(!ok(calls(['free', '[]'])))
  })

  test("in Llama's form is the whole answer, or no call", () => {
    const required = admits(use([tool('f'), tool('g')], { format: LLAMA }))
    assert.ok(required('{"name": "f", "parameters": {}}'))
    assert.ok(!required('{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}'))
    assert.ok(!required('Hello'))
    const free = admits(use([tool('f', { strict: true })], { format: LLAMA, isRequired: false }))
    for (const text of ['', 'Hello {"name": 1}', ' \n\nHello', '{"name": "f", "parameters": {}}'])
      assert.ok(free(text), text)
    for (const text of ['{"name": "g", "parameters": {}}', ' {"name"', '{}']) assert.ok(!free(text))
  })

  test('names the tool whose schema it cannot hold, only where it has to', () => {
    const odd = tool('odd', { parameters: { type: 'object', contains: {} } })
    const plan = (more: Partial<ToolUse>) => () =>
      answerGrammar(toolGrammar(use([tool('f'), odd], more)).form, 'tools')
    assert.throws(
      plan({}),
      (error) => error instanceof RequestError && error.param === 'tools.1.function.parameters',
    )
    assert.doesNotThrow(plan({ callable: [0] }))
    assert.doesNotThrow(plan({ isRequired: false }))
  })

  test('admits nothing that the parser does not read as calls', () => {
    const grammarOf = (asked: ToolUse): Grammar =>
      readGrammar(answerGrammar(toolGrammar(asked).form, 'tools'))
    const tools = [
      tool('w', { parameters: CITY }),
      tool('x', { parameters: { type: 'object' } }),
      tool('a "b" \\ é'),
    ]
    const forms = [
      use(tools),
      use(tools, { isRequired: false }),
      use(tools, { isSingle: true }),
      use(tools, { format: LLAMA }),
    ]
    for (const asked of forms) {
      const grammar = grammarOf(asked)
      fc.assert(
        fc.property(fc.nat(), (seed) => {
          const text = (asked.isRequired ? '' : '<TOOLCALL>[') + randomText(grammar, randomOf(seed))
          const parser = createCallParser({
            format: asked.format,
            isSure: true,
            isTool: callableNames(asked),
          })
          const parts = [...[...text].map((char) => parser.push(char)), parser.end()]
          assert.equal(parts.map((part) => part.text).join(''), '', text)
          assert.ok(parser.endsInCalls(), text)
          const args: string[] = []
          for (const { index, name, arguments: piece } of parts.flatMap((part) => part.calls)) {
            if (name !== undefined) assert.ok(tools.some((one) => one.function.name === name))
            args[index] = (args[index] ?? '') + piece
          }
          for (const one of args) assert.equal(typeof JSON.parse(one), 'object')
        }),
        { numRuns: 200 },
      )
    }
  })
})
