import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { describe, test } from 'node:test'
import { randomText, readGrammar, recognises } from '../../bench/grammar/recogniser.js'
import { createGrammarText } from '../../server/grammar/grammar-text.js'
import { addSchema } from '../../server/grammar/json-schema.js'
import { createJsonText } from '../../server/grammar/json-text.js'
import { RequestError } from '../../server/request-error.js'
import { createRandom, randomSchema } from './random-schema.js'

const require = createRequire(import.meta.url)

const grammarOf = (schema: unknown): string => {
  const text = createGrammarText('schema')
  return text.text(
    addSchema(text, createJsonText(text), schema, { param: 'schema', what: 'The schema' }),
  )
}

type Group = {
  readonly description: string
  readonly schema: unknown
  readonly tests: readonly {
    readonly description: string
    readonly data: unknown
    valid: boolean
  }[]
}

const SUBSCHEMAS = ['allOf', 'anyOf', 'oneOf', 'items']
const MAPS = ['properties', 'patternProperties', 'definitions']
const TYPES = ['object', 'array', 'string', 'number', 'boolean', 'null']

/** With what a schema does not say said: such a schema is served as wide as the standard reads it. */
const saidAloud = (schema: unknown): unknown => {
  if (typeof schema !== 'object' || schema === null) return schema
  if (Array.isArray(schema)) return schema.map(saidAloud)
  const said = Object.entries(schema).map(([key, value]): [string, unknown] => {
    if (SUBSCHEMAS.includes(key) || key.startsWith('additional')) return [key, saidAloud(value)]
    if (!MAPS.includes(key)) return [key, value]
    return [
      key,
      Object.fromEntries(Object.entries(value).map(([name, one]) => [name, saidAloud(one)])),
    ]
  })
  return {
    type: TYPES,
    ...(('properties' in schema || 'patternProperties' in schema) && { additionalProperties: {} }),
    ...('items' in schema && Array.isArray(schema.items) && { additionalItems: {} }),
    ...Object.fromEntries(said),
  }
}

describe('the JSON Schema test suite (draft 4)', () => {
  const folder = `${require.resolve('json-schema-test-suite/package.json').slice(0, -12)}tests/draft4`
  // Keys come in the schema's order: these have them in another, or are no JSON that we write.
  const NARROWER = new Set(['allOf: allOf', 'allOf with base schema: valid'])

  test('nothing that is served is answered wrongly', () => {
    let [groups, served, tests] = [0, 0, 0]
    const wrong: string[] = []
    for (const file of readdirSync(folder).filter((name) => name.endsWith('.json')))
      for (const group of JSON.parse(readFileSync(`${folder}/${file}`, 'utf8')) as Group[]) {
        groups++
        let [text, narrow]: [string, string] = ['', '']
        try {
          text = grammarOf(saidAloud(group.schema))
          narrow = grammarOf(group.schema)
        } catch (error) {
          assert.ok(error instanceof RequestError, `${file} ${group.description}: ${error}`)
          assert.match(error.message, /at '#/)
          continue
        }
        served++
        const [grammar, narrowGrammar] = [readGrammar(text), readGrammar(narrow)]
        for (const { description, data, valid } of group.tests) {
          tests++
          if (!valid && recognises(narrowGrammar, JSON.stringify(data)))
            wrong.push(`${file}: ${group.description}: ${description}, as it stands`)
          const name = `${group.description}: ${description}`
          const isAdmitted = recognises(grammar, JSON.stringify(data))
          if (isAdmitted !== (valid && !NARROWER.has(name))) wrong.push(`${file}: ${name}`)
        }
      }
    console.log(`JSON Schema test suite: ${served} of ${groups} schemas served, ${tests} tests`)
    assert.deepEqual(wrong, [])
    assert.ok(served >= 50, `${served} served`)
  })
})

describe('random schemas', () => {
  const Ajv = require('ajv/dist/2020').default
  const addFormats = require('ajv-formats').default
  // One: each begins with compiling the schema of schemas. It keeps no other.
  const ajv = new Ajv({ strict: false, addUsedSchema: false })
  addFormats(ajv)

  test('every text of the grammar is valid under Ajv, and is found again', () => {
    const isLong = process.env.NEMOTRON_TEST_LONG === '1'
    const count = isLong ? 5000 : 250
    const random = createRandom(isLong ? 161_803 : 20_261_128)
    let [served, texts] = [0, 0]
    for (let i = 0; i < count; i++) {
      const schema = randomSchema(random)
      let text: string
      try {
        text = grammarOf(schema)
      } catch (error) {
        assert.ok(error instanceof RequestError, `${error}: ${JSON.stringify(schema)}`)
        continue
      }
      served++
      const isValid = ajv.compile(schema)
      const grammar = readGrammar(text)
      for (let k = 0; k < 8; k++, texts++) {
        const one = randomText(grammar, random, 200)
        assert.ok(
          isValid(JSON.parse(one)),
          `${one} is not valid: ${ajv.errorsText(isValid.errors)}: ${JSON.stringify(schema)}`,
        )
        if (one.length < 100) assert.ok(recognises(grammar, one), one)
      }
    }
    assert.ok(served >= 0.7 * count, `${served} served`)
    assert.ok(texts >= 6 * served)
  })
})
