// What the raw outputs of a reward head mean: names of the attributes and the scalar they add up to.
// From the checkpoint's own files, or from models/registry.json or the config file. Nothing is guessed.

import type { EngineInfo } from '../engine/types.js'
import { EngineFailure } from '../failure.js'
import type { RewardSettings } from '../settings/reward.js'

export type Readout = {
  /** There is one reward, not only several scores. */
  readonly isScalar: boolean
  /** What is asked about the answer, in a turn of its own; undefined: the answer itself is scored. */
  readonly question: string | undefined
  /** It writes its judgements; how, unless a request says otherwise. */
  readonly judge: RewardSettings['judge']
  readonly reward: (scores: readonly number[]) => number | null
  readonly attributes: (scores: readonly number[]) => Record<string, number> | undefined
}

const misfit = (message: string): EngineFailure =>
  new EngineFailure({ code: 'invalid_argument', message })

/** One weight an output, however they were given. */
const weightOfOutput = (
  given: RewardSettings['weights'],
  attributes: Readonly<Record<string, number>>,
  outputs: number,
  model: string,
): readonly number[] | undefined => {
  if (given === undefined) return undefined
  if (Array.isArray(given)) {
    if (given.length === outputs) return given
    throw misfit(`reward.weights has ${given.length} values; ${model} has ${outputs} outputs`)
  }
  const weights = Array<number>(outputs).fill(0)
  for (const [name, weight] of Object.entries(given)) {
    const index = attributes[name]
    if (index === undefined)
      throw misfit(
        `reward.weights.${name}: ${model} has no such attribute; it has ${Object.keys(attributes).join(', ') || 'none'}`,
      )
    weights[index] = weight
  }
  return weights
}

export const createReadout = (info: EngineInfo, settings: RewardSettings | undefined): Readout => {
  const { judge, ...outputsOnly } = settings ?? {}
  const odd = Object.entries(outputsOnly).find(([, value]) => value !== undefined)?.[0]
  if (judge !== undefined && (odd !== undefined || info.rewardKind !== 'none'))
    throw misfit(
      `reward.${odd ?? 'judge'}: ${info.model} is a judge (reward.judge), which writes its scores and has no outputs`,
    )
  const labels = info.rewardLabels ?? []
  const outputs = Math.max(info.rewardOutputs, 1)
  const named = Object.entries(
    settings?.attributes ??
      (labels.length > 1 ? Object.fromEntries(labels.map((label, i) => [label, i])) : {}),
  )
  for (const [name, index] of named) {
    if (index >= outputs)
      throw misfit(
        `reward.attributes.${name} is output ${index}; ${info.model} has ${outputs} outputs`,
      )
  }
  const weights = weightOfOutput(settings?.weights, Object.fromEntries(named), outputs, info.model)
  return {
    isScalar: weights !== undefined || outputs === 1,
    question: settings?.question,
    judge: settings?.judge,
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
