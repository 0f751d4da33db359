// npm run bench -- http: what autocannon is right for: plain routes, short completions without a
// stream, overload, connection churn. Any OpenAI-compatible server.

import autocannon from 'autocannon'
import { count, maybeNumber, optional, readFlags, text, toggle } from './flags.js'
import { findModel } from './load-generator.js'
import { machineLine } from './machine.js'
import { table } from './stats.js'

const flags = {
  'base-url': text('URL', 'of the server, with /v1', 'http://127.0.0.1:8000/v1'),
  model: optional('NAME', 'default: the first of /models'),
  'api-key': optional('KEY', 'sent as a bearer token'),
  duration: maybeNumber('S', 'seconds for each case; default 5'),
  connections: count('at once', 16),
  overload: count('connections of the overload case', 400),
  'output-len': count('tokens of a completion', 8),
  json: toggle('one JSON object a line instead of a table'),
}

const shown = (name: string, result: autocannon.Result) => {
  const codes: Readonly<Record<string, { count?: number }>> = { ...result.statusCodeStats }
  return {
    case: name,
    requests_per_second: Math.round(result.requests.average),
    p50_ms: result.latency.p50,
    p99_ms: result.latency.p99,
    ok: result['2xx'],
    too_many: codes['429']?.count ?? 0,
    not_2xx: result.non2xx,
    errors: result.errors,
    timeouts: result.timeouts,
  }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('http', 'plain routes, overload, connection churn', flags, args)
  if (!values) return
  const { connections, duration = 5, 'api-key': key } = values
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
  const cases: readonly (readonly [name: string, options: autocannon.Options])[] = [
    ['models', models],
    ['completions', completion],
    ['bad requests', { ...completion, body: '{"model":' }],
    ['overload', { ...completion, connections: values.overload }],
    ['churn', { ...models, headers: { ...headers, connection: 'close' } }],
  ]
  const results: ReturnType<typeof shown>[] = []
  for (const [name, options] of cases) {
    const result = shown(name, await autocannon({ headers, duration, timeout: 60, ...options }))
    results.push(result)
    if (values.json) console.log(JSON.stringify(result))
  }
  if (values.json) return
  const columns = Object.keys(results[0] ?? {})
  console.log(`${machineLine()}\n${base}, model ${model}, ${connections} connections`)
  console.log(table([columns, ...results.map((result) => Object.values(result).map(String))]))
}
