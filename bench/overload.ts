// npm run bench -- overload: what a server does with four times what it can. First its peak, with as many clients as
// it has places; then requests that arrive at random at a multiple of that, whatever became of those before, while its
// health is asked ten times a second. Each comes on a connection of its own, as from a client of its own, and its time
// counts from when it was due, so that a generator that is late hides nothing. Rounds alternate, so that a machine that
// changes its speed changes both. What the server's main thread takes for an answer and for a refusal is beside it, and
// what the generator takes, which on a machine of few cores is taken from the server.

import { Agent, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { count, maybeNumber, readFlags, text, UsageError } from './flags.js'
import { machineLine } from './machine.js'
import { benchModel } from './random-model.js'
import { startSmallServer } from './server-process.js'
import { shapeNamed, shapes } from './shapes.js'
import { compare, median, percent, quantile, table } from './stats.js'

const flags = {
  shape: text('NAME', `the embedded reasoner, or of: ${Object.keys(shapes).join(', ')}`, ''),
  times: count('the peak that arrives', 4, 2),
  places: count('sequences that run; as many may wait', 8),
  'output-len': count('tokens of an answer', 64),
  rounds: count('of each', 3),
  threads: maybeNumber('N', "of the server's engine; default: as many as it takes by itself"),
  duration: maybeNumber('S', 'seconds of each half of a round; default 5'),
}

/** Share of the peak; milliseconds of the median refusal, and of the 99th percentile. */
const GOALS = { goodput: 0.9, median: 50, p99: 500 }
const HEALTH_MS = 100
/** Without a byte for so long, a connection is broken. */
const SILENCE_MS = 60_000

type Answer = { readonly status: number; readonly ms: number }

type Load = {
  /** Ends in /v1. */
  readonly url: string
  readonly agent: Agent
  readonly body: string
  readonly seconds: number
  /** Milliseconds that the server's main thread has run. */
  readonly mainThreadMs: () => number
}

/** Milliseconds of a thread, of the server and of this process, from here to where it is asked. */
const watchThreads = ({ mainThreadMs }: Load) => {
  const [ours, theirs] = [process.cpuUsage(), mainThreadMs()]
  return () => {
    const { user, system } = process.cpuUsage(ours)
    return { serverMs: mainThreadMs() - theirs, generatorMs: (user + system) / 1000 }
  }
}

/** `due`: when its time begins, on the clock of performance.now(). */
const ask = (load: Load, path: string, due = performance.now()): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const { url, agent, body } = load
    const isPost = path !== '/health'
    const headers = isPost
      ? { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
      : {}
    const whole = (isPost ? url : url.replace(/\/v1$/, '')) + path
    const method = isPost ? 'POST' : 'GET'
    const outgoing = request(whole, { method, agent, headers, timeout: SILENCE_MS })
    outgoing.on('timeout', () => outgoing.destroy(new Error('nothing comes')))
    outgoing.on('response', (incoming) => {
      incoming.resume()
      incoming.on('error', reject)
      incoming.on('end', () =>
        resolve({ status: incoming.statusCode ?? 0, ms: performance.now() - due }),
      )
    })
    outgoing.on('error', reject)
    outgoing.end(isPost ? body : undefined)
  })

/** Answers a second, where each client asks again as soon as it has one; milliseconds of the server's main thread
 * for one. */
const runPeak = async (load: Load, clients: number) => {
  const ran = watchThreads(load)
  const until = performance.now() + 1000 * load.seconds
  let answered = 0
  let all = 0
  const client = async () => {
    while (performance.now() < until) {
      const { status } = await ask(load, '/completions')
      if (status !== 200) throw new Error(`the server answered ${status} below its limit`)
      all++
      if (performance.now() < until) answered++
    }
  }
  await Promise.all(Array.from({ length: clients }, client))
  return { peak: answered / load.seconds, answerMs: ran().serverMs / all }
}

/** A connection that broke is an answer that is not 200: status 0. */
export const watchHealth = (load: Load) => {
  const seen: Answer[] = []
  let isOver = false
  const watch = async () => {
    while (!isOver) {
      const due = performance.now()
      const broken = (): Answer => ({ status: 0, ms: performance.now() - due })
      seen.push(await ask(load, '/health', due).catch(broken))
      await sleep(HEALTH_MS)
    }
  }
  const done = watch()
  return async () => {
    isOver = true
    await done
    return seen
  }
}

/** Requests that arrive at random, `rate` a second. Connections that broke are counted. */
const runOverload = async (load: Load, rate: number, answerMs: number) => {
  const stopHealth = watchHealth(load)
  const ran = watchThreads(load)
  const start = performance.now()
  const until = start + 1000 * load.seconds
  const answers: Answer[] = []
  const pending: Promise<void>[] = []
  let inTime = 0
  let broken = 0
  for (let due = start; due < until; due += (-1000 * Math.log(1 - Math.random())) / rate) {
    const wait = due - performance.now()
    if (wait > 1) await sleep(wait)
    const one = ask(load, '/completions', due).then(
      (answer) => {
        answers.push(answer)
        if (answer.status === 200 && performance.now() < until) inTime++
      },
      () => {
        broken++
      },
    )
    pending.push(one)
  }
  await Promise.all(pending)
  const { serverMs, generatorMs } = ran()
  const refusals = answers.filter(({ status }) => status === 429).map(({ ms }) => ms)
  const other = answers.find(({ status }) => status !== 429 && status !== 200)
  if (other !== undefined) throw new Error(`the server answered ${other.status}`)
  const offered = (answers.length + broken) / load.seconds
  const health = await stopHealth()
  const refusalMs = (serverMs - answerMs * (answers.length - refusals.length)) / refusals.length
  const figures = { refusalMs, requestMs: generatorMs / (answers.length + broken) }
  return { ...figures, goodput: inTime / load.seconds, offered, refusals, broken, health }
}

type Round = Awaited<ReturnType<typeof runPeak>> & Awaited<ReturnType<typeof runOverload>>

const report = (rounds: readonly Round[], times: number): void => {
  const rows = rounds.map(({ peak, offered, goodput, refusals, broken, health }, i) => [
    String(i + 1),
    ...[peak, offered, goodput].map((value) => value.toFixed(1)),
    String(refusals.length),
    ...[0.5, 0.99].map((share) => quantile(refusals, share).toFixed(0)),
    String(broken),
    `${health.filter(({ status }) => status === 200).length} of ${health.length}`,
    Math.max(...health.map(({ ms }) => ms)).toFixed(0),
  ])
  const head = 'round,peak/s,arrive/s,goodput/s,429s,p50 ms,p99 ms,broken,health 200,slowest ms'
  console.log(table([head.split(','), ...rows]))
  const { ratio, range } = compare(
    rounds.map(({ goodput }) => goodput),
    rounds.map(({ peak }) => peak),
  )
  const refusals = rounds.flatMap((round) => round.refusals)
  const health = rounds.flatMap((round) => round.health)
  const green = health.filter(({ status }) => status === 200).length
  const of = (figure: 'answerMs' | 'refusalMs' | 'requestMs') =>
    median(rounds.map((round) => round[figure])).toFixed(2)
  console.log(
    `goodput at ${times} times the peak: ${percent(ratio)} of it (${range.map(percent).join(' to ')}), goal ${percent(GOALS.goodput)}\n` +
      `refusals: median ${median(refusals).toFixed(0)} ms, goal ${GOALS.median}; ` +
      `99th percentile ${quantile(refusals, 0.99).toFixed(0)} ms, goal ${GOALS.p99}\n` +
      `health: ${green} of ${health.length} answers were 200\n` +
      `processor: ${of('answerMs')} ms of the server's main thread for an answer, ${of('refusalMs')} for a refusal; ` +
      `${of('requestMs')} of the generator for a request`,
  )
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('overload', 'several times what a server can', flags, args)
  if (!values) return
  const { places, rounds, threads, times, duration: seconds = 5 } = values
  const folder = values.shape === '' ? undefined : benchModel(shapeNamed(values.shape))
  const server = await startSmallServer(folder, places, threads)
  const agent = new Agent({ keepAlive: false, maxSockets: Number.POSITIVE_INFINITY })
  const sampling = { max_tokens: values['output-len'], temperature: 0, ignore_eos: true }
  const body = JSON.stringify({ model: 'tiny-reasoner', prompt: 'Hello', ...sampling })
  const load: Load = { ...server, agent, body, seconds }
  const done: Round[] = []
  try {
    await runPeak({ ...load, seconds: Math.min(1, seconds) }, places)
    for (let round = 0; round < rounds; round++) {
      const atPeak = await runPeak(load, 2 * places)
      const { peak, answerMs } = atPeak
      if (peak === 0)
        throw new UsageError(`no answer came within ${seconds} s: give a longer --duration`)
      done.push({ ...atPeak, ...(await runOverload(load, times * peak, answerMs)) })
    }
  } finally {
    agent.destroy()
    await server.stop()
  }
  console.log(`${machineLine()}\n${values.shape || 'tiny-reasoner'}, ${2 * places} places`)
  report(done, times)
}
