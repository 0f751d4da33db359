import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import { FILE_KEYS, FLAGS } from '../../server/settings.js'
import { packagePath } from '../../server/version.js'

const cell = (text: string): string => text.replaceAll('|', '\\|')

const table = (): string =>
  [
    '| flag | what |',
    '|---|---|',
    ...FLAGS.map(({ flag, help }) => `| \`${cell(flag)}\` | ${cell(help)} |`),
    '',
    'In the file alone:',
    '',
    '| key | what |',
    '|---|---|',
    ...FILE_KEYS.map(({ key, help }) => `| \`${key}\` | ${cell(help)} |`),
  ].join('\n')

test("the documented settings are the schema's", () => {
  const path = packagePath('docs/http.md')
  const text = readFileSync(path, 'utf8')
  const from = text.indexOf('-->\n', text.indexOf('<!-- settings')) + '-->\n'.length
  const to = text.indexOf('<!-- /settings -->')
  assert.ok(from > 0 && to >= from)
  const [head, current, tail] = [text.slice(0, from), text.slice(from, to), text.slice(to)]
  if (process.env.NEMOTRON_WRITE_DOCS === '1') writeFileSync(path, `${head}${table()}\n${tail}`)
  else assert.equal(current.trim(), table())
})
