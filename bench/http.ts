// npm run bench -- http: what autocannon is right for: plain routes, short completions without a
// stream, overload, connection churn. Any OpenAI-compatible server.

import { parseArgs } from 'node:util'
import autocannon from 'autocannon'

const HELP = `npm run bench -- http [flags]
  --base-url URL      default http://127.0.0.1:8000/v1
  --model NAME        default: the first of /models
  --api-key KEY
  --duration S        seconds for each case, default 5
  --connections N     default 16
  --overload N        connections of the overload case, default 400
  --output-len N      tokens of a completion, default 8
  --json              one JSON object a line instead of a table
`

type Result = autocannon.Result

type Case = { readonly name: string; readonly options: Partial<autocannon.Options> }

const shown = (name: string, result: Result) => ({
  case: name,
  requests_per_second: result.requests.average,
  p50_ms: result.latency.p50,
  p99_ms: result.latency.p99,
  ok: result['2xx'],
  too_many: Number(
    (result.statusCodeStats as Record<string, { count: number }> | undefined)?.['429']?.count ?? 0,
  ),
  other: result.non2xx,
  errors: result.errors,
  timeouts: result.timeouts,
})

export const run = async (args: readonly string[]): Promise<void> => {
  const { values: flags } = parseArgs({
    args: [...args],
    options: {
      'base-url': { type: 'string', default: 'http://127.0.0.1:8000/v1' },
      model: { type: 'string' },
      'api-key': { type: 'string' },
      duration: { type: 'string', default: '5' },
      connections: { type: 'string', default: '16' },
      overload: { type: 'string', default: '400' },
      'output-len': { type: 'string', default: '8' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (flags.help) {
    process.stdout.write(HELP)
    return
  }
  const base = flags['base-url'].replace(/\/+$/, '')
  const headers: Record<string, string> = {
    'content-type': 'application/json',
    ...(flags['api-key'] !== undefined && { authorization: `Bearer ${flags['api-key']}` }),
  }
  const list = await fetch(`${base}/models`, { headers })
  const { data }: { data: { id: string }[] } = JSON.parse(await list.text())
  const model = flags.model ?? data[0]?.id
  const completion = {
    url: `${base}/completions`,
    method: 'POST' as const,
    body: JSON.stringify({
      model,
      prompt: 'Hello',
      max_tokens: Number(flags['output-len']),
      temperature: 0,
    }),
  }
  const connections = Number(flags.connections)
  const cases: readonly Case[] = [
    { name: 'models', options: { url: `${base}/models`, connections } },
    { name: 'completions', options: { ...completion, connections } },
    { name: 'bad requests', options: { ...completion, body: '{"model":', connections } },
    { name: 'overload', options: { ...completion, connections: Number(flags.overload) } },
    // A new connection for each request.
    {
      name: 'churn',
      options: { url: `${base}/models`, connections, headers: { ...headers, connection: 'close' } },
    },
  ]
  for (const { name, options } of cases) {
    const result = await autocannon({
      url: base,
      duration: Number(flags.duration),
      headers,
      timeout: 60,
      ...options,
    })
    const row = shown(name, result)
    process.stdout.write(
      flags.json
        ? `${JSON.stringify(row)}\n`
        : `${name.padEnd(14)} ${row.requests_per_second.toFixed(0).padStart(7)} req/s  p50 ${row.p50_ms} ms  p99 ${row.p99_ms} ms  ok ${row.ok}  429 ${row.too_many}  not 2xx ${row.other}  errors ${row.errors}  timeouts ${row.timeouts}\n`,
    )
  }
}
