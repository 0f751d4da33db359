// Which template renders tools, by what a checkpoint has.

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { openTemplate } from '../../server/model/open.js'
import { GivenTools } from '../../server/prompt/conversation.js'
import { segmentsText } from '../../server/prompt/encode.js'
import { createByteTokenizer } from './byte-tokenizer.js'

const NANO = 'Llama-3.1-Nemotron-Nano-8B-v1'
const PLAIN = 'plain'
const LISTED = 'list {{ tools | default([], true) | length }}'
const SHIPPED = 'llama_nemotron_nano_generic_tool_calling.jinja'
const TRANSFORMERS = 'additional_chat_templates/tool_use.jinja'

const prompts = async (files: Readonly<Record<string, unknown>>, name = NANO) => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-templates-'))
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    const text = typeof content === 'string' ? content : JSON.stringify(content)
    writeFileSync(join(folder, path), text)
  }
  const settings = { names: [name], file: undefined }
  const { template } = await openTemplate(folder, settings, createByteTokenizer(), () => {})
  const render = (tools: readonly object[]) =>
    segmentsText(
      template.render({
        messages: [{ role: 'user', content: 'Hi' }],
        addGenerationPrompt: false,
        continueFinal: false,
        keepThinking: false,
        tools: GivenTools.parse(tools),
        kwargs: {},
        prefill: '',
      }),
    )
  return [render([]), render([{ type: 'function', function: { name: 'f' } }])]
}

const config = (chat_template: unknown) => ({ 'tokenizer_config.json': { chat_template } })
const named = (name: string, template: string) => ({ name, template })

test('the template that knows tools renders them', async () => {
  for (const [files, expected] of [
    [config(LISTED), ['list 0', 'list 1']],
    [
      config([named('tool_use', `tool_use ${LISTED}`), named('default', PLAIN)]),
      [PLAIN, 'tool_use list 1'],
    ],
    [
      { ...config(PLAIN), [TRANSFORMERS]: `beside ${LISTED}`, [SHIPPED]: '' },
      [PLAIN, 'beside list 1'],
    ],
    [{ ...config(PLAIN), [SHIPPED]: `shipped ${LISTED}` }, [PLAIN, 'shipped list 1']],
    [
      {
        'tokenizer_config.json': {},
        'chat_template.json': { chat_template: PLAIN },
        [SHIPPED]: `shipped ${LISTED}`,
      },
      [PLAIN, 'shipped list 1'],
    ],
    [{ 'chat_template.jinja': PLAIN, [SHIPPED]: `shipped ${LISTED}` }, [PLAIN, 'shipped list 1']],
    // It knows tools by itself.
    [{ ...config(LISTED), [SHIPPED]: 'shipped' }, ['list 0', 'list 1']],
  ] as const)
    assert.deepEqual(await prompts(files), expected, JSON.stringify(files))
})

test("else the family's does, and a family that is not known has none", async () => {
  const [plain, tools] = await prompts(config(PLAIN))
  assert.equal(plain, PLAIN)
  assert.ok(tools?.includes('<AVAILABLE_TOOLS>[{"name": "f"}]</AVAILABLE_TOOLS>'), tools)
  assert.deepEqual(await prompts(config(PLAIN), 'Some-Llama'), [PLAIN, PLAIN])
})
