import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { describe, test } from 'node:test'
import { z } from 'zod'
import { randomText, readGrammar, recognises } from '../../bench/grammar/recogniser.js'
import { type AnswerForm, answerGrammar } from '../../server/grammar/answer-grammar.js'
import { createGrammarTexts } from '../../server/grammar/grammar-texts.js'
import { RequestError } from '../../server/request-error.js'
import { longestTurn } from '../server/turns.js'
import { createRandom, when } from './random-schema.js'

const admits = (form: AnswerForm, texts: readonly string[]): string[] => {
  const grammar = readGrammar(answerGrammar(form, 'field'))
  return texts.filter((text) => recognises(grammar, text))
}
const admitted = (schema: unknown, values: readonly unknown[]): unknown[] =>
  admits(
    { kind: 'schema', schema },
    values.map((value) => JSON.stringify(value)),
  ).map((text) => JSON.parse(text))

/** The message of a 400 that names the field, given soon. */
const refusal = (form: AnswerForm): string => {
  const since = process.cpuUsage()
  try {
    answerGrammar(form, 'field')
  } catch (error) {
    assert.ok(error instanceof RequestError, String(error))
    assert.match(error.param ?? '', /^field/)
    assert.ok(process.cpuUsage(since).user < 10e6)
    return error.message
  }
  assert.fail('it was served')
}
const schemaRefusal = (schema: unknown): string => refusal({ kind: 'schema', schema })

describe('what a schema does not speak of', () => {
  const VALUES = [{}, { a: 'x' }, { a: 'x', b: 1 }, ['x'], ['x', 1], 'x', 'xyz', 1, null]
  const written = (schema: unknown) => admitted(schema, VALUES)
  const a = { properties: { a: { type: 'string' } } }

  test('is not written', () => {
    assert.deepEqual(written(a), [{}, { a: 'x' }])
    assert.deepEqual(written({ allOf: [a, { required: ['b'] }] }), [{ a: 'x', b: 1 }])
    assert.deepEqual(written({ minLength: 2 }), ['xyz'])
    assert.deepEqual(written({ properties: {} }), [{}])
    assert.deepEqual(written({ prefixItems: [{ type: 'string' }] }), [['x']])
    assert.deepEqual(written({ anyOf: [a, { minLength: 3 }] }), [{}, { a: 'x' }, 'xyz'])
  })

  test('members stand as the schemas that must hold follow each other', () => {
    const has = (name: string) => ({ properties: { [name]: {} }, required: [name] })
    const schema = {
      ...{ allOf: [{ $ref: '#/$defs/b' }, { allOf: [has('c')] }], ...has('a') },
      $defs: { b: { allOf: [has('b')] } },
    }
    const texts = ['abc', 'acb', 'bac'].map((names) =>
      JSON.stringify(Object.fromEntries([...names].map((one) => [one, 1]))),
    )
    assert.deepEqual(admits({ kind: 'schema', schema }, texts), ['{"a":1,"b":1,"c":1}'])
  })

  test('is written when it is asked for', () => {
    assert.deepEqual(written({ ...a, additionalProperties: true }), VALUES.slice(0, 3))
    assert.deepEqual(written({ allOf: [a, { additionalProperties: {} }] }), VALUES.slice(0, 3))
    assert.deepEqual(written({ ...a, required: ['a'], minProperties: 2 }), [{ a: 'x', b: 1 }])
    assert.deepEqual(written({ type: ['object', 'null'], allOf: [a] }), [{}, { a: 'x' }, null])
    assert.deepEqual(written({ type: 'object' }), VALUES.slice(0, 3))
    const open = { properties: {}, additionalProperties: true }
    assert.deepEqual(written(open), VALUES.slice(0, 3))
    assert.deepEqual(written({ properties: {}, minProperties: 1 }), VALUES.slice(1, 3))
    assert.deepEqual(written({ prefixItems: [{}], minItems: 2 }), [['x', 1]])
    assert.deepEqual(written({ enum: [1, 'x', { a: 'x', b: 1 }], ...a }), [
      { a: 'x', b: 1 },
      'x',
      1,
    ])
  })

  test('has the names that it may have', () => {
    const objects = [{}, { a: 1 }, { b: 1 }, { a: 1, b: 1 }]
    const names = { propertyNames: { enum: ['a', 'c'] } }
    const integer = { type: 'integer' }
    const more = { type: 'object', additionalProperties: integer, ...names }
    assert.deepEqual(admitted(more, objects), objects.slice(0, 2))
    const pattern = { ...more, propertyNames: { pattern: '^a' } }
    assert.deepEqual(admitted(pattern, objects), objects.slice(0, 2))
    const known = { properties: { a: integer, b: integer }, additionalProperties: false }
    assert.deepEqual(admitted(known, objects), objects)
    assert.deepEqual(admitted({ ...known, ...names }, objects), objects.slice(0, 2))
    assert.match(
      schemaRefusal({ type: 'object', ...known, ...names, required: ['b'] }),
      /no value at all/,
    )
  })

  test('still overlaps in oneOf', () => {
    const apart = [{ const: 'x' }, { const: 'y' }].map((one) => ({
      properties: { a: one },
      required: ['a'],
    }))
    assert.deepEqual(written({ oneOf: apart }), [{ a: 'x' }])
    assert.match(schemaRefusal({ type: 'number', oneOf: apart }), /no value at all/)
    const date = { type: 'string', format: 'date' }
    assert.match(schemaRefusal({ oneOf: [date, { type: 'string' }] }), /may both hold/)
    assert.match(schemaRefusal({ oneOf: [date, { properties: {} }] }), /may both hold/)
    const one = { oneOf: [{ required: ['x'] }, { required: ['y'] }] }
    const properties = { x: { const: 1 }, y: { const: 2 } }
    const objects = [{}, { x: 1 }, { y: 2 }, { x: 1, y: 2 }]
    assert.deepEqual(admitted({ type: 'object', properties, ...one }, objects), [
      { x: 1 },
      { y: 2 },
    ])
  })
})

describe('what may not hold', () => {
  const { default: Ajv } = createRequire(import.meta.url)('ajv/dist/2020')
  // One: each begins with compiling the schema of schemas.
  const ajv = new Ajv({ strict: false })
  const names = ['a', 'b', 'c']
  const members = [undefined, 1, 2, 'x']
  const objects = members.flatMap((a) =>
    members.flatMap((b) => members.map((c) => JSON.parse(JSON.stringify({ a, b, c })))),
  )
  const VALUES = [...objects, null, true, false, 1, 2, 7, '', 'x', 'xyz']
  const base = {
    type: ['object', 'string', 'integer', 'boolean', 'null'],
    properties: Object.fromEntries(names.map((name) => [name, { enum: [1, 2, 'x'] }])),
    additionalProperties: false,
  }
  const needs = (...required: string[]) => ({ required })
  const is = (name: string, value: unknown) => ({ properties: { [name]: { const: value } } })
  const nots: readonly unknown[] = [
    ...[needs('a'), needs('a', 'b'), is('a', 1), { ...is('a', 1), ...needs('a') }, {}, true, false],
    ...[
      { type: 'object' },
      { type: ['string', 'null'] },
      { type: 'number' },
      { $ref: '#/$defs/d' },
    ],
    ...[{ enum: ['x', null, true] }, { const: 'xyz' }, { enum: [[1], 'x'] }, { not: needs('a') }],
    ...[{ pattern: '^x' }, { pattern: 'y', maxLength: 9 }, { minLength: 2 }, { maxLength: 1 }],
    ...[{ minProperties: 2 }, { maxProperties: 1 }, { minimum: 2 }, { exclusiveMaximum: 2 }],
    ...[{ anyOf: [needs('a'), needs('b')] }, { allOf: [needs('a'), needs('b')] }],
    ...[{ properties: { a: { type: 'string' }, b: { enum: [2, 'x'] } } }, { minLength: 0 }],
  ]
  const schemas: readonly object[] = [
    ...nots.map((not) => ({ not })),
    when({ ...is('a', 1), ...needs('a') }, needs('b'), needs('c')),
    when(is('a', 1), is('b', 2)),
    { if: needs('a'), else: { type: 'object', ...needs('c') } },
    when({ type: 'string' }, { minLength: 2 }, { type: 'object' }),
    when(true, is('a', 2), false),
    { dependencies: { a: ['b', 'c'], b: is('c', 2), c: false } },
    { dependencies: { a: true, b: [] } },
    { dependentRequired: { a: ['b'], b: ['a'] } },
    { dependentSchemas: { a: { maxProperties: 1 }, b: needs('c') } },
    { oneOf: [needs('a'), needs('b')] },
    { oneOf: names.map((name) => needs(name)) },
    { oneOf: [is('a', 1), is('b', 1), { type: 'string' }] },
    { oneOf: [{ type: 'string' }, { pattern: 'x' }, { minLength: 2 }] },
    { ...when(undefined, needs('a'), needs('b')), note: 3, 'x-y': 1, minContains: 4 },
  ]
  for (const schema of schemas)
    test(`${JSON.stringify(schema)} is read as Ajv does`, () => {
      const whole = { ...base, ...schema, $defs: { d: needs('c') } }
      const isValid = ajv.compile(whole)
      const valid = VALUES.filter((value) => isValid(value))
      if (valid.length === 0) assert.match(schemaRefusal(whole), /no value at all/)
      else assert.deepEqual(admitted(whole, VALUES), valid)
    })
})

describe('numbers', () => {
  test('bounds are exact', () => {
    const all = Array.from({ length: 240 }, (_, i) => i - 120)
    for (const [min, max] of [
      [17, 93],
      [-93, -17],
      [-5, 108],
      [0, 0],
      [99, 101],
    ] as const) {
      const inside = all.filter((value) => value >= min && value <= max)
      assert.deepEqual(admitted({ type: 'integer', minimum: min, maximum: max }, all), inside)
      const strict = { exclusiveMinimum: min - 1, exclusiveMaximum: max + 1 }
      assert.deepEqual(admitted({ type: 'integer', ...strict }, all), inside)
    }
    const tenths = Array.from({ length: 400 }, (_, i) => (i - 200) / 20)
    for (const [min, max] of [
      [-1.5, 2.25],
      [0.3, 0.35],
      [-9.95, -0.05],
    ] as const)
      assert.deepEqual(
        admitted({ type: 'number', minimum: min, exclusiveMaximum: max }, tenths),
        tenths.filter((value) => value >= min && value < max),
      )
  })

  test('decimals between any two bounds, with and without them, in any spelling', () => {
    const bounds = [-1250, -800, -350, -50, 0, 50, 150, 200, 250, 300, 800, 950, 1000, 11_500]
    const around = bounds.flatMap((one) => [one - 100, one - 50, one - 1, one, one + 1, one + 50])
    const thousandths = [...new Set([...around, 500, 600, 700])]
    const spelt = thousandths.flatMap((one) => {
      const short = JSON.stringify(one / 1000)
      const long = (one / 1000).toFixed(3)
      const texts = one === 0 ? ['0', '0.0'] : [...new Set([short, long, `${long}0`])]
      return texts.map((text) => ({ one, text }))
    })
    for (const [i, low] of bounds.entries())
      for (const [j, high] of bounds.slice(i + 1).entries()) {
        const [isAbove, isBelow] = [(i + j) % 2 === 1, (i + j) % 4 > 1]
        const schema = {
          type: 'number',
          [isAbove ? 'exclusiveMinimum' : 'minimum']: low / 1000,
          [isBelow ? 'exclusiveMaximum' : 'maximum']: high / 1000,
        }
        const inside = spelt.filter(
          ({ one }) =>
            (one > low || (one === low && !isAbove)) && (one < high || (one === high && !isBelow)),
        )
        assert.deepEqual(
          admits(
            { kind: 'schema', schema },
            spelt.map(({ text }) => text),
          ),
          inside.map(({ text }) => text),
          JSON.stringify(schema),
        )
      }
  })

  test('a bound that no number reaches still keeps out what is beyond it', () => {
    const texts = ['1', '-9999999999999999999.5', '1e30', '-1e30']
    // Between neighbours there are halves as long as a double can say them.
    for (const low of [2 ** 40, 1e15, -1e15]) {
      const schema = { type: 'number', exclusiveMinimum: low, exclusiveMaximum: low + 1 }
      const between = [`${low + 0.5}`, low < 0 ? `${low + 1}.9` : `${low}.1`]
      const texts = [...between, `${low}`, `${low + 1}`, `${low}.0`]
      assert.deepEqual(admits({ kind: 'schema', schema }, texts), between)
    }
    for (const bounds of [{ maximum: 1e21 }, { exclusiveMinimum: -1e21 }])
      assert.deepEqual(
        admits({ kind: 'schema', schema: { type: 'number', ...bounds } }, texts),
        texts.slice(0, 2),
      )
  })

  test('multiples', () => {
    const all = Array.from({ length: 500 }, (_, i) => i - 250)
    for (const of of [1, 2, 3, 7, 12, 60, 100])
      assert.deepEqual(
        admitted({ type: 'integer', multipleOf: of, minimum: -200 }, all),
        all.filter((value) => value % of === 0 && value >= -200),
      )
    assert.match(schemaRefusal({ type: 'number', multipleOf: 0.01 }), /'#\/multipleOf'/)
    assert.match(schemaRefusal({ type: 'integer', multipleOf: 100_003 }), /too large/)
  })
})

describe('regular expressions', () => {
  const PATTERNS = [
    'a|bc|',
    '(a|b)*abb',
    '^a{2,4}$',
    '[^a-c]+',
    '\\d+\\.\\d{2}',
    '(ab?){1,3}c',
    '^(?!ab)[a-c]+$',
    '^(?=.*c)[a-c]{2,3}$',
    'a(^b|c$)',
    '\\w\\s\\W',
    '[\\d.]{1,3}',
    '(?:a|(?<n>b))c?',
    '\\u0061[\\x62-c]',
    'a.c',
    '\\0|[\\cA-\\cd]a',
    '\\u{1F600}?\\ud83d\\ude00|\\u{e9}',
    '\\p{Lu}\\P{L}|\\p{Script=Greek}a',
    '[\\b\\t\\v\\f]\\cJ?[\\w-]',
    '[^\\0-\\x1f]{2,}?',
    '(^a|b$|\\n)|^c$',
    '((a|^b)|c)',
    '(?:^a){1}b{0}$',
    '^$',
    '^(?=.*b)(?!ab)(?:a|b|c)*$',
    '[\\s\\S]\\D\\S',
  ]
  test('mean what they mean to JavaScript', () => {
    const random = createRandom(7)
    const letters = [...'aabbcc1.2 \n_é', 'A', 'α', '😀', '\0', '\x01', '\b', '\t']
    const texts = Array.from({ length: 400 }, () =>
      Array.from(
        { length: Math.floor(random() * 6) },
        () => letters[Math.floor(random() * letters.length)],
      ).join(''),
    )
    for (const pattern of PATTERNS) {
      const whole = new RegExp(`^(?:${pattern})$`, 'u')
      const grammar = readGrammar(
        answerGrammar({ kind: 'expression', expression: pattern }, 'field'),
      )
      for (let i = 0; i < 20; i++) assert.match(randomText(grammar, random, 40), whole)
      for (const text of texts)
        assert.equal(
          recognises(grammar, text),
          whole.test(text),
          `${pattern} ${JSON.stringify(text)}`,
        )
      const found = new RegExp(pattern, 'u')
      const values = readGrammar(
        answerGrammar({ kind: 'schema', schema: { type: 'string', pattern } }, 'field'),
      )
      for (const text of texts)
        assert.equal(
          recognises(values, JSON.stringify(text)),
          found.test(text),
          `${pattern} in ${JSON.stringify(text)}`,
        )
    }
  })

  test('what is not served is named', () => {
    for (const [expression, why] of [
      ['a(?=b)', /looking ahead/],
      ['(?<=a)b', /looking behind/],
      ['(a)\\1', /reference back/],
      ['a\\b', /word boundary/],
      ['(?i)a', /flags/],
      ['a++', /possessive/],
      ['(?>a)', /atomic/],
      ['(a', /'\)' is missing/],
      ['a)', /no '\('/],
      ['*a', /nothing for '\*'/],
      ['[b-a]', /out of order/],
      ['a{3,2}', /out of order/],
      ['a{1000000}', /at most 100000/],
      ['\\ud800', /surrogate/],
      ['\\q', /no meaning/],
      [`${'('.repeat(100)}a${')'.repeat(100)}`, /nested deeper/],
      ['a'.repeat(9000), /at most 8192/],
      ['^(?!a)a$', /No text at all/],
      ['^(?!b)(((a{1,90}){1,90}){1,90}){1,90}$', /too complex/],
      // Of what matches no character no state is made, and yet it is repeated.
      ['^(?!x)(((((){100000}){100000}){100000}){100000})a', /too complex/],
      ['^(?!zz)[ab]*a[ab]{11}(|){20000}c', /too complex/],
      ['a\\A', /'\\A' is not supported: use '\^' and '\$' \(at character 2 of "a/],
      ['a\\G', /'\\G' is not supported \(at character 2 of/],
      ['\\B', /'\\B' is not supported \(at character 1 of/],
      ['(?<n>a)\\k<n>', /reference back to a group is not supported \(at character 8 of/],
      ['(?P<n>a)(?P=n)', /reference back/],
      ['\\01', /octal/],
      ['\\u{41', /'}' is missing/],
      ['\\u{110000}', /beyond the last character, U\+10FFFF \(at character 1 of/],
      ['\\u{}', /1 to 6 hexadecimal digits/],
      ['\\u12', / 4 hexadecimal digits/],
      ['\\U0000041', / 8 hexadecimal digits/],
      ['\\x1', / 2 hexadecimal digits/],
      ['\\c1', /a letter is missing/],
      ['\\p{Nope}', /Unicode property/],
      ['\\pL', /Unicode property/],
      ['[]', /an empty class/],
      ['[]a]', /an empty class/],
      ['[^]', /an empty class/],
      ['[^]a]', /write '\\\]' for a bracket in a class/],
      ['ab[c', /'\]' is missing \(at character 3 of/],
      ['[a-\\d]', /a character on both sides \(at character 2 of/],
      ['[\\d-a]', /a character on both sides/],
      ['[^\\s\\S]', /matches no character/],
      ['[[:alpha:]]', /POSIX/],
      ['(?#x)', /comments/],
      ['(?(1)a)', /conditional/],
      ['(?<1>a)', /flags/],
      ['a{,3}', /write '\{0,'/],
      ['a{3,100001}', /at most 100000/],
      ['a{100001,}', /at most 100000/],
      ['^*', /an anchor cannot be repeated/],
      ['a$?', /an anchor cannot be repeated/],
      ['a**', /repeats a repetition/],
      ['a+{2}', /repeats a repetition/],
      ['^(?=a)*', /looking ahead cannot be repeated/],
      ['^(?=a)b|c', /beside another branch/],
      ['^((?=a)b)', /at the very beginning/],
      ['\\', /ends too early/],
      ['a\ud800', /half of a surrogate pair/],
    ] as const)
      assert.match(refusal({ kind: 'expression', expression }), why, expression.slice(0, 40))
  })

  test('escapes of Python, groups with its names, a brace that counts nothing', () => {
    const texts = ['A', 'B', 'aa', 'a', 'a{', 'a{}', 'a{b,2}', 'xx']
    const matched = (expression: string) => admits({ kind: 'expression', expression }, texts)
    assert.deepEqual(matched('\\U00000041'), ['A'])
    assert.deepEqual(matched('(?P<name>a)a?'), ['aa', 'a'])
    assert.deepEqual(matched('a{b,2}|a{}'), ['a{}', 'a{b,2}'])
    assert.deepEqual(matched('x{2,2}|a{2}'), ['aa', 'xx'])
  })
})

describe('choices', () => {
  test('are these texts and no others', () => {
    const choices = Array.from({ length: 300 }, (_, i) => `item ${i} "${i % 7}" é`)
    // Characters of two units that share the first one.
    for (let i = 0; i < 20; i++) choices.push(`item ${String.fromCodePoint(0x1f600 + i)}`)
    const others = ['', 'item', 'item 1', ...choices.map((one) => `${one}.`)]
    assert.deepEqual(admits({ kind: 'choice', choices }, [...choices, ...others]), choices)
  })
  test('none, an empty one, too many', () => {
    assert.match(refusal({ kind: 'choice', choices: [] }), /no choices/)
    assert.match(refusal({ kind: 'choice', choices: ['a', ''] }), /'field\.1' is empty/)
    const long = { type: 'null', description: 'a'.repeat(1 << 20) }
    assert.match(schemaRefusal(long), /more than 1048576 characters in its names and texts/)
    assert.match(refusal({ kind: 'choice', choices: Array(10_001).fill('a') }), /at most 10000/)
  })
})

describe('schemas that are refused', () => {
  let deep: unknown = { type: 'string' }
  for (let i = 0; i < 10_000; i++) deep = { type: 'array', items: deep }
  const self: Record<string, unknown> = { type: 'object', required: ['a'] }
  self.properties = { a: { $ref: '#' } }
  const CASES: readonly (readonly [unknown, RegExp])[] = [
    [{ type: 'array', items: { not: { multipleOf: 3 } } }, /at '#\/items\/not'/],
    [
      { properties: { a: { type: 'integer', not: { const: 3 } } } },
      /at '#\/properties\/a\/not'.*an 'enum'/,
    ],
    [{ if: { format: 'date' }, else: { maxLength: 3 } }, /at '#\/if': this 'if' is not supported/],
    [
      {
        type: 'string',
        maxLength: 20,
        allOf: ['a', 'b', 'c'].map((one) => ({
          anyOf: Array.from({ length: 9 }, (_, i) => ({ pattern: `${one}[${i}x].*[zZ]` })),
        })),
      },
      /the patterns, lengths and bounds make too many combinations/,
    ],
    ...['then', 'else'].map(
      (branch) =>
        [
          { if: { required: ['a'] }, [branch]: { properties: { b: { contains: {} } } } },
          new RegExp(`at '#/${branch}/properties/b/contains'`),
        ] as const,
    ),
    [{ not: { $ref: '#' } }, /at '#\/not': this 'not' is not supported/],
    [{ dependencies: { a: 3 } }, /at '#\/dependencies\/a': .* a schema or a list of names/],
    [{ dependentRequired: { a: {} } }, /at '#\/dependentRequired\/a': .* a list of names/],
    [{ dependentSchemas: ['a'] }, /at '#\/dependentSchemas': .* is an object/],
    [{ type: 'string', maxLenght: 3 }, /at '#\/maxLenght': there is no keyword .* 'maxLength'/],
    [{ type: 'string', maxlength: 3 }, /at '#\/maxlength': .* 'maxLength' may be meant/],
    [{ type: 'string', mxaLength: 3 }, /at '#\/mxaLength': .* 'maxLength' may be meant/],
    [{ type: 'string', maxLengths: 3 }, /at '#\/maxLengths': .* 'maxLength' may be meant/],
    [{ type: 'string', maxLngth: 3 }, /at '#\/maxLngth': .* 'maxLength' may be meant/],
    [{ type: 'string', maxLemgth: 3 }, /at '#\/maxLemgth': .* 'maxLength' may be meant/],
    [{ type: 'array', contains: {} }, /at '#\/contains': .* is not supported: use 'items'/],
    [{ properties: { 'a/b': { minimun: 3 } } }, /at '#\/properties\/a~1b\/minimun'/],
    [{ type: 'strin' }, /at '#\/type': a type is one of/],
    [{ $ref: '#/$defs/a' }, /at '#\/\$ref': there is no/],
    [{ $ref: 'https://example.com/a' }, /only references inside/],
    [{ anyOf: [{ type: 'null' }, { $ref: '#' }] }, /refers to itself/],
    [{ $ref: '#' }, /at '#': this refers to itself without a value in between/],
    [{ type: 'null', allOf: [{}, { allOf: [{ $ref: '#' }] }] }, /at '#': this refers to itself/],
    [{ $ref: '#/$defs/a', $defs: { a: { $ref: '#/$defs/a' } } }, /at '#\/\$defs\/a': this refers/],
    [{ items: false, minItems: 2 }, /no value of the kinds that this schema speaks of .* a 'type'/],
    [{ type: 'string', format: 'binary' }, /at '#\/format'/],
    [{ type: 'array', uniqueItems: true }, /uniqueItems/],
    [{ oneOf: [{ type: 'integer' }, { type: 'number' }] }, /branches 0 and 1 of 'oneOf'/],
    [{ type: 'string', pattern: '(a' }, /the schema at '#\/pattern'/],
    [{ type: 'integer', minimum: 3, maximum: 2 }, /no value at all/],
    [{ type: 'string', minLength: 3, maxLength: 2 }, /no value at all/],
    [{ type: 'string', enum: [1] }, /no value at all/],
    [false, /no value at all/],
    [self, /no value at all/],
    [{ const: 2 ** 60 }, /beyond 9007199254740991/],
    [{ const: { a: [2 ** 60] } }, /beyond 9007199254740991/],
    [{ enum: ['a', { b: -(2 ** 53) }] }, /beyond 9007199254740991/],
    [{ examples: Array.from({ length: 50_000 }, () => 0) }, /more than 50000 parts/],
    [{ enum: Array.from({ length: 100_000 }, (_, i) => `v${i}`) }, /more than (10000|50000)/],
    [deep, /nested deeper than 128/],
    [{ type: 'string', minLength: 1e9 }, /at most 100000/],
    [{ const: '\ud800' }, /surrogate/],
    [{ type: 'string', pattern: '^(a{1,90}){1,90}$', maxLength: 5000 }, /too complex/],
    [7, /a schema is an object/],
    [{ type: 'integer', minimum: 1e20 }, /'#\/minimum': numbers beyond/],
    [{ type: 'integer', exclusiveMinimum: 2 ** 53 }, /told apart: use 'minimum'/],
    [{ type: 'number', exclusiveMaximum: 1e19 }, /told apart: use 'maximum'/],
    [{ type: 'number', exclusiveMinimum: -1e19 }, /told apart: use 'minimum'/],
    [{ type: 'integer', maximum: 2 ** 53, exclusiveMaximum: true }, /told apart: use 'maximum'/],
    [{ $ref: '#a', enum: [{ $anchor: 'a' }] }, /there is no "#a"/],
    [{ $ref: '#/%zz' }, /"#\/%zz" is not a reference/],
    [{ $ref: 3 }, /'\$ref' is a text/],
    [
      { $ref: '#/$defs/a', $defs: { a: { $id: 'b', items: { $ref: '#/$defs/c' } } } },
      /at '#\/\$defs\/a\/items\/\$ref': .* an '\$id' of its own/,
    ],
    [{ type: 'object', minProperties: 2 }, /'minProperties' of 2 counts names/],
    [
      {
        type: 'object',
        properties: { a: {}, b: {} },
        additionalProperties: false,
        minProperties: 3,
      },
      /no value at all/,
    ],
    [
      {
        properties: Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`p${i}`, {}])),
        additionalProperties: false,
        minProperties: 100,
      },
      /beside so many properties/,
    ],
    [
      { patternProperties: Object.fromEntries([...'abcdefg'].map((name) => [`^${name}`, {}])) },
      /more than 6 'patternProperties'/,
    ],
  ]
  for (const [schema, why] of CASES)
    test(String(why), () => assert.match(schemaRefusal(schema), why))
})

test('a name that is no keyword, and not nearly one, says nothing', () => {
  // Two letters exchanged make neither of these; so some begin as a keyword would go on.
  for (const name of ['initial', 'aplha', 'ordering', 'maxLines', 'minWords', 'maxlne', 'ui'])
    assert.deepEqual(admitted({ type: 'integer', [name]: 3 }, [1, 'x']), [1], name)
})

test('references go to a place, an anchor, or under the name of the whole schema', () => {
  const values = [1, 'x', null]
  const of = (schema: object) => admitted(schema, values)
  const integer = { type: 'integer' }
  assert.deepEqual(of({ $ref: '#here', $defs: { a: { b: { $anchor: 'here', ...integer } } } }), [1])
  assert.deepEqual(of({ $ref: '#/$defs/a~1b~0c%20d', $defs: { 'a/b~c d': integer } }), [1])
  const $id = 'https://example.com/a'
  assert.deepEqual(of({ $id: `${$id}#`, $ref: `${$id}#/$defs/a`, $defs: { a: integer } }), [1])
  assert.deepEqual(of({ anyOf: [{ $ref: '#/anyOf/1' }, integer] }), [1])
})

test('a value that is given is written with one blank at most where there may be one', () => {
  for (const [value, texts] of [
    [{}, ['{}', '{ }']],
    [[], ['[]', '[ ]']],
    [{ a: [1, {}] }, ['{"a":[1,{}]}', '{ "a": [ 1, { } ] }']],
  ] as const) {
    const wider = texts.flatMap((text) => [text.replace(/^./, '$&  '), text.replace(/.$/, '  $&')])
    assert.deepEqual(admits({ kind: 'schema', schema: { const: value } }, [...texts, ...wider]), [
      ...texts,
    ])
  }
})

test('a branch or a member that has no value is left out', () => {
  const values = [null, {}, { a: [1] }, [], [1]]
  const none = [
    { type: 'array', minItems: 1, items: false },
    { type: 'array', minItems: 2, maxItems: 1 },
    {
      type: 'array',
      prefixItems: [{}, { type: 'string', minLength: 2, maxLength: 1 }],
      minItems: 2,
    },
    { type: 'object', required: ['a'], properties: { a: false } },
    { type: 'object', required: ['a', 'b'], maxProperties: 1 },
    { type: 'integer', minimum: 2, maximum: 1 },
  ]
  for (const one of none) {
    assert.deepEqual(admitted({ anyOf: [{ type: 'null' }, one] }, values), [null])
    const member = { type: 'object', properties: { a: one }, additionalProperties: false }
    assert.deepEqual(admitted(member, values), [{}])
    assert.match(schemaRefusal(one), /no value at all/)
  }
})

test('texts of a pattern: how many characters', () => {
  const texts = ['', 'a', 'aa', 'aaa', 'aaaa', 'éé', 'b', 'aab']
  const of = (more: object) => admitted({ type: 'string', pattern: '^[aé]*$', ...more }, texts)
  assert.deepEqual(of({ minLength: 2 }), ['aa', 'aaa', 'aaaa', 'éé'])
  assert.deepEqual(of({ maxLength: 2 }), ['', 'a', 'aa', 'éé'])
  assert.deepEqual(of({ minLength: 1, maxLength: 3 }), ['a', 'aa', 'aaa', 'éé'])
  assert.deepEqual(of({ minLength: 3, maxLength: 3 }), ['aaa'])
  assert.deepEqual(of({ maxLength: 0 }), [''])
  const two = { allOf: [{ pattern: 'a' }, { pattern: 'b' }] }
  assert.deepEqual(admitted({ type: 'string', ...two, minLength: 3 }, texts), ['aab'])
  assert.deepEqual(admitted({ type: 'string', ...two, maxLength: 3 }, texts), ['aab'])
})

test('objects: how many members', () => {
  const objects = [{}, { a: 1 }, { b: 1 }, { a: 1, b: 1 }, { b: 1, c: 1 }, { a: 1, b: 1, c: 1 }]
  const properties = { a: {}, b: {}, c: {} }
  const counted = (more: object) =>
    admitted({ type: 'object', properties, additionalProperties: false, ...more }, objects).map(
      (one) => Object.keys(one as object).join(''),
    )
  assert.deepEqual(counted({ minProperties: 1, maxProperties: 2 }), ['a', 'b', 'ab', 'bc'])
  assert.deepEqual(counted({ minProperties: 3 }), ['abc'])
  assert.deepEqual(counted({ maxProperties: 0 }), [''])
  assert.deepEqual(counted({ required: ['b'], maxProperties: 2 }), ['b', 'ab', 'bc'])
  assert.deepEqual(counted({ required: ['b'], minProperties: 2 }), ['ab', 'bc', 'abc'])
  assert.deepEqual(
    admitted({ type: 'object', maxProperties: 1, additionalProperties: { const: 1 } }, objects),
    objects.slice(0, 3),
  )
})

test('objects: the order of keys, and which may be left out', () => {
  const schema = {
    type: 'object',
    properties: { a: { type: 'integer' }, b: { type: 'null' }, c: { type: 'boolean' } },
    required: ['b'],
    additionalProperties: false,
  }
  const yes = [
    '{"b":null}',
    '{"a":1,"b":null}',
    '{"a": 1, "b": null, "c": true}',
    '{\n  "b": null\n}',
  ]
  const no = [
    '{}',
    '{"b":null,"a":1}',
    '{"a":1}',
    '{"b":null,"d":1}',
    '{"b":null}\n',
    '{   "b":null}',
  ]
  assert.deepEqual(admits({ kind: 'schema', schema }, [...yes, ...no]), yes)
  const compact: AnswerForm = { kind: 'schema', schema, isCompact: true }
  assert.deepEqual(admits(compact, yes), yes.slice(0, 2))
})

test('any object is one, with bounded white space', () => {
  const yes = ['{}', '{"a":{"b":[1,-2.5e3,"\\ud83d\\ude00",null]}}']
  const no = ['[]', '1', '{"a":"\\ud800"}', `{${' '.repeat(5)}}`, '{"a":01}']
  assert.deepEqual(admits({ kind: 'object' }, [...yes, ...no]), yes)
})

test('a schema is made into grammar away from the event loop, and remembered', async () => {
  const textOf = createGrammarTexts(50)
  const properties = Object.fromEntries(
    Array.from({ length: 100 }, (_, i) => [`field_${i}`, { type: i % 2 ? 'string' : 'integer' }]),
  )
  const form: AnswerForm = { kind: 'schema', schema: { type: 'object', properties } }
  const [first, same] = await Promise.all([textOf(form, 'field'), textOf(form, 'field')])
  assert.equal(first, answerGrammar(form, 'field'))
  assert.equal(same, first)
  const again = structuredClone(form)
  let best = Number.POSITIVE_INFINITY
  for (let i = 0; i < 200; i++) {
    const since = performance.now()
    assert.equal(await textOf(again, 'field'), first)
    best = Math.min(best, performance.now() - since)
  }
  console.log(`a remembered schema of 100 fields: ${(best * 1000).toFixed(0)} us`)
  // A look-up; making it takes milliseconds.
  assert.ok(best < 0.3, `${best} ms`)

  // The longest work of one schema: two patterns at once.
  const slow = { type: 'string', allOf: [{ pattern: '(a|b){900}c' }, { pattern: 'x{900}' }] }
  const longest = await longestTurn(() =>
    textOf({ kind: 'schema', schema: slow }, 'field').catch(() => {}),
  )
  assert.ok(longest < 200, `${longest} ms`)

  const wrong: AnswerForm = {
    kind: 'schema',
    schema: { type: 'object', unevaluatedProperties: false },
  }
  for (const param of ['field', 'other'])
    await assert.rejects(textOf(wrong, param), (error) => {
      assert.ok(error instanceof RequestError)
      assert.equal(error.param, param)
      assert.match(error.message, new RegExp(`'${param}'.*'#/unevaluatedProperties'`))
      return true
    })
})

test('what is remembered has a bound, and what was asked for last stays', async () => {
  const textOf = createGrammarTexts(50)
  const form = (letter: string): AnswerForm => ({
    kind: 'choice',
    choices: Array.from({ length: 2000 }, (_, i) => `${letter.repeat(1000)}${i}`),
  })
  const [a, b] = [form('a'), form('b')]
  const first = textOf(a, 'field')
  assert.equal(textOf(structuredClone(a), 'field'), first)
  const second = textOf(b, 'field')
  await Promise.all([first, second])
  assert.equal(textOf(a, 'field'), first)
  // Nine of two million characters are more than sixteen million.
  for (const letter of 'cdefghi') await textOf(form(letter), 'field')
  assert.equal(textOf(a, 'field'), first)
  assert.notEqual(textOf(b, 'field'), second)
  assert.notEqual(textOf(a, 'other'), first)
  const circular: Record<string, unknown> = {}
  circular.not = circular
  assert.throws(() => textOf({ kind: 'schema', schema: circular }, 'field'), RequestError)
})

test('schemas that zod makes are served, and zod takes their values', () => {
  const schema = z.object({
    email: z.email(),
    id: z.uuid(),
    site: z.url(),
    day: z.iso.date(),
    at: z.iso.datetime(),
    count: z.int().min(3).max(17),
    share: z.number().gt(0).lt(1),
    tags: z
      .array(z.enum(['x', 'y']))
      .min(1)
      .max(3),
    by: z.record(z.string(), z.number()),
    code: z.string().startsWith('ab'),
    token: z.nanoid(),
    what: z.discriminatedUnion('kind', [
      z.object({ kind: z.literal('a'), x: z.int() }),
      z.object({ kind: z.literal('b') }),
    ]),
    maybe: z.string().nullable(),
    pair: z.tuple([z.string(), z.int()]),
  })
  const grammar = readGrammar(
    answerGrammar({ kind: 'schema', schema: z.toJSONSchema(schema) }, 'field'),
  )
  const random = createRandom(11)
  for (let i = 0; i < 20; i++) schema.parse(JSON.parse(randomText(grammar, random, 300)))
})

test('the worst that a schema can ask for ends soon, in a grammar or a 400', () => {
  const many = <T>(count: number, make: (i: number) => T): T[] =>
    Array.from({ length: count }, (_, i) => make(i))
  const named = (count: number, make: (i: number) => unknown) =>
    Object.fromEntries(many(count, (i) => [`d${i}`, make(i)]))
  const tagged = (i: number) => ({
    type: 'object',
    properties: { k: { const: i } },
    required: ['k'],
  })
  const SCHEMAS: readonly unknown[] = [
    { type: 'object', properties: named(16_000, () => ({})), additionalProperties: false },
    { type: 'object', properties: named(2000, () => ({ type: 'string' })) },
    { enum: many(10_000, (i) => `value ${i * 7919}`) },
    { allOf: [{ enum: many(5000, (i) => i) }, { enum: many(5000, (i) => 2 * i) }] },
    { allOf: many(30, () => ({ anyOf: [{ minimum: 1 }, { maximum: 2 }, { type: 'string' }] })) },
    { oneOf: many(900, tagged) },
    {
      $ref: '#/$defs/d0',
      $defs: named(5000, (i) => (i < 4999 ? { $ref: `#/$defs/d${i + 1}` } : {})),
    },
    {
      $ref: '#/$defs/d0',
      $defs: named(3000, (i) => (i < 2999 ? { anyOf: [{ $ref: `#/$defs/d${i + 1}` }] } : {})),
    },
    { type: 'array', prefixItems: many(1000, (i) => ({ const: i })) },
    { allOf: many(5000, (i) => ({ properties: { [`p${i}`]: {} } })) },
    { allOf: many(9000, () => ({ prefixItems: [{}] })) },
    // Each needs the next one, so that none is known to end before the last is.
    {
      properties: named(5000, (i) => ({ $ref: `#/$defs/d${i}` })),
      $defs: named(5000, (i) =>
        i < 4999 ? { properties: { a: { $ref: `#/$defs/d${i + 1}` } }, required: ['a'] } : {},
      ),
    },
    { type: 'object', properties: named(9000, (i) => ({ minimum: (i + 1) * 5e-324 })) },
    { oneOf: many(900, (i) => ({ type: 'number', maximum: (i + 1) * 5e-324 })) },
    { patternProperties: Object.fromEntries(many(6, (i) => [`a.*b{${i},20}.*c`, {}])) },
    { allOf: many(20, (i) => ({ type: 'string', pattern: `a{${i}}.*b` })) },
    { type: 'string', pattern: '(a|b)*a(a|b){14}', maxLength: 40 },
    { type: 'string', pattern: '(((((){100000}){100000}){100000}){100000})a', maxLength: 5 },
    { type: 'object', patternProperties: { '(((((){100000}){100000}){100000}){100000})a': {} } },
    { type: 'array', items: { maxLength: 100_000 }, maxItems: 100_000 },
    JSON.parse(
      '{"properties":{"__proto__":{"type":"integer"}},"required":["__proto__","toString"]}',
    ),
    { type: 'number', minimum: 5e-324, maximum: 1e308 },
  ]
  const long = { kind: 'choice', choices: many(10, (i) => `${'c'.repeat(100_000)}${i}`) } as const
  for (const form of [long, ...SCHEMAS.map((schema) => ({ kind: 'schema', schema }) as const)]) {
    const since = process.cpuUsage()
    const shown = JSON.stringify(form).slice(0, 100)
    try {
      readGrammar(answerGrammar(form, 'field'))
    } catch (error) {
      assert.ok(error instanceof RequestError, `${error} ${shown}`)
    }
    const { user } = process.cpuUsage(since)
    assert.ok(user < 10e6, `${shown} took ${user} us`)
  }
})
