// The loop of a competitor written in TypeScript: load, say ready, answer task by task.

import { createWriteStream } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Answer, ChildOptions, Ready, Task, Timing } from './protocol.js'

/** The tasks that it can do. */
export type Competitor = Ready & {
  readonly decode: (sequences: number, context: number, steps: number) => Promise<Timing>
  readonly prefill: (tokens: number) => Promise<Timing>
  readonly check: (prompt: readonly number[]) => Promise<Answer>
  readonly latency?: (requests: number) => Promise<readonly number[]>
}

const play = async (competitor: Competitor, task: Task): Promise<Answer> => {
  if (task.task === 'decode')
    return { timing: await competitor.decode(task.sequences, task.context, task.steps) }
  if (task.task === 'prefill') return { timing: await competitor.prefill(task.tokens) }
  if (task.task === 'check') return competitor.check(task.prompt)
  if (task.task === 'latency' && competitor.latency)
    return { latencies: await competitor.latency(task.requests) }
  return { error: `it has no task ${task.task}` }
}

export const serveTasks = async (
  load: (options: ChildOptions) => Promise<Competitor>,
): Promise<void> => {
  const answers = createWriteStream('', { fd: 3 })
  const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error))
  const answer = (value: Answer | Ready): void => {
    answers.write(`${JSON.stringify(value)}\n`)
  }
  try {
    const competitor = await load(JSON.parse(process.argv[2] ?? ''))
    answer(competitor)
    for await (const line of createInterface({ input: process.stdin })) {
      const failed = (error: unknown): Answer => ({ error: messageOf(error) })
      answer(await play(competitor, JSON.parse(line)).catch(failed))
    }
  } catch (error) {
    answer({ version: '', loadSeconds: 0, error: messageOf(error) })
  }
  answers.end(() => process.exit())
}

export const seconds = (): number => performance.now() / 1000

/** Call the result to read the time passed. */
export const stopwatch = (): (() => Omit<Timing, 'tokens'>) => {
  const cpu = process.cpuUsage()
  const start = seconds()
  return () => {
    const elapsed = seconds() - start
    const { user, system } = process.cpuUsage(cpu)
    return { seconds: elapsed, cpuSeconds: (user + system) / 1e6 }
  }
}

/**
 * Times streams that run in lockstep, from the moment each has its first token to the moment each has
 * `steps` more. `arrived(stream)` is to be called for every token.
 */
export const timeSteps = (streams: number, steps: number) => {
  const counts = Array.from({ length: streams }, () => 0)
  const total = (): number => counts.reduce((a, b) => a + b, 0)
  let resolve: (timing: Timing) => void = () => {}
  const timing = new Promise<Timing>((done) => {
    resolve = done
  })
  let [begun, ended, before] = [0, 0, 0]
  let watch = stopwatch()
  const arrived = (stream: number): void => {
    const count = (counts[stream] ?? 0) + 1
    counts[stream] = count
    if (count === 1 && ++begun === streams) {
      before = total()
      watch = stopwatch()
    }
    if (count === steps + 1 && ++ended === streams)
      resolve({ tokens: total() - before, ...watch() })
  }
  return { arrived, timing }
}
