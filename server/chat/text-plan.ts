// From raw prompts to what is generated: text that goes on, nothing of it rendered or split.

import type { LogprobsMode } from '../engine/logprobs-mode.js'
import type { Delta, GenerateRequest } from '../engine/types.js'
import type { Generation } from '../generation/answer.js'
import { eventOf } from '../generation/answer-event.js'
import { requirePlaces } from '../model/place.js'
import { findModel, refuseReward, type ServedModel } from '../model/served-model.js'
import { checkCharacters, checkFits, encodeText } from '../prompt/encode.js'
import { badRequest } from '../request-error.js'
import { mapInTurns } from '../slices.js'
import { type FormFields, readForm, refuseClashes } from './answer-form.js'
import {
  checkKept,
  checkPromptLogprobs,
  type GenerationFields,
  logprobsBeside,
  makeSampling,
  outputLimit,
  type QueueFields,
  queueFields,
  truncatePrompt,
} from './sampling.js'
import { refuseThinking } from './thinking-mode.js'

type RawPrompt = string | readonly number[]

/** What raw prompts may say, in any dialect. The fields have the names that errors give them. */
type TextCall = GenerationFields &
  QueueFields &
  FormFields & {
    readonly model: string
    /** One or many, as text or as ids. */
    readonly prompt?:
      | string
      | readonly number[]
      | readonly string[]
      | readonly (readonly number[])[]
      | undefined
    /** In its place. */
    readonly prompt_token_ids?: readonly number[] | readonly (readonly number[])[] | undefined
    readonly n?: number | undefined
    readonly max_tokens?: number | undefined
    readonly logprobs?: number | undefined
    readonly echo?: boolean | undefined
    readonly return_token_ids?: boolean | undefined
    readonly stream?: boolean | undefined
    readonly add_special_tokens?: boolean | undefined
    readonly truncate_prompt_tokens?: number | undefined
  }

type Prompt = {
  readonly ids: readonly number[]
  /** As echoed. */
  readonly text: string
  readonly raw: boolean
  readonly dropped: number
}

/** Raw prompts that are ready to run. Choice index = prompt * n + choice of the prompt. */
export type TextPlan = Generation & { readonly prompts: readonly Prompt[] }

/** One prompt or many, text or ids: always a list of prompts. */
const promptList = ({ prompt, prompt_token_ids: ids }: TextCall): readonly RawPrompt[] => {
  const given = ids ?? prompt
  if (given === undefined) throw badRequest("Missing required parameter: 'prompt'.", 'prompt')
  if (ids !== undefined && prompt !== undefined)
    throw badRequest("Send 'prompt_token_ids' or 'prompt', not both.", 'prompt_token_ids')
  if (typeof given === 'string') return [given]
  return typeof given[0] === 'number'
    ? [given as readonly number[]]
    : (given as readonly RawPrompt[])
}

/** The field that the prompts stand in. */
const promptParam = ({ prompt_token_ids: ids }: TextCall) =>
  ids === undefined ? 'prompt' : 'prompt_token_ids'

/** Of all prompts together, as many as the numbers of a body. */
const MAX_TOKENS = 1 << 20

/** Adds up, and throws when it has become too much. */
const countTokens = (param: string) => {
  let tokens = 0
  return (ids: readonly number[]): void => {
    tokens += ids.length
    if (tokens > MAX_TOKENS)
      throw badRequest(
        `The prompts have more than ${MAX_TOKENS} tokens together: send them in several requests.`,
        param,
      )
  }
}

const encodePrompt = async (
  model: ServedModel,
  call: TextCall,
  raw: RawPrompt,
  { param, count }: { readonly param: string; readonly count: (ids: readonly number[]) => void },
): Promise<Prompt> => {
  const { vocabSize } = model.engine.info
  if (typeof raw === 'string') checkCharacters(raw.length, model, param)
  if (typeof raw === 'string' && call.truncate_prompt_tokens === undefined)
    checkFits(raw, model, param)
  const all =
    typeof raw === 'string'
      ? await encodeText(
          model.tokenizer,
          raw,
          call.add_special_tokens !== false,
          call.cache_salt ?? '',
        )
      : raw
  count(all)
  const bad = all.find((id) => id >= vocabSize)
  if (bad !== undefined)
    throw badRequest(
      `Invalid value for '${param}': token id ${bad} is beyond the vocabulary of ${vocabSize}.`,
      param,
    )
  const { ids, dropped } = truncatePrompt(
    all,
    call.truncate_prompt_tokens,
    model.engine.info.maxModelLen - (call.max_tokens ?? 1),
  )
  if (ids.length === 0)
    throw badRequest(`Invalid value for '${param}': the prompt has no tokens.`, param)
  const whole = typeof raw === 'string' && dropped === 0
  const skipSpecial = call.skip_special_tokens ?? true
  const echo = () => model.tokenizer.decode(ids, { skipSpecial })
  return { ids, dropped, raw: whole, text: whole ? raw : call.echo === true ? echo() : '' }
}

/** One sampling for all prompts: only the longest answer is a prompt's own. */
const planRequests = async (
  model: ServedModel,
  call: TextCall,
  prompts: readonly Prompt[],
  logprobsMode: LogprobsMode,
): Promise<readonly GenerateRequest[]> => {
  const { maxModelLen } = model.engine.info
  const limits = prompts.map(({ ids }) =>
    outputLimit(maxModelLen, {
      promptTokens: ids.length,
      maxTokens: call.max_tokens,
      fallback: 16,
      promptParam: promptParam(call),
      tokensParam: 'max_tokens',
    }),
  )
  const echoed = call.echo === true && call.logprobs !== undefined ? call.logprobs : undefined
  const { n = 1, prompt_logprobs: asked } = call
  const times = n * [asked, echoed].filter((one) => one !== undefined).length
  const promptTokens = prompts.reduce((sum, { ids }) => sum + ids.length, 0)
  const param = asked === undefined ? 'logprobs' : 'prompt_logprobs'
  checkPromptLogprobs(times * promptTokens, asked ?? echoed, param)
  const form = readForm(call)
  if (form !== undefined) refuseClashes(call, form.param)
  const grammar = form && (await model.compileForm(form.asked, form.param))
  const sampling = await makeSampling({
    body: call,
    model,
    maxTokens: Math.min(...limits),
    logprobs: call.logprobs,
    logprobsMode,
    promptLogprobs: asked ?? echoed,
    card: undefined,
    // A grammar holds the text from its first byte.
    thinkingOpen: grammar && false,
    mayThink: grammar && false,
  })
  return prompts.map(({ ids }, i) => ({
    promptTokenIds: ids,
    n,
    sampling: { ...sampling, maxTokens: limits[i] ?? 0 },
    ...queueFields(call),
    ...(grammar && { grammar }),
  }))
}

/** Over all prompts: entries of logit_bias and bad_words, which the engine keeps for each. */
const MAX_PENALTIES = 1 << 18

const checkPenalties = (call: TextCall, prompts: number): void => {
  const entries = Object.keys(call.logit_bias ?? {}).length + 2 * (call.bad_words?.length ?? 0)
  if (prompts * entries > MAX_PENALTIES)
    throw badRequest(
      `'logit_bias' and 'bad_words' have ${entries} entries for each of ${prompts} prompts: at most ${MAX_PENALTIES} together.`,
      call.logit_bias === undefined ? 'bad_words' : 'logit_bias',
    )
}

/** Characters of an answer that are its prompts', told by every choice: as many as may wait for a reader of a stream. */
const MAX_TOLD = 1 << 28
/** With the comma behind it. */
const ID_CHARACTERS = 8

const checkTold = (call: TextCall, prompts: readonly Prompt[]): void => {
  const { n = 1, echo = false, return_token_ids: withIds = false } = call
  const told = prompts.reduce(
    (sum, { text, ids }) =>
      sum + (echo ? text.length : 0) + (withIds ? ids.length * ID_CHARACTERS : 0),
    0,
  )
  if (n * told > MAX_TOLD)
    throw badRequest(
      `The answer would tell ${n * told} characters of prompts, each choice those of its own: at most ${MAX_TOLD}.`,
      echo ? 'echo' : 'return_token_ids',
    )
}

/** Every choice tells of its prompt in its first event; the engine does in the first delta of a prompt. */
const createEvents = (prompts: number, n: number): Generation['toEvent'] => {
  const begun = new Uint8Array(prompts * n)
  const told: Delta['promptLogprobs'][] = []
  return (prompt, delta) => {
    const event = eventOf(prompt * n + delta.choice, delta)
    if (begun[event.choice] === 1) return event
    begun[event.choice] = 1
    told[prompt] ??= delta.promptLogprobs
    return { ...event, promptLogprobs: told[prompt] }
  }
}

type TextContext = {
  readonly arrival: number
  readonly defaults: { readonly logprobsMode: LogprobsMode }
}

export const planText = async (
  models: readonly ServedModel[],
  call: TextCall,
  { arrival, defaults }: TextContext,
): Promise<TextPlan> => {
  const model = findModel(models, call.model)
  refuseReward(models, model, 'it does not complete text')
  if (model.profile.reasoning === undefined) refuseThinking(call, model.id)
  if (call.max_tokens === 0 && call.echo !== true)
    throw badRequest("'max_tokens' can only be 0 when 'echo' is true.", 'max_tokens')
  const raw = promptList(call)
  const param = promptParam(call)
  const n = call.n ?? 1
  // Here it costs nothing yet; once more when they are submitted.
  if (raw.length > 1) requirePlaces(model, raw.length * n)
  checkPenalties(call, raw.length)
  checkKept({
    isKept: call.stream !== true,
    choices: raw.length * n,
    maxTokens: call.max_tokens ?? 16,
    logprobs: logprobsBeside(call, call.logprobs),
  })
  const count = countTokens(param)
  const prompts = await mapInTurns(raw, (one, i) =>
    encodePrompt(model, call, one, { param: raw.length > 1 ? `${param}.${i}` : param, count }),
  )
  checkTold(call, prompts)
  return {
    model,
    prompts,
    requests: await planRequests(model, call, prompts, defaults.logprobsMode),
    n,
    arrival,
    toEvent: createEvents(prompts.length, n),
  }
}
