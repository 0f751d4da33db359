// Calls of tools apart from the text around them.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { createCallParser } from '../../server/chat/tools/call-parser.js'
import { toolFormatOf, writeCalls } from '../../server/chat/tools/format.js'
import type { CallPiece } from '../../server/generation/answer-event.js'
import { BUILT_IN } from '../../server/prompt/builtin-templates.js'
import { anyText } from './any-text.js'
import { LLAMA, NANO } from './tool-formats.js'

type Read = {
  readonly text: string
  readonly calls: readonly { readonly name: string; readonly arguments: string }[]
  readonly endsInCalls: boolean
}

/** Reads pieces, and holds their form: a call's first piece has id, name and no arguments, once. */
const read = (pieces: readonly string[], format = NANO, isSure = false): Read => {
  const parser = createCallParser({
    format,
    isSure,
    isTool: (name) => name !== '' && name !== 'unknown',
  })
  let text = ''
  const calls: { id: string; name: string; arguments: string }[] = []
  const take = (part: { readonly text: string; readonly calls: readonly CallPiece[] }) => {
    text += part.text
    for (const piece of part.calls) {
      if (piece.index === calls.length) {
        assert.ok(piece.id !== undefined && piece.name !== undefined && piece.arguments === '')
        assert.match(piece.id, /^call_[0-9a-f]{24}$/)
        calls.push({ id: piece.id, name: piece.name, arguments: '' })
      } else {
        assert.equal(piece.index, calls.length - 1)
        assert.ok(piece.id === undefined && piece.name === undefined && piece.arguments !== '')
        const last = calls.at(-1)
        assert.ok(last)
        last.arguments += piece.arguments
      }
    }
  }
  for (const piece of pieces) take(parser.push(piece))
  take(parser.end())
  assert.equal(new Set(calls.map(({ id }) => id)).size, calls.length)
  return {
    text,
    calls: calls.map(({ name, arguments: args }) => ({ name, arguments: args })),
    endsInCalls: parser.endsInCalls(),
  }
}

const call = (name: string, args = '{}') => ({ name, arguments: args })
const called = (...calls: Read['calls']): Read => ({ text: '', calls, endsInCalls: true })
const said = (text: string): Read => ({ text, calls: [], endsInCalls: false })

/** What a text is, whether or not the calls follow a grammar. */
const WHOLE: readonly (readonly [string, Read])[] = [
  ['<TOOLCALL>[{"name": "f", "arguments": {"a": 1}}]</TOOLCALL>', called(call('f', '{"a": 1}'))],
  [
    '<TOOLCALL>[{"name": "f", "arguments": {"a": [1, {"b": "}]\\"</TOOLCALL>"}]}}, {"name": "g", "arguments": {}}]</TOOLCALL>',
    called(call('f', '{"a": [1, {"b": "}]\\"</TOOLCALL>"}]}'), call('g')),
  ],
  [
    ' \n<TOOLCALL> [ { "name" : "f" , "arguments" : { } } , {"name":"g","arguments":{"x":-1.5e+3,"y":[true,false,null]}}\n] </TOOLCALL> \n',
    called(call('f', '{ }'), call('g', '{"x":-1.5e+3,"y":[true,false,null]}')),
  ],
  [
    '<TOOLCALL>[{"name": "f", "parameters": {"a": "é😀"}}]</TOOLCALL>',
    called(call('f', '{"a": "é😀"}')),
  ],
  ['<TOOLCALL>[{"arguments": {"a": 1}, "name": "f"}]</TOOLCALL>', called(call('f', '{"a": 1}'))],
  [
    '<TOOLCALL>[{"name": "f", "arguments": "{\\"a\\": 1}"}]</TOOLCALL>',
    called(call('f', '{"a": 1}')),
  ],
  ['<TOOLCALL>[{"name": "f", "arguments": ""}]</TOOLCALL>', called(call('f'))],
  ['<TOOLCALL>[{"name": "f", "arguments": null}]</TOOLCALL>', called(call('f'))],
  ['<TOOLCALL>[{"name": "f"}]</TOOLCALL>', called(call('f'))],
  [
    '<TOOLCALL>[{"type": "function", "id": "x", "name": "f", "arguments": {}}]</TOOLCALL>',
    called(call('f')),
  ],
  ['<TOOLCALL>{"name": "f", "arguments": {}}</TOOLCALL>', called(call('f'))],
  // The brace that NVIDIA's template of Nano forgets, and other brackets that models leave out.
  ['<TOOLCALL>[{"name": "f", "arguments": {"a": 1}]</TOOLCALL>', called(call('f', '{"a": 1}'))],
  [
    '<TOOLCALL>[{"name": "f", "arguments": {}, {"name": "g", "arguments": {}]</TOOLCALL>',
    called(call('f'), call('g')),
  ],
  ['<TOOLCALL>[{"name": "f", "arguments": {}}</TOOLCALL>', called(call('f'))],
  ['<TOOLCALL>[{"name": "f", "arguments": {}}]', called(call('f'))],
  ['<TOOLCALL>[{"name": "f", "arguments": {}}]</TOOL', called(call('f'))],
  ['<TOOLCALL>[{"name": "f", "arguments": {}', called(call('f'))],
  // Text around calls, and two blocks of them.
  [
    'Let me see.\n<TOOLCALL>[{"name": "f", "arguments": {}}]</TOOLCALL>',
    { ...called(call('f')), text: 'Let me see.\n' },
  ],
  [
    'A<TOOLCALL>[{"name": "f"}]</TOOLCALL> \n<TOOLCALL>[{"name": "g"}]</TOOLCALL> B ',
    { ...called(call('f'), call('g')), text: 'A B ' },
  ],
  [
    '<TOOLCALL>[{"name": "f", "arguments": {}}] and so on',
    { ...called(call('f')), text: ' and so on' },
  ],
  [
    '<TOOLCALL>[{"name": "f", "arguments": {}}, {"name": "g", "arg',
    { ...called(call('f')), text: ', {"name": "g", "arg' },
  ],
  [
    '<TOOLCALL>[{"name": "f", "arguments": {}}]</TOOLCALL> 1 <',
    { ...called(call('f')), text: ' 1 <' },
  ],
  // What is no call is text, to the last character.
  ...[
    '',
    ' ',
    ' Hello <b>you</b> \n',
    '<TOOLCALL>',
    '<TOOLCALL>[',
    'x <TOOLCAL',
    '<TOOLCALL>[]</TOOLCALL>',
    '<TOOLCALL>[1]</TOOLCALL>',
    '<TOOLCALL>[{}]</TOOLCALL>',
    '<TOOLCALL>[{"arguments": {}}]</TOOLCALL>',
    '<TOOLCALL>[{"name": "", "arguments": {}}]</TOOLCALL>',
    '<TOOLCALL>[{"name": 1, "arguments": {}}]</TOOLCALL>',
    '<TOOLCALL>[{"name": "f", "name": "g", "arguments": {}}]</TOOLCALL>',
    '<TOOLCALL>[{"name": "f", "arguments": [1]}]</TOOLCALL>',
    '<TOOLCALL>[{"name": "f", "arguments": 1}]</TOOLCALL>',
    '<TOOLCALL>[{"name": "f", "arguments": "no JSON"}]</TOOLCALL>',
    '<TOOLCALL>[{"name": "f", "arguments": "[1]"}]</TOOLCALL>',
    '<TOOLCALL>[{"name": "f", "colour": "red", "arguments": {}}]</TOOLCALL>',
    "<TOOLCALL>[{'name': 'f', 'arguments': {}}]</TOOLCALL>",
    '<TOOLCALL>f(a=1)</TOOLCALL>',
    '<TOOLCALL>[{"name": "f',
  ].map((text): [string, Read] => [text, said(text)]),
]

/** What differs where the arguments are told as they come. */
const BROKEN: readonly (readonly [string, sure: Read])[] = [
  [
    '<TOOLCALL>[{"name": "f", "arguments": {"a": ',
    { text: '', calls: [call('f', '{"a": ')], endsInCalls: false },
  ],
  [
    '<TOOLCALL>[{"name": "f", "arguments": {"a": }}]</TOOLCALL>',
    { text: '}}]</TOOLCALL>', calls: [call('f', '{"a": ')], endsInCalls: false },
  ],
  [
    '<TOOLCALL>[{"name": "f", "arguments": {"a": "x\ny"}}]</TOOLCALL>',
    { text: '\ny"}}]</TOOLCALL>', calls: [call('f', '{"a": "x')], endsInCalls: false },
  ],
]

const LLAMA_CASES: readonly (readonly [string, Read])[] = [
  ['{"name": "f", "parameters": {"a": 1}}', called(call('f', '{"a": 1}'))],
  [' \n{"name": "f", "arguments": {}}\n', called(call('f'))],
  [
    '{"type": "function", "name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
    called(call('f'), call('g')),
  ],
  ['{"name": "f", "parameters": {}}\nDone.', { ...called(call('f')), text: '\nDone.' }],
  ...[
    'A call: {"name": "f", "parameters": {}}',
    '{"city": "Paris"}',
    ' {"name": "Ann", "age": 3}',
    '{"name": "f", "parameters": ',
    'Hello <TOOLCALL>',
  ].map((text): [string, Read] => [text, said(text)]),
]

/** Longer than any mark: two cuts that are further apart are each seen by itself. */
const NEAR = process.env.NEMOTRON_TEST_LONG === '1' ? Number.POSITIVE_INFINITY : 16

/** At every place, and at every two that are near each other. */
const cuts = (text: string): string[][] => {
  const all = [[text], [...text], text.split('')]
  for (let i = 0; i <= text.length; i++)
    for (let j = i; j <= Math.min(text.length, i + NEAR); j++)
      all.push([text.slice(0, i), text.slice(i, j), text.slice(j)])
  return all
}

describe('calls of tools', () => {
  test('are read the same however the text is cut', () => {
    for (const [text, expected] of WHOLE)
      for (const isSure of [false, true])
        for (const pieces of cuts(text))
          assert.deepEqual(read(pieces, NANO, isSure), expected, JSON.stringify(pieces))
  })

  test('that are malformed are text, unless they had begun to be told', () => {
    for (const [text, sure] of BROKEN)
      for (const pieces of cuts(text)) {
        assert.deepEqual(read(pieces), said(text), JSON.stringify(pieces))
        assert.deepEqual(read(pieces, NANO, true), sure, JSON.stringify(pieces))
      }
  })

  test('of tools that are not there are text', () => {
    const unknown = '{"name": "unknown", "arguments": {"a": 1}}'
    for (const text of [
      `<TOOLCALL>[${unknown}]</TOOLCALL>`,
      `a <TOOLCALL>[${unknown}]</TOOLCALL> b`,
    ])
      for (const pieces of cuts(text)) assert.deepEqual(read(pieces), said(text))
    for (const pieces of cuts(unknown)) assert.deepEqual(read(pieces, LLAMA), said(unknown))
    const after = `, {"arguments": {}, "name": "unknown"}]</TOOLCALL>`
    assert.deepEqual(read([`<TOOLCALL>[{"name": "f", "arguments": {}}${after}`]), {
      text: after,
      calls: [call('f')],
      endsInCalls: true,
    })
  })

  test('in the form of Llama are the whole answer', () => {
    for (const [text, expected] of LLAMA_CASES)
      for (const pieces of cuts(text))
        assert.deepEqual(read(pieces, LLAMA), expected, JSON.stringify(pieces))
  })

  test('that follow a grammar are told as they come', () => {
    const parser = createCallParser({ format: NANO, isSure: true, isTool: () => true })
    const pieces = [...'<TOOLCALL>[{"name": "f", "arguments": {"a": 1}}]</TOOLCALL>'].map(
      (char) => parser.push(char).calls,
    )
    const [first, ...rest] = pieces.flat()
    assert.equal(first?.name, 'f')
    assert.deepEqual(
      rest.map((piece) => piece.arguments),
      [...'{"a": 1}'],
    )
  })

  test('as they are written are read back', () => {
    const value = fc.jsonValue({ maxDepth: 4 })
    const args = fc.dictionary(anyText(), value)
    const calls = fc.array(
      fc.record({
        name: fc.string({ minLength: 1 }),
        arguments: fc
          .tuple(args, fc.constantFrom(0, 2))
          .map((one) => JSON.stringify(one[0], null, one[1])),
      }),
      { minLength: 1, maxLength: 4 },
    )
    const at = fc.array(fc.nat(), { maxLength: 6 })
    fc.assert(
      fc.property(
        calls,
        at,
        fc.boolean(),
        fc.constantFrom(NANO, LLAMA),
        (given, places, isSure, format) => {
          const text = writeCalls(format, given)
          const ends = places.map((one) => one % (text.length + 1)).sort((a, b) => a - b)
          const pieces = [0, ...ends].map((from, i) => text.slice(from, ends[i] ?? text.length))
          assert.deepEqual(
            read(pieces, format, isSure),
            called(...given.map((one) => ({ ...one }))),
          )
        },
      ),
      { numRuns: 500 },
    )
  })

  test('of any text at all: nothing is lost, and no cut changes what is read', () => {
    const words = fc.constantFrom(
      '<TOOLCALL>',
      '</TOOLCALL>',
      '<TOOL',
      '[',
      ']',
      '{',
      '}',
      '"name": ',
      '"arguments": ',
      '"f"',
      ', ',
      ',',
      ' ',
      '{"a": 1}',
      '{"name": "f", "arguments": {',
      '{"name": "g", "parameters": {"b": "c"}}',
      '\\',
      'é😀',
      'null',
      '12',
    )
    fc.assert(
      fc.property(
        fc.array(words, { maxLength: 14 }),
        fc.boolean(),
        fc.constantFrom(NANO, LLAMA),
        (list, isSure, format) => {
          const text = list.join('')
          const whole = read([text], format, isSure)
          assert.deepEqual(read(list, format, isSure), whole)
          assert.deepEqual(read(text.split(''), format, isSure), whole)
          if (whole.calls.length === 0) assert.equal(whole.text, text)
          else assert.ok(whole.text.length < text.length)
          if (!isSure) for (const one of whole.calls) assert.ok(JSON.parse(one.arguments))
        },
      ),
      { numRuns: 3000 },
    )
  })

  test('may be nested as deep as they like', () => {
    const args = `{"a":${'[{"b":'.repeat(20_000)}1${'}]'.repeat(20_000)}}`
    const text = `<TOOLCALL>[{"name": "f", "arguments": ${args}}]</TOOLCALL>`
    assert.deepEqual(read([text]), called(call('f', args)))
  })

  test('of an endless answer take time in proportion', () => {
    const text = '<TOOLCALL>[{"name": '.repeat(20_000)
    const began = performance.now()
    assert.equal(read([...text.matchAll(/.{1,7}/g)].map(String)).text, text)
    assert.ok(performance.now() - began < 5000)
  })
})

test('a template that knows no tools has no form for calls', () => {
  assert.equal(toolFormatOf(BUILT_IN.nemotron_super), undefined)
  assert.equal(toolFormatOf('{{ messages }} <TOOLCALL>'), undefined)
  assert.equal(toolFormatOf('{{ tools }} <function='), undefined)
})
