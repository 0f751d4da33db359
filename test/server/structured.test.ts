// Answers held to a form over HTTP, with scripted answers: which grammar each request asks the engine for.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { readGrammar, recognises } from '../../bench/grammar/recogniser.js'
import { chatBody, type Harness, readAnswer, startHarness } from './harness.js'

const SCHEMA = {
  type: 'object',
  properties: { city: { type: 'string' }, days: { type: 'integer' } },
  required: ['city', 'days'],
}
const JSON_TEXT = '{"city": "Paris", "days": 3}'
const named = (schema: unknown, more: Record<string, unknown> = {}) => ({
  type: 'json_schema',
  json_schema: { name: 'trip', schema, ...more },
})

describe('answers held to a form', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({
      answer: () => ({ pieces: [JSON_TEXT] }),
      reward: { score: () => [1] },
    })
  })
  after(() => harness.close())

  const chat = (more: Record<string, unknown>) =>
    harness.post('/v1/chat/completions', chatBody(more))
  const complete = (more: Record<string, unknown>) =>
    harness.post('/v1/completions', { model: 'tiny-reasoner', prompt: 'a', ...more })
  const refused = async (response: Response): Promise<string> => {
    assert.equal(response.status, 400)
    const { error } = await readAnswer(response)
    assert.equal(typeof error.message, 'string')
    return error.param
  }
  const last = () => harness.engine.requests.at(-1)
  /** Which of the texts the last request's grammar admits. */
  const admitted = (texts: readonly string[]): readonly string[] => {
    const text = harness.engine.grammarText(last()?.grammar)
    if (text === undefined) return texts
    const grammar = readGrammar(text)
    return texts.filter((one) => recognises(grammar, one))
  }

  test('every field that says it, in chat and completions', async () => {
    const texts = [
      JSON_TEXT,
      '{"city":"Paris","days":3}',
      '{"city": "Paris"}',
      '{}',
      '[]',
      'yes',
      '17',
    ]
    for (const [more, expected] of [
      [{}, texts],
      [{ response_format: { type: 'text' } }, texts],
      [{ response_format: { type: 'json_object' } }, texts.slice(0, 4)],
      [{ response_format: { type: 'json_object', schema: SCHEMA } }, texts.slice(0, 2)],
      [{ response_format: named(SCHEMA) }, texts.slice(0, 2)],
      [
        { response_format: named(SCHEMA, { strict: false, description: 'A trip' }) },
        texts.slice(0, 2),
      ],
      [{ structured_outputs: { json: SCHEMA } }, texts.slice(0, 2)],
      [
        { structured_outputs: { json: JSON.stringify(SCHEMA), json_object: null } },
        texts.slice(0, 2),
      ],
      [{ structured_outputs: { json: SCHEMA, disable_any_whitespace: true } }, [texts[1]]],
      [{ structured_outputs: { json: SCHEMA, disable_fallback: true } }, texts.slice(0, 2)],
      [{ structured_outputs: { json_object: true } }, texts.slice(0, 4)],
      [{ structured_outputs: { regex: '[0-9]{2}' } }, ['17']],
      [{ structured_outputs: { choice: ['yes', 'no'] } }, ['yes']],
      [{ structured_outputs: { grammar: 'root ::= "y" "es"' } }, ['yes']],
      [{ guided_json: SCHEMA, guided_decoding_backend: 'xgrammar' }, texts.slice(0, 2)],
      [{ guided_json: JSON.stringify(SCHEMA) }, texts.slice(0, 2)],
      [{ guided_regex: '[0-9]+' }, ['17']],
      [{ guided_choice: ['yes', '17'] }, ['yes', '17']],
      [{ guided_grammar: 'root ::= "yes"' }, ['yes']],
      [{ guided_json_object: true }, texts.slice(0, 4)],
      [{ grammar: 'root ::= [0-9]+' }, ['17']],
    ] as const)
      for (const ask of [chat, complete]) {
        assert.equal((await ask(more)).status, 200, JSON.stringify(more))
        assert.deepEqual(admitted(texts), expected, JSON.stringify(more))
        assert.equal(last()?.grammarAfter, undefined)
      }
  })

  test('what is wrong is named', async () => {
    for (const [more, param] of [
      [{ response_format: { type: 'structural_tag' } }, 'response_format.type'],
      [{ response_format: { type: 'json_schema' } }, 'response_format.json_schema'],
      [{ response_format: { type: 'text', schema: SCHEMA, x: 1 } }, 'response_format.x'],
      [{ response_format: { type: 'text', schema: SCHEMA } }, 'response_format.schema'],
      [
        { response_format: { ...named(SCHEMA), type: 'json_object' } },
        'response_format.json_schema',
      ],
      [{ response_format: { ...named(SCHEMA), schema: SCHEMA } }, 'response_format.schema'],
      [{ grammar: 'root ::= "\ud800"' }, 'grammar'],
      [{ response_format: named(SCHEMA, { example: {} }) }, 'response_format.json_schema.example'],
      [
        { response_format: named({ type: 'object', contains: {} }) },
        'response_format.json_schema.schema',
      ],
      [{ structured_outputs: { structural_tag: '{}' } }, 'structured_outputs.structural_tag'],
      [
        { structured_outputs: { whitespace_pattern: ' ' } },
        'structured_outputs.whitespace_pattern',
      ],
      [{ structured_outputs: { json: '{' } }, 'structured_outputs.json'],
      [{ structured_outputs: { choice: [] } }, 'structured_outputs.choice'],
      [{ structured_outputs: { choice: ['a', ''] } }, 'structured_outputs.choice.1'],
      [{ structured_outputs: { regex: '(?<=a)b' } }, 'structured_outputs.regex'],
      [{ structured_outputs: { regex: 'a', choice: ['a'] } }, 'structured_outputs.choice'],
      [{ response_format: { type: 'json_object' }, guided_choice: ['a'] }, 'guided_choice'],
      [{ guided_json: SCHEMA, grammar: 'root ::= "a"' }, 'grammar'],
      [{ guided_whitespace_pattern: ' ' }, 'guided_whitespace_pattern'],
      [{ grammar: 'root ::= "a"', ignore_eos: true }, 'ignore_eos'],
      [{ guided_regex: 'a', allowed_token_ids: [1] }, 'allowed_token_ids'],
      [{ guided_regex: 'a', bad_words: ['b'] }, 'bad_words'],
    ] as const)
      for (const ask of [chat, complete])
        assert.equal(await refused(await ask(more)), param, JSON.stringify(more))
    const { error } = await readAnswer(
      await chat({ response_format: named({ properties: { a: { contains: {} } } }) }),
    )
    assert.match(error.message, /at '#\/properties\/a\/contains'/)
    assert.equal(
      await refused(
        await harness.post('/v1/reward', {
          model: 'tiny-reward',
          messages: [{ role: 'user', content: 'a' }],
          responses: ['b'],
          response_format: { type: 'json_object' },
        }),
      ),
      'response_format',
    )
  })

  test('a reward model writes no answer', async () => {
    const messages = [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
    ]
    assert.equal(
      await refused(await chat({ model: 'tiny-reward', messages, guided_choice: ['a'] })),
      'guided_choice',
    )
  })

  test('only the answer is held to it, where the model thinks', async () => {
    const response_format = { type: 'json_object' }
    for (const [more, open, may] of [
      [{ chat_template_kwargs: { enable_thinking: true } }, false, true],
      [{ chat_template_kwargs: { enable_thinking: false } }, false, false],
      [
        {
          messages: [
            { role: 'system', content: 'detailed thinking off' },
            { role: 'user', content: 'a' },
          ],
        },
        false,
        true,
      ],
      [
        {
          messages: [
            { role: 'user', content: 'a' },
            { role: 'assistant', content: '<think>\nHm' },
          ],
          continue_final_message: true,
        },
        true,
        false,
      ],
    ] as const) {
      const answer = await readAnswer(await chat({ response_format, thinking_budget: 5, ...more }))
      const { sampling } = last() ?? {}
      assert.deepEqual(
        [sampling?.thinkingOpen, sampling?.mayThink],
        [open, may],
        JSON.stringify(more),
      )
      // Where there is no place for thinking there is none for a budget.
      assert.equal(sampling?.thinkingBudget, open || may ? 5 : undefined)
      if (!open) assert.equal(answer.choices[0].message.content, JSON_TEXT)
    }
    await complete({ grammar: 'root ::= "a"', prompt: '<think>' })
    assert.equal(last()?.sampling?.thinkingOpen, false)
    await chat({})
    assert.equal(last()?.sampling?.mayThink, undefined)
  })

  test('goes with several answers, logprobs and the best of them', async () => {
    const response_format = named(SCHEMA)
    const answer = await readAnswer(
      await chat({
        response_format,
        n: 2,
        logprobs: true,
        best_of: 3,
        reward: { model: 'tiny-reward' },
      }),
    )
    assert.equal(answer.choices.length, 2)
    assert.deepEqual(JSON.parse(answer.choices[1].message.content), { city: 'Paris', days: 3 })
    assert.equal(last() === undefined, false)
  })
})
