// `score` and `generate-pairs` as processes, against a server over scripted engines.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type Harness, startHarness, until } from './harness.js'

const cli = fileURLToPath(new URL('../../server/cli.ts', import.meta.url))
const answerLength = (prompt: string): readonly number[] => [
  (prompt.split('assistant\n\n').at(-1) ?? '').length,
]

const start = (args: readonly string[], stdin: string | Buffer = '') => {
  const child = spawn(process.execPath, ['--import', 'tsx', cli, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  child.stdin.on('error', () => {}) // a command that ends early does not read it
  child.stdin.end(stdin)
  let text = ''
  child.stdout.on('data', (data) => {
    text += data
  })
  child.stderr.on('data', (data) => {
    text += data
  })
  const ended = new Promise<{ code: number | null; text: string }>((done) =>
    child.on('close', (code) => done({ code, text })),
  )
  return { child, ended }
}

const lines = (path: string): Record<string, unknown>[] =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))

const write = (path: string, records: readonly object[]) =>
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''))

describe('score and generate-pairs', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-score-'))
  const input = join(folder, 'in.jsonl')
  let h: Harness
  let url: string
  before(async () => {
    h = await startHarness({
      answer: (_, __, choice) => ({ pieces: [...'abcdefgh'.slice(0, choice + 1)] }),
      reward: { score: answerLength },
    })
    url = `${h.url}/v1`
  })
  after(async () => {
    await h.close()
    rmSync(folder, { recursive: true })
  })

  it('scores pairs and reports their accuracy by category', async () => {
    const output = join(folder, 'pairs.jsonl')
    write(input, [
      { prompt: 'p', chosen: 'long', rejected: 'x', kind: 'a' },
      { prompt: 'p', chosen: 'x', rejected: 'long', kind: 'a' },
      {
        prompt: [{ role: 'user', content: 'p' }],
        chosen: [{ role: 'assistant', content: 'longer' }],
        rejected: [{ role: 'assistant', content: 'x' }],
        kind: 'b',
      },
    ])
    const { code, text } = await start([
      ...['score', input, '-o', output, '--url', url, '--category', 'kind'],
    ]).ended
    assert.equal(code, 0, text)
    assert.match(text, /a: 50\.0 % of 2 pairs/)
    assert.match(text, /b: 100\.0 % of 1 pairs/)
    assert.match(text, /pair accuracy: 66\.7 % of 3 pairs/)
    assert.deepEqual(
      lines(output).map((one) => [one.chosen_reward, one.rejected_reward]),
      [
        [4, 1],
        [1, 4],
        [6, 1],
      ],
    )
    assert.ok(!existsSync(`${output}.state`))
  })

  it('leaves what it does not write byte for byte', async () => {
    const output = join(folder, 'bytes.jsonl')
    const ours =
      '{ "id":12345678901234567890, "x": 1.0,"big":1e400,"prompt":"p","response":"a,\\"}b", "2":{"reward":[1, 2]} ,"1":""'
    writeFileSync(input, `${ours}, "reward" : [7,{"a":"]"}] }\n${ours}}\r\n`)
    const { code, text } = await start(['score', input, '-o', output, '--url', url]).ended
    assert.equal(code, 0, text)
    const added = ',"reward":5,"scores":[5]}\n'
    assert.equal(readFileSync(output, 'utf8'), `${ours}${added}${ours}${added}`)
  })

  it("reads HelpSteer2's rows, whole conversations and several responses", async () => {
    const output = join(folder, 'rows.jsonl')
    write(input, [
      { prompt: 'p', response: 'long', helpfulness: 4 },
      { prompt: 'p', response: 'x', helpfulness: 1 },
      {
        messages: [
          { role: 'user', content: 'p' },
          { role: 'assistant', content: 'abc' },
        ],
      },
      { prompt: 'p', responses: ['a', 'ab'] },
    ])
    const { code, text } = await start(['score', input, '-o', output, '--url', url]).ended
    assert.equal(code, 0, text)
    assert.match(text, /pair accuracy: 100\.0 % of 1 pairs/)
    const [first, , third, fourth] = lines(output)
    assert.equal(first?.reward, 4)
    assert.equal(third?.reward, 3)
    assert.deepEqual(fourth?.rewards, [1, 2])
  })

  it('goes on after a kill without losing or repeating a line', async () => {
    const output = join(folder, 'killed.jsonl')
    const records = Array.from({ length: 400 }, (_, i) => ({
      i,
      prompt: 'p',
      response: 'x'.repeat(1 + (i % 7)),
    }))
    write(input, records)
    const command = ['score', input, '-o', output, '--url', url, '--concurrency', '2']
    const killed = start(command)
    await until(
      () => existsSync(output) && readFileSync(output).length > 2000,
      'the first lines were written',
    )
    killed.child.kill('SIGKILL')
    await killed.ended
    assert.ok(existsSync(`${output}.state`))
    writeFileSync(output, '{"torn":', { flag: 'a' })
    const { code, text } = await start(command).ended
    assert.equal(code, 0, text)
    assert.match(text, /went on after \d+ lines/)
    assert.deepEqual(
      lines(output).map((one) => [one.i, one.reward]),
      records.map(({ i, response }) => [i, response.length]),
    )
  })

  it('says which line is wrong, and never overwrites a finished output', async () => {
    const output = join(folder, 'wrong.jsonl')
    write(input, [{ prompt: 'p', response: 'x' }, { prompt: 'p' }])
    const wrong = await start(['score', input, '-o', output, '--url', url]).ended
    assert.notEqual(wrong.code, 0)
    assert.match(wrong.text, /line 2: needs 'messages'/)
    // The mended file goes on where the wrong line stopped it.
    write(input, [
      { prompt: 'p', response: 'x' },
      { prompt: 'p', response: 'yy' },
    ])
    const mended = await start(['score', input, '-o', output, '--url', url]).ended
    assert.equal(mended.code, 0, mended.text)
    assert.deepEqual(
      lines(output).map((one) => one.reward),
      [1, 2],
    )
    const again = await start(['score', input, '-o', output, '--url', url]).ended
    assert.match(again.text, /exists and is no unfinished job/)
  })

  it('reads a pipe and a byte order mark, and names the line that is not UTF-8', async () => {
    const text = '\uFEFF{"prompt":"p","response":"é"}\r\n\n{"prompt":"p","response":"yy"}'
    for (const name of ['-', '/dev/stdin']) {
      const output = join(folder, `pipe-${name.length}.jsonl`)
      const { code, text: said } = await start(['score', name, '-o', output, '--url', url], text)
        .ended
      assert.equal(code, 0, said)
      assert.deepEqual(
        lines(output).map(({ response, reward }) => [response, reward]),
        [
          ['é', 1],
          ['yy', 2],
        ],
      )
    }
    writeFileSync(
      input,
      Buffer.concat([
        Buffer.from('{"prompt":"p","response":"x"}\n{"prompt":"p","response":"'),
        Buffer.from([0xff]),
        Buffer.from('"}\n'),
      ]),
    )
    const bytes = join(folder, 'bytes.jsonl')
    const wrong = await start(['score', input, '-o', bytes, '--url', url]).ended
    assert.notEqual(wrong.code, 0)
    assert.match(wrong.text, /line 2 of .*in\.jsonl is not valid UTF-8/)
    const out = await start(['score', input, '-o', '-', '--url', url]).ended
    assert.notEqual(out.code, 0)
    assert.match(out.text, /the output is -, but must be a file/)
  })

  it('asks again after a lost connection, and says which server cannot be reached', async () => {
    let requests = 0
    const server = createServer((request, response) => {
      request.resume().on('end', () => {
        if (++requests === 2) request.socket.destroy()
        else response.end(JSON.stringify({ data: [{ reward: requests, scores: [requests] }] }))
      })
    })
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    const lost = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
    const output = join(folder, 'lost.jsonl')
    write(input, [
      { prompt: 'p', response: 'x' },
      { prompt: 'p', response: 'y' },
    ])
    const flags = ['--url', lost, '--reward-model', 'm', '--concurrency', '1']
    const kept = await start(['score', input, '-o', output, ...flags]).ended
    server.closeAllConnections()
    await new Promise((done) => server.close(done))
    assert.equal(kept.code, 0, kept.text)
    assert.deepEqual(
      lines(output).map((one) => one.reward),
      [1, 3],
    )
    const gone = await start(['score', input, '-o', join(folder, 'gone.jsonl'), ...flags]).ended
    assert.notEqual(gone.code, 0)
    assert.match(gone.text, new RegExp(`${lost}/reward cannot be reached \\(.*ECONNREFUSED`))
  })

  it('makes preference pairs with a margin', async () => {
    const output = join(folder, 'made.jsonl')
    // The server would refuse these messages: the prompt is what is asked.
    const unasked = [{ role: 'nobody', content: 'z' }]
    write(input, [
      { prompt: 'p', topic: 't', messages: unasked },
      { messages: [{ role: 'user', content: 'q' }] },
    ])
    const args = ['generate-pairs', input, '-o', output, '--url', url, '--n', '4']
    const made = await start([...args, '--margin', '2']).ended
    assert.equal(made.code, 0, made.text)
    assert.match(made.text, /2 pairs/)
    const [first] = lines(output)
    assert.deepEqual(first, {
      prompt: 'p',
      topic: 't',
      messages: unasked,
      chosen: 'abcd',
      rejected: 'a',
      chosen_reward: 4,
      rejected_reward: 1,
    })
    rmSync(output)
    const none = await start([...args, '--margin', '10']).ended
    assert.match(none.text, /0 pairs/)
    assert.match(none.text, /2 prompts without a pair: the rewards are closer than 10/)
    assert.deepEqual(lines(output), [])
  })
})
