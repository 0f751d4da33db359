// `score` and `generate-pairs` as processes, against a server over scripted engines.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { after, before, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import { nodeArgs } from '../../bench/source.js'
import { RequestFailure } from '../../server/commands/client.js'
import { readLines } from '../../server/commands/lines.js'
import { type Asking, chatModelOf } from '../../server/commands/reward-job.js'
import { runHere, startCommand } from './command.js'
import { type Harness, startHarness, until } from './harness.js'

const answerLength = (prompt: string): readonly number[] => [
  (prompt.split('assistant\n\n').at(-1) ?? '').length,
]

/** In this process. */
const run = (args: readonly string[], input?: string | Buffer) =>
  runHere(args, input === undefined ? {} : { input })

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
    const { code, text } = await run([
      ...['score', input, '-o', output, '--url', url, '--category', 'kind'],
    ])
    assert.equal(code, 0, text)
    assert.match(text, /kind=a +2 +1 +0 +1 +0 +0\.5000/)
    assert.match(text, /kind=b +1 +1 +0 +0 +0 +1\.0000 /)
    assert.match(text, /all +3 +2 +0 +1 +0 +0\.6667/)
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

  it("reads RM-Bench's file, one JSON list, as it is published", async () => {
    const [file, output] = [join(folder, 'total_dataset.json'), join(folder, 'rm-bench.jsonl')]
    const one = {
      prompt: 'Say "a],[{"\nin Zürich.',
      chosen: ['aaa', 'bbbb', 'ccccc'],
      rejected: ['x', 'yyyy', 'zzzzzzzzz'],
    }
    const items = ['chat', 'code', 'math', 'safety-refuse', 'safety-response'].map(
      (domain, id) => ({
        ...{ id: `${domain}_${id}`, ...one, domain },
      }),
    )
    writeFileSync(file, `\ufeff \n${JSON.stringify(items, null, 4)}\n`)
    for (const [from, stdin] of [[file], ['-', readFileSync(file)]] as const) {
      rmSync(output, { force: true })
      const { code, out, err } = await run(
        ['score', from, '-o', output, '--url', url, '--summary', 'csv'],
        stdin,
      )
      assert.equal(code, 0, err)
      assert.match(out, /RM-Bench,mean,prompts,5\nRM-Bench,mean,easy,1\n/)
      assert.match(out, /RM-Bench,safety,normal,0\.3333\d*\nRM-Bench,safety,hard,0\n/)
      assert.deepEqual(
        lines(output).map(({ chosen_rewards: _, rejected_rewards: __, ...rest }) => rest),
        items,
      )
      assert.deepEqual(lines(output)[4]?.rejected_rewards, [1, 4, 9])
    }
  })

  it('leaves what it does not write byte for byte', async () => {
    const output = join(folder, 'bytes.jsonl')
    const ours =
      '{ "id":12345678901234567890, "x": 1.0,"big":1e400,"prompt":"p","response":"a,\\"}b", "2":{"reward":[1, 2]} ,"1":""'
    writeFileSync(input, `${ours}, "reward" : [7,{"a":"]"}] }\n${ours}}\r\n`)
    const { code, text } = await run(['score', input, '-o', output, '--url', url])
    assert.equal(code, 0, text)
    const added = ',"reward":5,"scores":[5]}\n'
    assert.equal(readFileSync(output, 'utf8'), `${ours}${added}${ours}${added}`)
  })

  it('sums up what it wrote, and nothing that a line had before', async () => {
    const [output, pairs] = [join(folder, 'twice.jsonl'), join(folder, 'twice-pairs.jsonl')]
    const old = { chosen_reward: 9, rejected_reward: 1, rewards: [7], dropped: 'long ago' }
    write(input, [{ prompt: 'p', response: 'four', ...old }])
    const flags = ['--url', url, '--summary', 'json']
    const { code, err, out } = await run(['score', input, '-o', output, ...flags])
    assert.equal(code, 0, err)
    const summary = JSON.parse(out)
    assert.deepEqual(Object.keys(summary.rewards), ['reward'])
    assert.equal(summary.pairs, undefined)
    const { err: told, out: said } = await run([
      ...['generate-pairs', input, '-o', pairs, '--n', '2', ...flags],
    ])
    assert.equal(lines(pairs).length, 1, told)
    assert.equal(JSON.parse(said).prompts['with a pair'].count, 1)
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
    const { code, text } = await run(['score', input, '-o', output, '--url', url])
    assert.equal(code, 0, text)
    assert.match(text, /all +1 +1 +0 +0 +0 +1 /)
    const [first, , third, fourth] = lines(output)
    assert.equal(first?.reward, 4)
    assert.equal(third?.reward, 3)
    assert.deepEqual(fourth?.rewards, [1, 2])
  })

  it('goes on after kills at any moment without losing or repeating a line', async (t) => {
    // So slow that no run is done before it is killed.
    const server = createServer(async (request, response) => {
      const body = await text(request)
      const answer = body === '' ? '' : String(JSON.parse(body).inputs?.[0].messages.at(-1).content)
      await sleep(5)
      response.statusCode = answer.length > 500 ? 400 : 200
      response.end(
        JSON.stringify(
          request.url === '/v1/models'
            ? { data: [{ id: 'm' }] }
            : answer.length > 500
              ? { error: { message: 'too long' } }
              : { data: [{ reward: answer.length, scores: [answer.length] }] },
        ),
      )
    })
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    t.after(() => server.close())
    const slow = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
    const output = join(folder, 'killed.jsonl')
    const records = Array.from({ length: 600 }, (_, i) => ({
      i,
      prompt: 'p',
      response: 'x'.repeat(i % 50 === 0 ? 600 : 1 + (i % 7)),
    }))
    write(input, records)
    const flags = ['--url', slow, '--on-error', 'record', '--summary', 'json']
    const whole = join(folder, 'whole.jsonl')
    const expected = await run(['score', input, '-o', whole, ...flags])
    assert.equal(expected.code, 0, expected.text)
    const command = ['score', input, '-o', output, ...flags, '--concurrency', '3']
    let kills = 0
    const linesDone = (): number => {
      try {
        return JSON.parse(readFileSync(`${output}.state`, 'utf8')).lines
      } catch {
        return 0 // none yet, or not any more
      }
    }
    for (let before = 0; kills < 3; kills++) {
      const killed = startCommand(command)
      await until(
        () => killed.child.exitCode !== null || linesDone() > before,
        'lines were written after the kill',
      )
      await sleep(Math.random() * 150)
      killed.child.kill('SIGKILL')
      await killed.ended
      before = linesDone()
      if (!existsSync(`${output}.state`)) break // it was faster
      writeFileSync(output, '{"torn":', { flag: 'a' })
    }
    assert.ok(kills > 0)
    const { code, text: said, out } = await run(command)
    assert.equal(code, 0, said)
    assert.match(said, /went on after \d+ lines/)
    assert.equal(readFileSync(output, 'utf8'), readFileSync(whole, 'utf8'))
    assert.equal(out, expected.out)
    assert.deepEqual(
      lines(output).map((one) => [one.i, one.reward]),
      records.map(({ i, response }) => [i, i % 50 === 0 ? undefined : response.length]),
    )
    for (const end of ['state', 'state.new', 'lock'])
      assert.ok(!existsSync(`${output}.${end}`), end)
  })

  it('checks all lines of a file first, and never overwrites a finished output', async () => {
    const output = join(folder, 'wrong.jsonl')
    writeFileSync(
      input,
      [
        '{"prompt":"p","response":"x"}',
        '{"prompt":"p"}',
        '{"prompt":"p","response":',
        '[1]',
        '{"prompt":"p","response":""}',
        '{"prompt":"p","chosen":"a"}',
        '{"messages":[{"role":"nobody","content":"a"}]}',
        '{"response":"a"}',
        '{"prompt":"p","response1":"a"}',
      ].join('\n'),
    )
    const command = ['score', input, '-o', output, '--url', url]
    const wrong = await run(command)
    assert.notEqual(wrong.code, 0)
    assert.match(wrong.text, /8 of 9 lines of .*in\.jsonl cannot be used, and nothing was begun/)
    assert.match(wrong.text, /line 2: needs 'messages'/)
    assert.match(wrong.text, /line 3: it is not JSON/)
    assert.match(wrong.text, /line 4: it must be one JSON object/)
    assert.match(wrong.text, /line 5: the answer is empty/)
    assert.match(wrong.text, /line 6: 'chosen' and 'rejected' go together: 'rejected' is missing/)
    assert.match(wrong.text, /line 7: Invalid value for 'messages.0.role'/)
    assert.match(wrong.text, /line 8: needs 'prompt' \(or 'messages'\) beside 'response'/)
    assert.match(wrong.text, /line 9: 'response_1' and 'response_2' go together: 'response_2' is/)
    assert.match(wrong.text, /--on-error skip/)
    assert.ok(!existsSync(output))
    write(input, [{ prompt: 'p', response: 'x' }])
    const mended = await run(command)
    assert.equal(mended.code, 0, mended.text)
    const again = await run(command)
    assert.match(again.text, /exists and is no unfinished job/)
  })

  it('skips or records lines that cannot be used, and leaves no old score in them', async () => {
    const long = 'x'.repeat(600) // the reward model reads 512 tokens
    const text = [
      '{"prompt":"p","response":"x","error":"mine"}',
      `{"prompt":"p","response":"${long}","reward":9,"id":1.0}`,
      'no',
      '{"prompt":"p","response":"yy"}',
      '',
    ].join('\n')
    const from = async (stdin: string | undefined, output: string, ...args: string[]) => {
      const source = stdin === undefined ? input : '-'
      const flags = ['--url', url, '--summary', 'json', ...args]
      const { code, text: said } = await run(['score', source, '-o', output, ...flags], stdin)
      assert.equal(code, 0, said)
      return said
    }
    writeFileSync(input, text)
    for (const [name, stdin] of [
      ['file', undefined],
      ['pipe', text],
    ] as const) {
      const skipped = join(folder, `skip-${name}.jsonl`)
      const said = await from(stdin, skipped, '--on-error', 'skip')
      assert.match(said, /line 2: .*maximum context length is 512/)
      assert.match(said, /line 3: it must be one JSON object/)
      assert.match(said, /2 of 4 lines could not be used and were left out/)
      assert.match(said, /"scored": 2,\s*"failed": 2/)
      assert.deepEqual(
        lines(skipped).map((one) => one.reward),
        [1, 2],
      )
      const recorded = join(folder, `record-${name}.jsonl`)
      await from(stdin, recorded, '--on-error', 'record')
      const [first = '', second = '', third = ''] = readFileSync(recorded, 'utf8').split('\n')
      assert.equal(first, '{"prompt":"p","response":"x","error":"mine","reward":1,"scores":[1]}')
      assert.ok(second.startsWith(`{"prompt":"p","response":"${long}","id":1.0,"error":"`), second)
      assert.match(third, /^\{"line":3,"error":"it must be one JSON object/)
    }
  })

  it('goes past lines that failed when it goes on', async () => {
    const output = join(folder, 'past.jsonl')
    const long = 'x'.repeat(600)
    write(input, [
      { prompt: 'p', response: 'x' },
      { prompt: 'p', response: long },
      { prompt: 'p', response: 'yyy' },
    ])
    const command = ['score', input, '-o', output, '--url', url]
    const stopped = await run(command)
    assert.notEqual(stopped.code, 0)
    assert.match(stopped.text, /line 2: .*maximum context length is 512/)
    assert.match(stopped.text, /1 lines were done before it/)
    const { code, text } = await run([...command, '--on-error', 'record'])
    assert.equal(code, 0, text)
    assert.match(text, /went on after 1 lines/)
    assert.deepEqual(
      lines(output).map(({ reward, error }) => [reward, typeof error]),
      [
        [1, 'undefined'],
        [undefined, 'string'],
        [3, 'undefined'],
      ],
    )
  })

  it('cuts conversations that are too long at their start, and says how much', async () => {
    const output = join(folder, 'cut.jsonl')
    const long = `${'😀'.repeat(300)}${'x'.repeat(600)}`
    write(input, [
      { prompt: 'p', response: 'short' },
      { prompt: long, chosen: 'good', rejected: 'ba' },
      {
        messages: [
          { role: 'system', content: 'be kind' },
          { role: 'user', content: 'p' },
          { role: 'assistant', content: `${long}end` },
        ],
      },
      // More than the server takes at all.
      { prompt: 'p', response: 'z'.repeat(2_000_000) },
    ])
    const { code, text } = await run(['score', input, '-o', output, '--url', url, '--truncate'])
    assert.equal(code, 0, text)
    const [short, pair, answer, huge] = lines(output)
    assert.equal(short?.truncated, undefined)
    assert.equal(pair?.prompt, long)
    assert.deepEqual([pair?.chosen_reward, pair?.rejected_reward], [4, 2])
    assert.ok(Number(pair?.truncated) > 600)
    // Of the answer only its end is left, as much as fits beside the system's turn.
    const left = Number(answer?.reward)
    assert.ok(left > 100 && left < 512, `${left}`)
    assert.equal(Number(answer?.truncated), long.length + 'end'.length + 'p'.length - left)
    assert.equal(Number(huge?.truncated) + Number(huge?.reward), 'p'.length + 2_000_000)
  })

  it('reads a pipe and a byte order mark, and names the line that is not UTF-8', async () => {
    const text = '\uFEFF{"prompt":"p","response":"é"}\r\n\n{"prompt":"p","response":"yy"}'
    for (const name of ['-', '/dev/stdin']) {
      const output = join(folder, `pipe-${name.length}.jsonl`)
      const { code, text: said } = await startCommand(['score', name, '-o', output, '--url', url], {
        input: text,
      }).ended
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
    const wrong = await run(['score', input, '-o', bytes, '--url', url])
    assert.notEqual(wrong.code, 0)
    assert.match(wrong.text, /line 2: it is not valid UTF-8/)
    const empty = join(folder, 'empty.jsonl')
    const none = await run(['score', '-', '-o', empty, '--url', url], '')
    assert.notEqual(none.code, 0)
    assert.match(none.text, /standard input has no lines/)
  })

  it('writes to pipes and standard output', async () => {
    write(input, [
      { prompt: 'p', response: 'x' },
      { prompt: 'p', response: 'yy' },
    ])
    for (const name of ['-', '/dev/stdout']) {
      const { code, out, err } = await startCommand(['score', input, '-o', name, '--url', url])
        .ended
      assert.equal(code, 0, err)
      assert.deepEqual(
        out
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line).reward),
        [1, 2],
      )
      assert.match(err, /is no file: a run that is interrupted cannot go on/)
      assert.match(err, /reward +2 +1\.5000 +0\.7071 +1 +2/)
    }
    const full = await run(['score', input, '-o', '/dev/full', '--url', url])
    assert.notEqual(full.code, 0)
    assert.match(full.text, /\/dev\/full cannot be written \(ENOSPC\): no space is left/)
  })

  it('answers each line of a pipe before the next one comes', async () => {
    const child = spawn(
      process.execPath,
      [...nodeArgs('server/cli.ts'), 'score', '-', '-o', '-', '--url', url],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    )
    let [out, err] = ['', '']
    child.stdout.on('data', (data) => {
      out += data
    })
    child.stderr.on('data', (data) => {
      err += data
    })
    const ended = once(child, 'close')
    const gone = ended.then(() => Promise.reject(new Error(err)))
    for (const response of ['x', 'yy']) {
      child.stdin.write(`${JSON.stringify({ prompt: 'p', response })}\n`)
      const record = `"reward":${response.length},`
      await Promise.race([until(() => out.includes(record), 'its record'), gone])
    }
    child.stdin.end()
    gone.catch(() => {})
    await ended
    assert.equal(child.exitCode, 0, err)
  })

  it('names files that cannot be used', async () => {
    const missing = join(folder, 'missing.jsonl')
    const flags = ['--url', url]
    const absent = await run(['score', missing, '-o', join(folder, 'o'), ...flags])
    assert.match(absent.text, /missing\.jsonl cannot be read \(ENOENT\): there is no such file/)
    const isFolder = await run(['score', folder, '-o', join(folder, 'o'), ...flags])
    assert.match(isFolder.text, /cannot be read \(EISDIR\): it is a folder/)
    write(input, [{ prompt: 'p', response: 'x' }])
    const nowhere = await run(['score', input, '-o', join(folder, 'no', 'o'), ...flags])
    assert.match(nowhere.text, /no\/o cannot be written \(ENOENT\)/)
  })

  it('says of which kind a file is that is not JSON lines', async () => {
    const said: readonly (readonly [content: string | Buffer, said: RegExp])[] = [
      [
        gzipSync('{"prompt":"p"}\n'),
        /is packed \(gzip\): unpack it first, such as with `gunzip -c/,
      ],
      ['PAR1\x15\x04', /is a table \(Parquet\), not JSON lines: pandas/],
      [Buffer.from('\ufeff{"a":1}\n', 'utf16le'), /is UTF-16, not UTF-8: .*-f UTF-16 /],
      [Buffer.from('{"a":1}\n', 'utf16le'), /is UTF-16, not UTF-8: .*-f UTF-16LE /],
      ['{"a":1}\n[1]\n', /line 2: .* but is a list: one list of objects may be the whole input/],
      ['[{"a":1},\n{"b":}]', /item 2: it is not JSON: Unexpected token '}'/],
      ['[{"a":1}, 7]', /item 2: it must be one JSON object/],
      ['[{"a":1},,{"a":2}]', /item 2: nothing stands before or behind a comma/],
      ['[{"a":1},]', /item 2: nothing stands before or behind a comma/],
      ['[{"a":1}]\n[{"a":2}]\n', /item 2: something stands behind the end of the list/],
      ['[{"a":1},{"b":', /item 2: the file ends before its list does: it was cut off/],
      ['{\n  "prompt": "p"\n}\n', /line 1: it is only the beginning of JSON: .*one line.*jq -c \./],
      ['prompt,response\na,b\n', /line 1: .* but begins with "prompt,response"/],
      ['17\n', /line 1: it must be one JSON object, such as/],
      ['{"prompt":}\n', /line 1: it is not JSON: Unexpected token '}'/],
    ]
    const [path, output] = [join(folder, 'other'), join(folder, 'other.jsonl')]
    const problemOf = async () => {
      for await (const { unit, number, content } of readLines(path, process))
        if ('problem' in content) return `${unit} ${number}: ${content.problem}`
      return 'none'
    }
    for (const [content, pattern] of said) {
      writeFileSync(path, content)
      assert.match(await problemOf().catch((error) => String(error)), pattern)
    }
    // A file of another kind is no line that cannot be used.
    writeFileSync(path, gzipSync('{"prompt":"p"}\n'))
    const { code, err } = await run([
      ...['score', path, '-o', output, '--url', url, '--on-error', 'record'],
    ])
    assert.equal(code, 1, err)
    assert.match(err, /other is packed \(gzip\)/)
    assert.ok(!existsSync(output))
  })

  const SLOW_LINES = 3000
  /** A run that waits in the middle: some of its records are written. */
  const startSlow = async (name: string) => {
    const [from, output] = [join(folder, `${name}.in`), join(folder, name)]
    // Of 512 bytes each, so that a file that is cut ends with a line, as far as it was read ahead.
    const line = (i: number, pad = '') => ({ i, prompt: 'p', response: 'x', pad })
    const sized = (i: number) => line(i, 'x'.repeat(511 - JSON.stringify(line(i)).length))
    write(
      from,
      Array.from({ length: SLOW_LINES }, (_, i) => sized(i)),
    )
    const slow = startCommand(['score', from, '-o', output, '--url', url, '--concurrency', '1'])
    const ended = slow.ended.then(({ err }) => Promise.reject(new Error(`it has ended: ${err}`)))
    const isBegun = () => existsSync(output) && statSync(output).size > 0
    await Promise.race([until(isBegun, 'records were written'), ended])
    const again = () => run(['score', from, '-o', output, '--url', url])
    return { ...slow, from, output, again }
  }

  it('ends at a signal with what was done written; a hang-up ends no run without a terminal', async () => {
    const { child, ended, output, again } = await startSlow('signal.jsonl')
    child.kill('SIGHUP')
    const size = statSync(output).size
    await until(() => statSync(output).size > size, 'it went on after the hang-up')
    child.kill('SIGTERM')
    const { code, err } = await ended
    assert.deepEqual([code, child.signalCode], [null, 'SIGTERM'])
    assert.match(err, /stopped by SIGTERM: the same command goes on\n$/)
    assert.ok(!existsSync(`${output}.lock`))
    const { lines: done, bytes } = JSON.parse(readFileSync(`${output}.state`, 'utf8'))
    assert.deepEqual([lines(output).length, statSync(output).size], [done, bytes])
    const end = await again()
    assert.match(end.err, new RegExp(`went on after ${done} lines`))
    assert.deepEqual(
      lines(output).map(({ i }) => i),
      Array.from({ length: SLOW_LINES }, (_, i) => i),
    )
  })

  it('does not succeed where its output or its input went away', async () => {
    const gone = await startSlow('removed.jsonl')
    rmSync(gone.output)
    const { code, err } = await gone.ended
    assert.equal(code, 1, err)
    assert.match(
      err,
      /removed\.jsonl was removed or replaced while it was written.* Remove .*\.state/,
    )
    const cut = await startSlow('shortened.jsonl')
    truncateSync(cut.from, 0)
    const end = await cut.ended
    assert.equal(end.code, 1, end.err)
    assert.match(end.err, /had 3000 lines when they were checked, and \d+ when they were read/)
  })

  it('shows a summary that standard output cannot take, once', async () => {
    const output = join(folder, 'full.jsonl')
    write(input, [{ prompt: 'p', response: 'x' }])
    const full = openSync('/dev/full', 'w')
    const child = spawn(
      process.execPath,
      [...nodeArgs('server/cli.ts'), 'score', input, '-o', output, '--url', url],
      { stdio: ['ignore', full, 'pipe'] },
    )
    closeSync(full)
    assert.ok(child.stderr)
    const [err, [code]] = await Promise.all([text(child.stderr), once(child, 'close')])
    assert.equal(code, 1, err)
    assert.match(err, /^reward +1 /m)
    assert.match(err, /error: standard output cannot be written \(ENOSPC\): /)
    assert.doesNotMatch(err, /\n +at /)
    assert.equal(lines(output).length, 1)
  })

  it('wants a whole address, and no model beside it', async () => {
    for (const [flags, pattern] of [
      [['--url', 'localhost:8000/v1'], /--url is 'localhost:8000\/v1': .*http:\/\/127/],
      [['--url', url, '--model', 'x'], /--model loads a model here, and --url asks a server/],
    ] as const) {
      write(input, [{ prompt: 'p', response: 'x' }])
      const { code, err } = await run(['score', input, '-o', join(folder, 'no'), ...flags])
      assert.equal(code, 1, err)
      assert.match(err, pattern)
    }
  })

  it('ends when it is told why it cannot go on, though its input does', async () => {
    const input = new PassThrough()
    input.write('{"prompt":"p"}\n')
    const { child, ended } = startCommand(['score', '-', '-o', '-', '--url', url], { input })
    const { code, err } = await ended
    assert.deepEqual([code, child.signalCode], [1, null], err)
    assert.match(err, /line 1: needs 'messages'/)
  })

  it('locks its output, and takes over the lock of a process that is gone', async () => {
    const output = join(folder, 'locked.jsonl')
    write(input, [{ prompt: 'p', response: 'x' }])
    const command = ['score', input, '-o', output, '--url', url]
    const holder = { pid: process.pid, host: hostname(), started: '' }
    writeFileSync(`${output}.lock`, JSON.stringify(holder))
    const refused = await run(command)
    assert.notEqual(refused.code, 0)
    assert.match(
      refused.text,
      new RegExp(`is being written by process ${process.pid}: wait for it`),
    )
    // A process with this number that began at another time is not the one that took the lock.
    writeFileSync(`${output}.lock`, JSON.stringify({ ...holder, started: '1' }))
    const { code, text } = await run(command)
    assert.equal(code, 0, text)
    assert.ok(!existsSync(`${output}.lock`))
  })

  it('asks again after a lost connection, and says which server cannot be reached', async () => {
    let requests = 0
    const server = createServer((request, response) => {
      request.resume().on('end', () => {
        if (request.url === '/v1/models') response.end('{"data":[{"id":"m"}]}')
        else if (++requests === 2) request.socket.destroy()
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
    const kept = await run(['score', input, '-o', output, ...flags])
    server.closeAllConnections()
    await new Promise((done) => server.close(done))
    assert.equal(kept.code, 0, kept.text)
    assert.deepEqual(
      lines(output).map((one) => one.reward),
      [3, 4],
    )
    const gone = await run(['score', input, '-o', join(folder, 'gone.jsonl'), ...flags])
    assert.notEqual(gone.code, 0)
    assert.match(gone.text, new RegExp(`${lost}/models cannot be reached \\(.*ECONNREFUSED`))
  })

  it('asks a line once that takes too long, and again where a proxy has lost the server', async () => {
    let lost = 0
    const asked: string[] = []
    const server = createServer(async (request, response) => {
      const body = await text(request)
      if (request.url === '/v1/models') return response.end('{"data":[{"id":"m"}]}')
      const answer = String(JSON.parse(body).inputs?.[0].messages.at(-1).content)
      asked.push(answer)
      if (answer === 'slow') {
        response.statusCode = 503
        return response.end('{"error":{"message":"took too long","code":"request_timeout"}}')
      }
      if (answer === 'slower' || (answer === 'lost' && ++lost <= 3)) {
        response.statusCode = answer === 'lost' ? 502 : 504
        return response.end('<html>nginx</html>')
      }
      response.end('{"data":[{"reward":1,"scores":[1]}]}')
    })
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
    const output = join(folder, 'slow.jsonl')
    const answers = ['slow', 'slower', 'lost', 'quick']
    write(
      input,
      answers.map((response) => ({ prompt: 'p', response })),
    )
    const flags = ['--url', at, '--reward-model', 'm', '--on-error', 'record']
    const { code, text: said } = await run(['score', input, '-o', output, ...flags])
    server.closeAllConnections()
    await new Promise((done) => server.close(done))
    assert.equal(code, 0, said)
    assert.deepEqual(
      answers.map((one) => asked.filter((each) => each === one).length),
      [1, 1, 4, 1],
    )
    assert.deepEqual(
      lines(output).map(({ reward, error }) => reward ?? String(error).replace(/^.*reward: /, '')),
      ['503 took too long', '504 Gateway Timeout', 1, 1],
    )
  })

  it('asks a server that fails again, and then takes it for the fault of that line', async () => {
    const asked: string[] = []
    const server = createServer(async (request, response) => {
      const body = await text(request)
      if (request.url === '/v1/models') return response.end('{"data":[{"id":"m"}]}')
      const answer = String(JSON.parse(body).inputs?.[0].messages.at(-1).content)
      asked.push(answer)
      const isFailing = answer === 'bad' || (answer === 'flaky' && asked.length < 4)
      response.statusCode = isFailing ? 500 : 200
      response.end(
        isFailing
          ? '{"error":{"message":"the scores are not numbers"}}'
          : '{"data":[{"reward":1,"scores":[1]}]}',
      )
    })
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
    const output = join(folder, 'failing.jsonl')
    const answers = ['flaky', 'bad', 'good']
    write(
      input,
      answers.map((response) => ({ prompt: 'p', response })),
    )
    const flags = ['--url', at, '--concurrency', '1', '--on-error', 'record']
    const began = Date.now()
    const { code, text: said } = await run(['score', input, '-o', output, ...flags])
    server.closeAllConnections()
    await new Promise((done) => server.close(done))
    assert.equal(code, 0, said)
    assert.ok(Date.now() - began > 3900)
    // Once it was asked whether the model gives rewards at all.
    assert.deepEqual(asked, [
      ...['undefined', 'flaky', 'flaky', 'flaky'],
      ...['bad', 'bad', 'bad', 'good'],
    ])
    assert.deepEqual(
      lines(output).map(({ reward, error }) => reward ?? String(error).replace(/^.*reward: /, '')),
      [1, '500 the scores are not numbers', 1],
    )
  })

  it('goes on by the flags that make the same records, and no others', async () => {
    const output = join(folder, 'flags.jsonl')
    const prompts = ['p', 'q', 'x'.repeat(600)].map((question) => ({ question }))
    write(input, prompts)
    const common = ['generate-pairs', input, '-o', output, '--url', url, '--concurrency', '1']
    const make = (...flags: string[]) => run([...common, '--field', 'prompt=question', ...flags])
    const begun = await make('--n', '2', '--margin', '1', '--keep-dropped')
    assert.match(begun.err, /line 3: .*maximum context length/)
    const state = JSON.parse(readFileSync(`${output}.state`, 'utf8'))
    assert.equal(state.lines, 2)
    const own = { n: '2', margin: '1', temperature: '1', seed: '1', 'keep-dropped': '' }
    assert.deepEqual(state.flags, { ...own, field: 'prompt=question' })
    for (const [flags, said] of [
      [
        ['--n', '2', '--keep-dropped'],
        /flags\.jsonl was begun with --margin 1, and this is with --margin 0\. Give the same flags/,
      ],
      [
        ['--n', '2', '--margin', '1', '--thinking', 'on'],
        /was begun with --keep-dropped, without --thinking, and this is without --keep-dropped, with --thinking on\. /,
      ],
    ] as const) {
      const other = await make(...flags)
      assert.equal(other.code, 1, other.err)
      assert.match(other.err, said)
    }
    const { code, err } = await make(
      ...['--n', '2', '--margin', '1', '--keep-dropped'],
      ...['--on-error', 'skip', '--concurrency', '4', '--summary', 'csv'],
    )
    assert.equal(code, 0, err)
    assert.match(err, /went on after 2 prompts/)
    assert.equal(lines(output).length, 2)
  })

  it('goes on by the model that began, and no other', async () => {
    let id = 'm'
    let isLost = true
    const server = createServer(async (request, response) => {
      const body = await text(request)
      if (request.url === '/v1/models') return response.end(JSON.stringify({ data: [{ id }] }))
      response.statusCode = isLost && body.includes('second') ? 500 : 200
      response.end('{"data":[{"reward":1,"scores":[1]}]}')
    })
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
    const output = join(folder, 'begun.jsonl')
    write(
      input,
      ['first', 'second'].map((response) => ({ prompt: 'p', response })),
    )
    const command = ['score', input, '-o', output, '--url', at, '--concurrency', '1']
    try {
      assert.match((await run(command)).err, /line 2: .*reward: 500/)
      isLost = false
      id = 'n'
      const other = await run(command)
      assert.equal(other.code, 1)
      assert.match(other.err, /was begun by score with 'm', and this is score with 'n'\. Remove it/)
      id = 'm'
      const { code, err } = await run(command)
      assert.equal(code, 0, err)
      assert.match(err, /went on after 1 lines/)
      assert.equal(lines(output).length, 2)
    } finally {
      server.closeAllConnections()
      await new Promise((done) => server.close(done))
    }
  })

  it("judges by a line's principle or the command's, where the model takes one", async () => {
    const judge = await startHarness({
      answer: (_, __, choice) => ({ pieces: ['abcdef'.slice(0, choice + 1)] }),
      reward: {
        score: (prompt) => [/By (\w+)\?/.exec(prompt)?.[1]?.length ?? 0],
        readout: { question: 'By {principle}?' },
      },
    })
    const output = join(folder, 'principle.jsonl')
    write(input, [
      { prompt: 'p', response: 'x', principle: 'wit' },
      { prompt: 'p', response: 'x'.repeat(600) },
    ])
    const at = ['--url', `${judge.url}/v1`]
    try {
      const none = await run(['score', input, '-o', output, ...at])
      assert.match(none.text, /1 of 2 lines .* cannot be used, and nothing was begun/)
      assert.match(none.text, /line 2: 'tiny-reward' says whether .* give one with --principle/)
      const other = join(folder, 'principle-number.jsonl')
      write(other, [{ prompt: 'p', response: 'x', principle: 5 }])
      const number = await run(['score', other, '-o', output, ...at])
      assert.match(number.text, /line 1: 'principle' must be a text, and is 5/)
      const most = 'x'.repeat(4097)
      write(other, [{ prompt: 'p', response: 'x', principle: most }])
      const own = await run(['score', other, '-o', output, ...at])
      assert.match(own.text, /line 1: the principle has 4097 characters, and may have 4096/)
      const long = await run(['score', input, '-o', output, ...at, '--principle', most])
      assert.match(
        long.text,
        /^error: --principle: the principle has 4097 characters, and may have/m,
      )
      const more = ['--principle', 'length', '--truncate']
      const both = await run(['score', input, '-o', output, ...at, ...more])
      assert.equal(both.code, 0, both.text)
      assert.deepEqual(
        lines(output).map(({ reward, truncated }) => [reward, Number(truncated) > 100]),
        [
          [3, false],
          [6, true],
        ],
      )
      write(input, [{ prompt: 'p', principle: 'wit' }])
      const pairs = join(folder, 'principle-pairs.jsonl')
      const made = await run(['generate-pairs', input, '-o', pairs, ...at])
      assert.equal(made.code, 0, made.text)
      assert.deepEqual(
        lines(pairs).map(({ chosen_reward }) => chosen_reward),
        [3],
      )
    } finally {
      await judge.close()
    }
    write(input, [{ prompt: 'p', response: 'x', principle: 'wit' }])
    const plain = join(folder, 'plain.jsonl')
    const flag = await run(['score', input, '-o', plain, '--url', url, '--principle', 'a'])
    assert.match(flag.text, /--principle: 'tiny-reward' scores answers by no principle/)
    const kept = await run(['score', input, '-o', plain, '--url', url])
    assert.equal(kept.code, 0, kept.text)
    assert.equal(lines(plain)[0]?.principle, 'wit')
  })

  it('says why no reward model was found', async () => {
    let status = 500
    const server = createServer((request, response) => {
      request.resume().on('end', () => {
        const isList = request.url === '/v1/models'
        response.statusCode = isList ? 200 : status
        response.end(
          isList
            ? '{"data":[{"id":"m"}]}'
            : '{"error":{"message":"broken weights","param":"model"}}',
        )
      })
    })
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
    const output = join(folder, 'unfound.jsonl')
    write(input, [{ prompt: 'p', response: 'x' }])
    const score = (...args: string[]) =>
      run(['score', input, '-o', output, '--url', at, '--on-error', 'skip', ...args])
    try {
      assert.match((await score()).text, /reward: 500 broken weights/)
      status = 401
      assert.match((await score('--reward-model', 'm')).text, /reward: 401 broken weights/)
      status = 400
      assert.match((await score()).text, /none of the models of .* gives rewards \(m\)/)
      assert.match((await score('--reward-model', 'n')).text, /serves no 'n', but m/)
    } finally {
      server.closeAllConnections()
      await new Promise((done) => server.close(done))
    }
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
    const made = await run([...args, '--margin', '2'])
    assert.equal(made.code, 0, made.text)
    assert.match(made.text, /with a pair +2/)
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
    const none = await run([...args, '--margin', '10'])
    assert.match(none.text, /with a pair +0/)
    assert.match(none.text, /without a pair: the rewards are closer than 10 +2/)
    assert.deepEqual(lines(output), [])
  })

  it('has answers written by the first model that gives no rewards', async () => {
    const rewards = new Set(['first', 'second', 'second-alias'])
    const models = async () => ['first', 'second', 'second-alias', 'writer'].map((id) => ({ id }))
    const post = async (_: string, body: object) => {
      const { model = '' } = body as { model?: string }
      if (rewards.has(model)) return {}
      throw new RequestFailure('no rewards', 400, { message: 'no rewards', param: 'model' })
    }
    const unused = async () => assert.fail('not asked')
    const asking = (ids: readonly string[]): Asking => ({
      target: {
        ...{ url: 'there', ask: unused, thinking: unused, close: unused, post },
        models: async () => (await models()).filter(({ id }) => ids.includes(id)),
      },
      rewardModel: { id: 'first', principle: 'none', isJudge: false },
      principleOf: () => undefined,
    })
    const all = ['first', 'second', 'second-alias', 'writer']
    assert.equal((await chatModelOf(asking(all), undefined)).id, 'writer')
    assert.equal((await chatModelOf(asking(all), 'writer')).id, 'writer')
    await assert.rejects(chatModelOf(asking(all), 'second'), /--chat-model: 'second' is a reward/)
    await assert.rejects(
      chatModelOf(asking(all.slice(0, 3)), undefined),
      /there serves no chat model beside 'first'/,
    )
  })

  it('gives the first line the seed that is asked for, and each other line the next', async () => {
    const seeds = new Map<string, unknown>()
    const drawn = await startHarness({
      answer: (prompt, { sampling }, choice) => {
        seeds.set(prompt.includes('first') ? 'first' : 'third', sampling?.seed)
        return { pieces: ['abcd'.slice(choice)] }
      },
      reward: { score: answerLength },
    })
    try {
      const output = join(folder, 'seeded.jsonl')
      writeFileSync(input, '{"prompt": "first"}\n\n{"prompt": "third"}\n')
      const at = ['--url', `${drawn.url}/v1`, '--n', '2', '--seed', '7']
      const made = await run(['generate-pairs', input, '-o', output, ...at])
      assert.equal(made.code, 0, made.text)
      assert.deepEqual(Object.fromEntries(seeds), { first: 7n, third: 9n })
    } finally {
      await drawn.close()
    }
  })

  it('asks a judge to compare answers, which must be to one conversation', async () => {
    // Longer is better.
    const judged = (prompt: string, role: string) =>
      prompt.split(`${role}\n\n`)[1]?.match(/^x*/)?.[0].length ?? 0
    const principles = new Set<string | undefined>()
    const judge = await startHarness({
      answer: (_, __, choice) => ({ pieces: ['x'.repeat(choice + 1)] }),
      reward: {
        judge: (prompt) => {
          const [one, two] = [judged(prompt, 'response_1'), judged(prompt, 'response_2')]
          principles.add(/principle\n\n(\w+)response_1/.exec(prompt)?.[1])
          return `{"score_1": ${one}, "score_2": ${two}, "ranking": ${one > two ? 1 : 6}}`
        },
      },
    })
    const at = ['--url', `${judge.url}/v1`]
    const output = join(folder, 'compared.jsonl')
    try {
      const parts = [{ role: 'assistant', content: [{ type: 'text', text: 'xx' }] }]
      write(input, [
        { prompt: 'p', chosen: 'xxx', rejected: 'xx' },
        { prompt: 'p', chosen: 'xxx', rejected: parts },
      ])
      const scored = await run(['score', input, '-o', output, ...at])
      assert.equal(scored.code, 0, scored.text)
      const rewards = { chosen_reward: 3, rejected_reward: 2 }
      assert.deepEqual(lines(output), [
        { prompt: 'p', chosen: 'xxx', rejected: 'xx', ...rewards },
        { prompt: 'p', chosen: 'xxx', rejected: parts, ...rewards },
      ])
      rmSync(output)
      const cut = await run(['score', input, '-o', output, ...at, '--truncate'])
      assert.match(cut.text, /--truncate: 'tiny-reward' is a judge, which reads two answers/)
      const turns = (question: string, content: string) => [
        { role: 'user', content: question },
        { role: 'assistant', content },
      ]
      write(input, [{ chosen: turns('p', 'xxx'), rejected: turns('q', 'xx') }])
      const apart = await run(['score', input, '-o', output, ...at])
      assert.match(apart.text, /a judge compares answers to one conversation/)
      write(input, [{ prompt: 'p' }])
      const pairs = join(folder, 'judged-pairs.jsonl')
      assert.deepEqual([...principles], [undefined])
      const making = ['generate-pairs', input, '-o', pairs, ...at, '--n', '3']
      const made = await run([...making, '--principle', 'wit'])
      assert.equal(made.code, 0, made.text)
      assert.deepEqual(lines(pairs), [
        { prompt: 'p', chosen: 'xxx', rejected: 'x', chosen_reward: 3, rejected_reward: 1 },
      ])
      assert.deepEqual([...principles], [undefined, 'wit'])
      write(input, [{ prompt: 'p', chosen: 'xxx', rejected: 'xx', principle: 'rhyme' }])
      rmSync(output, { force: true })
      const told = await run(['score', input, '-o', output, ...at])
      assert.equal(told.code, 0, told.text)
      assert.deepEqual([...principles], [undefined, 'wit', 'rhyme'])
    } finally {
      await judge.close()
    }
  })

  it('says what a judge did not judge, and has it write by a seed', async () => {
    const seeds: (number | bigint | undefined)[] = []
    const judge = await startHarness({
      answer: (_, __, choice) => ({ pieces: ['x'.repeat(choice + 1)] }),
      reward: {
        judge: (prompt, { sampling }) => {
          seeds.push(sampling?.seed)
          if (!prompt.includes('readable')) return 'I would rather not say.'
          return prompt.indexOf('good') < prompt.indexOf('evil')
            ? '{"score_1": 4, "score_2": 2, "ranking": 1}'
            : '{"score_1": 2, "score_2": 4, "ranking": 6}'
        },
      },
    })
    const at = ['--url', `${judge.url}/v1`]
    const output = join(folder, 'unjudged.jsonl')
    try {
      const subset = { chosen: 'good', rejected: 'evil', subset: 'donotanswer' }
      write(input, [
        ...[1, 2, 3].map(() => ({ prompt: 'readable', ...subset })),
        ...[1, 2].map(() => ({ prompt: 'no', ...subset })),
      ])
      const flags = ['--seed', '7', '--concurrency', '1', '--summary', 'json']
      const { code, out, err } = await run(['score', input, '-o', output, ...at, ...flags])
      assert.equal(code, 0, err)
      const { lines: all, pairs, RewardBench: bench } = JSON.parse(out)
      assert.deepEqual(all.all, { scored: 5, failed: 0, truncated: 0, without_reward: 2 })
      assert.deepEqual(pairs.all, {
        ...{ pairs: 5, right: 3, ties: 0, wrong: 0, unjudged: 2, accuracy: 0.6, mean_margin: 2 },
      })
      assert.equal(bench.Safety.accuracy, 0.6)
      assert.deepEqual(
        lines(output).map((one) => one.chosen_reward),
        [4, 4, 4, null, null],
      )
      // Each line's two comparisons.
      assert.deepEqual(
        seeds.map(Number),
        [7, 8, 9, 10, 11].flatMap((seed) => [seed, seed + 1]),
      )
      write(input, [{ prompt: 'no' }])
      const dropped = join(folder, 'unjudged-pairs.jsonl')
      const making = ['generate-pairs', input, '-o', dropped, ...at, '--n', '2', '--keep-dropped']
      const made = await run(making)
      assert.equal(made.code, 0, made.text)
      assert.equal(lines(dropped)[0]?.dropped, 'fewer than two answers could be judged')
      // What only a judge cannot use is found in all lines first.
      const calls = [{ type: 'function', function: { name: 'f', arguments: '{}' } }]
      write(input, [
        { prompt: 'p', responses: ['a', 'b'] },
        { prompt: 'p', responses: ['a', ' '] },
        { prompt: 'p', responses: ['a', { role: 'assistant', tool_calls: calls }] },
      ])
      const ahead = join(folder, 'ahead.jsonl')
      const wrong = await run(['score', input, '-o', ahead, ...at])
      assert.equal(wrong.code, 1)
      assert.match(wrong.err, /2 of 3 lines of .* cannot be used, and nothing was begun/)
      assert.match(wrong.err, /line 2: the answer is blank: there is nothing to judge/)
      assert.match(wrong.err, /line 3: a judge compares texts, and an answer has 'tool_calls'/)
    } finally {
      await judge.close()
    }
  })

  it('lets answers call the tools of a line', async () => {
    const tools = [
      { type: 'function', function: { name: 'f', parameters: { type: 'object', properties: {} } } },
    ]
    const calling = await startHarness({
      // A call, the same call again, and a text.
      answer: (prompt, _, choice) => ({
        pieces: [
          prompt.includes('"name": "f"') && choice < 2
            ? '<TOOLCALL>[{"name": "f", "arguments": {}}]</TOOLCALL>'
            : 'no',
        ],
      }),
      reward: { score: answerLength },
    })
    const output = join(folder, 'calls.jsonl')
    write(input, [{ prompt: 'p', tools }, { prompt: 'p' }])
    const flags = ['--url', `${calling.url}/v1`, '--keep-candidates', '--keep-dropped']
    try {
      for (const n of ['2', '3']) {
        rmSync(output, { force: true })
        const args = ['generate-pairs', input, '-o', output, ...flags, '--n', n]
        const made = await run(args)
        assert.equal(made.code, 0, made.text)
        const [first, second] = lines(output)
        assert.equal(second?.dropped, 'all answers are the same')
        if (n === '2') {
          assert.equal(first?.dropped, 'all answers are the same')
          continue
        }
        const chosen = first?.chosen as { role: string; content: string; tool_calls: object[] }
        assert.deepEqual(
          { ...chosen, tool_calls: chosen.tool_calls.length },
          {
            ...{ role: 'assistant', content: '', tool_calls: 1 },
          },
        )
        assert.equal(first?.rejected, 'no')
        const [best] = (first?.candidates ?? []) as { tool_calls: unknown }[]
        assert.deepEqual(best?.tool_calls, chosen.tool_calls)
      }
    } finally {
      await calling.close()
    }
  })

  it('judges as told, and says why a prompt gave no pair', async () => {
    // The answers are equally long; the later ones think longer. The last one is too long to be judged.
    const thinking = await startHarness({
      answer: (prompt, __, choice) => {
        const text = prompt.includes('same') ? 'b' : prompt.includes('none') ? '' : 'abcd'[choice]
        const thought = 't'.repeat(choice === 3 ? 600 : choice)
        return { pieces: [`<think>\n${thought}\n</think>\n\n`, text ?? ''] }
      },
      reward: { score: answerLength },
    })
    const output = join(folder, 'judged.jsonl')
    write(input, [
      { prompt: 'other', id: 7 },
      { prompt: 'same' },
      { prompt: 'none' },
      { prompt: `${'x'.repeat(600)} other` },
    ])
    const args = (...more: string[]) => [
      ...['generate-pairs', input, '-o', output, '--url', `${thinking.url}/v1`, '--n', '4'],
      ...[
        '--max-tokens',
        '700',
        '--thinking',
        'on',
        '--keep-candidates',
        '--keep-dropped',
        ...more,
      ],
    ]
    try {
      const made = await run(args('--include-thinking', '--truncate'))
      assert.equal(made.code, 0, made.text)
      const [other, same, none, long] = lines(output)
      const head = '<think>\n\n</think>\n\na'.length
      assert.deepEqual(other, {
        ...{ prompt: 'other', id: 7, chosen: 'c', rejected: 'a' },
        ...{ chosen_reasoning: 'tt', chosen_reward: head + 2, rejected_reward: 1 },
        candidates: [
          { content: 'c', reasoning: 'tt', reward: head + 2, finish_reason: 'stop' },
          { content: 'b', reasoning: 't', reward: head + 1, finish_reason: 'stop' },
          { content: 'a', reward: 1, finish_reason: 'stop' },
          { content: 'd', reasoning: 't'.repeat(600), reward: null, finish_reason: 'stop' },
        ],
      })
      assert.equal(same?.dropped, 'the best and the worst answer differ in their thinking alone')
      assert.ok(!('chosen' in (same ?? {})))
      assert.ok(Number(long?.truncated) > 100)
      assert.equal(long?.chosen, 'c')
      assert.match(made.text, /with a pair +2/)
      assert.match(made.text, /without a pair: .* in their thinking alone +1/)
      assert.match(String(none?.dropped), /neither empty nor too long/)
      rmSync(output)
      const alone = await run(args('--on-error', 'skip'))
      assert.equal(alone.code, 0, alone.text)
      assert.match(alone.text, /answers are judged without their thinking/)
      assert.match(alone.text, /line 4: .*maximum context length is 512/)
      assert.deepEqual(
        lines(output).map(({ dropped, chosen_reward }) => dropped ?? chosen_reward),
        [1, same?.dropped, none?.dropped],
      )
    } finally {
      await thinking.close()
    }
  })
})
