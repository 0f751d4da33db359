// The loop of a competitor written in TypeScript: load, say ready, answer task by task.

import { createWriteStream } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Answer, ChildOptions, Ready, Task, Timing } from './protocol.js'

export type Competitor = Ready & { readonly run: (task: Task) => Promise<Answer> }

const messageOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error)

export const serveTasks = async (
  load: (options: ChildOptions) => Promise<Competitor>,
): Promise<void> => {
  const answers = createWriteStream('', { fd: 3 })
  const answer = (value: Answer | Ready): void => {
    answers.write(`${JSON.stringify(value)}\n`)
  }
  try {
    const options: ChildOptions = JSON.parse(process.argv[2] ?? '')
    const { run, ...ready } = await load(options)
    answer(ready)
    for await (const line of createInterface({ input: process.stdin })) {
      answer(await run(JSON.parse(line)).catch((error) => ({ error: messageOf(error) })))
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
export const timeSteps = (
  streams: number,
  steps: number,
): { readonly arrived: (stream: number) => void; readonly timing: Promise<Timing> } => {
  const counts = Array.from({ length: streams }, () => 0)
  const total = (): number => counts.reduce((a, b) => a + b, 0)
  let begun = 0
  let ended = 0
  let before = 0
  let watch: (() => Omit<Timing, 'tokens'>) | undefined
  let resolve: (timing: Timing) => void = () => {}
  const timing = new Promise<Timing>((done) => {
    resolve = done
  })
  const arrived = (stream: number): void => {
    const count = (counts[stream] ?? 0) + 1
    counts[stream] = count
    if (count === 1 && ++begun === streams) {
      before = total()
      watch = stopwatch()
    }
    if (count === steps + 1 && ++ended === streams && watch !== undefined) {
      resolve({ tokens: total() - before, ...watch() })
    }
  }
  return { arrived, timing }
}
