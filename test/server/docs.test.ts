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

type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json }

/** Everything that `shown` says is so in `actual`; numbers within rounding. */
const assertShows = (actual: Json | undefined, shown: Json, at: string): void => {
  if (typeof shown === 'number') {
    assert.ok(typeof actual === 'number', `${at} is ${JSON.stringify(actual)}`)
    assert.ok(Math.abs(actual - shown) < 0.06, `${at} is ${actual}, the README says ${shown}`)
  } else if (typeof shown !== 'object' || shown === null) assert.equal(actual, shown, at)
  else {
    assert.ok(typeof actual === 'object' && actual !== null, `${at} is ${JSON.stringify(actual)}`)
    const inside = new Map<string, Json>(Object.entries(actual))
    for (const [key, value] of Object.entries(shown))
      assertShows(inside.get(key), value, `${at}.${key}`)
  }
}

describe("the README's first screen", { skip: noAddon }, () => {
  test('every curl gives the answer under it', async () => {
    const text = readFileSync(packagePath('README.md'), 'utf8')
    const calls = [
      ...text.matchAll(
        /```sh\ncurl http:\/\/127\.0\.0\.1:8000(\S+)[^`]*? -d '([^']*(?:'\\''[^']*)*)'\n```\n\n```json\n([\s\S]*?)\n```/g,
      ),
    ]
    assert.ok(calls.length >= 3, `${calls.length} curls with an answer`)
    const server = await startReal({ max_model_len: 1024 })
    try {
      for (const [, path = '', body = '', answer = ''] of calls) {
        const response = await server.post(path, JSON.parse(body.replaceAll("'\\''", "'")))
        assertShows(JSON.parse(await response.text()), JSON.parse(answer), path)
      }
    } finally {
      await server.close()
    }
  })

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
