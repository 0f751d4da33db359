// npm run bench -- compare: our server beside another one, both over HTTP, the same model, the same
// requests, in turns: ratios are taken within a round.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { availableParallelism } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { count, numbers, optional, readFlags, text, UsageError } from './flags.js'
import { createTarget, findModel, runLoad, streamOnce, type Target } from './load-generator.js'
import { machineLine } from './machine.js'
import { benchGguf } from './peers/gguf.js'
import { createWriter } from './prompt-writer.js'
import { benchModel } from './random-model.js'
import { converse } from './serve/conversations.js'
import { type Run, runOf } from './serve/figures.js'
import { startServerProcess } from './server-process.js'
import { shapeNamed, shapes } from './shapes.js'
import { nodeArgs } from './source.js'
import { compare, digits, median, table, times } from './stats.js'

const flags = {
  'peer-url': optional('URL', 'of the other server, with /v1'),
  'peer-model': optional('NAME', 'default: the first of its /models'),
  'llama-server': optional('FILE', "llama.cpp's server, started here on the same weights as GGUF"),
  'base-url': optional('URL', 'of ours, where it runs already; default: it is started here'),
  model: optional('NAME', 'of --base-url; default: the first of its /models'),
  'api-key': optional('KEY', 'sent to --base-url as a bearer token'),
  'peer-api-key': optional('KEY', 'the same for --peer-url'),
  shape: text('NAME', `what is served by what is started here: ${Object.keys(shapes)}`, '160m'),
  concurrency: numbers('N', 'requests at once; default 1 and 8'),
  'input-len': count('tokens of each prompt', 100),
  'output-len': count('tokens of each answer (ignore_eos)', 64),
  'num-prompts': count('requests of each turn, and at least as many as run at once', 8),
  rounds: count('turns of each', 3),
  threads: count('of each server that is started here', availableParallelism()),
}
type Values = NonNullable<ReturnType<typeof readFlags<typeof flags>>>

type Competitor = {
  readonly name: string
  /** What is known of its build; '' where nothing is. */
  readonly version: string
  readonly target: Target
  readonly model: string
  readonly stop: () => Promise<void>
}

type Place = {
  readonly name: string
  readonly url: string
  readonly model: string | undefined
  readonly key?: string | undefined
  readonly keyFlag?: string
  readonly stop?: Competitor['stop']
}

const at = async ({ name, url, model, key, keyFlag = '--api-key', stop }: Place) => {
  const target = createTarget(url, key, 'completions')
  const { id } = await findModel(target.baseUrl, key, model, { keyFlag })
  return { name, version: '', target, model: id, stop: stop ?? (async () => {}) }
}

const mostAtOnce = ({ concurrency }: Values): number => Math.max(...loads(concurrency))
const loads = (given: readonly number[]): readonly number[] => (given.length > 0 ? given : [1, 8])

const startOurs = async (values: Values): Promise<Competitor> => {
  const { 'base-url': given, 'api-key': key, model } = values
  if (given !== undefined) return at({ name: 'ours', url: given, model, key })
  const { url, stop } = await startServerProcess(process.execPath, [
    ...[...nodeArgs('server/cli.ts'), 'serve', '--port', '0', '--device', 'cpu'],
    ...['--model', benchModel(shapeNamed(values.shape)), '--served-model-name', 'm'],
    ...['--threads', String(values.threads), '--max-num-seqs', String(mostAtOnce(values))],
  ])
  return at({ name: 'ours', url, model: 'm', stop })
}

const freePort = async (): Promise<number> => {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  return typeof address === 'object' && address !== null ? address.port : 0
}

const stopProcess = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGTERM')
  await once(child, 'exit')
}

/** As the program says it, such as `version: 4750 (c392e509)`. */
const versionOf = (file: string): string => {
  const { stdout, stderr } = spawnSync(file, ['--version'], { encoding: 'utf8', timeout: 10_000 })
  return /^version: .*$/m.exec(`${stdout}\n${stderr}`)?.[0] ?? 'version unknown'
}

/** As people start it: a slot for each request, room for its tokens, and no more threads than ours. */
const startLlama = async (file: string, values: Values): Promise<Competitor> => {
  if (!existsSync(file)) throw new UsageError(`--llama-server: there is no file ${file}`)
  const shape = shapeNamed(values.shape)
  const gguf = benchGguf(benchModel(shape), shape)
  const port = await freePort()
  const slots = mostAtOnce(values)
  const context = slots * (values['input-len'] + values['output-len'] + 64)
  const child = spawn(
    file,
    [
      ...['-m', gguf, '--host', '127.0.0.1', '--port', String(port)],
      ...['-t', String(values.threads), '-np', String(slots), '-c', String(context)],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  let said = ''
  child.stderr?.on('data', (chunk) => {
    said = `${said}${chunk}`.slice(-2000)
  })
  let failure: string | undefined
  child.once('error', (error) => {
    failure = error.message
  })
  const isReady = async (): Promise<boolean> => {
    const answer = await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined)
    await answer?.arrayBuffer()
    return answer?.status === 200
  }
  while (!(await isReady())) {
    if (child.exitCode !== null) failure = said.trim().split('\n').at(-1) ?? ''
    if (failure !== undefined) throw new UsageError(`${file} did not start: ${failure}`)
    await sleep(200)
  }
  const url = `http://127.0.0.1:${port}/v1`
  const stop = () => stopProcess(child)
  const server = await at({ name: 'llama.cpp', url, model: undefined, stop })
  return { ...server, version: `, ${versionOf(file)}` }
}

const startPeer = (values: Values): Promise<Competitor> => {
  const { 'peer-url': url, 'llama-server': file, 'peer-model': model } = values
  const { 'peer-api-key': key } = values
  if ((url === undefined) === (file === undefined))
    throw new UsageError('give one of --peer-url and --llama-server: what ours is compared with')
  if (url !== undefined) return at({ name: 'peer', url, model, key, keyFlag: '--peer-api-key' })
  return startLlama(file ?? '', values)
}

const random = Math.random

/** Prompts of so many tokens as ours counts them. */
const promptsFor = async ({ target, model }: Competitor, values: Values) => {
  const { write } = await createWriter(async (prompt) => {
    const outcome = await streamOnce(target, { model, prompt, max_tokens: 1 })
    if (outcome.error !== undefined) throw new UsageError(`${target.baseUrl}: ${outcome.error}`)
    return outcome.promptTokens
  }, random)
  return (requests: number) => Array.from({ length: requests }, () => write(values['input-len']))
}

const turn = async (
  { name, target, model }: Competitor,
  prompts: readonly string[],
  concurrency: number,
  outputTokens: number,
): Promise<Run> => {
  const fields = { max_tokens: outputTokens, temperature: 0, ignore_eos: true }
  const loaded = await runLoad(target, {
    conversation: (i) => {
      const prompt = prompts[i]
      if (prompt === undefined) return undefined
      const turns = [[{ role: 'user', content: prompt }]]
      return converse({ turns }, { model, endpoint: 'completions', fields })
    },
    concurrency,
  })
  const failed = loaded.outcomes.find(({ error }) => error !== undefined)
  if (failed !== undefined) throw new UsageError(`${name}: ${failed.error}`)
  const given = loaded.outcomes.find((one) => one.outputTokens !== outputTokens)
  if (given !== undefined)
    throw new UsageError(
      `${name} gave ${given.outputTokens} tokens, ${outputTokens} were asked for with ignore_eos: no comparison`,
    )
  return runOf({ rate: undefined, concurrency }, loaded, [])
}

const ROWS: readonly (readonly [name: string, read: (run: Run) => number])[] = [
  ['output tok/s', ({ figures }) => figures.output_throughput],
  ['median TTFT ms', ({ latencies }) => latencies.median_ttft_ms ?? Number.NaN],
  ['median TPOT ms', ({ latencies }) => latencies.median_tpot_ms ?? Number.NaN],
]

type Round = { readonly ours: Run; readonly peer: Run }

const show = (name: string, concurrency: number, rounds: readonly Round[]): string =>
  table([
    [`${concurrency} at once`, 'ours', name, 'ours is'],
    ...ROWS.map(([row, read]) => {
      const ours = rounds.map((round) => read(round.ours))
      const theirs = rounds.map((round) => read(round.peer))
      return [row, digits(median(ours)), digits(median(theirs)), times(compare(ours, theirs))]
    }),
  ])

const play = async (values: Values, ours: Competitor, peer: Competitor): Promise<void> => {
  const promptsOf = await promptsFor(ours, values)
  const tokens = values['output-len']
  for (const one of [ours, peer]) await turn(one, promptsOf(1), 1, tokens)
  for (const concurrency of loads(values.concurrency)) {
    const rounds: Round[] = []
    for (let i = 0; i < values.rounds; i++) {
      const prompts = promptsOf(Math.max(concurrency, values['num-prompts']))
      const play = (one: Competitor) => turn(one, prompts, concurrency, tokens)
      // Who begins changes, so that a machine that slows down slows both.
      if (i % 2 === 0) rounds.push({ ours: await play(ours), peer: await play(peer) })
      else {
        const its = await play(peer)
        rounds.push({ ours: await play(ours), peer: its })
      }
    }
    console.log(`\n${show(peer.name, concurrency, rounds)}`)
  }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const about = 'our server beside another one, the same model and requests, in turns'
  const values = readFlags('compare', about, flags, args)
  if (!values) return
  const peer = await startPeer(values)
  try {
    const ours = await startOurs(values)
    try {
      console.log(`${machineLine()}\nours: ${ours.target.baseUrl}, model ${ours.model}`)
      console.log(`${peer.name}: ${peer.target.baseUrl}, model ${peer.model}${peer.version}`)
      await play(values, ours, peer)
    } finally {
      ours.target.agent.destroy()
      await ours.stop()
    }
  } finally {
    peer.target.agent.destroy()
    await peer.stop()
  }
}
