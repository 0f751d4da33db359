// What `score` says at its end, kept up record by record.

import { z } from 'zod'
import { isSubset, rewardBenchRows } from './rewardbench.js'
import { createRmBench } from './rm-bench.js'
import { createCorrelation, createMoments } from './statistics.js'
import type { Section } from './summary.js'

/** What people gave, as HelpSteer and HelpSteer2 have it. */
const ATTRIBUTES = ['helpfulness', 'correctness', 'coherence', 'complexity', 'verbosity'] as const

const number = z.number().nullish().catch(null)
const numbers = z.array(z.number().nullable()).nullish().catch(null)

/** A record of the output, as far as it is summed up. */
const Scored = z.looseObject({
  reward: number,
  rewards: numbers,
  attributes: z.record(z.string(), z.number()).nullish().catch(null),
  chosen_reward: number,
  rejected_reward: number,
  chosen_rewards: numbers,
  rejected_rewards: numbers,
  preference_strength: number,
  overall_preference: number,
  truncated: number,
  ...Object.fromEntries(ATTRIBUTES.map((name) => [name, number])),
})
type Scored = z.output<typeof Scored>

/** One of them is in every record with a score. */
const RESULTS = ['scores', 'chosen_reward', 'chosen_rewards']

type PairCount = { pairs: number; right: number; ties: number; margin: number }

/** Keeps named things that are made when first asked for. */
const createNamed = <T>(make: () => T) => {
  const all = new Map<string, T>()
  const get = (name: string): T => {
    const found = all.get(name) ?? make()
    all.set(name, found)
    return found
  }
  return { all, get }
}

const humanOf = (line: Scored, name: string): number | undefined => {
  const value = line[name]
  return typeof value === 'number' ? value : undefined
}

const known = (values: readonly (number | null)[] | null | undefined): readonly number[] =>
  values?.filter((value) => value !== null) ?? []

/** The better and the worse reward of a line by itself: the worst of the better ones beside the best of the
 * worse. */
const pairOf = (line: Scored): readonly [better: number, worse: number] | undefined => {
  if (line.chosen_reward != null && line.rejected_reward != null)
    return [line.chosen_reward, line.rejected_reward]
  const [better, worse] = [known(line.chosen_rewards), known(line.rejected_rewards)]
  if (better.length > 0 && worse.length > 0) return [Math.min(...better), Math.max(...worse)]
  // HelpSteer's preferences: below 0 for the first response, above for the second.
  const preference = line.preference_strength ?? line.overall_preference
  const [first, second] = known(line.rewards)
  if (!preference || first === undefined || second === undefined) return undefined
  return preference < 0 ? [first, second] : [second, first]
}

/** Pairs in the right order: all of them, by a field's value, and by RewardBench's subsets. */
const createPairs = (category: string | undefined) => {
  const zero = (): PairCount => ({ pairs: 0, right: 0, ties: 0, margin: 0 })
  const named = createNamed(zero)
  const subsets = createNamed(zero)
  let last: Scored | undefined

  const add = (line: Scored, [better, worse]: readonly [number, number]): void => {
    const counts = [named.get('all')]
    if (category !== undefined)
      counts.push(named.get(`${category}=${String(line[category] ?? '(none)')}`))
    if (isSubset(line.subset)) counts.push(subsets.get(line.subset))
    for (const count of counts) {
      count.pairs++
      count.right += better > worse ? 1 : 0
      count.ties += better === worse ? 1 : 0
      count.margin += better - worse
    }
  }

  /** Two lines that follow one another with the same prompt, and that people found not equally helpful. */
  const addNeighbours = (before: Scored | undefined, now: Scored): boolean => {
    if (before?.prompt === undefined || before.reward == null || now.reward == null) return false
    if (JSON.stringify(before.prompt) !== JSON.stringify(now.prompt)) return false
    const [a, b] = [humanOf(before, 'helpfulness'), humanOf(now, 'helpfulness')]
    if (a === undefined || b === undefined) return false
    if (a !== b) add(now, a > b ? [before.reward, now.reward] : [now.reward, before.reward])
    return true
  }

  const row = ([name, { pairs, right, ties, margin }]: readonly [string, PairCount]) => ({
    name,
    values: {
      ...{ pairs, right, ties, wrong: pairs - right - ties },
      accuracy: (right + ties / 2) / pairs,
      mean_margin: margin / pairs,
    },
  })
  return {
    add: (line: Scored): void => {
      const pair = pairOf(line)
      if (pair) add(line, pair)
      last = addNeighbours(last, line) ? undefined : line
    },
    rows: () =>
      [...named.all]
        .sort(([a], [b]) => Number(a === 'all') - Number(b === 'all') || (a < b ? -1 : 1))
        .map(row),
    rewardBench: () => (subsets.all.size > 0 ? rewardBenchRows(subsets.all) : []),
  }
}

/** What people gave beside the reward, and beside the model's own score of that name. */
const createCorrelations = () => {
  const named = createNamed(() => ({ reward: createCorrelation(), own: createCorrelation() }))
  return {
    add: (line: Scored): void => {
      // Of HelpSteer3's two answers: by how much the second is the better one.
      const [first, second] = known(line.rewards)
      const preferred = line.overall_preference
      if (preferred != null && first !== undefined && second !== undefined)
        named.get('overall_preference').reward.add(preferred, second - first)
      if (line.reward == null) return
      for (const name of ATTRIBUTES) {
        const human = humanOf(line, name)
        if (human === undefined) continue
        const { reward, own } = named.get(name)
        reward.add(human, line.reward)
        const score = line.attributes?.[name]
        if (score !== undefined) own.add(human, score)
      }
    },
    rows: () =>
      [...named.all].map(([name, { reward, own }]) => ({
        name,
        values: {
          count: reward.count(),
          with_reward: reward.value(),
          ...(own.count() > 0 && { with_own: own.value() }),
        },
      })),
  }
}

export const createScoreSummary = (category: string | undefined) => {
  const values = createNamed(createMoments)
  const pairs = createPairs(category)
  const correlations = createCorrelations()
  const rmBench = createRmBench()
  let scored = 0
  let truncated = 0
  return {
    add: (record: Readonly<Record<string, unknown>>): void => {
      // Of an earlier run there may be lines with an error.
      if (RESULTS.every((name) => record[name] === undefined)) return
      const line = Scored.parse(record)
      scored++
      if (line.truncated) truncated++
      for (const name of ['reward', 'chosen_reward', 'rejected_reward'] as const)
        for (const value of known([line[name] ?? null])) values.get(name).add(value)
      for (const name of ['rewards', 'chosen_rewards', 'rejected_rewards'] as const)
        for (const value of known(line[name])) values.get(name).add(value)
      for (const [name, value] of Object.entries(line.attributes ?? {})) values.get(name).add(value)
      pairs.add(line)
      correlations.add(line)
      rmBench.add(line.domain, known(line.chosen_rewards), known(line.rejected_rewards))
    },
    sections: ({ failed }: { readonly failed: number }): readonly Section[] => [
      { name: 'lines', rows: [{ name: 'all', values: { scored, failed, truncated } }] },
      {
        name: 'rewards',
        rows: [...values.all].map(([name, one]) => ({ name, values: one.values() })),
      },
      { name: 'pairs', rows: pairs.rows() },
      { name: 'RewardBench', rows: pairs.rewardBench() },
      { name: 'RM-Bench', rows: rmBench.rows() },
      { name: 'correlation', rows: correlations.rows() },
    ],
  }
}
