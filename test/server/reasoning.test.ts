import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { createSplitter, type Start } from '../../server/chat/think-splitter.js'

type Split = {
  readonly reasoning: string
  readonly content: string
  readonly closedAt: number | null
}

const run = (start: Start, parts: readonly string[], finished = true): Split => {
  const splitter = createSplitter(start)
  const pieces = [...parts.map((part) => splitter.push(part)), splitter.end(finished)]
  return {
    reasoning: pieces.map((piece) => piece.reasoning).join(''),
    content: pieces.map((piece) => piece.content).join(''),
    closedAt: splitter.closedAt(),
  }
}

const cases: readonly {
  readonly name: string
  readonly start: Start
  readonly text: string
  readonly finished?: boolean
  readonly reasoning: string
  readonly content: string
}[] = [
  {
    name: 'a block and an answer',
    start: 'expected',
    text: '<think>\nOne.\n\nTwo.\n</think>\n\nThree.',
    reasoning: 'One.\n\nTwo.',
    content: 'Three.',
  },
  {
    name: 'blank space before the tag',
    start: 'expected',
    text: ' \n<think>a</think>b',
    reasoning: 'a',
    content: 'b',
  },
  {
    name: 'a missing opening tag',
    start: 'expected',
    text: 'One.\n</think>\n\nThree.',
    reasoning: 'One.',
    content: 'Three.',
  },
  {
    name: 'a missing close at a limit',
    start: 'expected',
    text: '<think>\nOne. Tw',
    finished: false,
    reasoning: 'One. Tw',
    content: '',
  },
  {
    name: 'a close cut at a limit',
    start: 'expected',
    text: '<think>One</thi',
    finished: false,
    reasoning: 'One',
    content: '',
  },
  {
    name: 'an empty block',
    start: 'expected',
    text: '<think></think>\n\nHi',
    reasoning: '',
    content: 'Hi',
  },
  {
    name: 'a blank block',
    start: 'expected',
    text: '<think>\n\n</think>\n\nHi',
    reasoning: '',
    content: 'Hi',
  },
  {
    name: 'no tags at all: the answer is not lost',
    start: 'expected',
    text: 'Just this.',
    reasoning: 'Just this.',
    content: 'Just this.',
  },
  {
    name: 'no tags, cut at a limit',
    start: 'expected',
    text: 'Just th',
    finished: false,
    reasoning: 'Just th',
    content: '',
  },
  {
    name: 'tags that are not',
    start: 'expected',
    text: '<think>a < b </b> </thin> c</think>d',
    reasoning: 'a < b </b> </thin> c',
    content: 'd',
  },
  {
    name: 'a budget that closes half a close',
    start: 'expected',
    text: '<think>a \n</th\n</think>b',
    reasoning: 'a',
    content: 'b',
  },
  {
    name: 'a budget that closes half an opening',
    start: 'expected',
    text: '<think\n</think>\n\nb',
    reasoning: '',
    content: 'b',
  },
  {
    name: 'a limit behind a budget that closes half an opening',
    start: 'expected',
    text: '\n<thi</thin',
    finished: false,
    reasoning: '',
    content: '',
  },
  {
    name: 'a limit behind a budget that closes half a close',
    start: 'thinking',
    text: 'a</thi</t',
    finished: false,
    reasoning: 'a',
    content: '',
  },
  {
    name: 'a limit behind two characters of a close',
    start: 'thinking',
    text: 'a</',
    finished: false,
    reasoning: 'a',
    content: '',
  },
  {
    name: 'what only looks like half a tag',
    start: 'thinking',
    text: 'a</th <b</t<</think>c',
    reasoning: 'a</th <b</t<',
    content: 'c',
  },
  {
    name: 'a second block in the answer stays',
    start: 'expected',
    text: '<think>a</think>b <think>c</think>',
    reasoning: 'a',
    content: 'b <think>c</think>',
  },
  { name: 'nothing', start: 'expected', text: '', reasoning: '', content: '' },
  {
    name: 'half a tag and no more',
    start: 'expected',
    text: '<thi',
    finished: false,
    reasoning: '',
    content: '',
  },
  {
    name: 'thinking off, plain text',
    start: 'possible',
    text: '\n Hi </think> there',
    reasoning: '',
    content: '\n Hi </think> there',
  },
  {
    name: 'thinking off, a block all the same',
    start: 'possible',
    text: '<think>a</think>\nb',
    reasoning: 'a',
    content: 'b',
  },
  {
    name: 'thinking off, half a tag',
    start: 'possible',
    text: '<thin air',
    reasoning: '',
    content: '<thin air',
  },
  {
    name: 'a closed block in the prompt',
    start: 'closed',
    text: '\n\nHi\n',
    reasoning: '',
    content: 'Hi\n',
  },
  {
    name: 'an open block in the prompt',
    start: 'thinking',
    text: '\nOne </think> Two',
    reasoning: 'One',
    content: 'Two',
  },
  {
    name: 'an answer under way',
    start: 'answer',
    text: '\n <think>x</think>',
    reasoning: '',
    content: '\n <think>x</think>',
  },
  {
    name: 'characters beyond ASCII',
    start: 'expected',
    text: '<think>é😀</think>ß',
    reasoning: 'é😀',
    content: 'ß',
  },
]

describe('the splitter', () => {
  for (const { name, start, text, finished = true, reasoning, content } of cases) {
    test(`${name}: the same at every split`, () => {
      const whole = run(start, [text], finished)
      assert.equal(whole.reasoning, reasoning)
      assert.equal(whole.content, content)
      // The engine hands out whole characters.
      const characters = [...text]
      for (let i = 0; i <= characters.length; i++) {
        for (let j = i; j <= characters.length; j++) {
          const parts = [characters.slice(0, i), characters.slice(i, j), characters.slice(j)].map(
            (part) => part.join(''),
          )
          assert.deepEqual(run(start, parts, finished), whole, JSON.stringify(parts))
        }
      }
      assert.deepEqual(run(start, [...text], finished).content, content)
    })
  }

  test('any text of tags, blanks and letters, cut anyhow, comes out the same', () => {
    const word = fc.constantFrom(
      '<think>',
      '</think>',
      '<',
      '</',
      'think',
      '>',
      ' ',
      '\n',
      'a',
      'bc',
      '😀',
    )
    fc.assert(
      fc.property(
        fc.array(word, { maxLength: 12 }).map((words) => words.join('')),
        fc.array(fc.nat(), { maxLength: 6 }),
        fc.constantFrom<Start>('thinking', 'expected', 'possible', 'closed', 'answer'),
        fc.boolean(),
        (text, cuts, start, finished) => {
          const characters = [...text]
          const end = characters.length
          const at = [0, ...cuts.map((cut) => cut % (end + 1)), end].sort((a, b) => a - b)
          const parts = at.slice(1).map((to, i) => characters.slice(at[i], to).join(''))
          assert.deepEqual(run(start, parts, finished), run(start, [text], finished))
        },
      ),
      { numRuns: 3000 },
    )
  })

  test('text that is no thinking comes out at once', () => {
    const splitter = createSplitter('possible')
    assert.equal(splitter.push('H').content, 'H')
    assert.equal(splitter.push('<think>').content, '<think>')
  })

  test('thinking comes out at once but for what may be a tag or blank space before one', () => {
    const splitter = createSplitter('expected')
    assert.equal(splitter.push('<think>\nabc').reasoning, 'abc')
    assert.equal(splitter.push(' def \n</').reasoning, ' def')
    assert.equal(splitter.push('x').reasoning, ' \n</x')
  })

  test('a cut `<` is no beginning of an answer that is held to a form', () => {
    for (const [text, finished, content] of [
      ['<', false, ''],
      ['<thi', false, ''],
      ['<', true, '<'],
      ['{<', false, '{<'],
    ] as const) {
      const splitter = createSplitter('possible', '', true)
      assert.equal(splitter.push(text).content + splitter.end(finished).content, content, text)
    }
  })

  test('the end of the closing tag is known in bytes', () => {
    assert.equal(
      run('expected', ['<think>é</think>x']).closedAt,
      Buffer.byteLength('<think>é</think>'),
    )
  })
})
