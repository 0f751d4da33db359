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

const REWARDS = [
  ...(['reward', 'chosen_reward', 'rejected_reward'] as const),
  ...(['rewards', 'chosen_rewards', 'rejected_rewards'] as const),
]

type PairCount = { pairs: number; right: number; ties: number; unjudged: number; margin: number }

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

/** Null: the model gave none, such as a judge whose judgement cannot be read. */
type Reward = number | null
type Pair = readonly [better: Reward, worse: Reward]

const known = (values: readonly Reward[] | null | undefined): readonly number[] =>
  values?.filter((value) => value !== null) ?? []

const ofAll = (rewards: readonly Reward[], pick: (...all: number[]) => number): Reward =>
  rewards.some((one) => one === null) ? null : pick(...known(rewards))

/** The better and the worse reward of a line by itself: the worst of the better ones beside the best of the
 * worse. */
const pairOf = (line: Scored): Pair | undefined => {
  if (line.chosen_reward !== undefined && line.rejected_reward !== undefined)
    return [line.chosen_reward, line.rejected_reward]
  const { chosen_rewards: better, rejected_rewards: worse } = line
  if (better && worse) return [ofAll(better, Math.min), ofAll(worse, Math.max)]
  // HelpSteer's preferences: below 0 for the first response, above for the second.
  const preference = line.preference_strength ?? line.overall_preference
  const [first, second] = line.rewards ?? []
  if (!preference || first === undefined || second === undefined) return undefined
  return preference < 0 ? [first, second] : [second, first]
}

/** Pairs in the right order: all of them, by a field's value, and by RewardBench's subsets. */
const createPairs = (category: string | undefined) => {
  const zero = (): PairCount => ({ pairs: 0, right: 0, ties: 0, unjudged: 0, margin: 0 })
  const named = createNamed(zero)
  const subsets = createNamed(zero)
  let last: Scored | undefined

  const add = (line: Scored, [better, worse]: Pair): void => {
    const counts = [named.get('all')]
    if (category !== undefined)
      counts.push(named.get(`${category}=${String(line[category] ?? '(none)')}`))
    if (isSubset(line.subset)) counts.push(subsets.get(line.subset))
    for (const count of counts) {
      count.pairs++
      if (better === null || worse === null) {
        count.unjudged++
        continue
      }
      count.right += better > worse ? 1 : 0
      count.ties += better === worse ? 1 : 0
      count.margin += better - worse
    }
  }

  /** Two lines that follow one another with the same prompt, and that people found not equally helpful. */
  const addNeighbours = (before: Scored | undefined, now: Scored): boolean => {
    if (before?.prompt === undefined) return false
    if (before.reward === undefined || now.reward === undefined) return false
    if (JSON.stringify(before.prompt) !== JSON.stringify(now.prompt)) return false
    const [a, b] = [humanOf(before, 'helpfulness'), humanOf(now, 'helpfulness')]
    if (a === undefined || b === undefined) return false
    if (a !== b) add(now, a > b ? [before.reward, now.reward] : [now.reward, before.reward])
    return true
  }

  const row = ([name, count]: readonly [string, PairCount]) => {
    const { pairs, right, ties, unjudged, margin } = count
    const judged = pairs - unjudged
    return {
      name,
      values: {
        ...{ pairs, right, ties, wrong: judged - right - ties, unjudged },
        accuracy: (right + ties / 2) / pairs,
        mean_margin: judged > 0 ? margin / judged : null,
      },
    }
  }
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
      const [first, second] = line.rewards ?? []
      const preferred = line.overall_preference
      if (preferred != null && first != null && second != null)
        named.get('overall_preference').reward.add(preferred, second - first)
      for (const name of ATTRIBUTES) {
        const human = humanOf(line, name)
        const score = line.attributes?.[name]
        if (human === undefined) continue
        if (line.reward != null) named.get(name).reward.add(human, line.reward)
        // Where a model has several scores and no weights for them, it has these alone.
        if (score !== undefined) named.get(name).own.add(human, score)
      }
    },
    rows: () =>
      [...named.all].map(([name, { reward, own }]) => ({
        name,
        values: {
          count: Math.max(reward.count(), own.count()),
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
  let withoutReward = 0
  let truncated = 0
  return {
    add: (record: Readonly<Record<string, unknown>>): void => {
      // Of an earlier run there may be lines with an error.
      if (RESULTS.every((name) => record[name] === undefined)) return
      const line = Scored.parse(record)
      scored++
      if (REWARDS.some((name) => [line[name]].flat().includes(null))) withoutReward++
      if (line.truncated) truncated++
      for (const name of REWARDS)
        for (const value of known([line[name] ?? null].flat())) values.get(name).add(value)
      for (const [name, value] of Object.entries(line.attributes ?? {})) values.get(name).add(value)
      pairs.add(line)
      correlations.add(line)
      rmBench.add(line.domain, line.chosen_rewards ?? [], line.rejected_rewards ?? [])
    },
    sections: ({ failed }: { readonly failed: number }): readonly Section[] => {
      const all = { scored, failed, truncated, without_reward: withoutReward }
      // Of a model that gives no rewards at all nothing is right or wrong.
      const hasRewards = REWARDS.some((name) => values.all.has(name))
      return [
        { name: 'lines', rows: [{ name: 'all', values: all }] },
        {
          name: 'rewards',
          rows: [...values.all].map(([name, one]) => ({ name, values: one.values() })),
        },
        { name: 'pairs', rows: hasRewards ? pairs.rows() : [] },
        { name: 'RewardBench', rows: hasRewards ? pairs.rewardBench() : [] },
        { name: 'RM-Bench', rows: hasRewards ? rmBench.rows() : [] },
        { name: 'correlation', rows: correlations.rows() },
      ]
    },
  }
}
