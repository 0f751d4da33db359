// The strict checkers of `eval`, and the command against a scripted server.

import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import {
  lastBoxed,
  parseToolCall,
  readItem,
  splitAnswer,
} from '../../server/commands/evaluation.js'
import { isSameMath } from '../../server/commands/math-answer.js'
import { runHere, startCommand } from './command.js'
import { type Harness, startHarness, until } from './harness.js'

const OPTIONS = { name: 'f', number: 1, unboxed: 'wrong' } as const

const text = (gold: string) =>
  readItem({ skill: 's', messages: [{ role: 'user', content: 'q' }], check: 'text', gold }, OPTIONS)

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
      OPTIONS,
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
  })

  it('takes an expression for the same however it is written, and no other', () => {
    const same = [
      ['1,000', '1000'],
      ['1{,}234', '1234'],
      ['11,\\! 111,\\! 111,\\! 100', '11111111100'],
      ['10\\,000', '10000'],
      ['(3, 100)', '(3,100)'],
      ['(1{,}234, 5)', '(1234,5)'],
      ['\\left(\\tfrac12, 3\\right)', '(\\frac{1}{2},3)'],
      ['\\dfrac{1}{2}', '\\frac{1}{2}'],
      ['\\frac34', '\\frac{3}{4}'],
      ['\\frac 59', '\\frac{5}{9}'],
      ['\\frac{\\sqrt3}2', '\\frac{\\sqrt{3}}{2}'],
      ['11\\sqrt2', '11\\sqrt{2}'],
      ['x^2', 'x^{2}'],
      ['3/4', '0.75'],
      ['\\frac{3}{4}', '0.75'],
      ['-\\frac{6}{8}', '\u22120.750'],
      ['0.50', '.5'],
      ['007', '7'],
      ['-0.0', '0'],
      ['+5', '5'],
      ['1.', '1'],
      ['1e3', '1000'],
      ['1e-7', '0.0000001'],
      ['2.5e-7', '0.00000025'],
      ['1e21', '1000000000000000000000'],
      [' x + 1 ', 'x+1'],
      ['2\\,x', '2x'],
      ['x=5', '5'],
      ['$x = 5$', '5'],
      ['\\text{Monday}', 'Monday'],
      ['90^\\circ', '90'],
      ['5.4 \\text{ cents}', '5.4'],
      ['864 \\mbox{ inches}^2', '864'],
      ['5.40\\text{ cm}', '5.4\\text{ cm}'],
      ['5 cm', '5\\text{ cm}'],
      ['\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}', '\\begin{pmatrix}1\\\\2\\end{pmatrix}'],
    ] as const
    for (const [a, b] of same) {
      assert.ok(isSameMath(a, b), `${a} is ${b}`)
      assert.ok(isSameMath(b, a), `${b} is ${a}`)
    }
    const other = [
      ['1,00', '100'],
      ['1,234,56', '123456'],
      ['(1,234)', '(1234)'],
      ['[1,100)', '[1100)'],
      ['(1,2)', '[1,2]'],
      ['2, 100', '2100'],
      ['1 3/4', '13/4'],
      ['\\frac123', '\\frac{1}{23}'],
      // Doubles do not tell them apart.
      ['9007199254740993', '9007199254740992'],
      ['0.1000000000000000000001', '0.1'],
      ['\\frac{1}{3}', '0.3333333333333333'],
      // No memory would hold them.
      ['1e999999999', '1e999999998'],
      ['1/0', '2/0'],
      ['-5', '5'],
      ['x=5', 'y=5'],
      ['2x', '2'],
      ['5\\text{ cm}', '5\\text{ m}'],
      ['5\\text{ cm}^2', '5\\text{ cm}^3'],
      ['5\\text{ or }7', '5'],
      ['', '0'],
    ] as const
    for (const [a, b] of other) {
      assert.ok(!isSameMath(a, b), `${a} is not ${b}`)
      assert.ok(!isSameMath(b, a), `${b} is not ${a}`)
    }
  })

  it('compares answers of any length at once', () => {
    const began = process.cpuUsage().user
    for (const part of [
      '9',
      '\\frac{',
      '\\text{',
      '1 ',
      '1,\\!',
      '$',
      '\\frac{a{b}',
      '\\text{a}$.',
    ])
      assert.ok(!isSameMath(part.repeat(50_000), `${part.repeat(50_000)}x`))
    const seconds = (process.cpuUsage().user - began) / 1e6
    assert.ok(seconds < 5, `${seconds} s`)
  })

  it('takes GSM8K, MATH and MMLU as they are published', () => {
    const judged = (line: object, right: string, wrong: string) => {
      const item = readItem(line, OPTIONS)
      assert.equal(item.judge(`It is \\boxed{${right}}.`).right, true, JSON.stringify(line))
      assert.equal(item.judge(`It is \\boxed{${wrong}}.`).right, false, JSON.stringify(line))
      return String(item.messages[0]?.content)
    }
    judged({ question: 'q', answer: 'She sold 24/2 = <<24/2=12>>12.\n#### 1,012' }, '1012', '12')
    judged({ question: 'q', answer: '#### -3\n' }, '-3', '3')
    // Only the last line is the answer's.
    judged({ question: 'q', answer: '#### 1\nx+1' }, '#### 1\nx+1', '1')
    const solution = 'So $x=\\boxed{2}$, hence $\\boxed{\\frac{1}{2}}$.'
    judged({ problem: 'p', level: 'Level 1', solution }, '\\dfrac{1}{2}', '2')
    judged({ problem: 'p', solution, answer: '7' }, '7', '2')
    const mmlu = { question: 'q', subject: 's', choices: ['w', 'x', 'y', 'z'] }
    assert.match(judged({ ...mmlu, answer: 0 }, 'A', 'B'), /A\. w\nB\. x\nC\. y\nD\. z/)
    judged({ ...mmlu, answer: 3 }, 'D', 'C')
    judged({ ...mmlu, answer: 'C' }, 'C', 'D')
    assert.throws(
      () => readItem({ ...mmlu, answer: 4 }, OPTIONS),
      /'answer' is 'E', but its options/,
    )
    assert.throws(() => readItem({ ...mmlu, answer: -1 }, OPTIONS), /'answer' is '-1', but/)
    for (const [line, why] of [
      [{ problem: 'p', solution: 'none' }, /^Error: needs 'answer', or a 'solution' that ends in/],
      [{ question: 'q' }, /^Error: needs 'skill', .*, or 'question' and 'answer'/],
      [{ answer: 'a' }, /^Error: needs 'question' \(or 'problem'\) \(it has answer\)$/],
    ] as const)
      assert.throws(() => readItem(line, OPTIONS), why)
  })

  it('asks with the card prompts', () => {
    const math = readItem({ problem: '1+1?', answer: 2 }, OPTIONS)
    assert.match(String(math.messages[0]?.content), /\\boxed\{\}\.\nQuestion: 1\+1\?$/)
    assert.equal(math.judge('so \\boxed{2.0}').right, true)
    assert.deepEqual(math.judge('2'), { wellFormed: false, right: false })
    const choice = readItem({ question: 'q', options: ['w', 'x', 'y', 'z'], answer: 'C' }, OPTIONS)
    assert.match(String(choice.messages[0]?.content), /\nC\. y\n/)
    assert.equal(choice.judge('\\boxed{C}').right, true)
    assert.equal(choice.judge('\\boxed{\\text{D}}').right, false)
    assert.throws(() => readItem({ question: 'q' }, OPTIONS), /needs .*\(it has question\)/)
    assert.throws(() => readItem({ prompt: 'q', answer: 'a' }, OPTIONS), /has answer, prompt/)
    assert.throws(
      () => readItem({ question: 5, answer: 'a' }, OPTIONS),
      /^Error: question: expected/,
    )
    const skill = { skill: 's', messages: [{ role: 'user' }], check: 'exact', gold: 1 }
    assert.throws(
      () => readItem(skill, OPTIONS),
      /^Error: check: "exact". Supported values are: "text"/,
    )
  })

  it('asks choices of as many options as there are, and refuses a letter that is none', () => {
    const ten = readItem({ question: 'q', options: [...'qrstuvwxyz'], answer: 'j' }, OPTIONS)
    assert.match(String(ten.messages[0]?.content), /\nJ\. z\n.* A, B, C, D, E, F, G, H, I, or J\)/)
    assert.deepEqual(ten.judge('\\boxed{\\text{J}}'), { wellFormed: true, right: true })
    const two = readItem({ question: 'q', options: { B: 'no', A: 'yes' }, answer: 'B' }, OPTIONS)
    assert.match(String(two.messages[0]?.content), /\nA\. yes\nB\. no\n.* letter A or B\) into/)
    assert.deepEqual(two.judge('\\boxed{C}'), { wellFormed: false, right: false })
    const wrong = (options: unknown, answer: unknown) => () =>
      readItem({ question: 'q', options, answer }, OPTIONS)
    assert.throws(wrong(['x', 'y'], 'C'), /'answer' is 'C', but its options make it one of A, B/)
    assert.throws(wrong(['x', 'y'], 1), /'answer' is '1'/)
    for (const options of [['x'], { A: 'x', C: 'y' }, Array<string>(27).fill('x')])
      assert.throws(wrong(options, 'A'), /'options' must be a list of 2 to 26 texts/)
  })

  it('judges answers without a box by their last number or letter where it is told to', () => {
    const options = { ...OPTIONS, unboxed: 'last' } as const
    const sum = readItem({ question: '12 + 30?', answer: '42' }, options)
    assert.deepEqual(sum.judge('12 + 30 = 42.'), { wellFormed: false, right: true })
    assert.equal(sum.judge('The answer is 42, as asked.').right, true)
    assert.equal(sum.judge('12 + 30 = 1,042').right, false)
    assert.equal(readItem({ question: 'q', answer: 1042 }, options).judge('1,042, ok').right, true)
    assert.equal(sum.judge('42, or \\boxed{41}').right, false)
    assert.equal(sum.judge('-42').right, false)
    assert.equal(sum.judge('no idea').right, false)
    const choice = readItem({ question: 'q', options: ['w', 'x', 'y', 'z'], answer: 'C' }, options)
    assert.equal(choice.judge('Not A. The answer is C.').right, true)
    assert.equal(choice.judge('Certainly').right, false)
  })

  it('finds the thinking wherever it stands', () => {
    const apart = { thinking: 'a', answer: 'b' }
    assert.deepEqual(splitAnswer('b', 'a'), apart)
    assert.deepEqual(splitAnswer('<think>\na\n</think>\n\nb', null), apart)
    assert.deepEqual(splitAnswer('b', null), { thinking: '', answer: 'b' })
  })
})

const evaluate = (args: readonly string[]) => runHere(['eval', ...args])

describe('eval', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-eval-'))
  const input = join(folder, 'sums.jsonl')
  let h: Harness
  before(async () => {
    h = await startHarness({
      answer: (prompt) => ({ pieces: [prompt.includes('12') ? '12 + 30 = 42.' : '\\boxed{3}'] }),
    })
    writeFileSync(
      input,
      [
        { question: '12 + 30?', answer: 42 },
        { question: '1 + 2?', answer: '3' },
        { question: 'x'.repeat(2000), answer: '3' },
      ]
        .map((one) => `${JSON.stringify(one)}\n`)
        .join(''),
    )
  })
  after(async () => {
    await h.close()
    rmSync(folder, { recursive: true })
  })

  it('says which answers had no box, and judges them as told', async () => {
    const args = [input, '--url', `${h.url}/v1`, '--thinking', 'off', '--summary', 'json']
    const stopped = await evaluate(args)
    assert.equal(stopped.code, 1)
    assert.match(stopped.err, /question 3 of sums: .*maximum context length/)
    const output = join(folder, 'answers.jsonl')
    const strict = await evaluate([...args, '--on-error', 'skip', '-o', output])
    assert.equal(strict.code, 0, strict.err)
    assert.match(
      strict.err,
      /1 of 3 answers have no \\boxed\{\}, .* count as wrong: --unboxed last/,
    )
    assert.match(strict.err, /1 of 3 questions were refused by the server and count as wrong/)
    assert.deepEqual(JSON.parse(strict.out).right.sums, {
      ...{ items: 3, off: 1 / 3, on: null, steps: null, well_formed: 1 / 3 },
    })
    const written = readFileSync(output, 'utf8').trimEnd().split('\n')
    assert.deepEqual(
      written.map((line) => JSON.parse(line)).map(({ right, error }) => [right, typeof error]),
      [
        [false, 'undefined'],
        [true, 'undefined'],
        [false, 'string'],
      ],
    )
    const last = await evaluate([...args, '--on-error', 'skip', '--unboxed', 'last'])
    assert.match(last.err, /were judged by their last number or letter/)
    assert.equal(JSON.parse(last.out).right.sums.off, 2 / 3)
  })

  it('writes each answer as it comes, goes on, and never writes over a file', async () => {
    const output = join(folder, 'kept.jsonl')
    const args = [input, '--thinking', 'off', '--summary', 'json', '--concurrency', '1']
    const there = [...args, '--url', `${h.url}/v1`, '-o', output]
    const asked = h.engine.requests.length
    const stopped = await evaluate(there)
    assert.equal(stopped.code, 1)
    assert.match(stopped.err, /question 3 of sums: .*maximum context length/)
    const rights = () =>
      readFileSync(output, 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line).right)
    assert.deepEqual(rights(), [false, true])
    const other = await evaluate([...there, '--unboxed', 'last'])
    assert.equal(other.code, 1)
    assert.match(other.err, /was begun with other questions, another model or other flags/)
    const { code, err, out } = await evaluate([...there, '--on-error', 'skip'])
    assert.equal(code, 0, err)
    assert.match(err, /went on after 2 answers of an earlier run/)
    assert.match(err, /1 of 3 answers have no \\boxed/)
    assert.equal(JSON.parse(out).right.sums.off, 1 / 3)
    assert.deepEqual(rights(), [false, true, false])
    assert.equal(h.engine.requests.length, asked + 2)
    for (const at of [h.url, 'http://127.0.0.1:1']) {
      const again = await evaluate([...args, '--url', `${at}/v1`, '-o', output])
      assert.equal(again.code, 1)
      assert.match(again.err, /kept\.jsonl exists and is no unfinished job/)
      assert.equal(rights().length, 3)
    }
    const piped = await evaluate([...args, '--url', `${h.url}/v1`, '--on-error', 'skip', '-o', '-'])
    assert.equal(piped.out, readFileSync(output, 'utf8'))
    assert.match(piped.err, /"off": 0\.33/)
  })

  it('ends at a signal with what was answered written', async () => {
    const [file, output] = [join(folder, 'many.jsonl'), join(folder, 'stopped.jsonl')]
    writeFileSync(file, '{"question": "1 + 2?", "answer": "3"}\n'.repeat(3000))
    const { child, ended } = startCommand([
      'eval',
      ...[file, '--url', `${h.url}/v1`, '--thinking', 'off', '--concurrency', '1', '-o', output],
    ])
    const isBegun = () => existsSync(output) && statSync(output).size > 0
    await until(() => isBegun() || child.exitCode !== null, 'answers are written')
    child.kill('SIGINT')
    const { code, err } = await ended
    assert.deepEqual([code, child.signalCode], [null, 'SIGINT'], err)
    assert.match(err, /stopped by SIGINT: the same command goes on\n$/)
    const written = readFileSync(output, 'utf8').trimEnd().split('\n')
    assert.equal(JSON.parse(readFileSync(`${output}.state`, 'utf8')).lines, written.length)
  })

  it('tells each model its mode in the way that it reads', async () => {
    const file = join(folder, 'one.jsonl')
    writeFileSync(file, '{"question": "1 + 2?", "answer": "3"}\n')
    const asked: string[] = []
    const answer = (prompt: string) => {
      asked.push(prompt)
      return { pieces: ['\\boxed{3}'] }
    }
    const plain = '{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}'
    const ways: readonly (readonly [template: string, off: RegExp, on: RegExp | undefined])[] = [
      [
        `${plain}{# detailed thinking #}`,
        /^\[system\]detailed thinking off\[user\]/,
        /thinking on\[user\]/,
      ],
      [`${plain}{# /no_think #}`, /^\[system\]\/no_think\[user\]/, /^\[user\]/],
      [`${plain}{{ enable_thinking }}`, /^\[user\].*False$/s, /^\[user\].*True$/s],
      [plain, /^\[user\]/, undefined],
    ]
    for (const [template, off, on] of ways) {
      const one = await startHarness({ answer, template, id: 'model' })
      asked.length = 0
      const args = [file, '--url', `${one.url}/v1`, '--summary', 'json']
      const done = await evaluate(args)
      assert.equal(done.code, 0, done.err)
      assert.equal(asked.length, on === undefined ? 1 : 2)
      assert.match(asked[0] ?? '', off)
      if (on !== undefined) assert.match(asked[1] ?? '', on)
      else {
        assert.match(done.err, /does not reason: it is asked as with thinking off/)
        const refused = await evaluate([...args, '--thinking', 'on'])
        assert.equal(refused.code, 1)
        assert.match(refused.err, /--thinking on: .* does not reason/)
      }
      await one.close()
    }
  })

  it('says what is wrong with its input and its output', async () => {
    const url = ['--url', 'http://127.0.0.1:1/v1']
    const missing = await evaluate(['/nowhere.jsonl', ...url])
    assert.equal(missing.code, 1)
    assert.match(missing.err, /nowhere\.jsonl cannot be read \(ENOENT\)/)
    const wrong = join(folder, 'wrong.jsonl')
    writeFileSync(wrong, '{"question":"q"}\n{\n{"question":"q","answer":"1"}\n')
    const lines = await evaluate([wrong, ...url])
    assert.match(
      lines.err,
      /2 lines cannot be used:\n.*line 1: needs 'skill'.*\n.*line 2: it is only the beginning/,
    )
    const nowhere = await evaluate([input, ...url, '-o', join(folder, 'no', 'o')])
    assert.match(nowhere.err, /no\/o cannot be written \(ENOENT\)/)
  })
})
