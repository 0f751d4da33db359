// Every bench starts, runs on the smallest shape and says what it promises: machine, shape, share of the
// limit. Mistakes of the caller are one line. Figures of these runs mean nothing.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { runBench } from '../../bench/benches.js'
import { buildBench } from '../../bench/machine.js'
import { benchModel } from '../../bench/random-model.js'
import { shapeNamed } from '../../bench/shapes.js'
import { nodeArgs } from '../../bench/source.js'
import { packagePath } from '../../server/version.js'
import { until } from '../server/harness.js'
import { noAddon, type RealServer, startReal } from '../server/real-server.js'
import { noBrowser } from '../web/browser.js'

type Ended = { readonly code: number | null; readonly out: string; readonly err: string }

const bench = (...args: readonly string[]): Promise<Ended> =>
  new Promise((resolve) => {
    const child = spawn(process.execPath, [...nodeArgs('bench/main.ts'), ...args], {
      cwd: packagePath('.'),
    })
    let [out, err] = ['', '']
    child.stdout.on('data', (data) => {
      out += data
    })
    child.stderr.on('data', (data) => {
      err += data
    })
    child.on('close', (code) => resolve({ code, out, err }))
  })

/** What it prints when it succeeds. */
const output = async (...args: readonly string[]): Promise<string> => {
  const { code, out, err } = await bench(...args)
  assert.equal(code, 0, `${args.join(' ')}\n${out}${err}`)
  return out
}

/** In this process: it says what is wrong before it begins. */
const refused = async (code: number, expected: RegExp, ...args: readonly string[]) => {
  let err = ''
  const ended = await runBench(args, (text) => {
    err += `${text}\n`
  })
  assert.equal(ended, code, err)
  assert.match(err, expected)
  assert.equal(err.trimEnd().split('\n').length, 1, `more than a line: ${err}`)
}

// To read a GiB takes longer than all else that most of them do.
process.env.NEMOTRON_BENCH_READ_MIB = '16'

const MACHINE = /hardware threads, \d+ GiB/

test('--help lists the benches, and each its flags', async () => {
  const list = await output('--help')
  for (const name of [
    'engine',
    'packed',
    'draft',
    'ops',
    'serve',
    'compare',
    'compare-results',
    'http',
    'storm',
    'overload',
    'frames',
    'loop',
    'reward',
    'score',
    'grammar',
    'start',
    'gpu',
  ])
    assert.match(list, new RegExp(`^  ${name} `, 'm'))
  assert.match(await output('serve', '--help'), /--input-len N\|N-M +tokens/)
})

test('a mistake is one line that says what would be right', async () => {
  assert.deepEqual(await bench('reward', '--rounds', 'x'), {
    code: 2,
    out: '',
    err: "bench reward: --rounds: expected a whole number of at least 1, not 'x'\n",
  })
  await refused(2, /'--bogus'; --help lists the flags/, 'http', '--bogus')
  await refused(2, /no shape 'huge'; there are 1b,/, 'reward', '--shape', 'huge')
  await refused(2, /'huge' is none of 1b,/, 'engine', '--shapes', 'huge')
  const url = ['--base-url', 'http://127.0.0.1:1/v1']
  await refused(2, /127.0.0.1:1\/v1\/models cannot be reached: .*--base-url/, 'serve', ...url)
  await refused(2, /--endpoint: expected chat or completions/, 'serve', '--endpoint', 'x')
  await refused(2, /--arrivals: expected constant, .* or ramp/, 'serve', '--arrivals', 'x')
  await refused(2, /--input-len: expected a number, or two/, 'serve', '--input-len', '9-3')
  await refused(2, /sweep one of them/, 'serve', '--concurrency', '1,2', '--request-rate', '1', '2')
  await refused(2, /--goodput: expected ttft/, 'serve', '--goodput', 'ttft:500', 'itl:5')
  await refused(2, /--html: there is no folder \/none/, 'serve', '--html', '/none/page.html')
  await refused(2, /expected two result files .*, not 1/, 'compare-results', 'one.json')
  assert.equal((await bench('nothing')).code, 2)
})

test('a result that is not whole is named with what is missing', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
  const file = join(folder, 'a.json')
  const head = { kind: 'nemotron-server bench serve', version: 1 }
  for (const [more, why] of [
    [{}, /a.json is no whole result: runs: missing/],
    [{ runs: [{ figures: {} }] }, /a.json is no whole result: runs.0.figures.completed: missing/],
  ] as const) {
    writeFileSync(file, JSON.stringify({ ...head, ...more }))
    await refused(2, why, 'compare-results', file, file)
  }
  rmSync(folder, { recursive: true })
})

/** Lists the model m to whoever has the key, answers one chat, and leaves all others open. */
const startStanding = async (key: string | undefined) => {
  const event = `data: ${JSON.stringify({ choices: [{ delta: { content: 'a' } }] })}\n\n`
  let chats = 0
  const server = createServer((request, response) => {
    request.resume()
    if (key !== undefined && request.headers.authorization !== `Bearer ${key}`)
      response.writeHead(401).end('{"error":"key"}')
    else if (request.url === '/v1/models') response.end('{"data":[{"id":"m"}]}')
    else if (request.url === '/v1/completions') response.writeHead(400).end('chats alone')
    else if (++chats === 1) response.end(`${event}data: [DONE]\n\n`)
    else response.write(event)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    chats: () => chats,
    close: () => {
      server.closeAllConnections()
      server.close()
    },
  }
}

test('Ctrl-C ends serve with what there is, in its files too', async () => {
  const server = await startStanding(undefined)
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
  const [prompts, json] = ['prompts.jsonl', 'result.json'].map((name) => join(folder, name))
  assert.ok(prompts && json)
  writeFileSync(prompts, '{"prompt":"Hello"}\n')
  const load = ['--dataset', prompts, '--warmup', '0', '--concurrency', '2', '--json', json]
  const args = [...nodeArgs('bench/main.ts'), 'serve', '--base-url', server.url, ...load]
  const child = spawn(process.execPath, args, { cwd: packagePath('.') })
  let out = ''
  child.stdout.on('data', (data) => {
    out += data
  })
  await until(() => server.chats() === 3, 'one is answered, and two are open')
  child.kill('SIGINT')
  const [code] = await once(child, 'close')
  server.close()
  assert.equal(code, 130, out)
  assert.match(out, /^Successful requests: +1\nFailed requests: +2$/m)
  assert.match(out, /^error: it was interrupted$/m)
  assert.equal(JSON.parse(readFileSync(json, 'utf8')).runs[0].figures.completed, 1)
  rmSync(folder, { recursive: true })
})

test('compare sends each server its own key', async () => {
  const [ours, peer] = await Promise.all([startStanding('one'), startStanding('two')])
  const urls = ['compare', '--base-url', ours.url, '--peer-url', peer.url]
  await refused(2, /HTTP 401: .*; --peer-api-key is sent/, ...urls)
  const withPeer = [...urls, '--peer-api-key', 'two', '--api-key']
  await refused(2, /HTTP 401: .*; --api-key is sent/, ...withPeer, 'two')
  const all = await bench(...withPeer, 'one')
  assert.match(all.err, /HTTP 400: chats alone/)
  assert.match(all.out, /^peer: http.*, model m$/m)
  ours.close()
  peer.close()
})

test('gpu', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
  const page = join(folder, 'page.md')
  assert.match(await output('gpu', '--results', folder, '--out', page), /0 runs/)
  rmSync(folder, { recursive: true })
})

test('schemas', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
  const write = (name: string, value: unknown) =>
    writeFileSync(join(folder, name), JSON.stringify(value))
  const text = { type: 'object', properties: { a: { type: 'string' } }, required: ['a'] }
  const instances = [
    { data: { a: 'x' }, valid: true },
    { data: { a: 1 }, valid: false },
    // The folder says so: it is the grammar that is measured, not the folder.
    { data: { a: 'y' }, valid: false },
  ]
  await refused(2, /none of its 0 .json files has a 'schema'/, 'schemas', '--data', folder)
  write('Easy---1.json', { schema: text, tests: instances })
  write('Hard---1.json', { schema: { not: { type: 'string' }, uniqueItems: true } })
  const out = await output('schemas', '--data', folder)
  assert.match(out, /0 of 1 valid instances not admitted, 1 of 2 invalid ones admitted/)
  assert.match(out, /wrong: Easy---1.json 0: \{"a":"y"\}/)
  assert.match(out, /^Easy +ours +1 +1 \(100.0 %\) +1 \(100.0 %\)/m)
  assert.match(out, /^all +ours +2 +1 \(50.0 %\)/m)
  assert.match(out, /1 refused: /)
  rmSync(folder, { recursive: true })
})

const LIKE_LLAMA = `#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in
    -m) model=$2 ;;
    --port) port=$2 ;;
    --version) echo 'version: 1 (stand-in)' >&2; exit ;;
  esac
  shift
done
cd '${packagePath('.')}'
exec '${process.execPath}' ${nodeArgs('server/cli.ts').join(' ')} serve --model "\${model%.gguf}" --port "$port" --threads 1 --device cpu
`
const REWARD = packagePath('models/tiny/tiny-reward')

/** The smallest shape, once. */
const ONCE = ['--shape', 'tiny', '--rounds', '1', '--threads', '1']

/** What takes ten seconds and more. */
const onlyLong = process.env.NEMOTRON_TEST_LONG === '1' ? false : 'npm run test:long'

describe('benches of our own engine', { skip: noAddon }, () => {
  before(() => {
    for (const name of ['cpu_bench', 'grammar_bench']) buildBench(name)
    process.env.NEMOTRON_BENCH_TEST = '1'
  })

  test('ops', async () => {
    assert.match(await output('ops', 'ceilings', '--seconds', '0.01'), /"ceiling": "read"/)
    assert.match(
      await output('ops', 'loading', '--seconds', '0.01'),
      /"read to where it is wanted"/,
    )
    const disk = await output('ops', 'disk', '--seconds', '0.01')
    assert.match(disk, /"disk": "cached mmap", "piece_mib": 32, "gb_per_s": {"1": [\d.]+, "2"/)
    const draws = await output('ops', 'sample', '--seconds', '0.01')
    assert.match(draws, /"op": "sample", "case": "greedy"/)
  })

  test('engine', async () => {
    const smallest = ['--shapes', 'tiny', '--threads', '1', '--peers', 'none', '--rounds', '1']
    const one = ['--cases', 'decode 1', '--ours', 'fp8', '--out', 'none']
    const out = await output('engine', ...smallest, ...one)
    assert.match(out, MACHINE)
    assert.match(out, /shape tiny, threads: 1/)
    assert.match(out, /^decode 1 .* \d+ %/m)
    assert.match(out, /numbers of ours fp8: same likeliest token at/)
  })

  test('packed', { skip: onlyLong }, async () => {
    const smallest = ['--shapes', 'tiny', '--threads', '1', '--peers', 'none', '--rounds', '1']
    const out = await output('packed', ...smallest, '--forms', 'Q4_K,dynamic,int4')
    assert.match(out, MACHINE)
    assert.match(out, /^dynamic: a file of .* GB in memory; loaded in/m)
    assert.match(out, /^Q4_K decode 1 +\d.* \d+ % .*x \(/m)
    assert.match(out, /^int4 prefill 512 +\d/m)
    await refused(2, /'Q9' is none of Q4_K,/, 'packed', '--forms', 'Q9')
  })

  test('reward', async () => {
    const sizes = ['--prompt', '64', '--candidates', '2', '--answer', '8']
    const out = await output('reward', ...ONCE, ...sizes)
    assert.match(out, MACHINE)
    assert.match(out, /share \d+ %/)
  })

  test('score', async () => {
    const sizes = ['--lines', '20', '--prompt', '8', '--answer', '8']
    const out = await output('score', ...ONCE, ...sizes)
    assert.match(out, MACHINE)
    assert.match(
      out,
      /^20 lines of 8 \+ 8 tokens: score -?\d+ tok\/s, the engine \d+ tok\/s, share/m,
    )
  })

  test('encode', async () => {
    const out = await output('encode', '--rounds', '1', '--words', '4000', '--turn', '500')
    assert.match(out, MACHINE)
    assert.match(out, /^\d{4} tokens in 8 messages, new: .* ms/m)
    assert.match(out, /^with one more message, the others known: .*x /m)
  })

  test('decisions', async () => {
    const sizes = ['--prompt', '100', '--cached', '100', '--questions', '2']
    const out = await output('decisions', ...ONCE, ...sizes)
    assert.match(out, MACHINE)
    assert.match(out, /^2 questions over 100 tokens: .*, goal <= 1.3x (met|missed)$/m)
    assert.match(
      out,
      /^one more question behind 100 cached tokens: .*, goal <= 1.5x (met|missed)$/m,
    )
  })

  test('batches', async () => {
    const sizes = ['--lines', '8', '--asks', '3', '--prompt', '8', '--output', '4']
    const out = await output('batches', '--shape', 'tiny', '--threads', '1', ...sizes)
    assert.match(out, MACHINE)
    assert.match(out, /^8 lines: .* the engine alone .* %, goal >= 95 % (met|missed)$/m)
    assert.match(out, /^p95 to the first token over HTTP: .*x, goal <= 1.3x (met|missed)$/m)
  })

  test('draft', async () => {
    const sizes = ['--shape', 'tiny', '--draft', 'tiny', '--temperatures', '16', '--sequences', '2']
    const more = ['--threads', '1', '--rounds', '1', '--output', '40']
    const out = await output('draft', ...sizes, ...more)
    assert.match(out, MACHINE)
    const shown =
      /^decode 2 at temperature 16: (\d+) % of .* guesses a token accepted, ([\d.]+) tokens a step/m
    const [, accepted, tokens] = shown.exec(out) ?? []
    assert.equal(accepted, '100', out) // a model knows what it will draw
    assert.ok(Number(tokens) > 3, out)
  })

  test('grammar', async () => {
    const sizes = ['--shape', 'tiny', '--rounds', '1', '--threads', '1', '--tokens', '48']
    const out = await output('grammar', ...sizes)
    assert.match(out, MACHINE)
    assert.match(out, /^decode: tiny, 1024 ids, /m)
    assert.match(out, /128256 tokens, \d+ nodes$/m)
    assert.match(out, /^compile, 100 fields +<= 50 ms +[\d.]+ ms .* (met|missed)$/m)
    assert.match(out, /^mask, first visit, p99 +<= 2 ms +[\d.]+ ms .* (met|missed)$/m)
    assert.match(out, /^decode 32, 16 with a known schema +>= 95.0 % +[\d.]+ % .* (met|missed)$/m)
  })

  test('storm', async () => {
    const out = await output(
      ...['storm', '--rounds', '1', '--duration', '1', '--clients', '4', '--places', '1'],
      ...['--output-len', '4'],
    )
    assert.match(out, MACHINE)
    assert.match(out, /^useful answers: .* 4 clients that ignore Retry-After: \d+ %/m)
  })

  test('overload', async () => {
    const out = await output(
      ...['overload', '--rounds', '1', '--duration', '0.8', '--places', '1', '--output-len', '8'],
      ...['--threads', '1'],
    )
    assert.match(out, MACHINE)
    assert.match(out, /^goodput at 4 times the peak: \d+ % of it /m)
    assert.match(out, /^refusals: median \d+ ms, goal 50; 99th percentile \d+ ms, goal 500$/m)
    const [, green, asked] = /^health: (\d+) of (\d+) answers were 200$/m.exec(out) ?? []
    assert.ok(green !== undefined && green === asked, out)
    assert.match(out, /^processor: [\d.]+ ms .* for an answer, -?[\d.]+ for a refusal; [\d.]+ of /m)
  })

  test('frames', { skip: noBrowser || onlyLong }, async () => {
    const out = await output('frames', '--rounds', '1', '--tokens', '200')
    assert.match(out, MACHINE)
    assert.match(out, /^first load: [\d.]+ kB, goal 80; usable after [\d.]+ s, goal 1$/m)
    assert.match(out, /^frames while an answer streams: [\d.]+\/s, goal 60; \d+ long tasks$/m)
  })

  test('loop', async () => {
    const out = await output('loop', '--requests', '1', '--threads', '1', '--duration', '0.5')
    assert.match(out, MACHINE)
    for (const kind of ['ids', 'text', 'chat'])
      assert.match(out, new RegExp(`^${kind}: longest \\d+ ms`, 'm'))
  })

  test('serve --stream-cost and --share', { skip: onlyLong }, async () => {
    const cost = await output('serve', '--stream-cost', '--cost-tokens', '20', '--rounds', '1')
    assert.match(cost, /ours [\d.]+ us .* bare node:http [\d.]+ us .* ratio [\d.]+/)
    for (const path of ['responses', 'messages'])
      assert.match(
        cost,
        new RegExp(`^/v1/${path}: .* [\\d.]+x chat's, goal <= 1.3x (met|missed)$`, 'm'),
      )
    assert.match(await output('serve', '--own-limit'), /256 streams of a scripted server: \d+ tok/)
    const share = await output('serve', '--share', 'tiny', '--rounds', '1')
    assert.match(share, /256 streams: .* share/)
    assert.match(share, /256 streams: the load generator takes \d+ tok\/s, [\d.]+x the server's/)
  })

  const built = existsSync(packagePath('dist/server/cli.js')) ? false : 'dist is not built'
  test('start', { skip: built }, async () => {
    assert.match(await output('start', '--rounds', '1'), /first token: median \d+ ms/)
  })

  describe('on a server', () => {
    let server: RealServer
    let url: readonly string[] = []
    before(async () => {
      // Its tokenizer has words of one token, so that any length can be met.
      const model = benchModel(shapeNamed('tiny'))
      server = await startReal({ models: [{ model, served_model_name: 'm' }] })
      url = ['--base-url', `${server.url}/v1`]
    })
    after(() => server?.close())

    test('serve counts tokens of the input, and shows percentiles and the share', async () => {
      const load = ['--num-prompts', '3', '--input-len', '50', '--output-len', '4']
      for (const endpoint of ['chat', 'completions']) {
        const out = await output('serve', ...url, ...load, '--endpoint', endpoint)
        assert.match(out, MACHINE)
        assert.match(out, /Total input tokens: +150\n/)
        assert.match(out, /Total generated tokens: +12\n/)
        assert.match(out, /^ms +mean +median +p90 +p95 +p99$/m)
        assert.match(out, /share of the limit: \d+ %/)
      }
      await refused(2, /--input-len: the template alone takes/, 'serve', ...url, '--input-len', '1')
    })

    test('serve --duration ends by the clock', async () => {
      const load = ['--duration', '0.3', '--input-len', '30', '--output-len', '2']
      const out = await output('serve', ...url, ...load, '--shape', 'tiny')
      assert.ok(Number(/duration \(s\): +([\d.]+)/.exec(out)?.[1]) < 10, out)
    })

    test('serve reads a dataset, and says which line is wrong', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
      const file = join(folder, 'prompts.jsonl')
      writeFileSync(file, '{"prompt": "Hello"}\n{"text": "no"}\n')
      await refused(
        2,
        /prompts.jsonl: line 2: it has no text "prompt"/,
        'serve',
        ...url,
        '--dataset',
        file,
      )
      writeFileSync(file, '{"prompt": "Hello"}\n')
      const load = ['--dataset', file, '--num-prompts', '2', '--output-len', '2']
      assert.match(await output('serve', ...url, ...load), /Successful requests: +2\n/)
      rmSync(folder, { recursive: true })
    })

    test('a sweep, its result file, its page, and two results beside each other', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
      const [one, other, page] = ['a.json', 'b.json', 'page.html'].map((f) => join(folder, f))
      assert.ok(one && other && page)
      const load = ['--num-prompts', '4', '--input-len', '20-40', '--output-len', '2-4']
      const out = await output(
        ...['serve', ...url, ...load, '--concurrency', '1', '2', '--goodput', 'ttft:60000'],
        ...['--turns', '2', '--shared-prefix', '10', '--json', one, '--html', page],
      )
      assert.match(out, /^load +requests\/s +goodput\/s/m)
      assert.match(out, /^1 at once .*\n2 at once /m)
      assert.match(out, /^load generator: \d+ % of its thread busy/m)
      const rate = ['--request-rate', '50', '--arrivals', 'burst', '--concurrency', '2']
      await output('serve', ...url, ...load, ...rate, '--json', other)
      await refused(2, /no load is in both results: .* 1 at once/, 'compare-results', one, other)
      const both = await output('compare-results', one, one, '--html', page)
      assert.match(both, /^1 at once +A +B +B is$/m)
      assert.match(both, /^requests\/s .* 1\.00x$/m)
      assert.match(readFileSync(page, 'utf8'), /<!doctype html>/)
      writeFileSync(other, readFileSync(one, 'utf8').replace('"version":1', '"version":99'))
      await refused(2, /version 99 of results, this bench reads/, 'compare-results', one, other)
      writeFileSync(other, '{"runs":[]}')
      await refused(2, /is no result of/, 'compare-results', one, other)
      rmSync(folder, { recursive: true })
    })

    test('a model that is not there, a server that refuses', async () => {
      await refused(2, /lists no 'x'; it lists m/, 'serve', ...url, '--model', 'x')
      const bad = ['--body', '{"temperature":-1}']
      await refused(2, /the first request failed: HTTP 400.*temperature/, 'serve', ...url, ...bad)
    })

    test('compare: a server at an address, and a binary that takes the arguments of llama.cpp', async () => {
      const peer = ['--peer-url', `${server.url}/v1`]
      const load = ['--rounds', '1', '--num-prompts', '2', '--output-len', '4', '--input-len', '20']
      const both = ['compare', ...peer, '--base-url', `${server.url}/v1`, ...load]
      const out = await output(...both, '--concurrency', '1', '2')
      assert.match(out, MACHINE)
      for (const at of [1, 2])
        assert.match(
          out,
          new RegExp(`^${at} at once +ours +peer +ours is\noutput tok/s .*x \\(`, 'm'),
        )
      // Our own server over the folder beside the GGUF file stands in: Debian has no llama.cpp.
      const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
      const binary = join(folder, 'llama-server')
      writeFileSync(binary, LIKE_LLAMA, { mode: 0o755 })
      const started = ['--shape', 'tiny', '--threads', '1', '--concurrency', '1']
      const llama = await output('compare', '--llama-server', binary, ...started, ...load)
      assert.match(llama, /^1 at once +ours +llama\.cpp +ours is$/m)
      assert.match(llama, /^llama\.cpp: \S+, model \S+, version: 1 \(stand-in\)$/m)
      writeFileSync(binary, '#!/bin/sh\necho no such model >&2\nexit 1\n')
      const why = /llama-server did not start: no such model/
      await refused(2, why, 'compare', '--llama-server', binary, ...started, ...load)
      await refused(2, /give one of --peer-url and --llama-server/, 'compare')
      rmSync(folder, { recursive: true })
    })

    test('http of a reward model has rewards in the place of completions', async () => {
      const rewards = await startReal({
        kv_cache_memory: '32MiB',
        models: [{ model: REWARD, served_model_name: 'r' }],
      })
      const load = ['--duration', '0.5', '--connections', '2', '--overload', '4']
      const out = await output('http', '--base-url', `${rewards.url}/v1`, ...load)
      await rewards.close()
      assert.match(out, /^reward +[1-9]\d* .* [1-9]\d* +0 +0 +0 +0$/m)
      assert.doesNotMatch(out, /^completions/m)
    })

    test('http', async () => {
      const load = ['--duration', '0.5', '--connections', '2', '--overload', '4']
      const out = await output('http', ...url, ...load)
      assert.match(out, MACHINE)
      for (const name of ['health', 'models', 'completions', 'bad requests', 'overload', 'churn'])
        assert.match(out, new RegExp(`^${name} +\\d`, 'm'))
    })
  })
})
