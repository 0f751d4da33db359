// createEngine as the package exports it: the engine and, for reward models, `reward()`, which takes
// conversations as /v1/reward does. Chat in-process goes through token ids (docs/api.md).

import { checkBody } from './check.js'
import { checkOptions } from './engine/check-call.js'
import { openEngine } from './engine/engine.js'
import type { Engine, EngineOptions } from './engine/types.js'
import { namesOfModel } from './model/identity.js'
import { openReadout, openTemplate, rewardSettings } from './model/open.js'
import { planRewards, RewardBody, rewardData } from './scoring/rewards.js'
import { scoreBatch, scoreUsage } from './scoring/scoring.js'
import type { RewardSettings } from './settings/reward.js'
import { loadTokenizer } from './tokenizer/tokenizer.js'
import type { Tokenizer } from './tokenizer/types.js'

type Turn = { readonly role: 'system' | 'user' | 'assistant' | 'tool'; readonly content: string }

/** As the body of /v1/reward, without the model. */
export type RewardCall = {
  readonly messages?: readonly Turn[]
  readonly responses?: readonly string[]
  readonly inputs?: readonly {
    readonly messages: readonly Turn[]
    readonly responses?: readonly string[]
  }[]
  readonly pairwise?: boolean
  readonly priority?: number
  readonly cacheSalt?: string
}
export type RewardAnswer = ReturnType<typeof rewardData> & {
  readonly usage: ReturnType<typeof scoreUsage>
}

export type RewardingEngine = Engine & {
  /** Reward models only; errors name the field as /v1/reward does. */
  readonly reward: (
    call: RewardCall,
    options?: { readonly signal?: AbortSignal },
  ) => Promise<RewardAnswer>
}

export type CreateEngineOptions = EngineOptions & {
  /** What the outputs of a reward head mean, where checkpoint and registry do not say it. */
  readonly reward?: RewardSettings
}

export const createEngine = async (
  options: CreateEngineOptions,
  tokenizer?: Tokenizer,
): Promise<RewardingEngine> => {
  const { reward: settings, ...rest } = options ?? {}
  checkOptions(rest)
  const { model: folder } = options
  const words = tokenizer ?? (await loadTokenizer(folder))
  const warnings: string[] = []
  const { template, profile } = await openTemplate(
    folder,
    { names: namesOfModel(folder), file: undefined },
    words,
    (message) => warnings.push(message),
  )
  const reward = rewardSettings(settings, profile.entry)
  const rewardRows = options.rewardRows ?? reward?.rows
  const engine = await openEngine({ ...rest, ...(rewardRows && { rewardRows }) }, words)
  const isReward = engine.info.rewardKind !== 'none'
  // Chat goes through token ids here: a template matters to rewards alone.
  if (isReward) for (const message of warnings) process.emitWarning(message)
  const readout = await openReadout(engine, reward)
  const model = { id: folder, engine, tokenizer: words, template, readout }
  return {
    ...engine,
    reward: async ({ cacheSalt, priority, ...call }, { signal } = {}) => {
      if (!isReward) throw new Error(`${folder} is a chat model and gives no rewards.`)
      const { body } = checkBody(RewardBody, call, { isStrict: true })
      const items = await planRewards(model, body)
      const scored = await scoreBatch(engine, items, { signal, priority, cacheSalt })
      return { ...rewardData(model, scored, body.pairwise === true), usage: scoreUsage(scored) }
    },
  }
}
