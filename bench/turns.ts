// Competitors of a bench that play the same case in turns, and how close their numbers are.

import type { Ceilings } from './machine.js'
import type { Task, Timing } from './peers/protocol.js'
import type { Running } from './peers/start.js'
import { randomPrompt } from './random-model.js'
import type { Agreement, CaseResult, Round } from './report.js'
import type { Case, Shape } from './shapes.js'

/** One column of the table: a process, and the tasks that it plays. */
export type Competitor = {
  readonly name: string
  readonly process: Running
  readonly taskOf: (c: Case) => Task | null
}

/** Turns of a case, by how long the last one took. */
const turnsOf = (seconds: number, rounds: number): number =>
  Math.min(rounds, seconds > 20 ? 1 : seconds > 4 ? 2 : rounds)

export const progress = (text: string): void => {
  process.stderr.write(`[${Math.round(performance.now() / 1000)} s] ${text}\n`)
}

/** Fills caches and code paths without the cost of a whole turn. */
const warmUpOf = (task: Task): Task => {
  if (task.task === 'decode') return { ...task, steps: 1 }
  return 'tokens' in task ? { ...task, tokens: 64 } : task
}

/** Same weights, same numbers? Each process says what it makes of one prompt. */
export const compareNumbers = async (
  shape: Shape,
  processes: readonly Running[],
): Promise<readonly Agreement[]> => {
  // Not longer than llama.cpp's whole distributions fit.
  const prompt = randomPrompt(Math.min(256, Math.round(4e6 / shape.vocab)), shape.vocab, 99)
  const checks = processes.map(async (one) => ({
    name: one.name,
    ...(await one.run({ task: 'check', prompt })),
  }))
  const [ours, ...others] = await Promise.all(checks)
  return others.map(({ name, top = [], logprobs = [], error }) => {
    const differences = logprobs.map((value, i) => Math.abs(value - (ours?.logprobs?.[i] ?? 0)))
    return {
      name,
      positions: prompt.length - 1,
      sameTop: top.filter((id, index) => id === ours?.top?.[index]).length,
      meanDifference: differences.reduce((sum, value) => sum + value, 0) / differences.length,
      ...(error !== undefined && { error }),
    }
  })
}

type Player = { readonly name: string; readonly process: Running; readonly task: Task }

/** One turn each of those that have one left. */
const playRound = async (
  players: readonly Player[],
  played: Map<string, Timing[]>,
  failed: Map<string, string>,
  rounds: number,
): Promise<Round['timings']> => {
  const timings: Record<string, Timing> = {}
  for (const { name, process, task } of players) {
    const turns = played.get(name) ?? []
    const last = turns.at(-1)?.seconds ?? 0
    if (failed.has(name) || turns.length >= turnsOf(last, rounds)) continue
    const { timing, error } = await process.run(task)
    if (error !== undefined) failed.set(name, error)
    if (timing === undefined) continue
    played.set(name, [...turns, timing])
    timings[name] = timing
  }
  return timings
}

/** At most `most` rounds of a case, each competitor a turn in each. */
export const playCase = async (
  c: Case,
  competitors: readonly Competitor[],
  ceilings: () => Ceilings,
  most: number,
): Promise<CaseResult> => {
  const players = competitors.flatMap(({ name, process, taskOf }): readonly Player[] => {
    const task = taskOf(c)
    return task === null ? [] : [{ name, process, task }]
  })
  const failed = new Map<string, string>()
  for (const { name, process, task } of players) {
    const { error } = await process.run(warmUpOf(task))
    if (error !== undefined) failed.set(name, error)
  }
  const played = new Map<string, Timing[]>()
  const rounds: Round[] = []
  while (rounds.length < most) {
    const measured = ceilings()
    const order = rounds.length % 2 === 0 ? players : players.toReversed()
    const timings = await playRound(order, played, failed, most)
    if (Object.keys(timings).length === 0) break
    rounds.push({ ceilings: measured, timings })
    progress(`${c.name}, round ${rounds.length}: ${Object.keys(timings).join(', ')}`)
  }
  for (const [name, why] of failed) console.error(`${c.name}: ${name}: ${why}`)
  return { case: c, rounds }
}
