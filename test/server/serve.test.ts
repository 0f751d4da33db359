import assert from 'node:assert/strict'
import { type ChildProcess, execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import { get, request } from 'node:https'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { promisify } from 'node:util'
import OpenAI from 'openai'
import { nodeArgs } from '../../bench/source.js'
import { packagePath } from '../../server/version.js'
import { chatCheckpoint } from './chat-checkpoint.js'
import { readAnswer, readEvents, until } from './harness.js'
import { REPO, startRemote } from './remote-hub.js'

const skip = existsSync(packagePath('build/Release/nemotron.node'))
  ? false
  : 'the addon is not built: npm run build:addon'

type Running = {
  readonly url: string
  readonly child: ChildProcess
  readonly out: () => string
  readonly exit: Promise<number | null>
}

/** The hub's folder of a model, whose files are in a snapshot below it. */
const hubFolder = (): string => {
  const folder = join(mkdtempSync(join(tmpdir(), 'nemotron-hub-')), 'models--nvidia--tiny-reward')
  const snapshot = join(folder, 'snapshots', '0a1b2c3d')
  mkdirSync(snapshot, { recursive: true })
  writeFileSync(join(snapshot, 'config.json'), '{}')
  return folder
}

const children = new Set<ChildProcess>()

const start = (
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  stdout: 'pipe' | number = 'pipe',
): Omit<Running, 'url'> => {
  const child = spawn(process.execPath, [...nodeArgs('server/cli.ts'), 'serve', ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', stdout, 'pipe'],
  })
  children.add(child)
  let text = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (chunk) => {
      text += chunk
    })
  const exit = new Promise<number | null>((resolve) => child.once('close', resolve))
  return { child, out: () => text, exit }
}

const serve = async (
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  stdout: 'pipe' | number = 'pipe',
): Promise<Running> => {
  const running = start(
    ['--port', '0', '--kv-cache-memory', '64MiB', '--threads', '1', ...args],
    env,
    stdout,
  )
  for (let i = 0; i < 600; i++) {
    const url = /^at (\S+)\/v1/m.exec(running.out())?.[1]
    if (url !== undefined) return { ...running, url }
    if (running.child.exitCode !== null) break
    await new Promise((done) => setTimeout(done, 50))
  }
  throw new Error(`it did not start: ${running.out()}`)
}

after(() => {
  for (const child of children) child.kill('SIGKILL')
})

describe('serve', { skip }, () => {
  test('--tensor-parallel-size: what each rank holds is told and measured', async () => {
    const model = packagePath('models/tiny/tiny-reasoner')
    const { url, child, exit, out } = await serve(['--model', model, '--tensor-parallel-size', '2'])
    assert.match(out(), /on each of 2 ranks/)
    const metrics = await (await fetch(`${url}/metrics`)).text()
    for (const rank of [0, 1]) {
      assert.match(out(), new RegExp(`: rank ${rank}, cpu .*MiB of weights; open`))
      const gauge = `nemotron:rank_memory_bytes\\{[^}]*rank="${rank}",part="weights"\\} [1-9]`
      assert.match(metrics, new RegExp(gauge))
    }
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'x', maxRetries: 0 })
    const messages = [{ role: 'user' as const, content: 'Hi' }]
    const answer = await client.chat.completions.create({ model: 'tiny-reasoner', messages })
    assert.ok((answer.choices[0]?.message.content ?? '').length > 0)
    child.kill('SIGTERM')
    assert.equal(await exit, 0)
  })

  test('with a key, the request that is printed says how to give it', async () => {
    const { child, exit, out } = await serve(['--model', 'tiny-reward', '--api-key', 'secret-key'])
    const request = /^ {2}(curl .*)$/m.exec(out())?.[1] ?? ''
    assert.doesNotMatch(out(), /secret-key/)
    const { NEMOTRON_API_KEY: _, ...env } = process.env
    const { stderr } = spawnSync('bash', ['-c', request], { env, encoding: 'utf8' })
    assert.match(stderr, /NEMOTRON_API_KEY: set it first: export NEMOTRON_API_KEY=/)
    const asked = promisify(execFile)('bash', ['-c', request], {
      env: { ...env, NEMOTRON_API_KEY: 'secret-key' },
    })
    assert.match((await asked).stdout, /"reward":/)
    child.kill('SIGTERM')
    assert.equal(await exit, 0)
  })

  test('--draft-model: told at the start, shown, counted; the answers are the same', async () => {
    const model = packagePath('models/tiny/tiny-reasoner')
    const plain = await serve(['--model', model])
    const drafted = await serve(['--model', model, '--draft-model', model, '--draft-tokens', '4'])
    assert.match(
      plain.out(),
      /tiny-reasoner: cpu \(.*1 thread.*\): cpu, .*; threads: 1 \(as asked for\)/,
    )
    assert.match(
      plain.out(),
      /tiny-reasoner: loaded: open [\d.]+ s; read and pack [\d.]+ GB, [\d.]+ s, [\d.]+ GB\/s; prepare /,
    )
    assert.match(drafted.out(), /draft model .* weights, activations and reserve\ndraft KV /)
    assert.match(drafted.out(), /tiny-reasoner guesses 4 tokens at most, in steps of 16 rows/)
    const answers = []
    for (const { url } of [plain, drafted]) {
      const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'x', maxRetries: 0 })
      const messages = [{ role: 'user' as const, content: 'Which city? Answer as JSON.' }]
      const common = { model: 'tiny-reasoner', messages, max_tokens: 60, seed: 4, logprobs: true }
      const json = { type: 'json_object' as const }
      const whole = [
        await client.chat.completions.create({ ...common, temperature: 0 }),
        await client.chat.completions.create({ ...common, temperature: 1, n: 3 }),
        await client.chat.completions.create({ ...common, temperature: 1, response_format: json }),
      ]
      answers.push(whole.map(({ choices, usage }) => ({ choices, usage })))
    }
    assert.deepEqual(answers[1], answers[0])
    const metrics = await (await fetch(`${drafted.url}/metrics`)).text()
    const count = (what: string) => {
      const line = new RegExp(`nemotron:${what}_tokens_total\\{[^}]*source="model"\\} (\\d+)`)
      return Number(line.exec(metrics)?.[1])
    }
    assert.ok(count('accepted') > 40 && count('drafted') >= count('accepted'), metrics)
    const { models } = await readAnswer(await fetch(`${drafted.url}/v1/server`))
    assert.equal(models[0].draft.root, model)
    assert.equal(models[0].draft.tokens, 4)
    assert.ok(models[0].memory.draft_model > 0)
    assert.equal(models[0].memory.draft_kv_cache, models[0].memory.kv_cache)
    for (const { child } of [plain, drafted]) child.kill('SIGTERM')
    for (const { exit } of [plain, drafted]) assert.equal(await exit, 0)
  })

  test('two models, by name; chat, completions, and a reward model that completes nothing', async () => {
    const chat = chatCheckpoint()
    const reward = chatCheckpoint({ classes: 2 })
    const { url, child, exit, out } = await serve([
      '--model',
      chat,
      '--model',
      reward,
      '--served-model-name',
      'chatty',
      '--served-model-name',
      'judge',
    ])
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'x', maxRetries: 0 })
    assert.deepEqual(
      (await client.models.list()).data.map(({ id }) => id),
      ['chatty', 'judge'],
    )
    const ask = {
      model: 'chatty',
      messages: [{ role: 'user' as const, content: 'Hi' }],
      max_tokens: 12,
    }
    const whole = await client.chat.completions.create({ ...ask, seed: 5, temperature: 1 })
    let text = ''
    for await (const chunk of await client.chat.completions.create({
      ...ask,
      seed: 5,
      temperature: 1,
      stream: true,
    }))
      text += chunk.choices[0]?.delta.content ?? ''
    assert.equal(text, whole.choices[0]?.message.content)
    assert.equal(whole.usage?.completion_tokens, 12)
    const scored = await client.completions.create({
      model: 'chatty',
      prompt: [
        [1, 2, 3],
        [4, 5],
      ],
      echo: true,
      logprobs: 1,
      max_tokens: 0,
    })
    assert.deepEqual(
      scored.choices.map((choice) => choice.logprobs?.token_logprobs?.length),
      [3, 2],
    )
    assert.equal(scored.choices[0]?.logprobs?.token_logprobs?.[0], null)
    await assert.rejects(client.completions.create({ model: 'judge', prompt: 'x' }), /reward model/)
    await assert.rejects(
      client.chat.completions.create({ ...ask, max_tokens: 100_000 }),
      (error: InstanceType<typeof OpenAI.APIError>) => error.code === 'context_length_exceeded',
    )
    child.kill('SIGTERM')
    assert.equal(await exit, 0)
    assert.match(out(), /curl .*chat\/completions/)
    assert.match(out(), /KV cache +64\.0 MiB/)
  })

  // npm hands on a Ctrl-C that the terminal has sent to all, and bash the end of the terminal.
  for (const [signal, again] of [
    ['SIGTERM', undefined],
    ['SIGINT', 400],
    ['SIGHUP', 5],
  ] as const) {
    const named = again === undefined ? signal : `${signal}, again after ${again} ms`
    test(`${named}: readiness off, then nobody new, a running stream ends whole, exit 0`, async () => {
      const { url, child, exit } = await serve([
        '--model',
        chatCheckpoint({ config: { max_position_embeddings: 16384 } }),
        '--served-model-name',
        'm',
        '--drain-timeout',
        '120',
        '--drain-delay',
        '4',
      ])
      const body = {
        model: 'm',
        messages: [{ role: 'user', content: 'Hi' }],
        // Long enough that all that follows comes while it runs.
        max_tokens: 8000,
        ignore_eos: true,
        stream: true,
      }
      const post = (more: object) =>
        fetch(`${url}/v1/chat/completions`, {
          method: 'POST',
          body: JSON.stringify({ ...body, ...more }),
        })
      const running = await post({})
      child.kill(signal)
      let health = 200
      for (let i = 0; i < 2000 && health === 200; i++)
        health = (await fetch(`${url}/health`)).status
      assert.equal(health, 503)
      if (again !== undefined) setTimeout(() => child.kill(signal), again)
      const taken = await post({ max_tokens: 2, stream: false })
      assert.equal(taken.status, 200)
      assert.equal(taken.headers.get('connection'), 'close')
      assert.equal((await readAnswer(taken)).choices[0].finish_reason, 'length')
      assert.equal((await fetch(`${url}/v1/health/live`)).status, 200)
      await assert.rejects(async () => {
        for (let i = 0; i < 200; i++) {
          await new Promise((later) => setTimeout(later, 50))
          await fetch(`${url}/health`)
        }
      }, /fetch failed/)
      const { chunks, done } = await readEvents(running)
      assert.ok(done)
      assert.equal(chunks.at(-1).choices[0].finish_reason, 'length')
      assert.equal(await exit, 0)
    })
  }

  test('a second signal that was meant ends it at once; a terminal that closes does not', async () => {
    const config = { max_position_embeddings: 65536 }
    const model = chatCheckpoint({ config })
    const { url, child, exit, out } = await serve(['--model', model, '--drain-timeout', '120'])
    const body = { model, prompt: 'Hi', max_tokens: 60_000, ignore_eos: true, stream: true }
    const running = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify(body),
    })
    const ended = running.text().catch(() => 'cut')
    child.kill('SIGINT')
    await until(() => out().includes('Stopping'), 'it stops')
    await new Promise((later) => setTimeout(later, 1600))
    child.kill('SIGHUP')
    await new Promise((later) => setTimeout(later, 300))
    assert.equal(child.exitCode, null)
    child.kill('SIGINT')
    assert.equal(await exit, 1)
    assert.equal(await ended, 'cut')
  })

  test('who had connected when it was stopped is still answered', async () => {
    const { url, child, exit } = await serve([
      '--model',
      chatCheckpoint(),
      '--served-model-name',
      'm',
    ])
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    await once(socket, 'connect')
    let answer = ''
    socket.on('data', (chunk) => {
      answer += chunk
    })
    child.kill('SIGTERM')
    const isRefused = async () =>
      fetch(`${url}/health`).then(
        () => false,
        () => true,
      )
    while (!(await isRefused())) await new Promise((later) => setTimeout(later, 5))
    const body = JSON.stringify({ model: 'm', prompt: 'Hi', max_tokens: 2 })
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
    await once(socket, 'close')
    assert.match(answer, /^HTTP\/1.1 200 /)
    assert.match(answer, /^connection: close\r$/im)
    assert.equal(await exit, 0)
  })

  test('npm start hands SIGTERM on to the server', { timeout: 60_000 }, async () => {
    const command = ['start', '--', '--port', '0', '--kv-cache-memory', '32MiB']
    const child = spawn('npm', command, {
      cwd: packagePath('.'),
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    children.add(child)
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8')
      stream.on('data', (text: string) => {
        if (/^at \S+\/v1/m.test(text)) child.kill('SIGTERM')
      })
    }
    // Not before the last process that writes to the pipes is gone.
    await new Promise((done) => child.once('close', done))
  })

  test('what outlives the drain timeout is told so, and still exit 0', async () => {
    const { url, child, exit } = await serve([
      '--model',
      chatCheckpoint({ config: { max_position_embeddings: 65536 } }),
      '--served-model-name',
      'm',
      '--drain-timeout',
      '0.3',
    ])
    const body = {
      model: 'm',
      messages: [{ role: 'user', content: 'Hi' }],
      ignore_eos: true,
      stream: true,
      max_tokens: 60_000,
    }
    const running = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify(body),
    })
    child.kill('SIGTERM')
    const { chunks, done } = await readEvents(running)
    assert.ok(done)
    assert.equal(chunks.at(-1).error.code, 'draining')
    assert.equal(await exit, 0)
  })

  test('--model ID is downloaded when needed, and found again offline', async (t) => {
    const folder = packagePath('test/golden/reward_row')
    const files = Object.fromEntries(
      readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]),
    )
    // A connection breaks once, in the middle of the weights.
    let broken = 0
    const hub = await startRemote(files, {
      trouble: (name, response, body, start) => {
        if (!name.endsWith('.safetensors') || broken++ > 0) return false
        response.setHeader('content-length', String(body.length - start))
        response.write(body.subarray(start, start + 1000))
        setTimeout(() => response.destroy(), 20)
        return true
      },
    })
    t.after(() => hub.close())
    const ask = async (env: NodeJS.ProcessEnv) => {
      const { url, child, exit, out } = await serve(['--model', REPO], env)
      const response = await fetch(`${url}/v1/completions`, {
        method: 'POST',
        body: JSON.stringify({ model: REPO, prompt: 'Hi', max_tokens: 8, temperature: 0 }),
      })
      const { choices } = await readAnswer(response)
      const listed = await readAnswer(await fetch(`${url}/v1/models`))
      assert.equal(listed.data[0].id, REPO)
      child.kill('SIGTERM')
      assert.equal(await exit, 0)
      return { text: choices[0].text, out: out() }
    }
    const first = await ask(hub.env())
    assert.match(first.out, /not in .*: downloading it from/)
    assert.equal(broken, 2)
    const asked = hub.log.length
    const again = await ask(hub.env({ HF_HUB_OFFLINE: '1' }))
    assert.equal(again.text, first.text)
    assert.equal(hub.log.length, asked)
    const missing = start(
      ['--port', '0', '--model', 'nvidia/None'],
      hub.env({ HF_HUB_OFFLINE: '1' }),
    )
    assert.notEqual(await missing.exit, 0)
    assert.match(missing.out(), /nvidia\/None.*HF_HUB_OFFLINE/s)
  })

  test('a folder without a model ends it, with what is missing', async () => {
    const failing = start([
      '--port',
      '0',
      '--model',
      mkdtempSync(join(tmpdir(), 'nemotron-empty-')),
    ])
    assert.equal(await failing.exit, 1)
    assert.match(failing.out(), /config\.json|tokenizer\.json/)
  })

  test('wrong flags and wrong models end with what would be right', async () => {
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [['--prot', '80'], /--port/],
      [['--dtype', 'fp16'], /auto, bf16, fp8, int8, int4/],
      [['--model', './nowhere'], /no such folder/],
      [['--model', hubFolder()], /has no config\.json\. Do you mean .*snapshots\/0a1b2c3d\?/],
      [['--host', '192.0.2.1'], /^error: --host 192.0.2.1: no address of this machine/m],
      [['extra'], /too many arguments/],
      // Of all folders this one takes no other, and Node's mkdir tries for ever.
      ...(existsSync('/proc/self')
        ? ([[['--data-dir', '/proc/nowhere'], /\/proc\/nowhere cannot be written/]] as const)
        : []),
    ]
    for (const [args, message] of cases) {
      const { exit, out } = start(['--port', '0', ...args])
      assert.notEqual(await exit, 0)
      assert.match(out(), message)
    }
  })

  test('help is offered where it helps: after a wrong flag, not after what went wrong', async () => {
    const cases: readonly (readonly [readonly string[], boolean])[] = [
      [['--port', '-1'], true],
      [['--model', './nowhere'], false],
      [['--host', '192.0.2.1'], false],
    ]
    for (const [args, isOffered] of cases) {
      const { exit, out } = start(['--port', '0', ...args])
      assert.equal(await exit, 1)
      assert.equal(out().includes('--help'), isOffered, out())
    }
  })

  test('a second server on the port says so', async () => {
    const { url, child, exit } = await serve(['--model', chatCheckpoint()])
    const other = start(['--port', new URL(url).port, '--model', chatCheckpoint()])
    assert.equal(await other.exit, 1)
    assert.match(other.out(), /^error: --port \d+: the port is in use on 127.0.0.1/m)
    child.kill('SIGTERM')
    assert.equal(await exit, 0)
  })

  test('a full disk under the log costs lines, and no answer', async () => {
    const full = openSync('/dev/full', 'w')
    const { url, child, exit, out } = await serve(
      ['--model', chatCheckpoint(), '--served-model-name', 'm'],
      {},
      full,
    )
    closeSync(full)
    for (let i = 0; i < 3; i++) {
      const response = await fetch(`${url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ model: 'm', prompt: 'x', max_tokens: 2 }),
        signal: AbortSignal.timeout(30_000),
      })
      assert.equal(response.status, 200, await response.text())
    }
    assert.equal(out().match(/the log cannot be written: ENOSPC/g)?.length, 1, out())
    child.kill('SIGTERM')
    assert.equal(await exit, 0)
  })

  test('TLS and API keys from the config file', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'nemotron-tls-'))
    const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
    try {
      execFileSync(
        'openssl',
        [
          'req',
          '-x509',
          '-newkey',
          'rsa:2048',
          '-nodes',
          '-keyout',
          key,
          '-out',
          cert,
          '-subj',
          '/CN=localhost',
          '-days',
          '2',
        ],
        { stdio: 'ignore' },
      )
    } catch {
      t.skip('openssl is not installed')
      return
    }
    const wrongTls = async (flags: readonly string[], message: RegExp) => {
      const failed = start(['--port', '0', '--model', chatCheckpoint(), ...flags])
      assert.equal(await failed.exit, 1)
      assert.match(failed.out(), message)
    }
    await wrongTls(
      ['--tls-cert', key, '--tls-key', key],
      /--tls-cert \S+key\.pem is no certificate/,
    )
    await wrongTls(
      ['--tls-cert', cert, '--tls-key', cert],
      /--tls-key \S+cert\.pem is no private key/,
    )
    const empty = join(folder, 'empty.pem')
    writeFileSync(empty, '\n')
    await wrongTls(['--tls-cert', empty, '--tls-key', key], /--tls-cert \S+empty\.pem is empty/)
    await wrongTls(['--tls-cert', cert, '--tls-key', empty], /--tls-key \S+empty\.pem is empty/)
    const config = join(folder, 'config.json')
    writeFileSync(config, JSON.stringify({ tls_cert: cert, tls_key: key, api_key: ['secret'] }))
    const model = chatCheckpoint()
    const { url, child, exit } = await serve(['--config', config, '--model', model])
    assert.match(url, /^https:/)
    const status = (authorization?: string) =>
      new Promise<number | undefined>((resolve, reject) => {
        const headers = authorization === undefined ? {} : { authorization }
        get(`${url}/v1/models`, { rejectUnauthorized: false, headers }, (response) => {
          response.resume()
          resolve(response.statusCode)
        }).on('error', reject)
      })
    assert.equal(await status(), 401)
    assert.equal(await status('Bearer secret'), 200)
    const streamed = await new Promise<string>((resolve, reject) => {
      const headers = { authorization: 'Bearer secret' }
      const options = { method: 'POST', rejectUnauthorized: false, headers }
      const ask = request(`${url}/v1/completions`, options, (response) => {
        let text = ''
        response.on('data', (chunk) => {
          text += chunk
        })
        response.on('end', () => resolve(text))
      })
      ask.on('error', reject)
      ask.end(JSON.stringify({ model, prompt: 'a', stream: true }))
    })
    assert.match(streamed, /^data: \{[\s\S]*data: \[DONE\]\n\n$/)
    child.kill('SIGTERM')
    assert.equal(await exit, 0)
  })
})
