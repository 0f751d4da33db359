// What a chat template would lose of a conversation is shown in another way, or refused.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { BUILT_IN } from '../../server/prompt/builtin-templates.js'
import { GivenMessages, GivenTools, readMessages } from '../../server/prompt/conversation.js'
import { segmentsText } from '../../server/prompt/encode.js'
import { createTemplate, type RenderRequest } from '../../server/prompt/template.js'
import { createByteTokenizer } from './byte-tokenizer.js'

/** As others write them: test/golden/jinja.py. */
const golden = (mark: string): string => {
  const path = new URL('../golden/jinja.json', import.meta.url)
  const cases: readonly { readonly template: string }[] = JSON.parse(readFileSync(path, 'utf8'))
  const found = cases.find(({ template }) => template.includes(mark))
  assert.ok(found, mark)
  return found.template
}
const NANO_TOOLS = golden("for m in messages if m.role != 'system'")
const LLAMA31 = golden('single tool-calls at once')

const H = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`
const T = '<|eot_id|>'

/** Shows what is said, and knows neither tools nor calls. */
const PLAIN = `{{- bos_token }}{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}`

const TOOLS = GivenTools.parse([{ type: 'function', function: { name: 'look' } }])

const make = (source: string, toolSource?: string, reasoning = false) =>
  createTemplate({
    source,
    toolSource,
    tokenizer: createByteTokenizer(),
    tokens: { bos_token: '<|begin_of_text|>', eos_token: T },
    reasoning,
  })

const prompt = (
  template: ReturnType<typeof make>,
  messages: readonly unknown[],
  more: Partial<RenderRequest> = {},
): string =>
  segmentsText(
    template.render({
      messages: readMessages(GivenMessages.parse(messages)),
      addGenerationPrompt: true,
      continueFinal: false,
      keepThinking: false,
      kwargs: {},
      prefill: '',
      ...more,
    }),
  )

const system = (content: string) => ({ role: 'system', content })
const user = (content: string) => ({ role: 'user', content })
const said = (content: string) => ({ role: 'assistant', content })
const calling = (content: string | null, ...calls: readonly (readonly [string, string])[]) => ({
  role: 'assistant',
  content,
  tool_calls: calls.map(([id, name]) => ({
    id,
    type: 'function',
    function: { name, arguments: `{"of": "${id}"}` },
  })),
})
const result = (id: string | undefined, content: string) => ({
  role: 'tool',
  content,
  ...(id !== undefined && { tool_call_id: id }),
})

const CALLED = [user('Hi'), calling('Let me see.', ['a', 'look']), result('a', 'seen')]

describe('calls and results of earlier turns', () => {
  test('have the form for tools when none may be called any more', () => {
    const template = make(PLAIN, NANO_TOOLS)
    for (const more of [{}, { tools: [] }]) {
      const shown = prompt(template, [...CALLED, user('And?')], more)
      const call = '<TOOLCALL>[{"name": "look", "arguments": {"of": "a"}]</TOOLCALL>'
      assert.ok(shown.includes(`${H('assistant')}Let me see.${call}${T}`), shown)
      assert.ok(shown.includes(`${H('user')}<TOOL_RESPONSE>[seen]</TOOL_RESPONSE>${T}`), shown)
      assert.ok(!shown.includes('AVAILABLE_TOOLS'), shown)
    }
    // A result alone too; and without either the template is the one without tools.
    const alone = prompt(template, [user('Hi'), result(undefined, 'seen')])
    assert.ok(alone.includes(`${H('user')}<TOOL_RESPONSE>[seen]</TOOL_RESPONSE>${T}`), alone)
    const talk = [system('s'), user('Hi'), said('Ho'), system('t'), user('Hm')]
    assert.equal(prompt(template, talk), prompt(make(PLAIN), talk))
  })

  test('are refused where no template shows them, by what is lost first', () => {
    for (const tools of [[], TOOLS])
      assert.throws(() => prompt(make(PLAIN), CALLED, { tools }), {
        kind: 'invalid',
        param: 'messages.1.tool_calls',
        message: /shows no calls of tools, so that these would be lost/,
      })
    // One for tools that needs some.
    const needy = `{% for t in tools %}{{ t.function.name }}{% endfor %}{{ messages | tojson }}`
    assert.match(prompt(make(PLAIN, needy), CALLED, { tools: TOOLS }), /look.*seen/)
    assert.throws(() => prompt(make(PLAIN, needy), CALLED), { param: 'messages.1.tool_calls' })
    const callsAlone = "{% for m in messages if m.role != 'tool' %}{{ m | tojson }}{% endfor %}"
    assert.throws(() => prompt(make(callsAlone), CALLED), { param: 'messages.2.role' })
  })

  test('a place in an error counts what the caller wrote', () => {
    const messages = [system('detailed thinking on'), ...CALLED]
    assert.throws(() => prompt(make(PLAIN), messages, { added: 1 }), {
      param: 'messages.1.tool_calls',
    })
    const deep = calling(null, ['a', 'f'])
    const [call] = deep.tool_calls
    assert.ok(call)
    call.function.arguments = `${'['.repeat(99)}${']'.repeat(99)}`
    assert.throws(() => prompt(make(NANO_TOOLS), [system('on'), deep], { added: 1 }), {
      param: 'messages.0.tool_calls.0.function.arguments',
    })
  })
})

describe('a template of one call a message', () => {
  const turn = (id: string, name: string) =>
    `${H('assistant')}{"name": "${name}", "parameters": {"of": "${id}"}}${T}`
  const came = (content: string) => `${H('ipython')}"${content}"${T}`
  const both = calling(null, ['a', 'look'], ['b', 'find'])

  for (const [name, source] of [
    ["Llama 3.1's", LLAMA31],
    ['ours of 70B', BUILT_IN.nemotron_70b],
  ] as const) {
    const template = make(source)
    const shown = (...messages: readonly unknown[]) => {
      const text = prompt(template, [user('Hi'), ...messages, user('And?')])
      return text.slice(text.indexOf(`${H('user')}Hi${T}`) + `${H('user')}Hi${T}`.length)
    }
    const rest = `${H('user')}And?${T}${H('assistant')}`

    test(`${name} shows several as turns, each with its result`, () => {
      const apart = `${turn('a', 'look')}${came('1')}${turn('b', 'find')}${came('2')}${rest}`
      for (const results of [
        [result('a', '1'), result('b', '2')],
        [result('b', '2'), result('a', '1')],
        [result(undefined, '1'), result(undefined, '2')],
      ])
        assert.equal(shown(both, ...results), apart)
      assert.equal(
        shown(both, result('b', '2')),
        `${turn('a', 'look')}${turn('b', 'find')}${came('2')}${rest}`,
      )
      assert.equal(
        shown(both, result('x', '1'), result('a', '2'), result('a', '3')),
        `${turn('a', 'look')}${came('1')}${turn('b', 'find')}${came('2')}${came('3')}${rest}`,
      )
    })

    test(`${name} shows what was said before a call`, () => {
      const one = shown(calling('Let me see.', ['a', 'look']), result('a', '1'))
      assert.match(one, /^<\|start_header_id\|>assistant<\|end_header_id\|>\n\nLet me see\./)
      assert.ok(one.endsWith(`{"name": "look", "parameters": {"of": "a"}}${T}${came('1')}${rest}`))
      const two = shown({ ...both, content: 'Both.' }, result('a', '1'), result('b', '2'))
      assert.ok(two.endsWith(`${came('1')}${turn('b', 'find')}${came('2')}${rest}`), two)
      assert.equal(two.split('Both.').length, 2)
    })
  }

  test('what was thought before a call is no turn of its own', () => {
    const thought = calling('<think>\nhm\n</think>\n\n', ['a', 'look'])
    const shown = prompt(make(LLAMA31, undefined, true), [user('Hi'), thought, result('a', '1')])
    assert.ok(shown.includes(`Hi${T}${turn('a', 'look')}${came('1')}`), shown)
  })

  test('where several go into one message they stay there', () => {
    const shown = prompt(make(NANO_TOOLS), [user('Hi'), both, result('a', '1'), result('b', '2')])
    assert.ok(shown.includes('{"of": "a"}, {"name": "find"'), shown)
    assert.ok(shown.includes('<TOOL_RESPONSE>[1, 2]</TOOL_RESPONSE>'), shown)
  })
})

describe('system messages after the first', () => {
  const run = [system('ONE'), { role: 'developer', content: 'TWO' }, system(' '), system('THREE')]

  test('at the start are one where the template shows but one', () => {
    const template = make(PLAIN, NANO_TOOLS)
    const shown = prompt(template, [...run, user('Hi')], { tools: TOOLS })
    assert.ok(shown.includes(`${H('system')}ONE\n\nTWO\n\nTHREE\n\n<AVAILABLE_TOOLS>`), shown)
    // As they are, where it shows each.
    const each = `${H('system')}ONE${T}${H('system')}TWO${T}${H('system')} ${T}${H('system')}THREE${T}`
    assert.ok(prompt(template, [...run, user('Hi')]).includes(each))
  })

  test('later on are refused where the template would lose them', () => {
    const messages = [...run, user('Hi'), system('LATE'), user('Ho')]
    assert.throws(() => prompt(make(PLAIN, NANO_TOOLS), messages, { tools: TOOLS }), {
      kind: 'invalid',
      param: 'messages.5.role',
      message: /a message of role 'system' at the start alone, so that this one would be lost/,
    })
    assert.ok(prompt(make(PLAIN, NANO_TOOLS), messages).includes(`${H('system')}LATE${T}`))
    for (const source of Object.values(BUILT_IN).filter((one) => one.includes('message.role')))
      if (source.includes('<|start_header_id|>'))
        assert.match(prompt(make(source), messages), /ONE.*TWO.*THREE.*LATE/s)
  })
})
