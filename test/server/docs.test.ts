import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { promisify } from 'node:util'
import { FLAGS } from '../../server/settings/options.js'
import { packagePath } from '../../server/version.js'
import { noAddon, startReal } from './real-server.js'

const cell = (text: string): string => text.replaceAll('|', '\\|')

const table = (): string =>
  [
    '| flag | what |',
    '|---|---|',
    ...FLAGS.map(({ flag, help }) => `| \`${cell(flag)}\` | ${cell(help)} |`),
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

describe("the README's first screen", { skip: noAddon }, () => {
  test('every program prints what stands under it', async () => {
    const text = readFileSync(packagePath('README.md'), 'utf8')
    const programs = [...text.matchAll(/```ts\n([\s\S]*?)```\n\n```text\n([\s\S]*?)\n?```/g)]
    assert.ok(programs.length >= 2, `${programs.length} programs with what they print`)
    const server = await startReal({ max_model_len: 1024 })
    try {
      for (const [, program = '', printed = ''] of programs) {
        const here = program.replaceAll('http://127.0.0.1:8000', server.url)
        const node = ['--input-type=module', '-e', here]
        const { stdout } = await promisify(execFile)(process.execPath, node, {
          cwd: packagePath('.'),
        })
        assert.equal(stdout.trim(), printed.trim(), program)
      }
    } finally {
      await server.close()
    }
  })
})
