// npm run bench -- storm: answers a second without and with clients that ignore Retry-After. A server in a
// process of its own, as many clients as it has places, and for half of the time as many more again as
// asked for. Rounds alternate, so that a machine that changes its speed changes both.

import { Agent, request } from 'node:http'
import { count, maybeNumber, readFlags, text, UsageError } from './flags.js'
import { machineLine } from './machine.js'
import { benchModel } from './random-model.js'
import { startSmallServer } from './server-process.js'
import { shapeNamed, shapes } from './shapes.js'
import { compare, median, percent, quantile, table } from './stats.js'

const flags = {
  shape: text('NAME', `the embedded reasoner, or of: ${Object.keys(shapes).join(', ')}`, ''),
  clients: count('that ignore Retry-After', 64),
  places: count('sequences that run; as many may wait', 8),
  'output-len': count('tokens of an answer', 32),
  rounds: count('of each', 3),
  duration: maybeNumber('S', 'seconds of each half of a round; default 5'),
}

/** Useful answers must keep this share of their rate. */
const GOAL = 0.8

type Answer = { readonly status: number; readonly ms: number }

const ask = (url: string, agent: Agent, body: string): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const start = performance.now()
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
    }
    const outgoing = request(url, { method: 'POST', agent, headers }, (incoming) => {
      incoming.resume()
      incoming.on('error', reject)
      incoming.on('end', () =>
        resolve({ status: incoming.statusCode ?? 0, ms: performance.now() - start }),
      )
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })

type Half = {
  readonly url: string
  readonly body: string
  readonly clients: number
  readonly seconds: number
}

/** Each client asks again as soon as it has an answer, whatever that was. */
const runHalf = async ({ url, body, clients, seconds }: Half) => {
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  const start = performance.now()
  const until = start + 1000 * seconds
  const answers: Answer[] = []
  let broken = 0
  const client = async () => {
    while (performance.now() < until) {
      try {
        const answer = await ask(url, agent, body)
        if (performance.now() < until) answers.push(answer)
      } catch {
        // A connection that the server had closed when the client wrote to it.
        broken++
      }
    }
  }
  await Promise.all(Array.from({ length: clients }, client))
  agent.destroy()
  const refusals = answers.filter(({ status }) => status === 429)
  const other = answers.find(({ status }) => status !== 429 && status !== 200)
  if (other !== undefined) throw new Error(`the server answered ${other.status}`)
  return {
    useful: (answers.length - refusals.length) / seconds,
    refused: refusals.length / seconds,
    refusalMs: quantile(
      refusals.map(({ ms }) => ms),
      0.5,
    ),
    broken: broken / seconds,
  }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags(
    'storm',
    'answers a second under clients that retry at once',
    flags,
    args,
  )
  if (!values) return
  const { clients, places, rounds, duration: seconds = 5 } = values
  const folder = values.shape === '' ? undefined : benchModel(shapeNamed(values.shape))
  const server = await startSmallServer(folder, places)
  const url = `${server.url}/completions`
  const sampling = { max_tokens: values['output-len'], temperature: 0, ignore_eos: true }
  const body = JSON.stringify({ model: 'tiny-reasoner', prompt: 'Hello', ...sampling })
  const half = { url, body, seconds }
  const calm: number[] = []
  const stormy: number[] = []
  const rows: string[][] = [['round', 'calm/s', 'storm/s', 'refused/s', '429 p50 ms', 'broken/s']]
  try {
    await runHalf({ ...half, clients: 1, seconds: Math.min(1, seconds) })
    for (let round = 1; round <= rounds; round++) {
      const quiet = await runHalf({ ...half, clients: 2 * places })
      if (quiet.useful === 0) {
        throw new UsageError(
          `no answer ended within ${seconds} s; a longer --duration or a smaller --output-len shows what a storm costs`,
        )
      }
      const storm = await runHalf({ ...half, clients: 2 * places + clients })
      calm.push(quiet.useful)
      stormy.push(storm.useful)
      const { refused, refusalMs, broken } = storm
      const figures = [quiet.useful, storm.useful, refused, refusalMs, broken]
      rows.push([String(round), ...figures.map((value) => value.toFixed(1))])
    }
  } finally {
    await server.stop()
  }
  const { ratio, range } = compare(stormy, calm)
  console.log(`${machineLine()}\n${values.shape || 'tiny-reasoner'}, ${2 * places} places`)
  console.log(table(rows))
  console.log(
    `useful answers: ${median(calm).toFixed(1)}/s without, ${median(stormy).toFixed(1)}/s with ${clients} ` +
      `clients that ignore Retry-After: ${percent(ratio)} (${range.map(percent).join(' to ')}), goal ${percent(GOAL)}`,
  )
}
