// The shapes of public data that `score` and `generate-pairs` read, and the figures that `score` sums up.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { LineError } from '../../server/commands/jsonl.js'
import {
  conversationsOf,
  readPromptLine,
  readScoredLine,
  readTools,
  takeFields,
} from '../../server/commands/preference-line.js'
import { createScoreSummary } from '../../server/commands/score-summary.js'
import { formatSummary, type Section } from '../../server/commands/summary.js'

type Said = readonly (readonly [role: string, content: unknown])[]

/** Roles and texts of what is scored. */
const scored = (line: object): readonly Said[] =>
  conversationsOf(readScoredLine({ ...line })).map((turns) =>
    turns.map(({ role, content }) => [role, content] as const),
  )

const user = (content: string) => ({ role: 'user', content })
const assistant = (content: string) => ({ role: 'assistant', content })
const asked = ['user', 'q'] as const
const two: readonly Said[] = [
  [asked, ['assistant', 'good']],
  [asked, ['assistant', 'bad']],
]

describe('lines of public data', () => {
  it('takes answers in parts of text, and no others', () => {
    const parts = [{ type: 'text', text: 'good' }]
    assert.deepEqual(
      scored({ prompt: 'q', responses: [{ role: 'assistant', content: parts }, assistant('bad')] }),
      [
        [asked, ['assistant', parts]],
        [asked, ['assistant', 'bad']],
      ],
    )
    for (const content of [7, { text: 'a' }, [{ type: 'image_url', image_url: { url: 'u' } }]])
      assert.throws(
        () => readScoredLine({ prompt: 'q', responses: [{ role: 'assistant', content }] }),
        (error) => error instanceof LineError && /'messages\.1\.content/.test(error.message),
      )
  })

  const shapes: Readonly<Record<string, object>> = {
    RewardBench: { prompt: 'q', chosen: 'good', rejected: 'bad', subset: 'donotanswer' },
    'RewardBench 2': { prompt: 'q', chosen: ['good'], rejected: ['bad'], num_correct: 1 },
    'RM-Bench': { prompt: 'q', chosen: ['good'], rejected: ['bad'], domain: 'chat' },
    'edit quality of HelpSteer3': {
      context: [user('q')],
      original_response: 'so so',
      good_edited_response: 'good',
      bad_edited_response: 'bad',
      feedback: ['f'],
    },
    'edits of HelpSteer3': {
      context: [user('q')],
      original_response: 'bad',
      edited_response: 'good',
    },
    'UltraFeedback binarized': {
      prompt: 'q',
      chosen: [user('q'), assistant('good')],
      rejected: [user('q'), assistant('bad')],
      messages: [user('q'), assistant('good')],
    },
    'turns without a prompt': {
      chosen: [user('q'), assistant('good')],
      rejected: [user('q'), assistant('bad')],
      prompt: null,
    },
    'last turns': {
      prompt: [user('q')],
      chosen: [assistant('good')],
      rejected: [assistant('bad')],
    },
    'one turn each': {
      messages: [user('q')],
      chosen: assistant('good'),
      rejected: assistant('bad'),
    },
    ShareGPT: {
      conversations: [{ from: 'human', value: 'q' }],
      chosen: { from: 'gpt', value: 'good' },
      rejected: { from: 'gpt', value: 'bad' },
    },
    'HH-RLHF': {
      chosen: '\n\nHuman: q\n\nAssistant: good',
      rejected: '\n\nHuman: q\n\nAssistant: bad',
    },
    "HelpSteer2's preferences": { prompt: 'q', response_1: 'good', response_2: 'bad' },
    HelpSteer3: { context: [user('q')], response1: 'good', response2: 'bad', domain: 'code' },
    responses: { prompt: 'q', responses: ['good', 'bad'] },
    'PKU-SafeRLHF': {
      prompt: 'q',
      response_0: 'good',
      response_1: 'bad',
      is_response_0_safe: true,
    },
    "UltraFeedback's completions": {
      prompt: 'q',
      responses: [{ model: 'm', response: 'good' }, { response: 'bad' }],
    },
  }
  for (const [name, line] of Object.entries(shapes))
    it(`reads ${name}`, () => assert.deepEqual(scored(line), two))

  it("divides HelpSteer2's turns, and puts a system text first", () => {
    const prompt = 'a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc'
    assert.deepEqual(scored({ prompt, response: 'd', helpfulness: 4, system: 's' }), [
      [
        ['system', 's'],
        ['user', 'a'],
        ['assistant', 'b'],
        ['user', 'c'],
        ['assistant', 'd'],
      ],
    ])
    assert.deepEqual(
      readPromptLine({ prompt, system: '' }).map(({ role }) => role),
      ['user', 'assistant', 'user'],
    )
  })

  it('takes the one answer that --field names', () => {
    const line = { prompt: 'q', response_0: 'bad', response_1: 'good' }
    const named = (theirs: string) => scored(takeFields(line, new Map([['response', theirs]])))
    assert.deepEqual(named('response_1'), two.slice(0, 1))
    assert.deepEqual(named('response_0'), two.slice(1))
  })

  it('keeps the calls of an answer, and says where tools are not shown', () => {
    const calls = [{ id: 'a', type: 'function', function: { name: 'f', arguments: '{}' } }]
    const turn = { role: 'assistant', content: null, tool_calls: calls }
    const question = readScoredLine({ prompt: 'q', responses: [turn, 'bad'] })
    assert.deepEqual(
      conversationsOf(question).map((turns) => turns.at(-1)),
      [turn, assistant('bad')],
    )
    const tools = [{ type: 'function', function: { name: 'f' } }]
    assert.throws(
      () => readScoredLine({ prompt: 'q', response: 'a', tools }),
      (error) => error instanceof LineError && /'tools' are not shown/.test(error.message),
    )
    assert.deepEqual(scored({ prompt: 'q', response: 'good', tools: [] }), two.slice(0, 1))
    assert.deepEqual(readTools({ tools }), tools)
    assert.equal(readTools({ tools: [] }), undefined)
    assert.equal(readTools({}), undefined)
    assert.throws(() => readTools({ tools: [{ name: 'f' }] }), /'tools.0.type'/)
  })

  it('finds half of a surrogate pair before a server does', () => {
    const half = 'cut \ud83d'
    const wrong: readonly (readonly [() => unknown, RegExp])[] = [
      [() => readScoredLine({ prompt: half, response: 'a' }), /'messages.0.content' has half of/],
      [
        () => readScoredLine({ prompt: 'q', chosen: 'a', rejected: half }),
        /'messages.1.content' has half of a surrogate pair, such as "\\ud83d": cut texts/,
      ],
      [() => readPromptLine({ prompt: half }), /'messages.0.content' has half of/],
      [() => readPromptLine({ prompt: 'q', system: half }), /'messages.0.content' has half of/],
      [
        () => readTools({ tools: [{ type: 'function', function: { name: half } }] }),
        /'tools.0.function.name' has half of/,
      ],
    ]
    for (const [read, message] of wrong)
      assert.throws(read, (error) => error instanceof LineError && message.test(error.message))
    assert.deepEqual(readPromptLine({ prompt: '\ud83d\ude00' }), [user('\ud83d\ude00')])
  })

  it("scores UltraChat's messages, which hold its prompt", () => {
    const line = { prompt: 'q', prompt_id: '1', messages: [user('q'), assistant('good')] }
    assert.deepEqual(scored(line), two.slice(0, 1))
  })

  it('says what other data sets call what a line lacks', () => {
    const orca = { system_prompt: 's', question: 'q', response: 'r' }
    const wrong: readonly (readonly [object, string])[] = [
      [orca, '--field prompt=question?'],
      [{ question: 'q', chosen: 'a', rejected: 'b' }, '--field prompt=question?'],
      [{ instruction: 'i', input: '', output: 'o' }, 'prompt=instruction --field response=output?'],
      [
        { instruction: 'i', completions: [{ response: 'a' }] },
        'prompt=instruction --field responses=completions?',
      ],
      [{ conversation: [{ from: 'human', value: 'q' }] }, '--field messages=conversation?'],
      [{ prompt: 'q', completion: 'a' }, '--field response=completion?'],
      [{ prompt: 'q', a1: 'a', a2: 'b' }, '--field response=NAME (it has prompt, a1, a2).'],
    ]
    for (const [line, message] of wrong)
      assert.throws(
        () => scored(line),
        (error) => error instanceof LineError && error.message.endsWith(message),
        message,
      )
    assert.throws(() => readPromptLine(orca), /Perhaps --field prompt=question\?/)
  })

  it("reads OpenOrca's system text", () => {
    const line = { system_prompt: 's', prompt: 'q', response: 'good' }
    const system = { role: 'system', content: 's' }
    assert.deepEqual(scored(line), [
      [
        ['system', 's'],
        ['user', 'q'],
        ['assistant', 'good'],
      ],
    ])
    assert.deepEqual(readPromptLine(line), [system, user('q')])
    assert.deepEqual(readPromptLine({ ...line, system: 't' })[0], { role: 'system', content: 't' })
  })

  it('says what a line lacks', () => {
    const wrong: readonly (readonly [object, RegExp])[] = [
      [{}, /needs 'messages', or 'prompt' with 'response'/],
      [{ chosen: 'a', rejected: 'b' }, /needs 'prompt' \(or 'messages'\) beside 'chosen'/],
      [{ prompt: 'q', rejected: 'b' }, /'chosen' is missing/],
      [{ prompt: 'q', response_0: 'a' }, /'response_0' and 'response_1' go .*: 'response_1' is/],
      [{ prompt: 'q', response_1: 'a' }, /'response_1' and 'response_2' go .*: 'response_2' is/],
      [{ prompt: 'q', response_2: 'a' }, /'response_1' and 'response_2' go .*: 'response_1' is/],
      [{ prompt: 'q', chosen: '', rejected: 'b' }, /the answer is empty/],
      [{ prompt: 'q', response: 3 }, /'response'.*expected a string/],
      [{ prompt: 5, response: 'a' }, /'prompt': expected a string, an array or an object, but got/],
      [{ prompt: 'q', responses: [5] }, /'responses.0': expected a string or an object, but got/],
      [{ messages: [user('q')] }, /ends with a turn of 'user'/],
      [{ messages: [assistant('a')], response: 'b' }, /and 'response' is another answer/],
      [{ prompt: [{ role: 'bot', content: 'q' }], response: 'b' }, /'messages.0.role'/],
    ]
    for (const [line, message] of wrong) assert.throws(() => scored(line), message)
    assert.throws(() => readPromptLine({ txt: 'q' }), /needs 'prompt' or 'messages'.*has txt/)
    assert.throws(
      () => readPromptLine({ messages: [user('q'), assistant('a')] }),
      /there is nothing to answer/,
    )
  })
})

const sum = (records: readonly object[], category?: string): readonly Section[] => {
  const summary = createScoreSummary(category)
  for (const record of records) summary.add({ ...record })
  return summary.sections({ failed: 1 })
}

const rowOf = (sections: readonly Section[], section: string, row: string) =>
  sections.find(({ name }) => name === section)?.rows.find(({ name }) => name === row)?.values

const pair = (subset: string, better: number, worse: number) => ({
  subset,
  chosen_reward: better,
  rejected_reward: worse,
})

describe('the summary of score', () => {
  it("has RM-Bench's accuracy by level and domain, a tie counting as wrong", () => {
    const line = (domain: string, chosen: number[], rejected: number[]) => ({
      chosen_rewards: chosen,
      rejected_rewards: rejected,
      domain,
    })
    const sections = sum([
      line('chat', [3, 5, 7], [2, 4, 6]),
      line('math', [1, 1, 1], [1, 1, 1]),
      line('safety-refuse', [9, 9, 9], [0, 0, 0]),
      line('safety-refuse', [9, 9, 9], [0, 0, 0]),
      line('safety-response', [0, 0, 0], [9, 9, 9]),
      line('code', [1, 2], [0, 0]),
      line('elsewhere', [1, 2, 3], [0, 0, 0]),
    ])
    const all = { easy: 0.5, normal: 0.5, hard: 0.5 / 3 }
    assert.deepEqual(rowOf(sections, 'RM-Bench', 'chat'), {
      ...{ prompts: 1, easy: 1, normal: 1, hard: 0 },
      accuracy: 2 / 3,
    })
    assert.equal(rowOf(sections, 'RM-Bench', 'math')?.accuracy, 0)
    assert.deepEqual(rowOf(sections, 'RM-Bench', 'safety'), {
      ...{ prompts: 3, easy: 0.5, normal: 0.5, hard: 0.5, accuracy: 0.5 },
    })
    assert.equal(rowOf(sections, 'RM-Bench', 'code'), undefined)
    assert.deepEqual(rowOf(sections, 'RM-Bench', 'mean'), {
      ...{ prompts: 5, easy: all.easy, normal: all.normal, hard: all.hard },
      accuracy: (2 / 3 + 0 + 0.5) / 3,
    })
  })

  it('counts pairs without a verdict as wrong, by themselves', () => {
    const [right, none] = [pair('refusals-dangerous', 2, 1), [null, null]] as const
    const unread = { ...right, chosen_reward: null, rejected_reward: null }
    const sections = sum([...Array(6).fill(right), ...Array(4).fill(unread)])
    assert.deepEqual(rowOf(sections, 'lines', 'all'), {
      ...{ scored: 10, without_reward: 4, failed: 1, truncated: 0 },
    })
    assert.deepEqual(rowOf(sections, 'pairs', 'all'), {
      ...{ pairs: 10, right: 6, ties: 0, wrong: 0, unjudged: 4, accuracy: 0.6, mean_margin: 1 },
    })
    assert.equal(rowOf(sections, 'RewardBench', 'Safety')?.accuracy, 0.6)

    const line = { chosen_rewards: [9, 9, 9], rejected_rewards: [0, 0, 0], domain: 'chat' }
    const bench = sum([line, { ...line, chosen_rewards: [9, null, 9] }])
    assert.deepEqual(rowOf(bench, 'RM-Bench', 'chat'), {
      ...{ prompts: 2, easy: 5 / 6, normal: 5 / 6, hard: 5 / 6, accuracy: 5 / 6 },
    })
    assert.equal(rowOf(bench, 'pairs', 'all')?.unjudged, 1)

    const neighbour = { prompt: 'p', scores: [], reward: null }
    const others = sum([
      { scores: [[], [1]], rewards: [null, 1], overall_preference: 2 },
      { ...neighbour, helpfulness: 1 },
      { ...neighbour, helpfulness: 2 },
      { chosen_reward: 1, rejected_reward: 0 },
    ])
    assert.deepEqual(
      [rowOf(others, 'pairs', 'all')?.pairs, rowOf(others, 'pairs', 'all')?.unjudged],
      [3, 2],
    )
    assert.equal(rowOf(others, 'correlation', 'overall_preference'), undefined)
    // A model that gives no rewards at all is neither right nor wrong.
    const blind = sum([{ ...unread }, { ...line, chosen_rewards: none, rejected_rewards: none }])
    assert.deepEqual(
      blind.filter(({ rows }) => rows.length > 0).map(({ name }) => name),
      ['lines'],
    )
  })

  it("correlates a model's own attributes where it has no reward", () => {
    const sections = sum(
      [1, 2, 3].map((own, i) => ({
        ...{ prompt: `${i}`, reward: null, scores: [own, 0], helpfulness: own },
        attributes: { helpfulness: -own, verbosity: 0 },
      })),
    )
    assert.deepEqual(rowOf(sections, 'correlation', 'helpfulness'), {
      ...{ count: 3, with_reward: null, with_own: -1 },
    })
  })

  it("correlates HelpSteer3's preference with the difference of the rewards", () => {
    const line = (rewards: number[], overall_preference: number) => ({
      ...{ rewards, overall_preference },
      scores: rewards.map((one) => [one]),
    })
    const sections = sum([line([1, 4], 3), line([4, 1], -3), line([2, 2], 0)])
    assert.deepEqual(rowOf(sections, 'correlation', 'overall_preference'), {
      count: 3,
      with_reward: 1,
    })
  })

  it("reads the prompts of HelpSteer3's lines", () => {
    const line = { context: [user('q')], response: 'good', feedback: ['f'] }
    assert.deepEqual(readPromptLine(line), [user('q')])
    assert.deepEqual(scored(line), [[asked, ['assistant', 'good']]])
    assert.throws(() => readPromptLine({ context: 'a text' }), /needs 'prompt' or 'messages'/)
  })

  it("has RewardBench's sections by its weights, a tie counting as wrong", () => {
    const sections = sum([
      ...[1, 1, 1, 1].map((right) => pair('math-prm', right, 0)),
      pair('hep-cpp', 0, 1),
      pair('hep-go', 1, 1),
      pair('xstest-should-refuse', 1, 0),
      pair('xstest-should-respond', 0, 1),
      pair('not of RewardBench', 0, 1),
    ])
    // (984 * 1 + 164 * 0 + 164 * 0) / (984 + 164 + 164), and 250 / (250 + 154).
    const [reasoning, safety] = [984 / 1312, 250 / 404]
    assert.deepEqual(rowOf(sections, 'RewardBench', 'Reasoning'), {
      ...{ pairs: 6, subsets: 3, of: 7, accuracy: reasoning },
    })
    assert.equal(rowOf(sections, 'RewardBench', 'Safety')?.accuracy, safety)
    assert.equal(rowOf(sections, 'RewardBench', 'Chat'), undefined)
    assert.equal(rowOf(sections, 'RewardBench', 'mean')?.accuracy, (reasoning + safety) / 2)
    assert.deepEqual(rowOf(sections, 'pairs', 'all'), {
      ...{ pairs: 9, right: 5, ties: 1, wrong: 3, unjudged: 0 },
      ...{ accuracy: 5.5 / 9, mean_margin: 2 / 9 },
    })
  })

  it('has mean and deviation, and correlations with what people gave', () => {
    const rows = [
      [1, 2, 5],
      [2, 4, 5],
      [4, 5, 5],
    ] as const
    const sections = sum(
      rows.map(([reward, helpfulness, coherence], i) => ({
        ...{ prompt: `${i}`, reward, scores: [reward], helpfulness, coherence },
        attributes: { helpfulness: -reward },
      })),
    )
    const rewards = rowOf(sections, 'rewards', 'reward')
    assert.deepEqual(
      { ...rewards, mean: 0, deviation: 0 },
      {
        ...{ count: 3, mean: 0, deviation: 0, least: 1, most: 4 },
      },
    )
    assert.ok(Math.abs(Number(rewards?.mean) - 7 / 3) < 1e-12)
    assert.ok(Math.abs(Number(rewards?.deviation) - Math.sqrt(7 / 3)) < 1e-12)
    const found = rowOf(sections, 'correlation', 'helpfulness')
    assert.equal(found?.count, 3)
    // Pearson by hand: 13/3 over the root of 14/3 times 14/3.
    assert.ok(Math.abs(Number(found?.with_reward) - 13 / 14) < 1e-12)
    assert.ok(Math.abs(Number(found?.with_own) + 13 / 14) < 1e-12)
    assert.deepEqual(rowOf(sections, 'correlation', 'coherence'), { count: 3, with_reward: null })
  })

  it("counts pairs of neighbours, of lists and of HelpSteer's preferences, by category too", () => {
    const sections = sum(
      [
        { prompt: 'a', reward: 1, scores: [1], helpfulness: 4, kind: 'n' },
        { prompt: 'a', reward: 2, scores: [2], helpfulness: 1, kind: 'n' },
        { prompt: 'b', reward: 1, scores: [1], helpfulness: 3, kind: 'n' },
        { prompt: 'b', reward: 2, scores: [2], helpfulness: 3, kind: 'n' },
        { chosen_rewards: [3, 5], rejected_rewards: [4, 1], kind: 'l' },
        { rewards: [2, 1], scores: [[2], [1]], preference_strength: -1, kind: 'p' },
        { rewards: [2, 1], scores: [[2], [1]], overall_preference: 2, kind: 'p' },
        { rewards: [2, 1], scores: [[2], [1]], overall_preference: 0, kind: 'p' },
        { error: 'too long', kind: 'p' },
      ],
      'kind',
    )
    const right = (name: string) => {
      const row = rowOf(sections, 'pairs', name)
      return [row?.right, row?.wrong]
    }
    assert.deepEqual(
      [right('kind=n'), right('kind=l'), right('kind=p'), right('all')],
      [
        [0, 1],
        [0, 1],
        [1, 1],
        [1, 3],
      ],
    )
    assert.deepEqual(rowOf(sections, 'lines', 'all'), {
      ...{ scored: 8, without_reward: 0, failed: 1, truncated: 0 },
    })
  })

  it('is written as text, Markdown, JSON and CSV', () => {
    const sections: readonly Section[] = [
      {
        name: 'pairs',
        rows: [
          { name: 'a|"b",c', values: { count: 2, share: 0.5 } },
          { name: 'all', values: { count: 10, share: 1, more: null } },
        ],
      },
      { name: 'empty', rows: [] },
    ]
    assert.equal(
      formatSummary(sections, 'text'),
      [
        'pairs    count   share  more',
        'a|"b",c      2  0.5000     -',
        'all         10  1.0000     -',
      ].join('\n'),
    )
    assert.equal(
      formatSummary(sections, 'markdown'),
      [
        '| pairs | count | share | more |',
        '|---|---:|---:|---:|',
        '| a\\|"b",c | 2 | 0.5000 | - |',
        '| all | 10 | 1.0000 | - |',
      ].join('\n'),
    )
    assert.deepEqual(JSON.parse(formatSummary(sections, 'json')), {
      pairs: {
        'a|"b",c': { count: 2, share: 0.5 },
        all: { count: 10, share: 1, more: null },
      },
    })
    assert.equal(
      formatSummary(sections, 'csv'),
      [
        'section,row,figure,value',
        'pairs,"a|""b"",c",count,2',
        'pairs,"a|""b"",c",share,0.5',
        'pairs,all,count,10',
        'pairs,all,share,1',
        'pairs,all,more,',
      ].join('\n'),
    )
  })
})
