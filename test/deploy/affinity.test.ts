// The files of deploy/ before two servers: each conversation stays with one of them, in every form in which its
// requests may come, and conversations are spread over both.

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { packagePath } from '../../server/version.js'
import { until } from '../server/harness.js'

const portOf = (server: Server): number => (server.address() as AddressInfo).port

/** Answers with its own port. */
const startServer = async (t: TestContext): Promise<number> => {
  const server = createServer((request, response) => {
    request.resume()
    request.on('end', () => response.end(String(portOf(server))))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return portOf(server)
}

const freePort = async (): Promise<number> => {
  const server = createServer()
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const port = portOf(server)
  server.close()
  await once(server, 'close')
  return port
}

/** A file of deploy/ with the addresses of this machine. */
const moved = (file: string, port: number, servers: readonly number[]): string =>
  readFileSync(packagePath(`deploy/${file}`), 'utf8')
    .replaceAll(/10\.0\.0\.([12]):8000/g, (_, i) => `127.0.0.1:${servers[Number(i) - 1]}`)
    .replace('listen 80;', `listen 127.0.0.1:${port};`)
    .replace('bind :80', `bind 127.0.0.1:${port}`)
    // A server that is slow because the machine is busy is no other server's work here.
    .replace('inter 500ms fall 1', 'inter 5s fall 3')

const around = (folder: string, inside: string): string => {
  const places = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  )
  return `pid ${folder}/pid;\nerror_log ${folder}/error.log;\nevents {}
http {\naccess_log off;\n${places.join('\n')}\n${inside}\n}\n`
}

const PROXIES = {
  nginx: (folder: string, file: string) => ['-p', folder, '-c', file, '-g', 'daemon off;'],
  haproxy: (_: string, file: string) => ['-db', '-f', file],
} as const
type Name = keyof typeof PROXIES

/** Its address, once it passes requests on. */
const startProxy = async (t: TestContext, name: Name, servers: readonly number[]) => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-affinity-'))
  const port = await freePort()
  const file = join(folder, 'proxy.conf')
  const inside = moved(name === 'nginx' ? 'nginx.conf' : 'haproxy.cfg', port, servers)
  writeFileSync(file, name === 'nginx' ? around(folder, inside) : inside)
  const child = spawn(name, PROXIES[name](folder, file), { stdio: 'ignore' })
  t.after(async () => {
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    await ended
    rmSync(folder, { recursive: true })
  })
  const url = `http://127.0.0.1:${port}`
  const passes = async (): Promise<boolean> => {
    const answer = await fetch(url).catch(() => undefined)
    await answer?.arrayBuffer()
    return answer?.status === 200
  }
  await until(passes, `${name} passes requests on`)
  return url
}

type Item = { readonly role: string; readonly content: unknown }

/** The requests of one conversation, by how it is asked. */
const FORMS: Readonly<Record<string, readonly [path: string, requests: (i: number) => object[]]>> =
  {
    chat: ['/v1/chat/completions', (i) => turns(i, 'text').map((messages) => ({ messages }))],
    'responses, a text': [
      '/v1/responses',
      (i) => [1, 2, 3].map(() => ({ input: `Question ${i}` })),
    ],
    'responses, items': ['/v1/responses', (i) => turns(i, 'text').map((input) => ({ input }))],
    'responses, parts': ['/v1/responses', (i) => turns(i, 'parts').map((input) => ({ input }))],
    'responses, parts after a system line': [
      '/v1/responses',
      (i) =>
        turns(i, 'parts').map((input) => ({
          input: [{ role: 'developer', content: 'Be brief.' }, ...input],
        })),
    ],
  }

/** What is said up to each of three requests. */
const turns = (i: number, form: 'text' | 'parts'): readonly (readonly Item[])[] => {
  const say = (role: string, type: string, text: string): Item => ({
    role,
    content: form === 'text' ? text : [{ type, text }],
  })
  const whole = [0, 1, 2].flatMap((turn) => [
    say('user', 'input_text', `Question ${i}, part ${turn}`),
    say('assistant', 'output_text', `Answer ${turn}`),
  ])
  return [1, 3, 5].map((length) => whole.slice(0, length))
}

const CONVERSATIONS = 16

for (const name of ['nginx', 'haproxy'] as const) {
  const missing = spawnSync(name, ['-v']).error === undefined ? false : `${name} is not installed`
  test(`behind ${name} a conversation stays with one server`, { skip: missing }, async (t) => {
    const servers = [await startServer(t), await startServer(t)]
    const url = await startProxy(t, name, servers)
    for (const [form, [path, requests]] of Object.entries(FORMS)) {
      const used = new Set<string>()
      for (let i = 0; i < CONVERSATIONS; i++) {
        const mine = new Set<string>()
        for (const request of requests(i)) {
          const body = JSON.stringify({ model: 'm', ...request })
          const headers = { 'content-type': 'application/json' }
          const answer = await fetch(`${url}${path}`, { method: 'POST', headers, body })
          mine.add(await answer.text())
        }
        assert.equal(mine.size, 1, `${form}: conversation ${i} was at ${[...mine]}`)
        for (const one of mine) used.add(one)
      }
      assert.deepEqual([...used].toSorted(), servers.map(String).toSorted(), form)
    }
  })
}
