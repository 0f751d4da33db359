// createEngine as the package exports it: the engine and, for reward models, `reward()`, which takes
// conversations as /v1/reward does. Chat in-process goes through token ids (docs/api.md).

import { checkBody } from './check.js'
import { openEngine } from './engine/engine.js'
import type { Engine, EngineOptions } from './engine/types.js'
import { openTemplate } from './model/open.js'
import { findEntry } from './model/registry.js'
import { createReadout } from './model/reward-readout.js'
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
  const { reward: settings, ...rest } = options
  const entry = findEntry(options.model)
  const words = tokenizer ?? (await loadTokenizer(options.model))
  const row = options.rewardRow ?? entry?.reward_row
  const engine = await openEngine({ ...rest, ...(row !== undefined && { rewardRow: row }) }, words)
  const isReward = engine.info.rewardKind !== 'none'
  const open = async () => ({
    readout: createReadout(engine.info, settings ?? entry?.reward),
    ...(await openTemplate(
      options.model,
      { name: options.model, file: undefined },
      words,
      (message) => {
        if (isReward) process.emitWarning(message)
      },
    )),
  })
  const { readout, template } = await open().catch(async (error: unknown) => {
    await engine.close()
    throw error
  })
  const model = { id: options.model, engine, tokenizer: words, template, readout }
  return {
    ...engine,
    reward: async ({ cacheSalt, priority, ...call }, { signal } = {}) => {
      if (!isReward) throw new Error(`${options.model} is a chat model and gives no rewards.`)
      const { body } = checkBody(RewardBody, call, { isStrict: true })
      const items = await planRewards(model, body)
      const scored = await scoreBatch(engine, items, { signal, priority, cacheSalt })
      return { ...rewardData(model, scored, body.pairwise === true), usage: scoreUsage(scored) }
    },
  }
}
