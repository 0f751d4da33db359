import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { chatBody, type Harness, readAnswer, startHarness } from './harness.js'

const RENDER = '/v1/chat/completions/render'
const H = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`
const user = { role: 'user', content: 'Hi' }

/** The prompts at whose end a decision reads its labels, in both dialects. */
const decisionPrompts = async ({ post, engine }: Harness, model: string, system: string) => {
  const instructions = 'It is a greeting.'
  const items = system === '' ? [user] : [{ role: 'system', content: system }, user]
  const asked = [
    ['/v1/decisions', { input: items, questions: [{ type: 'predicate', instructions }] }],
    [
      '/v1/systemone',
      { state: 'Hi', instructions: system, questions: { a: { type: 'noul', instructions } } },
    ],
  ] as const
  const prompts: string[] = []
  for (const [path, body] of asked) {
    const first = engine.requests.length
    const answer = await post(path, { model, ...body })
    assert.equal(answer.status, 200, await answer.text())
    const ids = Array.from(engine.requests[first]?.promptTokenIds ?? [])
    prompts.push(Buffer.from(ids.filter((id) => id < 256)).toString())
  }
  return prompts
}

describe('reasoning mode', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({ answer: () => ({ pieces: ['ok'] }) })
  })
  after(() => harness.close())

  const render = async (more: object = {}): Promise<string> => {
    const answer = await readAnswer(
      await harness.post(RENDER, chatBody({ messages: [user], ...more })),
    )
    return answer.prompt
  }
  const prompt = (system: string, end = '') =>
    `<|begin_of_text|>${H('system')}${system}<|eot_id|>${H('user')}Hi<|eot_id|>${H('assistant')}${end}`
  const ON = prompt('detailed thinking on')
  const OFF = prompt('detailed thinking off')
  const PREFILLED = prompt('detailed thinking off', '<think>\n</think>\n\n')

  test('off by default, on by field, off by field with a closed block', async () => {
    assert.equal(await render(), OFF)
    assert.equal(await render({ chat_template_kwargs: { enable_thinking: true } }), ON)
    assert.equal(await render({ chat_template_kwargs: { thinking: true } }), ON)
    assert.equal(await render({ chat_template_kwargs: { enable_thinking: false } }), PREFILLED)
    assert.equal(await render({ chat_template_kwargs: { thinking: false } }), PREFILLED)
    for (const effort of ['low', 'medium', 'high', 'xhigh', 'max'])
      assert.equal(await render({ reasoning_effort: effort }), ON)
    for (const effort of ['none', 'minimal'])
      assert.equal(await render({ reasoning_effort: effort }), PREFILLED)
  })

  test('a block is closed where an answer is asked for, and nowhere else', async () => {
    const off = { reasoning_effort: 'none' }
    assert.equal(await render({ ...off, add_generation_prompt: true }), PREFILLED)
    const shown = await render({ ...off, add_generation_prompt: false })
    assert.ok(shown.endsWith(`${H('user')}Hi<|eot_id|>`), shown)
  })

  test("the caller's own line wins, and off by it is not forced", async () => {
    const system = (content: string) => ({ messages: [{ role: 'system', content }, user] })
    const off = { chat_template_kwargs: { enable_thinking: false } }
    assert.equal(await render({ ...system('detailed thinking on'), ...off }), ON)
    assert.equal(await render({ ...system('detailed thinking off'), ...off }), OFF)
    assert.equal(
      await render({ ...system('detailed thinking off'), reasoning_effort: 'high' }),
      OFF,
    )
    assert.equal(
      await render(system('Be brief.\ndetailed thinking on')),
      prompt('Be brief.\ndetailed thinking on'),
    )
    for (const own of [
      'detailed thinking on. You are an insightful data analyst.',
      'You are helpful. Detailed thinking on',
      '**detailed thinking on**\r\nBe brief.',
      'detailed thinking on, always',
    ])
      assert.equal(await render({ ...system(own), ...off }), prompt(own), own)
    for (const other of ['Speak of detailed thinking on Mondays.', 'detailed thinking offers much'])
      assert.equal(await render(system(other)), prompt(`detailed thinking off\n\n${other}`), other)
    assert.equal(
      await render({ messages: [{ role: 'developer', content: 'detailed thinking on' }, user] }),
      ON,
    )
  })

  test('a decision closes the block, whatever the system text says', async () => {
    for (const [given, shown] of [
      ['', 'detailed thinking off'],
      ['Be brief.', 'detailed thinking off\n\nBe brief.'],
      ['detailed thinking off', 'detailed thinking off'],
      ['detailed thinking on', 'detailed thinking off'],
      ['Be brief.\n**Detailed thinking on**', 'Be brief.\n**Detailed thinking off**'],
      [
        'detailed thinking off. detailed thinking on. Go on.',
        'detailed thinking off. detailed thinking off. Go on.',
      ],
    ] as const)
      for (const prompt of await decisionPrompts(harness, 'tiny-reasoner', given)) {
        assert.ok(prompt.startsWith(`system\n\n${shown}user\n\nHi\n\nIs the`), prompt)
        assert.ok(prompt.endsWith('greeting.assistant\n\n<think>\n</think>\n\n'), prompt)
      }
  })

  test('kwargs win over effort, and nulls are absent', async () => {
    assert.equal(
      await render({ reasoning_effort: 'high', chat_template_kwargs: { enable_thinking: false } }),
      PREFILLED,
    )
    assert.equal(
      await render({ reasoning_effort: 'none', chat_template_kwargs: { thinking: true } }),
      ON,
    )
    assert.equal(
      await render({ reasoning_effort: 'high', chat_template_kwargs: { enable_thinking: null } }),
      ON,
    )
  })

  test("the mode line comes first, then a blank line, then the caller's system text", async () => {
    const messages = [{ role: 'system', content: 'Be brief.' }, user]
    assert.equal(
      await render({ messages, reasoning_effort: 'high' }),
      prompt('detailed thinking on\n\nBe brief.'),
    )
  })

  test('--default-thinking on, without a field, is no promise', async (t) => {
    const other = await startHarness({ config: { defaultThinking: true } })
    t.after(() => other.close())
    const ask = async (more: object) =>
      (await readAnswer(await other.post(RENDER, chatBody({ messages: [user], ...more })))).prompt
    assert.equal(await ask({}), ON)
    assert.equal(await ask({ reasoning_effort: 'none' }), PREFILLED)
  })

  test('card sampling only when neither temperature nor top_p is given', async () => {
    const sampling = async (more: Record<string, unknown>) => {
      await harness.post('/v1/chat/completions', chatBody(more))
      const { temperature, topP } = harness.engine.requests.at(-1)?.sampling ?? {}
      return [temperature, topP]
    }
    assert.deepEqual(await sampling({ reasoning_effort: 'high' }), [0.6, 0.95])
    assert.deepEqual(await sampling({}), [0, 1])
    assert.deepEqual(await sampling({ reasoning_effort: 'high', temperature: 0.2 }), [0.2, 1])
    assert.deepEqual(await sampling({ reasoning_effort: 'high', top_p: 0.5 }), [1, 0.5])
    assert.deepEqual(await sampling({ temperature: 0 }), [0, 1])
  })

  test('a budget goes to the engine under both names', async () => {
    for (const key of ['thinking_token_budget', 'thinking_budget']) {
      await harness.post('/v1/chat/completions', chatBody({ reasoning_effort: 'high', [key]: 7 }))
      assert.equal(harness.engine.requests.at(-1)?.sampling?.thinkingBudget, 7)
    }
  })

  test('two budgets have to agree', async () => {
    const ask = (more: Record<string, unknown>) =>
      harness.post('/v1/chat/completions', chatBody({ reasoning_effort: 'high', ...more }))
    const both = await ask({ thinking_token_budget: 7, thinking_budget: 7 })
    assert.equal(both.status, 200)
    assert.equal(harness.engine.requests.at(-1)?.sampling?.thinkingBudget, 7)
    for (const [long, short] of [
      [7, 8],
      [0, 5],
      [5, 0],
    ]) {
      const answer = await ask({ thinking_token_budget: long, thinking_budget: short })
      assert.equal(answer.status, 400)
      const { error } = await readAnswer(answer)
      assert.equal(error.param, 'thinking_budget')
      assert.match(error.message, /they mean the same, give one/)
    }
  })

  test('the engine is told whether a budget begins inside a block', async () => {
    const cases: [Record<string, unknown>, boolean][] = [
      [{ reasoning_effort: 'high' }, true],
      [{}, false],
      [{ reasoning_effort: 'none' }, false],
      [{ chat_template_kwargs: { enable_thinking: false } }, false],
      [{ messages: [{ role: 'system', content: 'detailed thinking off' }, user] }, false],
      [{ messages: [{ role: 'system', content: 'detailed thinking on' }, user] }, true],
    ]
    for (const [content, open] of [
      ['<think>a', true],
      ['<think>a</think>', false],
      ['<think>a</think> So', false],
      ['So', false],
    ] as const) {
      const messages = [user, { role: 'assistant', content }]
      cases.push([{ messages, continue_final_message: true, reasoning_effort: 'high' }, open])
    }
    for (const [more, open] of cases) {
      for (const stream of [false, true]) {
        const body = chatBody({ ...more, stream, thinking_budget: 0 })
        await (await harness.post('/v1/chat/completions', body)).text()
        const { sampling } = harness.engine.requests.at(-1) ?? {}
        assert.equal(sampling?.thinkingBudget, 0)
        assert.equal(sampling?.thinkingOpen, open, JSON.stringify(more))
      }
    }
  })

  test('continued thinking and continued answers are told apart', async () => {
    const ask = async (content: string, more: object = {}) => {
      const messages = [user, { role: 'assistant', content, ...more }]
      const body = chatBody({ messages, continue_final_message: true, reasoning_effort: 'high' })
      return (await readAnswer(await harness.post('/v1/chat/completions', body))).choices[0].message
    }
    assert.equal((await ask('<think>\nhm, ')).reasoning_content, 'ok')
    assert.equal((await ask('The answer is')).content, 'ok')
    assert.equal((await ask('The answer is')).reasoning_content, null)
    assert.equal((await ask('<think>\n</think>')).content, 'ok')
    assert.equal((await ask('', { reasoning_content: 'hm, ' })).reasoning_content, 'ok')
    assert.equal((await ask('So', { reasoning_content: 'hm' })).content, 'ok')
  })
})

describe('a model that does not reason', () => {
  let harness: Harness
  const template =
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{% endfor %}"
  before(async () => {
    harness = await startHarness({
      id: 'plain',
      template,
      answer: () => ({ pieces: ['<think>a</think>b'] }),
    })
  })
  after(() => harness.close())

  test('refuses the thinking fields, injects and splits nothing', async () => {
    const body = { model: 'plain', messages: [user] }
    for (const [more, param] of [
      [{ reasoning_effort: 'none' }, 'reasoning_effort'],
      [{ thinking_token_budget: 5 }, 'thinking_token_budget'],
      [{ thinking_budget: 5 }, 'thinking_budget'],
      [
        { chat_template_kwargs: { enable_thinking: false } },
        'chat_template_kwargs.enable_thinking',
      ],
      [{ chat_template_kwargs: { thinking: true } }, 'chat_template_kwargs.thinking'],
    ] as const) {
      const response = await harness.post('/v1/chat/completions', { ...body, ...more })
      assert.equal(response.status, 400)
      assert.equal((await readAnswer(response)).error.param, param)
    }
    const answer = await readAnswer(await harness.post('/v1/chat/completions', body))
    assert.equal(answer.choices[0].message.content, '<think>a</think>b')
    assert.ok(!('reasoning_content' in answer.choices[0].message))
    const { prompt } = await readAnswer(await harness.post(RENDER, body))
    assert.equal(prompt, `<|begin_of_text|>${H('user')}Hi<|eot_id|>`)
  })

  test('generation_config holds, else 1 and 1', async (t) => {
    const sampling = async (generation: object, more: object = {}) => {
      const one = await startHarness({
        id: 'plain',
        template,
        info: { generation: { greedy: false, ...generation } },
      })
      t.after(() => one.close())
      await one.post('/v1/chat/completions', { model: 'plain', messages: [user], ...more })
      const { temperature, topP } = one.engine.requests.at(-1)?.sampling ?? {}
      return [temperature, topP]
    }
    assert.deepEqual(await sampling({}), [1, 1])
    assert.deepEqual(await sampling({ temperature: 0.7, topP: 0.8 }), [0.7, 0.8])
    assert.deepEqual(
      await sampling({ temperature: 0.7, topP: 0.8 }, { temperature: 0.1 }),
      [0.1, 0.8],
    )
    assert.deepEqual(await sampling({ greedy: true }), [0, 1])
    assert.deepEqual(await sampling({ greedy: true }, { temperature: 0.9 }), [0.9, 1])
  })
})

describe('a model whose template switches thinking', () => {
  test('gets the variable, no line and no closed block of ours', async (t) => {
    const template =
      "{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% if enable_thinking is defined and enable_thinking %}{{ '<think>\n' }}{% else %}{{ '<think></think>' }}{% endif %}{% endif %}"
    const harness = await startHarness({
      id: 'other',
      template,
      answer: () => ({ pieces: ['hm</think>', 'yes'] }),
    })
    t.after(() => harness.close())
    const ask = async (more: object) => {
      const body = { model: 'other', messages: [user], ...more }
      const { prompt } = await readAnswer(await harness.post(RENDER, body))
      const answer = await readAnswer(await harness.post('/v1/chat/completions', body))
      return { prompt, message: answer.choices[0].message }
    }
    const on = await ask({ reasoning_effort: 'high' })
    assert.equal(on.prompt, 'user:Hi\nassistant:<think>\n')
    assert.equal(on.message.reasoning_content, 'hm')
    assert.equal(on.message.content, 'yes')
    const off = await ask({ chat_template_kwargs: { enable_thinking: false } })
    assert.equal(off.prompt, 'user:Hi\nassistant:<think></think>')
    assert.equal(off.message.content, 'hm</think>yes')
  })
})

describe('Super-49B-v1.5, which is told by a word', () => {
  // As its template does: the word goes out, and off is a closed block.
  const template = `{%- set ns = namespace(on=true, system='') %}
{%- if messages[0].role == 'system' %}{%- set ns.system = messages[0].content %}{%- endif %}
{%- if '/no_think' in ns.system %}{%- set ns.on = false %}{%- set ns.system = ns.system.replace('/no_think', '') | trim %}
{%- elif '/think' in ns.system %}{%- set ns.system = ns.system.replace('/think', '') | trim %}{%- endif %}
{{- '[' + ns.system + ']' }}
{%- for m in messages if m.role != 'system' %}{{- m.role + ':' + m.content + '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant:' + ('' if ns.on else '<think>\\n\\n</think>\\n\\n') }}{%- endif %}`
  const id = 'Llama-3_3-Nemotron-Super-49B-v1_5'
  const CLOSED = '<think>\n\n</think>\n\n'
  let harness: Harness
  before(async () => {
    harness = await startHarness({
      id,
      template,
      answer: (prompt) => ({ pieces: [prompt.endsWith(CLOSED) ? '2' : '<think>1+1</think>2'] }),
      config: { defaultThinking: true },
    })
  })
  after(() => harness.close())
  const system = (content: string) => ({ messages: [{ role: 'system', content }, user] })
  const render = async (more: object = {}): Promise<string> =>
    (await readAnswer(await harness.post(RENDER, { model: id, messages: [user], ...more }))).prompt

  test('on by default; off by a field, or by its word', async () => {
    const off = { chat_template_kwargs: { enable_thinking: false } }
    assert.equal(await render(), '[]user:Hi\nassistant:')
    assert.equal(await render(off), `[]user:Hi\nassistant:${CLOSED}`)
    assert.equal(await render({ reasoning_effort: 'none' }), `[]user:Hi\nassistant:${CLOSED}`)
    assert.equal(
      await render({ ...system('Be brief.'), ...off }),
      `[Be brief.]user:Hi\nassistant:${CLOSED}`,
    )
    assert.equal(
      await render(system('Be brief. /no_think')),
      `[Be brief.]user:Hi\nassistant:${CLOSED}`,
    )
    assert.equal(await render({ ...system('/think'), ...off }), '[]user:Hi\nassistant:')
    assert.equal(await render(system('See /no_thinking')), `[See ing]user:Hi\nassistant:${CLOSED}`)
  })

  test('a decision takes the word for off', async () => {
    for (const text of [
      '',
      'Be brief.',
      'Be brief. /think',
      '/think',
      '/no_think',
      '/think\n/no_think',
    ])
      for (const prompt of await decisionPrompts(harness, id, text)) {
        assert.ok(
          prompt.startsWith(text.startsWith('Be') ? '[Be brief.]user:Hi' : '[]user:Hi'),
          prompt,
        )
        assert.ok(prompt.endsWith(`assistant:${CLOSED}`), prompt)
      }
  })

  test('the answer is told apart from the thinking, and sampled as the card says', async () => {
    const ask = async (more: object = {}) =>
      (
        await readAnswer(
          await harness.post('/v1/chat/completions', { model: id, messages: [user], ...more }),
        )
      ).choices[0].message
    const on = await ask()
    assert.deepEqual([on.reasoning_content, on.content], ['1+1', '2'])
    assert.equal(harness.engine.requests.at(-1)?.sampling?.temperature, 0.6)
    const off = await ask({ reasoning_effort: 'none' })
    assert.deepEqual([off.reasoning_content ?? '', off.content], ['', '2'])
    assert.equal(harness.engine.requests.at(-1)?.sampling?.temperature, 0)
  })
})
