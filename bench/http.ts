// npm run bench -- http: plain routes, short completions without a stream, rewards, overload, connection
// churn. Any OpenAI-compatible server; what it does not have (health, rewards) is left out.

import http from 'node:http'
import https from 'node:https'
import autocannon from 'autocannon'
import { count, maybeNumber, optional, readFlags, text, toggle } from './flags.js'
import { findModel } from './load-generator.js'
import { machineLine } from './machine.js'
import { quantile, table } from './stats.js'

const flags = {
  'base-url': text('URL', 'of the server, with /v1', 'http://127.0.0.1:8000/v1'),
  model: optional('NAME', 'default: the first of /models'),
  'api-key': optional('KEY', 'sent as a bearer token'),
  duration: maybeNumber('S', 'seconds for each case; default 5'),
  connections: count('at once', 16),
  overload: count('connections of the overload case', 400),
  timeout: count('seconds without a byte, after which a request has failed', 60),
  'output-len': count('tokens of a completion', 8),
  json: toggle('one JSON object a line instead of a table'),
}

const shown = (name: string, result: autocannon.Result) => {
  const codes: Readonly<Record<string, { count?: number }>> = { ...result.statusCodeStats }
  return {
    case: name,
    requests_per_second: Math.round(result.requests.total / result.duration),
    p50_ms: result.latency.p50,
    p99_ms: result.latency.p99,
    ok: result['2xx'],
    too_many: codes['429']?.count ?? 0,
    not_2xx: result.non2xx,
    errors: result.errors,
    timeouts: result.timeouts,
  }
}

type Shown = ReturnType<typeof shown>

type Load = {
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly connections: number
  /** Seconds. */
  readonly duration: number
  readonly timeout: number
}

/** Nothing came. */
class TimeoutError extends Error {}

/** The status of one request on a connection of its own. */
const requestOnce = ({ url, headers, timeout }: Load): Promise<number> =>
  new Promise((resolve, reject) => {
    const { request } = url.startsWith('https:') ? https : http
    const options = { agent: false, headers, timeout: 1000 * timeout }
    const outgoing = request(url, options, (incoming) => {
      incoming.resume()
      incoming.on('error', reject)
      incoming.on('end', () => resolve(incoming.statusCode ?? 0))
    })
    outgoing.on('timeout', () => outgoing.destroy(new TimeoutError()))
    outgoing.on('error', reject)
    outgoing.end()
  })

/** A reward model answers no completion, a chat model gives no reward, and not every server has health. */
const isServed = async (
  { url, method = 'GET', body }: { url: string; method?: 'GET' | 'POST'; body?: string },
  headers: Load['headers'],
  timeout: number,
): Promise<boolean> => {
  const signal = AbortSignal.timeout(1000 * timeout)
  const answer = await fetch(url, { method, headers, signal, ...(body !== undefined && { body }) })
  await answer.arrayBuffer()
  return answer.ok
}

/** A connection for each request. Not autocannon, which waits up to a second before it connects again and
 * counts that as the server's. */
export const churn = async (load: Load): Promise<Shown> => {
  const { connections, duration } = load
  const until = performance.now() + 1000 * duration
  const ms: number[] = []
  const statuses: number[] = []
  let errors = 0
  let timeouts = 0
  const client = async () => {
    while (performance.now() < until) {
      const start = performance.now()
      try {
        statuses.push(await requestOnce(load))
        ms.push(performance.now() - start)
      } catch (error) {
        errors++
        if (error instanceof TimeoutError) timeouts++
      }
    }
  }
  await Promise.all(Array.from({ length: connections }, client))
  const ok = statuses.filter((status) => status >= 200 && status < 300).length
  return {
    case: 'churn',
    requests_per_second: Math.round(statuses.length / duration),
    p50_ms: Number(quantile(ms, 0.5).toFixed(1)),
    p99_ms: Number(quantile(ms, 0.99).toFixed(1)),
    ok,
    too_many: statuses.filter((status) => status === 429).length,
    not_2xx: statuses.length - ok,
    errors,
    timeouts,
  }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('http', 'plain routes, overload, connection churn', flags, args)
  if (!values) return
  const { connections, duration = 5, timeout, 'api-key': key } = values
  const { id: model } = await findModel(values['base-url'], key, values.model)
  const base = values['base-url'].replace(/\/+$/, '')
  const headers = {
    'content-type': 'application/json',
    ...(key !== undefined && { authorization: `Bearer ${key}` }),
  }
  const prompt = { model, prompt: 'Hello', max_tokens: values['output-len'], temperature: 0 }
  const url = `${base}/completions`
  const completion = { url, method: 'POST' as const, body: JSON.stringify(prompt), connections }
  const models = { url: `${base}/models`, connections }
  const reward = {
    ...completion,
    url: `${base}/reward`,
    body: JSON.stringify({
      model,
      messages: [{ role: 'user', content: 'Hi' }],
      responses: ['Hello'],
    }),
  }
  const health = { url: base.replace(/\/v1$/, '/health'), connections }
  const scores = await isServed(reward, headers, timeout)
  const cases: readonly (readonly [name: string, options: autocannon.Options])[] = [
    ...((await isServed(health, headers, timeout)) ? [['health', health] as const] : []),
    ['models', models],
    scores ? ['reward', reward] : ['completions', completion],
    ['bad requests', { ...completion, body: '{"model":' }],
    ['overload', { ...(scores ? reward : completion), connections: values.overload }],
  ]
  // It ends with a sample.
  const sampleInt = Math.min(1000, 1000 * duration)
  const results: Shown[] = []
  const add = (result: Shown) => {
    results.push(result)
    if (values.json) console.log(JSON.stringify(result))
  }
  for (const [name, options] of cases)
    add(shown(name, await autocannon({ headers, duration, timeout, sampleInt, ...options })))
  add(await churn({ ...models, headers, duration, timeout }))
  if (values.json) return
  const columns = Object.keys(results[0] ?? {})
  console.log(`${machineLine()}\n${base}, model ${model}, ${connections} connections`)
  console.log(table([columns, ...results.map((result) => Object.values(result).map(String))]))
}
