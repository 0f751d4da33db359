// A model that is served, and which of them a name means. Plain data; open.ts makes it.

import type { Engine } from '../engine/types.js'
import type { ModelMetrics } from '../metrics/metrics.js'
import type { ChatTemplate } from '../prompt/template.js'
import { badRequest, RequestError } from '../request-error.js'
import type { Tokenizer } from '../tokenizer/types.js'
import type { CompileForm } from './grammars.js'
import type { Pace } from './pace.js'
import type { ModelProfile } from './registry.js'
import type { Readout } from './reward-readout.js'

/** Which weights run. */
type Weights = {
  /** As who loaded them calls them: `default` at the start; undefined: they never change. */
  version: string | undefined
  /** Where they were read, where they are not those of the start. */
  folder: string | undefined
  /** Others are being loaded: live requests `keep` running then, or `abort`. */
  change: 'keep' | 'abort' | undefined
}

export type ServedModel = {
  readonly id: string
  /** Other names that clients may use. */
  readonly aliases: readonly string[]
  /** The folder or Hugging Face id it was loaded from. */
  readonly root: string
  readonly created: number
  readonly engine: Engine
  readonly tokenizer: Tokenizer
  readonly template: ChatTemplate
  /** bos_token, eos_token and the like; '' where there is none. */
  readonly tokenNames: Readonly<Record<string, string>>
  readonly profile: ModelProfile
  /** What a reward model's outputs mean; of a chat model, unused. */
  readonly readout: Readout
  readonly compileForm: CompileForm
  readonly pace: Pace
  readonly weights: Weights
  readonly metrics: ModelMetrics
}

type Models = readonly ServedModel[]

const names = (model: ServedModel): readonly string[] => [model.id, ...model.aliases]

export const findModel = (models: Models, name: string, param = 'model'): ServedModel => {
  const found = models.find((model) => model.root === name || names(model).includes(name))
  if (found !== undefined) return found
  const served = models.map(({ id }) => `'${id}'`).join(', ')
  throw new RequestError(`The model '${name}' does not exist. Served here: ${served}.`, {
    kind: 'not_found',
    param,
    code: 'model_not_found',
  })
}

/** It writes its judgements. */
export const isJudge = ({ readout }: Pick<ServedModel, 'readout'>): boolean =>
  readout.judge !== undefined

export const isReward = (model: Pick<ServedModel, 'engine' | 'readout'>): boolean =>
  model.engine.info.rewardKind !== 'none' || isJudge(model)

export const onlyOfRewardModels = ({ id }: ServedModel): RequestError =>
  badRequest(
    `'principle' is not supported: '${id}' is a chat model. To rank its answers give 'reward': {"model": ..., "principle": ...}.`,
    'principle',
  )

const quoted = (models: Models): string => models.map(({ id }) => `'${id}'`).join(', ')

/** The model, or an error that names those that give rewards. */
export const findRewardModel = (models: Models, name: string, param = 'model'): ServedModel => {
  const model = findModel(models, name, param)
  if (isReward(model)) return model
  const able = models.filter(isReward)
  throw badRequest(
    able.length === 0
      ? `'${name}' is a chat model and gives no rewards, and this server serves no reward model.`
      : `'${name}' is a chat model and gives no rewards. These do: ${quoted(able)}.`,
    param,
  )
}

/** Which models write answers, for messages. */
export const chatModels = (models: Models): string => {
  const able = models.filter((model) => !isReward(model))
  return able.length === 0
    ? 'This server serves no chat model.'
    : `These write answers: ${quoted(able)}.`
}

/** The reverse of findRewardModel. */
export const refuseReward = (
  models: Models,
  model: ServedModel,
  why: string,
  param = 'model',
): void => {
  if (!isReward(model)) return
  throw badRequest(`'${model.id}' is a reward model: ${why}. ${chatModels(models)}`, param)
}
