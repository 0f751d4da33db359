// A checkpoint of random weights that can chat: the tiny one, with header tokens and a template.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { BUILT_IN } from '../../server/prompt/builtin-templates.js'
import { type TinyOptions, tinyCheckpoint } from '../api/tiny_checkpoint.js'

export const chatCheckpoint = (options: TinyOptions = {}): string => {
  const folder = tinyCheckpoint(options)
  const path = join(folder, 'tokenizer.json')
  const tokenizer = JSON.parse(readFileSync(path, 'utf8'))
  const next = Math.max(...tokenizer.added_tokens.map((token: { id: number }) => token.id)) + 1
  for (const [i, content] of ['<|start_header_id|>', '<|end_header_id|>'].entries())
    tokenizer.added_tokens.push({ ...tokenizer.added_tokens[0], id: next + i, content })
  writeFileSync(path, JSON.stringify(tokenizer))
  writeFileSync(
    join(folder, 'tokenizer_config.json'),
    JSON.stringify({
      bos_token: { content: '<|begin_of_text|>' },
      eos_token: '<|eot_id|>',
      chat_template: [
        { name: 'tool_use', template: 'not this one' },
        { name: 'default', template: BUILT_IN.nemotron_super },
      ],
    }),
  )
  return folder
}
