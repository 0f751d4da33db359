// Bodies of every shape within the limit: each is answered or refused by name, at a cost with a bound.

import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { MAX_DEPTH, MAX_NUMBERS, MAX_VALUES, scanJson } from '../../server/http/json-scan.js'
import { chatBody, type Harness, readAnswer, startHarness, until } from './harness.js'
import { longestTurn } from './turns.js'

const MIB = 1 << 20

describe('the scan of JSON', () => {
  const scan = (text: string) => scanJson(Buffer.from(text))

  test('counts values and numbers, and looks through texts', async () => {
    await scan(`[${'1,'.repeat(MAX_NUMBERS - 1)}1]`)
    await assert.rejects(scan(`[${'1,'.repeat(MAX_NUMBERS)}1]`), /more than 1048576 numbers/)
    await scan(`[${'"",'.repeat(MAX_VALUES - 2)}1]`)
    for (const one of ['""', '{}', '[]', 'null', 'true'])
      await assert.rejects(scan(`[${`${one},`.repeat(MAX_VALUES)}1]`), /more than 65536 keys/)
    await assert.rejects(scan(`{${'"a":1,'.repeat(MAX_VALUES)}"b":1}`), /more than 65536 keys/)
    const brackets = '['.repeat(200)
    await scan(JSON.stringify([brackets, `\\"${brackets}`, `${brackets}\\`, '\\\\']))
    await scan(JSON.stringify(['"'.repeat(200_000), '[[[['.repeat(100)]))
    await scan('[-1.5e+7, 2E-3, -0]')
  })

  test('knows how deep a value is', async () => {
    const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth)
    await scan(nested(MAX_DEPTH))
    await scan(`[${`${nested(MAX_DEPTH - 1)},`.repeat(10)}1]`)
    await assert.rejects(scan(nested(MAX_DEPTH + 1)), /deeper than 64/)
    await assert.rejects(scan('{"a":'.repeat(MAX_DEPTH + 1)), /deeper than 64/)
  })

  test('leaves broken JSON to the parser', async () => {
    for (const broken of ['', '"', '"\\', '[', ']', '}{', 'nul', '[1,', '\u0000', '"a', '-'])
      await scan(broken)
  })
})

describe('bodies', () => {
  let harness: Harness
  before(async () => {
    harness = await startHarness({
      config: { bodyLimit: 4 * MIB },
      info: { maxModelLen: 1 << 20 },
      reward: { score: () => [1] },
    })
  })
  after(() => harness.close())

  const user = { role: 'user', content: 'Hi' }
  const chat = '/v1/chat/completions'
  const many = (one: string, bytes = 3 * MIB) =>
    `[${Array.from({ length: Math.floor(bytes / (one.length + 1)) }, () => one).join(',')}]`
  const inChat = (more: string) =>
    `{"model":"tiny-reasoner","max_tokens":1,"messages":[{"role":"user","content":"Hi"}],${more}}`
  const messages = (list: string) => `{"model":"tiny-reasoner","max_tokens":1,"messages":${list}}`

  const shapes: readonly (readonly [string, string, string, number])[] = [
    ['bad messages', chat, messages(many('1')), 400],
    ['messages that are lists', chat, messages(many('[]')), 400],
    ['valid messages', chat, messages(many(JSON.stringify(user))), 400],
    ['content parts', chat, messages(`[{"role":"user","content":${many('{}')}}]`), 400],
    ['stop strings', chat, inChat(`"stop":${many('"a"')}`), 400],
    ['numbers for stops', chat, inChat(`"stop":${many('1')}`), 400],
    ['unknown keys', chat, inChat(many('"a1":1').slice(1, -1)), 400],
    ['keys of a bias', chat, inChat(`"logit_bias":{${many('"0001":1').slice(1, -1)}}`), 400],
    [
      'a deep value',
      chat,
      inChat(`"chat_template_kwargs":{"a":${'['.repeat(MIB)}${']'.repeat(MIB)}}`),
      400,
    ],
    ['prompts', '/v1/completions', `{"model":"tiny-reasoner","prompt":${many('"a"')}}`, 400],
    ['bad ids', '/v1/completions', `{"model":"tiny-reasoner","prompt":${many('"1"')}}`, 400],
    ['lists of ids', '/v1/completions', `{"model":"tiny-reasoner","prompt":${many('[1]')}}`, 400],
    ['inputs', '/v1/reward', `{"model":"tiny-reward","inputs":${many('{"messages":[]}')}}`, 400],
    [
      'responses',
      '/v1/reward',
      `{"model":"tiny-reward","messages":[],"responses":${many('""')}}`,
      400,
    ],
    ['raw ids', '/pooling', `{"model":"tiny-reward","input":${many('-1', MIB)}}`, 400],
    ['messages to render', `${chat}/render`, messages(many(JSON.stringify(user))), 400],
    ['ids to text', '/detokenize', `{"tokens":${many('1.5', MIB)}}`, 400],
  ]
  for (const [name, path, body, status] of shapes) {
    test(`${name}: refused by name, and nobody waits`, async () => {
      const answered: { status?: number; message?: string } = {}
      const held = await longestTurn(async () => {
        const response = await harness.post(path, body)
        const { error } = await readAnswer(response)
        answered.status = response.status
        answered.message = error.message
      })
      const { message = '' } = answered
      assert.equal(answered.status, status)
      assert.ok(message.length > 0 && message.length < 2000, `${message.length} characters`)
      // Ten times 50 ms: a busy machine is no fault of ours.
      assert.ok(held < 500, `the loop was held ${held.toFixed(0)} ms`)
    })
  }

  test('the first bad element of a list is named', async () => {
    const bad = [user, { role: 'user' }, 5]
    const { error } = await readAnswer(await harness.post(chat, chatBody({ messages: bad })))
    assert.equal(error.param, 'messages.1.content')
  })

  test('bodies that come in together have a bound, and it is given back', async () => {
    const sockets = Array.from({ length: 12 }, () => connect(harness.port, '127.0.0.1'))
    const head = `POST ${chat} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`
    const size = 4 * MIB - 100
    const answers = sockets.map(() => '')
    for (const [i, socket] of sockets.entries()) {
      socket.on('error', () => {})
      socket.setEncoding('utf8').on('data', (text) => {
        answers[i] = `${answers[i]}${text}`
      })
      // All but the last byte: none of them ends by itself.
      socket.write(`${head}content-length: ${size}\r\n\r\n`)
      socket.write(Buffer.alloc(size - 1, 0x20))
    }
    await until(
      () => answers.filter((text) => text.includes('too_many_bodies')).length >= 4,
      'refusals',
    )
    assert.ok(answers.filter((text) => text === '').length <= 8)
    for (const socket of sockets) socket.destroy()
    const late = `${' '.repeat(3 * MIB)}${JSON.stringify(chatBody())}`
    let status = 503
    for (let i = 0; i < 100 && status === 503; i++) {
      const response = await harness.post(chat, late)
      await response.text()
      status = response.status
    }
    assert.equal(status, 200)
  })
})
