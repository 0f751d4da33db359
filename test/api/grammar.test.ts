import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { readGrammar, recognises } from '../../bench/grammar/recogniser.js'
import { openEngine } from '../../server/engine/engine.js'
import type { Engine, GenerateRequest, Grammar, Sampling } from '../../server/engine/types.js'
import { generate, idsOf, smallEngine, textOf } from './support.js'
import { tinyCheckpoint } from './tiny_checkpoint.js'

const folder = tinyCheckpoint()

const JSON_TEXT = `root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ("," ws pair){0,3})? "}" ws
pair ::= string ":" ws value
array ::= "[" ws (value ("," ws value){0,3})? "]" ws
string ::= "\\"" ([^"\\\\\\x00-\\x1F\\x7F] | "\\\\" ["\\\\bfnrt]){0,6} "\\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,4}) ws
ws ::= " "?
`

describe('grammars', () => {
  let engine: Engine
  before(async () => {
    engine = await openEngine(smallEngine(folder))
  })
  after(() => engine.close())

  const answer = async (
    grammar: string,
    sampling: Sampling,
    request: Partial<GenerateRequest> = {},
  ) => generate(engine, sampling, { ...request, grammar: await engine.compileGrammar(grammar) })

  test('an answer that has ended is the grammar’s, whatever the model wants', async () => {
    const reader = readGrammar(JSON_TEXT)
    let ended = 0
    for (let seed = 0; seed < 40; seed++) {
      const deltas = await answer(JSON_TEXT, { seed, maxTokens: 300, temperature: 1 })
      const finish = deltas.at(-1)?.finish
      const text = textOf(deltas)
      if (finish === 'stop') {
        ended++
        assert.ok(recognises(reader, text), text)
        JSON.parse(text)
      } else assert.equal(finish, 'length')
    }
    assert.ok(ended > 10, `${ended} ended`)
  })

  test('ends by a stop token where nothing else may come, whatever minTokens says', async () => {
    const deltas = await answer('root ::= "yes" | "no"', { minTokens: 10, maxTokens: 20 })
    assert.match(textOf(deltas), /^(yes|no)$/)
    assert.equal(deltas.at(-1)?.finish, 'stop')
    const on = await answer('root ::= "yes" | "no"', { ignoreEos: true, maxTokens: 9 })
    assert.match(textOf(on), /^(yes|no)$/)
    assert.equal(idsOf(on).length, 9)
  })

  test('the choices of a request each are its text, with the same draws as alone', async () => {
    const grammar = await engine.compileGrammar('root ::= [a-e]{5,9} ("-" [0-9]+)?')
    const sampling = { seed: 5, maxTokens: 30, logprobs: 2 }
    const three = await generate(engine, sampling, { grammar, n: 3 })
    const one = await generate(engine, sampling, { grammar })
    assert.deepEqual(idsOf(three, 0), idsOf(one))
    for (const choice of [0, 1, 2]) assert.match(textOf(three, choice), /^[a-e]{5,9}(-[0-9]*)?$/)
  })

  test('free text up to a trigger, the grammar’s from there', async () => {
    const sampling = { temperature: 1, maxTokens: 200, logitBias: new Map([[60, 8]]) } // '<'
    let begun = 0
    for (let seed = 0; seed < 10; seed++) {
      const deltas = await answer(
        'root ::= "x"{3} | "y"{4}',
        { ...sampling, seed },
        { grammarAfter: ['<<<', '>>'] },
      )
      const text = textOf(deltas)
      const at = text.search(/<<<|>>/)
      if (at < 0) continue
      begun++
      const rest = text.slice(at + (text[at] === '<' ? 3 : 2))
      if (deltas.at(-1)?.finish === 'stop') assert.match(rest, /^(xxx|yyyy)$/)
      else assert.match(rest, /^(x{0,3}|y{0,4})$/)
    }
    assert.ok(begun > 5, `${begun} begun`)
  })

  test('a block of thinking is free, and its budget holds', async () => {
    const grammar = 'root ::= "{}"'
    const open = { thinkingOpen: true, thinkingBudget: 5, maxTokens: 60 }
    for (let seed = 0; seed < 5; seed++) {
      const text = textOf(await answer(grammar, { ...open, seed, temperature: 1 }))
      assert.match(text, /^[\s\S]*\n<\/think>\n\n\{\}$/)
    }
    // Where the answer may open a block it does so first or not at all.
    const wish = { mayThink: true, maxTokens: 30, logitBias: new Map([[60, 50]]) } // '<'
    assert.match(textOf(await answer(grammar, wish)), /^<think>/)
    assert.equal(
      textOf(
        await answer(grammar, { mayThink: true, maxTokens: 30, logitBias: new Map([[60, -50]]) }),
      ),
      '{}',
    )
    assert.equal(
      textOf(await answer(grammar, { maxTokens: 30, logitBias: new Map([[60, 50]]) })),
      '{}',
    )
  })

  test('a text is compiled once, and a wrong one is refused with its place each time', async () => {
    const [a, b] = await Promise.all([1, 2].map(() => engine.compileGrammar('root ::= "a"+')))
    assert.equal(a, b)
    for (let i = 0; i < 2; i++) {
      await assert.rejects(engine.compileGrammar('root ::= "a" |'), {
        code: 'invalid_argument',
        message: /^grammar: line 1, column 15 \(rule 'root'\): found the end of the text/,
      })
    }
    await assert.rejects(async () => engine.compileGrammar(7 as never), /text must be a string/)
  })

  test('what is no grammar of this engine is refused by name', async () => {
    const refuses = (request: Partial<GenerateRequest>, message: RegExp) =>
      assert.rejects(async () => generate(engine, { maxTokens: 2 }, request), {
        code: 'invalid_argument',
        message,
      })
    await refuses({ grammar: {} as Grammar }, /grammar must be what compileGrammar\(\) gives/)
    await refuses({ grammarAfter: ['x'] }, /grammar_after: there is no grammar/)
    const grammar = await engine.compileGrammar('root ::= "a"')
    await refuses({ grammar, grammarAfter: [''] }, /grammar_after: found a string of 0 bytes/)
    const other = await openEngine(smallEngine(folder))
    try {
      const foreign = await other.compileGrammar('root ::= "a"')
      await refuses({ grammar: foreign }, /grammar: was compiled by another engine/)
    } finally {
      await other.close()
    }
    await assert.rejects(other.compileGrammar('root ::= "b"'), { code: 'unavailable' })
  })
})
