// Two replicas behind nginx, as it comes and with kept connections: each is restarted while clients ask, and no
// request fails.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { packagePath } from '../../server/version.js'
import { chatBody, readAnswer, readEvents } from './harness.js'
import { noAddon } from './real-server.js'

const noNginx =
  spawnSync('nginx', ['-v']).error === undefined
    ? false
    : 'nginx is not installed: apt-get install nginx'

const freePort = async (): Promise<number> => {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  return typeof address === 'object' && address !== null ? address.port : 0
}

const KEPT =
  'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; ' +
  'proxy_next_upstream error timeout http_503 non_idempotent;'

/** nginx's defaults, but for the places where it writes. `kept`: with connections to the replicas that stay
 * open, and the lines that docs/http.md asks for then. */
const nginxConfig = (
  folder: string,
  port: number,
  replicas: readonly number[],
  kept: boolean,
): string => `
worker_processes 1;
pid ${folder}/pid;
error_log ${folder}/error.log;
events {}
http {
  access_log off;
  ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join('\n  ')}
  upstream replicas {
    ${replicas.map((one) => `server 127.0.0.1:${one};`).join('\n    ')}
    ${kept ? 'keepalive 16;' : ''}
  }
  server {
    listen 127.0.0.1:${port};
    location / { proxy_pass http://replicas; ${kept ? KEPT : ''} }
  }
}
`

const isReady = async (port: number): Promise<boolean> => {
  const response = await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined)
  await response?.arrayBuffer()
  return response?.status === 200
}

const startReplica = async (port: number): Promise<ChildProcess> => {
  const command = [packagePath('dist/server/cli.js'), 'serve', '--port', String(port)]
  const child = spawn(process.execPath, [...command, '--log-level', 'silent'], { stdio: 'ignore' })
  for (let i = 0; i < 600; i++) {
    if (await isReady(port)) return child
    assert.equal(child.exitCode, null, 'the replica ended')
    await sleep(100)
  }
  throw new Error('the replica does not become ready')
}

type Load = {
  readonly sent: () => number
  readonly failures: readonly string[]
  stop: () => Promise<void>
}

/** Clients that ask one after another: half of them whole answers, half streams. */
const startClients = (url: string, clients: number): Load => {
  const failures: string[] = []
  let [sent, going] = [0, true]
  const ask = async (stream: boolean): Promise<void> => {
    const body = chatBody({ max_tokens: 24, temperature: 0, stream })
    const headers = { 'content-type': 'application/json' }
    const init = { method: 'POST', headers, body: JSON.stringify(body) }
    const response = await fetch(`${url}/v1/chat/completions`, init)
    if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`)
    if (!stream) {
      const { choices } = await readAnswer(response)
      if (choices[0].finish_reason == null) throw new Error('an answer without an end')
      return
    }
    const { chunks, done } = await readEvents(response)
    if (!done || chunks.some(({ error }) => error)) throw new Error('a stream without its end')
  }
  const client = async (stream: boolean) => {
    while (going) {
      sent++
      await ask(stream).catch((error) => failures.push(String(error?.cause ?? error)))
      await sleep(20)
    }
  }
  const all = Promise.all(Array.from({ length: clients }, (_, i) => client(i % 2 === 0)))
  return {
    sent: () => sent,
    failures,
    stop: async () => {
      going = false
      await all
    },
  }
}

const restartBoth = async (kept: boolean): Promise<Load> => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-nginx-'))
  const [front, ...ports] = [await freePort(), await freePort(), await freePort()]
  const replicas = await Promise.all(ports.map(startReplica))
  const config = join(folder, 'nginx.conf')
  writeFileSync(config, nginxConfig(folder, front, ports, kept))
  const nginx = spawn('nginx', ['-p', folder, '-c', config, '-g', 'daemon off;'], {
    stdio: 'inherit',
  })
  try {
    for (let i = 0; i < 100 && !(await isReady(front)); i++) await sleep(100)
    const load = startClients(`http://127.0.0.1:${front}`, 8)
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
    return load
  } finally {
    nginx.kill()
    for (const replica of replicas) replica.kill('SIGKILL')
    await once(nginx, 'exit')
    rmSync(folder, { recursive: true, force: true })
  }
}

for (const kept of [false, true])
  test(`a rolling restart of two replicas, ${kept ? 'connections kept' : "nginx's defaults"}: 0 failed of 500`, {
    skip: noNginx || noAddon,
    timeout: 300_000,
  }, async (t) => {
    const { sent, failures } = await restartBoth(kept)
    t.diagnostic(`${sent()} requests, ${failures.length} failed`)
    assert.ok(sent() >= 500)
    assert.deepEqual(failures, [])
  })
