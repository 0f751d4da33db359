// What the raw outputs of a reward head mean: names of the attributes and the scalar they add up to.
// From the checkpoint's own files, or from models/registry.json or the config file. Nothing is guessed.

import { z } from 'zod'
import type { EngineInfo } from './types.js'

/** Which outputs have a name, and how they add up. Indices run over the head's outputs. */
export const RewardSettings = z.strictObject({
  /** Outputs by name. Absent: the checkpoint's own labels, when it has several. */
  attributes: z.record(z.string().min(1), z.int().min(0)).optional(),
  /** One weight an output; the reward is their dot product with the scores. */
  weights: z.array(z.number()).min(1).optional(),
})
export type RewardSettings = z.output<typeof RewardSettings>

export type Readout = {
  /** There is one reward, not only several scores. */
  readonly isScalar: boolean
  readonly reward: (scores: readonly number[]) => number | null
  readonly attributes: (scores: readonly number[]) => Record<string, number> | undefined
}

export const createReadout = (info: EngineInfo, settings: RewardSettings | undefined): Readout => {
  const labels = info.rewardLabels ?? []
  const outputs = Math.max(labels.length, 1)
  const { weights } = settings ?? {}
  if (weights !== undefined && weights.length !== outputs)
    throw new Error(
      `reward.weights has ${weights.length} values; ${info.model} has ${outputs} outputs`,
    )
  const named = Object.entries(
    settings?.attributes ??
      (labels.length > 1 ? Object.fromEntries(labels.map((label, i) => [label, i])) : {}),
  )
  for (const [name, index] of named) {
    if (index >= outputs)
      throw new Error(
        `reward.attributes.${name} is output ${index}; ${info.model} has ${outputs} outputs`,
      )
  }
  return {
    isScalar: weights !== undefined || outputs === 1,
    reward: (scores) => {
      if (weights !== undefined)
        return scores.reduce((sum, score, i) => sum + score * (weights[i] ?? 0), 0)
      return scores.length === 1 ? (scores[0] ?? null) : null
    },
    attributes: (scores) =>
      named.length === 0
        ? undefined
        : Object.fromEntries(named.map(([name, index]) => [name, scores[index] ?? Number.NaN])),
  }
}
