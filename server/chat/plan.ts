// From a chat to what is generated.

import { unrecognized } from '../check.js'
import type { LogprobsMode } from '../engine/logprobs-mode.js'
import type { GenerateRequest, Sampling } from '../engine/types.js'
import type { Generation } from '../generation/answer.js'
import type { ServedModel } from '../model/served-model.js'
import type { Conversation } from '../prompt/conversation.js'
import { encodePrompt, encodeSegments } from '../prompt/encode.js'
import { badRequest } from '../request-error.js'
import { type FormFields, readForm } from './answer-form.js'
import { type BestOfFields, createBestOf, planBestOf, type Ranking } from './best-of.js'
import { createChoice } from './choice.js'
import { type Constraint, planConstraint } from './constraint.js'
import { givenPrompt } from './given-prompt.js'
import { type ChatPrompt, renderChat } from './prompt.js'
import {
  checkKept,
  checkPromptLogprobs,
  type GenerationFields,
  logprobsBeside,
  MAX_KEPT,
  makeSampling,
  outputLimit,
  type QueueFields,
  queueFields,
  truncatePrompt,
} from './sampling.js'
import type { Start } from './think-splitter.js'
import { callableNames } from './tools/tool-use.js'

/** What a chat may say, in any dialect. The fields have the names that errors give them. */
export type ChatCall = Conversation &
  GenerationFields &
  QueueFields &
  FormFields &
  BestOfFields & {
    readonly max_tokens?: number | undefined
    readonly max_completion_tokens?: number | undefined
    readonly logprobs?: boolean | undefined
    readonly top_logprobs?: number | undefined
    readonly stream?: boolean | undefined
    /** none: the thinking is left in the text. */
    readonly reasoning_format?: string | undefined
    /** false: nothing of the thinking is told. */
    readonly include_reasoning?: boolean | undefined
    readonly truncate_prompt_tokens?: number | undefined
    /** The prompt, in place of one that is rendered from the messages, of which there are none then. */
    readonly prompt_token_ids?: readonly number[] | undefined
  }

/** A chat that is ready to run. */
export type ChatPlan = Generation & {
  readonly promptTokenIds: ArrayLike<number>
  /** Tokens cut from the front of the prompt. */
  readonly dropped: number
  /** An answer may call tools. */
  readonly hasTools: boolean
  readonly reasoningTokens: () => number
  /** The reward model, as the client named it, and what it said once it has. */
  readonly bestOf:
    | { readonly name: string; readonly ranking: () => Ranking | undefined }
    | undefined
}

/** Stop strings end the answer, not the thinking or the blank space before it. */
const stopScopeOf = (start: Start | undefined): Sampling['stopScope'] => {
  switch (start) {
    case 'thinking':
    case 'expected':
      return 'afterThinking'
    case 'possible':
      return 'afterBlock'
    case 'closed':
      return 'answer'
    default:
      return 'all'
  }
}

type PlannedRequest = {
  readonly prompt: ChatPrompt
  readonly choices: number
  readonly constraint: Constraint | undefined
  /** That are kept in memory with these, theirs among them. */
  readonly kept: number
  readonly logprobsMode: LogprobsMode
  readonly isCeiling: boolean
}

/** Where the answer begins: one that is held to a form thinks between tags, or not at all. */
const startOf = ({ start }: ChatPrompt, constraint: Constraint | undefined): Start | undefined => {
  if (constraint === undefined || constraint.grammarAfter !== undefined) return start
  return start === 'expected' ? 'possible' : start === 'closed' ? 'answer' : start
}

const encodeChat = ({ segments }: ChatPrompt, model: ServedModel, call: ChatCall) =>
  call.truncate_prompt_tokens === undefined
    ? encodePrompt(segments, model, 'messages', call.cache_salt)
    : encodeSegments(segments, model.tokenizer, call.cache_salt ?? '')

const planRequest = async (
  model: ServedModel,
  call: ChatCall,
  { prompt, choices, constraint, kept, logprobsMode, isCeiling }: PlannedRequest,
): Promise<{ readonly request: GenerateRequest; readonly dropped: number }> => {
  const given = call.prompt_token_ids
  const all = given ?? (await encodeChat(prompt, model, call))
  const { maxModelLen } = model.engine.info
  const { start } = prompt
  const asked = call.max_completion_tokens ?? call.max_tokens
  const logprobs = logprobsBeside(
    call,
    call.logprobs === true ? (call.top_logprobs ?? 0) : undefined,
  )
  const needed = isCeiling ? undefined : asked
  const isKept = call.stream !== true || call.reward !== undefined
  checkKept({ isKept, choices: kept, maxTokens: asked, logprobs })
  const { ids, dropped } = truncatePrompt(
    all,
    call.truncate_prompt_tokens,
    maxModelLen - (needed ?? 1),
  )
  checkPromptLogprobs(ids.length, call.prompt_logprobs)
  const mostKept =
    isKept && logprobs !== undefined
      ? Math.floor(MAX_KEPT / (kept * (logprobs + 1)))
      : Number.POSITIVE_INFINITY
  const maxTokens = outputLimit(maxModelLen, {
    promptTokens: ids.length,
    maxTokens: needed,
    fallback: isCeiling && asked !== undefined ? asked : mostKept,
    promptParam: given === undefined ? 'messages' : 'prompt_token_ids',
    tokensParam: call.max_completion_tokens !== undefined ? 'max_completion_tokens' : 'max_tokens',
  })
  const sampling = await makeSampling({
    body: constraint?.isOnlyCalls ? { ...call, stop: undefined } : call,
    model,
    maxTokens,
    logprobs,
    logprobsMode,
    promptLogprobs: call.prompt_logprobs,
    card: prompt.card,
    stopScope: stopScopeOf(startOf(prompt, constraint)),
    thinkingOpen: start === 'thinking' || (start === 'expected' && constraint === undefined),
    mayThink: constraint && (start === 'expected' || start === 'possible'),
  })
  const { grammar, grammarAfter } = constraint ?? {}
  const request: GenerateRequest = {
    promptTokenIds: ids,
    n: choices,
    sampling,
    ...queueFields(call),
    ...(grammar && { grammar }),
    ...(grammarAfter && { grammarAfter }),
  }
  return { request, dropped }
}

/** What holds where a caller says nothing. */
export type Defaults = {
  readonly defaultThinking: boolean
  readonly logprobsMode: LogprobsMode
  readonly strictParams: boolean
}

type PlanContext = {
  readonly arrival: number
  readonly defaults: Defaults
  /** Chats that are told in one piece with this one, it among them. Default 1. */
  readonly answers?: number
  /** The answer may end before `max_tokens`, where the model's length does. Default: they have to fit. */
  readonly isCeiling?: boolean
}

export const planChat = async (
  models: readonly ServedModel[],
  model: ServedModel,
  call: ChatCall,
  { arrival, defaults, answers = 1, isCeiling = false }: PlanContext,
): Promise<ChatPlan> => {
  if (call.top_logprobs && call.logprobs !== true)
    throw badRequest("'top_logprobs' is only allowed when 'logprobs' is true.", 'top_logprobs')
  const form = readForm(call)
  const given = call.prompt_token_ids
  const prompt = given
    ? givenPrompt(model, call, given)
    : renderChat(model, call, defaults.defaultThinking)
  const bestOf = await planBestOf(models, call)
  const { toolUse } = prompt
  const unread = toolUse?.unread ?? []
  if (defaults.strictParams && unread[0] !== undefined) throw unrecognized(unread[0])
  const constraint = await planConstraint(model, call, toolUse, form, defaults.strictParams)
  const start = startOf(prompt, constraint)
  const n = call.n ?? 1
  const generated = bestOf?.candidates ?? n
  const { request, dropped } = await planRequest(model, call, {
    prompt,
    choices: generated,
    constraint,
    kept: generated * answers,
    logprobsMode: defaults.logprobsMode,
    isCeiling,
  })
  const hideThinking = call.include_reasoning === false
  const isUnsplit = call.reasoning_format === 'none' && !hideThinking
  const skipSpecial = call.skip_special_tokens ?? true
  const calls = toolUse && {
    format: toolUse.format,
    isSure: constraint?.hasSureCalls === true,
    isTool: callableNames(toolUse),
  }
  const choices = Array.from({ length: generated }, () =>
    createChoice({
      start,
      isHeld: constraint !== undefined && constraint.grammarAfter === undefined,
      isUnsplit,
      calls,
      tokenizer: model.tokenizer,
      skipSpecial,
      hideThinking,
    }),
  )
  const best =
    bestOf &&
    createBestOf(bestOf, { unsplit: isUnsplit ? start : undefined, format: toolUse?.format })
  return {
    model,
    requests: [request],
    n,
    arrival,
    toEvent: (_, delta) => {
      const choice = choices[delta.choice]
      if (choice === undefined) throw new Error(`the engine has no choice ${delta.choice}`)
      return choice.toEvent(delta)
    },
    stage: best?.stage,
    promptTokenIds: request.promptTokenIds,
    dropped,
    hasTools: toolUse !== undefined,
    ignored: [...unread, ...(constraint?.ignored ?? [])],
    reasoningTokens: () => choices.reduce((sum, choice) => sum + choice.reasoningTokens(), 0),
    bestOf: best && { name: bestOf.name, ranking: best.ranking },
  }
}
