// Which template and which names of tokens a checkpoint's folder gives.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { openTemplate } from '../../server/model/open.js'
import { openPackage } from '../../server/model/package.js'
import { readMessages } from '../../server/prompt/conversation.js'
import { segmentsText } from '../../server/prompt/encode.js'
import { strftime } from '../../server/prompt/strftime.js'
import { createByteTokenizer } from './byte-tokenizer.js'

const tokenizer = createByteTokenizer()
let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'nemotron-folder-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

const write = (name: string, content: unknown): void => {
  const path = join(folder, name)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content))
}
const sources = async () => {
  const own = await (await openPackage(folder, tokenizer)).template()
  return own && [own.source, own.toolSource, own.from.slice(folder.length + 1)]
}
const named = (name: string, template: string) => ({ name, template })

describe("a checkpoint's template", () => {
  test('comes from the first place that has one', async () => {
    assert.equal(await sources(), undefined)
    write('chat_template.json', {})
    assert.equal(await sources(), undefined)
    write('chat_template.json', { chat_template: 'third' })
    assert.deepEqual(await sources(), ['third', undefined, 'chat_template.json'])
    write('tokenizer_config.json', { chat_template: 'second' })
    assert.deepEqual(await sources(), ['second', undefined, 'tokenizer_config.json'])
    write('chat_template.jinja', 'first')
    assert.deepEqual(await sources(), ['first', undefined, 'chat_template.jinja'])
  })

  test('of several is the default one, and another with tools', async () => {
    const config = 'tokenizer_config.json'
    write(config, { chat_template: [named('tool_use', 'tools'), named('default', 'plain')] })
    assert.deepEqual(await sources(), ['plain', 'tools', config])
    write(config, { chat_template: [named('rag', 'first'), named('other', 'second')] })
    assert.deepEqual(await sources(), ['first', undefined, config])
    write(config, { chat_template: [] })
    assert.equal(await sources(), undefined)
    write(config, { chat_template: null })
    assert.equal(await sources(), undefined)
  })

  test('of conversations with tools may be a file of its own', async () => {
    const nano = 'llama_nemotron_nano_generic_tool_calling.jinja'
    write('chat_template.jinja', '{{ messages }}')
    write(nano, 'for nano')
    assert.deepEqual((await sources())?.slice(0, 2), ['{{ messages }}', 'for nano'])
    write('additional_chat_templates/tool_use.jinja', 'additional')
    assert.deepEqual((await sources())?.slice(0, 2), ['{{ messages }}', 'additional'])
    write('chat_template.jinja', '{{ tools }}')
    assert.deepEqual((await sources())?.slice(0, 2), ['{{ tools }}', undefined])
    rmSync(join(folder, 'chat_template.jinja'))
    write('tokenizer_config.json', {
      chat_template: [named('default', 'plain'), named('tool_use', 'listed')],
    })
    assert.deepEqual((await sources())?.slice(0, 2), ['plain', 'listed'])
  })

  test('that cannot be read is an error that names its file', async () => {
    write('tokenizer_config.json', '{"a": ')
    await assert.rejects(sources(), /tokenizer_config\.json: .*JSON/)
    write('tokenizer_config.json', { bos_token: 3 })
    await assert.rejects(sources(), /tokenizer_config\.json: bos_token: [^\n]*$/)
    write('tokenizer_config.json', 'null')
    await assert.rejects(sources(), /tokenizer_config\.json: [^\n]*null$/)
    rmSync(join(folder, 'tokenizer_config.json'))
    symlinkSync('gone', join(folder, 'tokenizer_config.json'))
    await assert.rejects(sources(), /tokenizer_config\.json cannot be read: it links to nothing/)
    write('tokenizer_config.json', {})
    execFileSync('mkfifo', [join(folder, 'chat_template.jinja')])
    await assert.rejects(sources(), /chat_template\.jinja cannot be read: it is not a regular file/)
    const long = join(folder, 'x'.repeat(300))
    await assert.rejects(openPackage(long, tokenizer), /cannot be read \(ENAMETOOLONG\): /)
  })
})

test('the names of tokens: texts, objects, what the tokenizer says, nothing', async () => {
  const names = async () => (await openPackage(folder, tokenizer)).tokenNames
  assert.deepEqual(await names(), { bos_token: '<|begin_of_text|>', eos_token: '' })
  write('tokenizer_config.json', {
    bos_token: { content: '<s>', lstrip: false },
    eos_token: '</s>',
    pad_token: null,
    unk_token: '<unk>',
    cls_token: '<cls>',
  })
  assert.deepEqual(await names(), { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' })
})

describe('the template that is served', () => {
  const open = async (name: string, file?: string, names = tokenizer) => {
    const warnings: string[] = []
    const settings = { names: [name], file }
    const { template } = await openTemplate(folder, settings, names, (text) => warnings.push(text))
    const render = (kwargs = {}, content = 'Hi', continueFinal = false) =>
      segmentsText(
        template.render({
          messages: readMessages([{ role: continueFinal ? 'assistant' : 'user', content }]),
          addGenerationPrompt: !continueFinal,
          continueFinal,
          keepThinking: false,
          kwargs,
          prefill: '',
        }),
      )
    return { render, warnings }
  }

  test('is that of the settings, of the checkpoint, ours that fits, or none', async () => {
    const builtIn = await open('x')
    assert.match(
      builtIn.warnings[0] ?? '',
      /has no chat template: the built-in nemotron_70b is used/,
    )
    assert.match(builtIn.render(), /<\|start_header_id\|>user<\|end_header_id\|>/)

    write('chat_template.jinja', 'own {{ messages[0].content }}')
    const own = await open('x')
    assert.deepEqual([own.render(), own.warnings], ['own Hi', []])

    write('given.jinja', 'given')
    const given = await open('x', join(folder, 'given.jinja'))
    assert.deepEqual([given.render(), given.warnings], ['given', []])
    await assert.rejects(
      open('x', join(folder, 'nowhere')),
      /^Error: --chat-template .*nowhere cannot be read: there is no/,
    )

    rmSync(join(folder, 'chat_template.jinja'))
    const none = await open('x', undefined, { ...tokenizer, special: new Map() })
    assert.match(none.warnings[0] ?? '', /none of ours fits its tokens: chat is refused/)
    assert.throws(none.render, /This model has no chat template\. Use \/v1\/completions/)
  })

  test('says where it is wrong', async () => {
    write('chat_template.jinja', '{{ 1 | nope }}')
    await assert.rejects(open('x'), (error: Error) => {
      assert.match(
        error.message,
        /chat_template\.jinja: the chat template cannot be used: .*'nope'/,
      )
      return true
    })
    write('chat_template.jinja', "{{ raise_exception('no ' ~ messages[0].content) }}")
    const { render } = await open('x')
    assert.throws(() => render(), /The chat template refuses these messages: no Hi\./)
    write('chat_template.jinja', "{{ strftime_now('%Q') }}")
    const dated = await open('x')
    assert.throws(() => dated.render(), /strftime_now\(\) has no %Q here/)
  })

  test('has variables of the caller, as deep and as many as is said', async () => {
    write('chat_template.jinja', '{{ deep | tojson }}{{ documents is none }}')
    const { render } = await open('x')
    assert.equal(render({ deep: [1, { a: 0.5 }] }), '[1, {"a": 0.5}]True')
    const nested = (depth: number): unknown => (depth === 0 ? 1 : [nested(depth - 1)])
    assert.doesNotThrow(() => render({ deep: nested(60) }))
    assert.throws(
      () => render({ deep: nested(100) }),
      /'chat_template_kwargs': it is nested too deep/,
    )
    const many = { deep: Array.from({ length: 20_001 }, () => 1) }
    assert.throws(() => render(many), /'chat_template_kwargs': it has too many values/)
  })

  test('may cut the final message off, which then cannot be continued', async () => {
    write('chat_template.jinja', '{% for m in messages %}<{{ m.content }}>{% endfor %}')
    assert.equal((await open('x')).render({}, 'Hi', true), '<Hi')
    write('chat_template.jinja', 'nothing')
    const { render } = await open('x')
    assert.throws(
      () => render({}, 'Hi', true),
      /drops the final message, so it cannot be continued/,
    )
  })
})

test('dates are written as Python writes them', () => {
  const all = '%Y %y %m %d %B %b %A %a %H %I %p %M %S %% x'
  const at = (...parts: [number, number, number, number, number, number]) =>
    strftime(new Date(...parts), all)
  assert.equal(at(2024, 6, 26, 0, 5, 9), '2024 24 07 26 July Jul Friday Fri 00 12 AM 05 09 % x')
  assert.equal(
    at(2005, 11, 4, 12, 0, 0),
    '2005 05 12 04 December Dec Sunday Sun 12 12 PM 00 00 % x',
  )
  assert.match(at(2005, 0, 8, 23, 59, 59), /January Jan Saturday Sat 23 11 PM 59 59/)
})
