// Request fields to the engine's sampling parameters, checked against the model.

import type { LogprobsMode } from '../engine/logprobs-mode.js'
import type { GenerateRequest, GenerationDefaults, Sampling } from '../engine/types.js'
import type { CardSampling } from '../model/registry.js'
import type { ServedModel } from '../model/served-model.js'
import { badRequest, contextExceeded } from '../request-error.js'
import { mapInTurns } from '../slices.js'
import type { Tokenizer } from '../tokenizer/types.js'

/** What a caller may say of how tokens are drawn. The fields have the names that errors give them. */
export type GenerationFields = {
  readonly temperature?: number | undefined
  readonly top_p?: number | undefined
  readonly top_k?: number | undefined
  readonly min_p?: number | undefined
  readonly stop?: string | readonly string[] | undefined
  readonly stop_token_ids?: readonly number[] | undefined
  readonly include_stop_str_in_output?: boolean | undefined
  readonly skip_special_tokens?: boolean | undefined
  readonly bad_words?: readonly string[] | undefined
  readonly allowed_token_ids?: readonly number[] | undefined
  readonly seed?: number | undefined
  readonly logit_bias?: Readonly<Record<string, number>> | undefined
  readonly presence_penalty?: number | undefined
  readonly frequency_penalty?: number | undefined
  readonly repetition_penalty?: number | undefined
  readonly min_tokens?: number | undefined
  readonly ignore_eos?: boolean | undefined
  readonly prompt_logprobs?: number | undefined
  readonly logprob_token_ids?: readonly number[] | undefined
  readonly logprobs_mode?: LogprobsMode | undefined
  readonly thinking_token_budget?: number | undefined
  readonly thinking_budget?: number | undefined
}

/** A request's place in the queue and in the prefix cache. */
export type QueueFields = {
  readonly priority?: number | undefined
  readonly cache_salt?: string | undefined
}

type Advice = { readonly temperature: number; readonly topP: number }

/** The card's values when the caller gives neither, else generation_config, else the registry's, else 1 and 1. */
const temperatureAndTopP = (
  body: Pick<GenerationFields, 'temperature' | 'top_p'>,
  defaults: GenerationDefaults,
  card: Advice | undefined,
  known: CardSampling | undefined,
): Advice => {
  const neither = body.temperature === undefined && body.top_p === undefined
  if (neither && card) return { temperature: card.temperature, topP: card.topP }
  if (neither && defaults.greedy) return { temperature: 0, topP: 1 }
  const saysNothing = defaults.temperature === undefined && defaults.topP === undefined
  if (neither && saysNothing && known) return { temperature: known.temperature, topP: known.top_p }
  return {
    temperature: body.temperature ?? defaults.temperature ?? 1,
    topP: body.top_p ?? defaults.topP ?? 1,
  }
}

export const checkIds = (ids: readonly number[], vocabSize: number, param: string): void => {
  const bad = ids.findIndex((id) => id >= vocabSize)
  if (bad >= 0)
    throw badRequest(
      `Invalid value for '${param}.${bad}': token id ${ids[bad]} is beyond the vocabulary of ${vocabSize}.`,
      `${param}.${bad}`,
    )
}

const biasMap = (bias: Readonly<Record<string, number>>, vocabSize: number) => {
  const map = new Map<number, number>()
  for (const [key, value] of Object.entries(bias)) {
    const id = Number(key)
    if (id >= vocabSize)
      throw badRequest(
        `Invalid key in 'logit_bias': token id ${key} is beyond the vocabulary of ${vocabSize}.`,
        'logit_bias',
      )
    map.set(id, value)
  }
  return map
}

/** A word is banned as it stands and as it stands after a space. */
const badWordIds = async (
  words: readonly string[],
  tokenizer: Tokenizer,
): Promise<readonly (readonly number[])[]> => {
  const forms = words.flatMap((word) => {
    const spaced = ` ${word.trimStart()}`
    return spaced === word ? [word] : [word, spaced]
  })
  return mapInTurns(forms, (form) => tokenizer.encode(form))
}

type LimitParams = {
  readonly promptTokens: number
  /** What the caller asked for; undefined: `fallback`, as far as there is room. */
  readonly maxTokens: number | undefined
  readonly fallback: number
  /** Field to name when the prompt alone is too long. */
  readonly promptParam: string
  readonly tokensParam: string
}

/** How many tokens may be generated. Nothing asked for is cut silently. */
export const outputLimit = (maxModelLen: number, params: LimitParams): number => {
  const { promptTokens, maxTokens, promptParam, tokensParam } = params
  const room = maxModelLen - promptTokens
  const needed = maxTokens ?? 1
  if (room < needed)
    throw contextExceeded(maxModelLen, promptTokens, needed, room < 1 ? promptParam : tokensParam)
  return maxTokens ?? Math.min(params.fallback, room)
}

type SamplingParams = {
  readonly body: GenerationFields
  readonly model: ServedModel
  readonly maxTokens: number
  readonly logprobs: number | undefined
  /** Where the caller does not say. */
  readonly logprobsMode: LogprobsMode
  readonly promptLogprobs: number | undefined
  readonly card: Advice | undefined
  readonly stopScope?: Sampling['stopScope']
  /** Whether the prompt ends inside a block of thinking; undefined: its text says so. */
  readonly thinkingOpen: boolean | undefined
  /** Whether the answer of a grammar may begin with a block; undefined: there is no grammar. */
  readonly mayThink?: boolean | undefined
}

/** One number under two names. */
const thinkingBudget = ({
  thinking_token_budget: long,
  thinking_budget: short,
}: GenerationFields) => {
  if (long !== undefined && short !== undefined && long !== short)
    throw badRequest(
      `Invalid value for 'thinking_budget': ${short} beside a 'thinking_token_budget' of ${long}: they mean the same, give one.`,
      'thinking_budget',
    )
  return long ?? short
}

export const makeSampling = async (params: SamplingParams): Promise<Sampling> => {
  const { body, model, maxTokens, logprobs, promptLogprobs, thinkingOpen, mayThink } = params
  const { vocabSize, generation } = model.engine.info
  if (body.stop_token_ids) checkIds(body.stop_token_ids, vocabSize, 'stop_token_ids')
  if (body.allowed_token_ids) checkIds(body.allowed_token_ids, vocabSize, 'allowed_token_ids')
  const { logprob_token_ids: ids, logprobs_mode: mode = params.logprobsMode } = body
  if (ids) checkIds(ids, vocabSize, 'logprob_token_ids')
  if (body.min_tokens !== undefined && body.min_tokens > maxTokens)
    throw badRequest(
      `Invalid value for 'min_tokens': ${body.min_tokens} is more than the ${maxTokens} tokens that may be generated.`,
      'min_tokens',
    )
  const topK = body.top_k ?? generation.topK
  const minP = body.min_p ?? generation.minP
  const repetition = body.repetition_penalty ?? generation.repetitionPenalty
  const budget = thinkingBudget(body)
  const known = model.profile.entry?.sampling
  const { temperature, topP } = temperatureAndTopP(body, generation, params.card, known)
  return {
    maxTokens,
    temperature,
    // 0 means what a very small share means: the likeliest token alone.
    topP: Math.max(topP, 1e-30),
    skipSpecialTokens: body.skip_special_tokens ?? true,
    ...(body.min_tokens !== undefined && { minTokens: body.min_tokens }),
    ...(topK !== undefined && { topK: Math.min(Math.max(0, topK), vocabSize) }),
    ...(minP !== undefined && { minP }),
    ...(repetition !== undefined && { repetitionPenalty: repetition }),
    ...(body.presence_penalty !== undefined && { presencePenalty: body.presence_penalty }),
    ...(body.frequency_penalty !== undefined && { frequencyPenalty: body.frequency_penalty }),
    ...(body.seed !== undefined && { seed: BigInt.asUintN(64, BigInt(body.seed)) }),
    ...(body.ignore_eos !== undefined && { ignoreEos: body.ignore_eos }),
    ...(logprobs !== undefined && {
      ...(ids ? { logprobs: 0, logprobIds: ids } : { logprobs }),
      processedLogprobs: mode === 'processed_logprobs',
    }),
    ...(promptLogprobs !== undefined && { promptLogprobs }),
    ...(body.stop_token_ids && { stopTokenIds: body.stop_token_ids }),
    ...(body.stop !== undefined && {
      stop: typeof body.stop === 'string' ? [body.stop] : body.stop,
    }),
    ...(params.stopScope !== undefined &&
      (body.stop !== undefined || body.stop_token_ids !== undefined) && {
        stopScope: params.stopScope,
      }),
    ...(body.include_stop_str_in_output !== undefined && {
      includeStop: body.include_stop_str_in_output,
    }),
    ...(body.logit_bias && { logitBias: biasMap(body.logit_bias, vocabSize) }),
    ...(body.bad_words && { badWordIds: await badWordIds(body.bad_words, model.tokenizer) }),
    ...(body.allowed_token_ids && { allowedTokenIds: body.allowed_token_ids }),
    // Longer than anything that can be thought. A grammar may leave no place for any.
    ...(budget !== undefined &&
      (mayThink !== false || thinkingOpen === true) && {
        thinkingBudget: Math.min(budget, model.engine.info.maxModelLen),
      }),
    ...((budget !== undefined || mayThink !== undefined) &&
      thinkingOpen !== undefined && { thinkingOpen }),
    ...(mayThink !== undefined && { mayThink }),
  }
}

/** Log probabilities of a token beside its own; undefined: not even that is asked for. */
export const logprobsBeside = (
  { logprob_token_ids: ids, logprobs_mode: mode }: GenerationFields,
  asked: number | undefined,
): number | undefined => {
  if (asked === undefined && mode === 'processed_logprobs')
    throw badRequest("'logprobs_mode' is only allowed with 'logprobs'.", 'logprobs_mode')
  if (ids === undefined) return asked
  if (asked === undefined)
    throw badRequest("'logprob_token_ids' is only allowed with 'logprobs'.", 'logprob_token_ids')
  return ids.length
}

/** Log probabilities that a whole answer may keep until it is told: about 300 bytes each. */
export const MAX_KEPT = 500_000

type Kept = {
  /** Not streamed, or told late. */
  readonly isKept: boolean
  readonly choices: number
  /** undefined: as far as there is room, or MAX_KEPT. */
  readonly maxTokens: number | undefined
  readonly logprobs: number | undefined
}

export const checkKept = ({ isKept, choices, maxTokens, logprobs }: Kept): void => {
  if (!isKept || logprobs === undefined || maxTokens === undefined) return
  const kept = choices * maxTokens * (logprobs + 1)
  if (kept <= MAX_KEPT) return
  throw badRequest(
    `${choices === 1 ? 'An answer' : `${choices} answers`} of ${maxTokens} tokens, each with ${logprobs + 1} log probabilities, ${choices === 1 ? 'has' : 'have'} ${kept}: at most ${MAX_KEPT} in an answer that is not streamed. Stream it, or ask for less.`,
    'max_tokens',
  )
}

/** Log probabilities of prompts, which come all at once, streamed or not. `tokens`: of all prompts, each counted for every
 * time that the answer tells it. */
export const checkPromptLogprobs = (
  tokens: number,
  logprobs: number | undefined,
  param = 'prompt_logprobs',
): void => {
  if (logprobs === undefined) return
  const told = tokens * (logprobs + 1)
  if (told <= MAX_KEPT) return
  throw badRequest(
    `The prompts of all choices that tell theirs have ${tokens} tokens, each with ${logprobs + 1} log probabilities, together ${told}: at most ${MAX_KEPT} in an answer. Ask for less, or in several requests.`,
    param,
  )
}

/** Keeps the end of a prompt, and says how much went. */
export const truncatePrompt = (
  ids: readonly number[],
  keep: number | undefined,
  room: number,
): { readonly ids: readonly number[]; readonly dropped: number } => {
  if (keep === undefined) return { ids, dropped: 0 }
  const length = Math.min(ids.length, keep === -1 ? Math.max(1, room) : keep)
  return { ids: ids.slice(ids.length - length), dropped: ids.length - length }
}

export const queueFields = ({
  priority,
  cache_salt: cacheSalt,
}: QueueFields): Pick<GenerateRequest, 'priority' | 'cacheSalt'> => ({
  ...(priority !== undefined && { priority }),
  ...(cacheSalt !== undefined && { cacheSalt }),
})
