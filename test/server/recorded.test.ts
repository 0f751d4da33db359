// The same answers, byte for byte, as the ones in recorded.txt: status, headers, body and log line of
// every request in recorded-requests.ts. What differs from run to run (ids, times) is replaced first.
// After a wanted change: NEMOTRON_RECORD=1 node --import tsx --test test/server/recorded.test.ts

import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { type IncomingHttpHeaders, request } from 'node:http'
import { text } from 'node:stream/consumers'
import { after, before, describe, it } from 'node:test'
import { packagePath, VERSION } from '../../server/version.js'
import { type Harness, startHarness, until } from './harness.js'
import { noAddon, type RealServer, startReal } from './real-server.js'
import { REQUESTS, type Recorded, SERVERS } from './recorded-requests.js'

const FILE = packagePath('test/server/recorded.txt')
const isRecording = process.env.NEMOTRON_RECORD === '1'
const HEADERS_LEFT_OUT = new Set(['date', 'keep-alive', 'content-length'])

const replaceChanging = (given: string): string =>
  given
    .replace(
      /\b(chatcmpl|cmpl|reward|pool|rerank|score|generative-scoring)-[0-9a-f]{32}\b/g,
      '$1-ID',
    )
    .replace(/\breq_[0-9a-f-]{36}\b/g, 'req_ID')
    .replace(/"created":\d+/g, '"created":0')
    .replace(/"(\w*seconds|tokens_per_second|(?:queue|prefill|decode|ttft)_s)":[\d.e-]+/g, '"$1":0')
    .replace(/(\/assets\/\w+)-[0-9A-Z]{8}\./g, '$1-HASH.')
    .replace(/\bfp_[0-9a-f]{10}\b/g, 'fp_ID')
    // How long the queue has been full, which a busy machine decides.
    .replace(/^(429\n[\s\S]*\nretry-after: )\d+$/m, '$1SECONDS')
    .replace(/(Retry in )\d+( s\.)/, '$1SECONDS$2')
    .replaceAll(`"version":"${VERSION}"`, '"version":"VERSION"')
    // The parser's words are Node's.
    .replace(/(JSON body of your request: )[^"]*(?:\\"[^"]*)*/g, '$1REASON')
    .replaceAll(packagePath(''), 'PACKAGE/')

/** The last digits of a score are the processor's. */
const roundScores = (given: string): string =>
  given.replace(/-?\d+\.\d{3,}(?:e-?\d+)?/g, (number) => Number(number).toFixed(2))

type Answer = {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

const send = (base: string, { method = 'POST', path, headers, body }: Recorded): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const bytes =
      body === undefined || typeof body === 'string' || Buffer.isBuffer(body)
        ? body
        : JSON.stringify(body)
    const outgoing = request(
      `${base}${path}`,
      { method, agent: false, headers: { 'content-type': 'application/json', ...headers } },
      async (incoming) =>
        resolve({
          status: incoming.statusCode ?? 0,
          headers: incoming.headers,
          body: await text(incoming),
        }),
    )
    outgoing.on('error', reject)
    outgoing.end(bytes)
  })

const shown = (name: string, answer: Answer, log: object | undefined): string => {
  const headers = Object.entries(answer.headers)
    .filter(([key]) => !HEADERS_LEFT_OUT.has(key))
    .map(([key, value]) => `${key}: ${value}`)
  const lines = [`### ${name}`, `${answer.status}`, ...headers, '', answer.body]
  if (log !== undefined) lines.push('--- log', JSON.stringify(log))
  return replaceChanging(lines.join('\n'))
}

const logOf = (harness: Harness): object | undefined => {
  const { time, pid, hostname, ...line } = harness.lines.at(-1) ?? {}
  return line
}

/** Sends one to a server of scripted engines. */
const ask = async (harness: Harness, one: Recorded): Promise<string> => {
  const first = one.before && harness.post(one.path, one.before)
  if (first) await until(() => harness.engine.stats().running > 0, 'the first is running')
  const seen = harness.lines.length
  const answer = await send(harness.url, one)
  await until(() => harness.lines.length > seen, 'its log line')
  const entry = shown(one.name, answer, logOf(harness))
  await (await first)?.text()
  return entry
}

const recorded = isRecording ? '' : readFileSync(FILE, 'utf8')
const entries = new Map(
  recorded
    .split(/^(?=### )/m)
    .map((entry) => [/^### (.*)/.exec(entry)?.[1] ?? '', entry.trimEnd()]),
)
const fresh: string[] = []

const check = (name: string, entry: string): void => {
  if (isRecording) fresh.push(entry)
  else assert.equal(entry.trimEnd(), entries.get(name))
}

describe('answers as recorded', () => {
  for (const [server, options] of Object.entries(SERVERS)) {
    describe(`by the ${server} server`, () => {
      let harness: Harness
      before(async () => {
        harness = await startHarness(options)
      })
      after(() => harness.close())
      for (const one of REQUESTS.filter((request) => request.server === server)) {
        it(one.name, async () => check(one.name, await ask(harness, one)))
      }
    })
  }

  describe('by the embedded models', { skip: noAddon }, () => {
    let server: RealServer
    before(async () => {
      server = await startReal({ max_model_len: 1024 })
    })
    after(() => server.close())
    for (const one of REQUESTS.filter((request) => request.server === 'tiny')) {
      it(one.name, async () =>
        check(one.name, roundScores(shown(one.name, await send(server.url, one), undefined))),
      )
    }
  })

  it('has one answer for each request, and no other', () => {
    if (isRecording) writeFileSync(FILE, fresh.map((entry) => `${entry.trimEnd()}\n\n`).join(''))
    const names = [...readFileSync(FILE, 'utf8').matchAll(/^### (.*)$/gm)].map(([, name]) => name)
    assert.equal(new Set(names).size, names.length)
    assert.deepEqual(names.sort(), REQUESTS.map((one) => one.name).sort())
  })
})
