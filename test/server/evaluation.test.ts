// The strict checkers of `eval`, and the command against a scripted server.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { describe, it } from 'node:test'
import {
  lastBoxed,
  normaliseMath,
  parseToolCall,
  readItem,
  splitAnswer,
} from '../../server/commands/evaluation.js'

const text = (gold: string) =>
  readItem({ skill: 's', messages: [{ role: 'user', content: 'q' }], check: 'text', gold }, 'f', 1)

describe('checkers', () => {
  it('wants the whole answer', () => {
    assert.deepEqual(text('There are 3.').judge('There are 3.'), { right: true, wellFormed: true })
    assert.equal(text('There are 3.').judge('There are 3. Yes').right, false)
  })

  it('compares tool calls as JSON', () => {
    const item = readItem(
      {
        skill: 's',
        messages: [{ role: 'user', content: 'q' }],
        tools: [{ type: 'function', function: { name: 'f', parameters: { a: [1, true] } } }],
        check: 'tool_call',
        gold: { name: 'f', arguments: { a: 1, b: 'x' } },
      },
      'f',
      1,
    )
    assert.equal(
      item.system,
      '<AVAILABLE_TOOLS>[{"name": "f", "parameters": {"a": [1, true]}}]</AVAILABLE_TOOLS>',
    )
    const verdict = (answer: string) => item.judge(answer)
    assert.deepEqual(
      verdict('<TOOLCALL>[{"name": "f", "arguments": {"b": "x", "a": 1}}]</TOOLCALL>'),
      { right: true, wellFormed: true },
    )
    assert.deepEqual(
      verdict('<TOOLCALL>[{"name": "f", "arguments": {"b": "x", "a": "1"}}]</TOOLCALL>'),
      { right: false, wellFormed: true },
    )
    for (const broken of ['', 'x<TOOLCALL>[{}]</TOOLCALL>', '<TOOLCALL>[{"name": 1}]</TOOLCALL>'])
      assert.deepEqual(verdict(broken), { right: false, wellFormed: false })
    assert.equal(
      parseToolCall('<TOOLCALL>[{"name":"f","arguments":{},"x":1}]</TOOLCALL>'),
      undefined,
    )
  })

  it('reads boxed answers with their braces', () => {
    assert.equal(lastBoxed('\\boxed{1} then \\boxed{\\frac{1}{2}}.'), '\\frac{1}{2}')
    assert.equal(lastBoxed('no box'), undefined)
    assert.equal(lastBoxed('\\boxed{open'), undefined)
    for (const [a, b] of [
      ['1,000', '1000'],
      ['\\dfrac{1}{2}', '\\frac{1}{2}'],
      ['0.50', '.5'],
      [' x + 1 ', 'x+1'],
      ['\\text{Monday}', 'Monday'],
      ['90^\\circ', '90'],
    ] as const)
      assert.equal(normaliseMath(a), normaliseMath(b), a)
    assert.notEqual(normaliseMath('1,00'), normaliseMath('100'))
  })

  it('asks with the card prompts', () => {
    const math = readItem({ problem: '1+1?', answer: 2 }, 'math500', 1)
    assert.match(String(math.messages[0]?.content), /\\boxed\{\}\.\nQuestion: 1\+1\?$/)
    assert.equal(math.judge('so \\boxed{2.0}').right, true)
    assert.equal(math.judge('2').wellFormed, false)
    const choice = readItem(
      { question: 'q', options: ['w', 'x', 'y', 'z'], answer: 'C' },
      'gpqa_d',
      1,
    )
    assert.match(String(choice.messages[0]?.content), /\nC\. y\n/)
    assert.equal(choice.judge('\\boxed{C}').right, true)
    assert.equal(choice.judge('\\boxed{\\text{D}}').right, false)
    assert.throws(() => readItem({ question: 'q' }, 'f', 1), /needs/)
  })

  it('finds the thinking wherever it stands', () => {
    const apart = { thinking: 'a', answer: 'b' }
    assert.deepEqual(splitAnswer('b', 'a'), apart)
    assert.deepEqual(splitAnswer('<think>\na\n</think>\n\nb', null), apart)
    assert.deepEqual(splitAnswer('b', null), { thinking: '', answer: 'b' })
  })
})

describe('eval', () => {
  it('says what is wrong with its input', () => {
    const { status, stderr } = spawnSync(
      process.execPath,
      [
        '--import',
        'tsx',
        'server/cli.ts',
        'eval',
        '/nowhere.jsonl',
        '--url',
        'http://127.0.0.1:1/v1',
      ],
      { encoding: 'utf8' },
    )
    assert.notEqual(status, 0)
    assert.match(stderr, /nowhere\.jsonl/)
  })
})
