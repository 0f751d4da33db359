// Two replicas behind nginx as it comes, and behind nginx and HAProxy with the files of deploy/. Each is restarted
// while clients stream, and no request fails. Behind the files of deploy/ a conversation stays with one replica.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { packagePath } from '../../server/version.js'
import { chatBody, readAnswer, readEvents } from './harness.js'
import { noAddon } from './real-server.js'

const STREAMS = 40
const WHOLE = 4

const missing = (program: string): string | false =>
  spawnSync(program, ['-v']).error === undefined
    ? false
    : `${program} is not installed: apt-get install nginx-light haproxy`

const freePort = async (): Promise<number> => {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  return typeof address === 'object' && address !== null ? address.port : 0
}

type Proxy = {
  readonly name: string
  readonly program: string
  /** Of the command, with its file written. */
  readonly args: (folder: string, port: number, replicas: readonly number[]) => readonly string[]
  readonly sticky: boolean
}

/** A file of deploy/ with the addresses of this machine. */
const deployed = (file: string, port: number, replicas: readonly number[]): string => {
  const moved = readFileSync(packagePath(`deploy/${file}`), 'utf8')
    .replaceAll(/10\.0\.0\.([12]):8000/g, (_, i) => `127.0.0.1:${replicas[Number(i) - 1]}`)
    .replace('listen 80;', `listen 127.0.0.1:${port};`)
    .replace('bind :80', `bind 127.0.0.1:${port}`)
  for (const one of [port, ...replicas]) assert.match(moved, new RegExp(`127.0.0.1:${one}\\b`))
  return moved
}

/** What a distribution's nginx.conf is around conf.d, with places where a test may write. */
const nginxArgs = (folder: string, inside: string): readonly string[] => {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  const places = temporary.map((name) => `${name}_temp_path ${folder}/${name};`).join('\n')
  const config = `worker_processes 1;\npid ${folder}/pid;\nerror_log ${folder}/error.log;\nevents {}
http {\naccess_log off;\n${places}\n${inside}\n}\n`
  writeFileSync(join(folder, 'nginx.conf'), config)
  return ['-p', folder, '-c', join(folder, 'nginx.conf'), '-g', 'daemon off;']
}

const PROXIES: readonly Proxy[] = [
  {
    ...{ name: "nginx's defaults", program: 'nginx', sticky: false },
    args: (folder, port, replicas) =>
      nginxArgs(
        folder,
        `upstream replicas { ${replicas.map((one) => `server 127.0.0.1:${one};`).join(' ')} }
        server { listen 127.0.0.1:${port}; location / { proxy_pass http://replicas; } }`,
      ),
  },
  {
    ...{ name: 'deploy/nginx.conf', program: 'nginx', sticky: true },
    args: (folder, ...ports) => nginxArgs(folder, deployed('nginx.conf', ...ports)),
  },
  {
    ...{ name: 'deploy/haproxy.cfg', program: 'haproxy', sticky: true },
    args: (folder, ...ports) => {
      writeFileSync(join(folder, 'haproxy.cfg'), deployed('haproxy.cfg', ...ports))
      return ['-db', '-f', join(folder, 'haproxy.cfg')]
    },
  },
]

const isReady = async (port: number): Promise<boolean> => {
  const response = await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined)
  await response?.arrayBuffer()
  return response?.status === 200
}

const startReplica = async (port: number): Promise<ChildProcess> => {
  const command = [packagePath('dist/server/cli.js'), 'serve', '--port', String(port)]
  const limits = ['--threads', '1', '--log-level', 'silent', '--drain-delay', '2']
  const child = spawn(process.execPath, [...command, ...limits], { stdio: 'ignore' })
  for (let i = 0; i < 600; i++) {
    if (await isReady(port)) return child
    assert.equal(child.exitCode, null, 'the replica ended')
    await sleep(100)
  }
  throw new Error('the replica does not become ready')
}

const post = async (url: string, body: object): Promise<Response> => {
  const headers = { 'content-type': 'application/json' }
  const init = { method: 'POST', headers, body: JSON.stringify(body) }
  const response = await fetch(`${url}/v1/chat/completions`, init)
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`)
  return response
}

type Load = {
  readonly sent: () => number
  readonly failures: readonly string[]
  stop: () => Promise<void>
}

/** Clients that ask one after another, each about something of its own; most read streams. */
const startClients = (url: string): Load => {
  const failures: string[] = []
  let [sent, going] = [0, true]
  const ask = async (client: number, stream: boolean): Promise<void> => {
    const messages = [{ role: 'user', content: `client ${client}, question ${sent}` }]
    const body = chatBody({ messages, max_tokens: 24, temperature: 0, stream })
    const response = await post(url, body)
    if (!stream) {
      const { choices } = await readAnswer(response)
      if (choices[0].finish_reason == null) throw new Error('an answer without an end')
      return
    }
    const { chunks, done } = await readEvents(response)
    if (!done || chunks.some(({ error }) => error)) throw new Error('a stream without its end')
  }
  const client = async (i: number) => {
    while (going) {
      sent++
      await ask(i, i < STREAMS).catch((error) => failures.push(String(error?.cause ?? error)))
      await sleep(20)
    }
  }
  const all = Promise.all(Array.from({ length: STREAMS + WHOLE }, (_, i) => client(i)))
  return {
    sent: () => sent,
    failures,
    stop: async () => {
      going = false
      await all
    },
  }
}

/** Share of the prompts' tokens that came from a prefix cache, over conversations of four requests that begin
 * with the same message of the system. */
const cachedShare = async (url: string, name: string): Promise<number> => {
  let [cached, all] = [0, 0]
  const converse = async (i: number): Promise<void> => {
    const messages = [
      { role: 'system', content: 'You answer in short words. '.repeat(4) },
      { role: 'user', content: `${name} ${i}: ${`${i} of the things to know `.repeat(8)}` },
    ]
    for (let turn = 0; turn < 4; turn++) {
      const answer = await post(url, chatBody({ messages, max_tokens: 8, temperature: 0 }))
      const { choices, usage } = await readAnswer(answer)
      cached += usage.prompt_tokens_details.cached_tokens
      all += usage.prompt_tokens
      messages.push(
        { role: 'assistant', content: choices[0].message.content ?? '' },
        { role: 'user', content: 'And then? What else is there to say about all of it? Go on.' },
      )
    }
  }
  for (let i = 0; i < 32; i += 4)
    await Promise.all(Array.from({ length: 4 }, (_, j) => converse(i + j)))
  return cached / all
}

type Restarted = { readonly load: Load; readonly alone: number; readonly together: number }

const restartBoth = async (proxy: Proxy): Promise<Restarted> => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-proxy-'))
  const [front, ...ports] = [await freePort(), await freePort(), await freePort()]
  const replicas = await Promise.all(ports.map(startReplica))
  const args = proxy.args(folder, front, ports)
  const running = spawn(proxy.program, [...args], { stdio: ['ignore', 'ignore', 'inherit'] })
  const url = `http://127.0.0.1:${front}`
  try {
    for (let i = 0; i < 100 && !(await isReady(front)); i++) await sleep(100)
    const alone = await cachedShare(`http://127.0.0.1:${ports[0]}`, 'alone')
    const together = await cachedShare(url, 'together')
    const load = startClients(url)
    for (const [i, port] of ports.entries()) {
      await sleep(2000)
      const old = replicas[i]
      old?.kill('SIGTERM')
      if (old) assert.deepEqual(await once(old, 'exit'), [0, null])
      replicas[i] = await startReplica(port)
      // As long as nginx leaves one alone that refused (fail_timeout).
      await sleep(11_000)
    }
    for (let i = 0; i < 1000 && load.sent() < 500; i++) await sleep(100)
    await load.stop()
    return { load, alone, together }
  } finally {
    running.kill()
    for (const replica of replicas) replica.kill('SIGKILL')
    await once(running, 'exit')
    rmSync(folder, { recursive: true, force: true })
  }
}

for (const proxy of PROXIES)
  test(`a rolling restart of two replicas, ${proxy.name}: 0 failed of 500`, {
    skip: missing(proxy.program) || noAddon,
    timeout: 300_000,
  }, async (t) => {
    const { load, alone, together } = await restartBoth(proxy)
    const percent = (share: number): string => `${(100 * share).toFixed(1)} %`
    t.diagnostic(`${load.sent()} requests, ${load.failures.length} failed`)
    t.diagnostic(`from the prefix cache: ${percent(together)}, one server ${percent(alone)}`)
    assert.ok(load.sent() >= 500)
    assert.deepEqual(load.failures, [])
    assert.ok(alone > 0.4, `one server finds ${percent(alone)}`)
    if (proxy.sticky) assert.ok(together >= 0.8 * alone, percent(together / alone))
  })
