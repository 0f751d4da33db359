// createEngine as the package exports it: the engine, `generateValue()`, whose answer is a value of a schema,
// and, for reward models, `reward()`, which takes conversations as /v1/reward does. Chat in-process goes through token ids (docs/api.md).

import { z } from 'zod'
import { brokenText, checkBody, faultText } from './check.js'
import { checkBeside, checkCall, checkOptions, checkTokenizer } from './engine/check-call.js'
import { checkFolder, openEngine } from './engine/engine.js'
import type { Engine, EngineOptions, GenerateRequest, Timings } from './engine/types.js'
import { EngineFailure } from './failure.js'
import { embeddedFolder } from './model/embedded.js'
import { type CompileForm, createGrammars } from './model/grammars.js'
import { namesOfModel } from './model/identity.js'
import {
  checkDraftNames,
  openReadout,
  openTemplate,
  rewardDoubt,
  rewardSettings,
} from './model/open.js'
import { badRequest } from './request-error.js'
import { type JudgeFields, judgeBatch, judgeData, judgeUsage } from './scoring/judge.js'
import { planJudging, planRewards, RewardBody, rewardData } from './scoring/rewards.js'
import { scoreBatch, scoreUsage } from './scoring/scoring.js'
import { RewardSettings } from './settings/reward.js'
import { loadTokenizer as readTokenizer } from './tokenizer/tokenizer.js'
import type { Tokenizer } from './tokenizer/types.js'

type Turn = { readonly role: 'system' | 'user' | 'assistant' | 'tool'; readonly content: string }

/** As the body of /v1/reward, without the model. */
export type RewardCall = {
  readonly messages?: readonly Turn[]
  readonly responses?: readonly string[]
  readonly inputs?: readonly {
    readonly messages: readonly Turn[]
    readonly responses?: readonly string[]
    readonly principle?: string
  }[]
  readonly principle?: string
  readonly pairwise?: boolean
  readonly judge?: JudgeFields
  readonly priority?: number
  readonly cacheSalt?: string
}
export type RewardAnswer = ReturnType<typeof rewardData> & {
  /** Of a judge: every judgement. */
  readonly comparisons?: ReturnType<typeof judgeData>['comparisons']
  readonly usage: ReturnType<typeof scoreUsage> & { readonly completion_tokens?: number }
}

/** A schema of zod, or a JSON Schema. */
export type ValueSchema = z.ZodType | Readonly<Record<string, unknown>>
export type ValueOf<S extends ValueSchema> = S extends z.ZodType ? z.output<S> : unknown
export type ValueRequest<S extends ValueSchema> = Omit<
  GenerateRequest,
  'n' | 'grammar' | 'grammarAfter'
> & { readonly schema: S }
export type ValueAnswer<S extends ValueSchema> = {
  readonly value: ValueOf<S>
  /** As it was written, a block of thinking too. */
  readonly text: string
  readonly tokenIds: readonly number[]
  readonly timings: Timings | undefined
}

export type RewardingEngine = Engine & {
  /**
   * An answer that is JSON by a schema, read. What the schema cannot have is a RequestError with its place; so is an
   * answer that maxTokens or a stop string cuts.
   */
  readonly generateValue: <const S extends ValueSchema>(
    request: ValueRequest<S>,
    options?: { readonly signal?: AbortSignal },
  ) => Promise<ValueAnswer<S>>
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

const jsonSchemaOf = (schema: ValueSchema): unknown => {
  if (!(schema instanceof z.ZodType)) return schema
  try {
    // What is written is what zod reads.
    return z.toJSONSchema(schema, { io: 'input' })
  } catch (error) {
    throw badRequest(`'schema' cannot be written as JSON: ${(error as Error).message}.`, 'schema')
  }
}

/** Behind the thinking. */
const answerIn = (text: string, isOpen: boolean): string => {
  const end = isOpen || text.trimStart().startsWith('<think>') ? text.indexOf('</think>') : -1
  return end < 0 ? text : text.slice(end + '</think>'.length)
}

/** Fields of a request that the schema decides. */
const SET_BY_SCHEMA = ['n', 'grammar', 'grammarAfter'] as const

const checkValueRequest = (request: unknown): void => {
  checkCall('the request', request)
  const given = request as Readonly<Record<string, unknown>>
  for (const field of SET_BY_SCHEMA)
    if (given[field] !== undefined)
      throw new EngineFailure({
        code: 'invalid_argument',
        message: `${field} is no field of generateValue(): an answer is one value of its schema`,
      })
}

const valueGenerator =
  (engine: Engine, compileForm: CompileForm): RewardingEngine['generateValue'] =>
  async (request, options = {}) => {
    checkValueRequest(request)
    checkBeside(options)
    const { schema, ...rest } = request
    const form = { kind: 'schema', schema: jsonSchemaOf(schema) } as const
    const grammar = await compileForm(form, 'schema')
    const tokenIds: number[] = []
    let text = ''
    for await (const delta of engine.generate({ ...rest, grammar }, options)) {
      text += delta.text
      for (const id of delta.tokenIds) tokenIds.push(id)
      if (delta.error !== undefined) throw new EngineFailure(delta.error)
      if (delta.finish === undefined) continue
      if (delta.finish === 'abort')
        throw new EngineFailure({ code: 'aborted', message: 'the request was aborted' })
      if (delta.finish === 'length' || typeof delta.stopReason === 'string')
        throw badRequest(
          `The answer was cut after ${tokenIds.length} tokens, before it was whole: allow more.`,
          delta.finish === 'length' ? 'sampling.maxTokens' : 'sampling.stop',
        )
      const value: unknown = JSON.parse(answerIn(text, rest.sampling?.thinkingOpen === true))
      const read = schema instanceof z.ZodType ? schema.parse(value) : value
      return { value: read as never, text, tokenIds, timings: delta.timings }
    }
    throw new EngineFailure({ code: 'aborted', message: 'the request was aborted' })
  }

/** As a field, so that what is wrong with the whole of it is named as well. */
const RewardOption = z.object({ reward: RewardSettings.optional() })

const checkReward = (reward: unknown): void => {
  const read = RewardOption.safeParse({ reward })
  if (read.success) return
  throw new EngineFailure({
    code: 'invalid_argument',
    message: faultText(read.error, { reward }),
  })
}

/** As /v1/reward refuses it. */
const checkTexts = (call: unknown): void => {
  const path = brokenText(call)
  if (path === undefined) return
  const param = path.join('.')
  throw badRequest(`Invalid value for '${param}': it has half of a surrogate pair.`, param)
}

const named = (model: string): string => embeddedFolder(model) ?? model

/** The tokenizer of a folder, a GGUF file, or a model that the package carries. */
export const loadTokenizer = async (model: string): Promise<Tokenizer> =>
  readTokenizer(typeof model === 'string' ? named(model) : model)

/** `model` and `draftModel` may be names of models that the package carries. */
export const createEngine = async (
  given: CreateEngineOptions,
  tokenizer?: Tokenizer,
): Promise<RewardingEngine> => {
  const options = {
    ...given,
    ...(typeof given?.model === 'string' && { model: named(given.model) }),
    ...(typeof given?.draftModel === 'string' && { draftModel: named(given.draftModel) }),
  }
  const { reward: settings, ...rest } = options
  checkOptions(typeof given === 'object' && given !== null ? rest : given)
  checkReward(settings)
  checkTokenizer(tokenizer)
  const folder = await checkFolder(options.model)
  if (options.draftModel !== undefined) checkDraftNames(namesOfModel(options.draftModel))
  const words = tokenizer ?? (await readTokenizer(folder))
  const warnings: string[] = []
  const names = namesOfModel(folder)
  const { template, profile } = await openTemplate(
    folder,
    { names, file: undefined },
    words,
    (message) => warnings.push(message),
  )
  const reward = rewardSettings(settings, profile.entry)
  const rewardRows = options.rewardRows ?? reward?.rows
  const engine = await openEngine({ ...rest, ...(rewardRows && { rewardRows }) }, words)
  const isReward = engine.info.rewardKind !== 'none' || reward?.judge !== undefined
  // Chat goes through token ids here: a template matters to rewards alone.
  if (isReward) for (const message of warnings) process.emitWarning(message)
  const doubt = rewardDoubt(engine, reward, names)
  if (doubt !== undefined) process.emitWarning(doubt)
  const readout = await openReadout(engine, reward)
  const model = { id: folder, engine, tokenizer: words, template, readout }
  return {
    ...engine,
    generateValue: valueGenerator(engine, createGrammars(engine)),
    reward: async (given, options = {}) => {
      checkCall('the call', given)
      checkBeside(options)
      const { cacheSalt, priority, ...call } = given
      const { signal } = options
      if (!isReward) throw badRequest(`${folder} is a chat model and gives no rewards.`)
      checkTexts(call)
      const { body } = checkBody(RewardBody, call, { isStrict: true })
      if (readout.judge !== undefined) {
        const { inputs, trials } = await planJudging(model, body, cacheSalt)
        const fields = body.judge
        const written = await judgeBatch(model, trials, { fields, signal, priority, cacheSalt })
        return { ...judgeData(inputs, written, fields), usage: judgeUsage(written) }
      }
      const items = await planRewards(model, body, cacheSalt)
      const scored = await scoreBatch(engine, items, { signal, priority, cacheSalt })
      return { ...rewardData(model, scored, body.pairwise === true), usage: scoreUsage(scored) }
    },
  }
}
