// A request as code, where the server needs a key: the key itself is not shown, and who has none is told.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { describe, test } from 'node:test'
import { LANGUAGES, type Language } from '../../web/code.js'

const body = { model: 'm', messages: [{ role: 'user', content: 'Hi' }], stream: true }
const { NEMOTRON_API_KEY: _, ...env } = process.env

describe('the request as code, with a key', () => {
  test('a shell without the key says what to do, and sends nothing', () => {
    // No such port: had it been sent, curl would say so.
    const code = LANGUAGES.curl(body, 'http://127.0.0.1:9', true)
    const { status, stderr } = spawnSync('bash', ['-c', code], { env, encoding: 'utf8' })
    assert.notEqual(status, 0)
    assert.match(stderr, /NEMOTRON_API_KEY: set it first: export NEMOTRON_API_KEY=/)
    assert.doesNotMatch(stderr, /curl:/)
  })

  test('a shell with it sends it', () => {
    const code = LANGUAGES.curl(body, 'URL', true).replace(/^curl/, 'printf "%s\\n"')
    const { stdout } = spawnSync('bash', ['-c', code], {
      env: { ...env, NEMOTRON_API_KEY: 'secret' },
      encoding: 'utf8',
    })
    assert.match(stdout, /^authorization: Bearer secret$/m)
  })

  test('every language says where the key comes from; none does without a key', () => {
    for (const language of Object.keys(LANGUAGES) as Language[]) {
      const code = (hasKey: boolean) => LANGUAGES[language](body, 'http://localhost', hasKey)
      assert.match(code(true), /export NEMOTRON_API_KEY=\.\.\. \(a key of this server\)/, language)
      assert.doesNotMatch(code(false), /NEMOTRON_API_KEY/, language)
    }
  })
})
