// POST /v1/completions: raw prompts, several at once, echoed and scored when asked.

import {
  checkKept,
  makeSampling,
  outputLimit,
  queueFields,
  truncatePrompt,
} from '../../chat/sampling.js'
import { refuseThinking } from '../../chat/thinking-mode.js'
import type { GenerateRequest } from '../../engine/types.js'
import type { Generation, StreamForm, WholeForm } from '../../generation/answer.js'
import { type AnswerEvent, eventOf } from '../../generation/answer-event.js'
import type { Run } from '../../generation/run.js'
import type { Ctx } from '../../http/context.js'
import { findModel, refuseReward, type ServedModel } from '../../model/served-model.js'
import { checkCharacters, checkFits, encodeText } from '../../prompt/encode.js'
import { badRequest } from '../../request-error.js'
import { atOnce, jsonPieces, jsonText, startInTurns } from '../../slices.js'
import { readRequest } from '../read-request.js'
import { answerId, respond, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import {
  asMembers,
  checkStreamOptions,
  createFrame,
  isLong,
  members,
  stopReason,
} from './chunk-frame.js'
import { type CompletionChoice, createCompletionChoice } from './completion-choice.js'
import { noLogprobs, promptLogprobs } from './logprobs.js'
import { CompletionRequest } from './schema.js'
import { timingsObject, usageObject } from './usage.js'

type Prompt = {
  readonly ids: readonly number[]
  /** As echoed. */
  readonly text: string
  readonly raw: boolean
  readonly dropped: number
}

type Plan = Generation & {
  readonly body: CompletionRequest
  readonly prompts: readonly Prompt[]
  readonly id: string
  readonly created: number
  readonly reasoningTokens: () => number
}

type RawPrompt = string | readonly number[]

/** One prompt or many, text or ids: always a list of prompts. */
const promptList = (prompt: CompletionRequest['prompt']): readonly RawPrompt[] => {
  if (typeof prompt === 'string') return [prompt]
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as string[] | number[][])
}

const encodePrompt = async (
  model: ServedModel,
  body: CompletionRequest,
  raw: RawPrompt,
  param: string,
): Promise<Prompt> => {
  const { vocabSize } = model.engine.info
  if (typeof raw === 'string') checkCharacters(raw.length, model, param)
  if (typeof raw === 'string' && body.truncate_prompt_tokens === undefined)
    checkFits(raw, model, param)
  const all =
    typeof raw === 'string'
      ? await encodeText(model.tokenizer, raw, body.add_special_tokens !== false)
      : raw
  const bad = all.find((id) => id >= vocabSize)
  if (bad !== undefined)
    throw badRequest(
      `Invalid value for '${param}': token id ${bad} is beyond the vocabulary of ${vocabSize}.`,
      param,
    )
  const { ids, dropped } = truncatePrompt(
    all,
    body.truncate_prompt_tokens,
    model.engine.info.maxModelLen - (body.max_tokens ?? 1),
  )
  if (ids.length === 0)
    throw badRequest(`Invalid value for '${param}': the prompt has no tokens.`, param)
  const whole = typeof raw === 'string' && dropped === 0
  const skipSpecial = body.skip_special_tokens ?? true
  const echo = () => model.tokenizer.decode(ids, { skipSpecial })
  return { ids, dropped, raw: whole, text: whole ? raw : body.echo === true ? echo() : '' }
}

/** One sampling for all prompts: only the longest answer is a prompt's own. */
const planRequests = async (
  model: ServedModel,
  body: CompletionRequest,
  prompts: readonly Prompt[],
): Promise<readonly GenerateRequest[]> => {
  const { maxModelLen } = model.engine.info
  const limits = prompts.map(({ ids }) =>
    outputLimit(maxModelLen, {
      promptTokens: ids.length,
      maxTokens: body.max_tokens,
      fallback: 16,
      promptParam: 'prompt',
      tokensParam: 'max_tokens',
    }),
  )
  const echoed = body.echo === true && body.logprobs !== undefined ? body.logprobs : undefined
  const sampling = await makeSampling({
    body,
    model,
    maxTokens: Math.min(...limits),
    logprobs: body.logprobs,
    promptLogprobs: body.prompt_logprobs ?? echoed,
    card: undefined,
    thinkingOpen: undefined,
  })
  return prompts.map(({ ids }, i) => ({
    promptTokenIds: ids,
    n: body.n ?? 1,
    sampling: { ...sampling, maxTokens: limits[i] ?? 0 },
    ...queueFields(body),
  }))
}

/** Over all prompts: entries of logit_bias and bad_words, which the engine keeps for each. */
const MAX_PENALTIES = 1 << 18
/** Over all prompts and choices: sequences of one request. */
const MAX_SEQUENCES = 4096

const checkWork = (body: CompletionRequest, prompts: number): void => {
  const sequences = prompts * (body.n ?? 1)
  if (sequences > MAX_SEQUENCES)
    throw badRequest(
      `'prompt' and 'n' ask for ${sequences} answers: at most ${MAX_SEQUENCES} in one request.`,
      'n',
    )
  const entries = Object.keys(body.logit_bias ?? {}).length + 2 * (body.bad_words?.length ?? 0)
  if (prompts * entries > MAX_PENALTIES)
    throw badRequest(
      `'logit_bias' and 'bad_words' have ${entries} entries for each of ${prompts} prompts: at most ${MAX_PENALTIES} together.`,
      body.logit_bias === undefined ? 'bad_words' : 'logit_bias',
    )
}

const planCompletion = async (
  server: Server,
  body: CompletionRequest,
  arrival: number,
): Promise<Plan> => {
  const model = findModel(server.models(), body.model)
  refuseReward(server.models(), model, 'it does not complete text')
  checkStreamOptions(body)
  if (model.profile.reasoning === undefined) refuseThinking(body, model.id)
  if (body.max_tokens === 0 && body.echo !== true)
    throw badRequest("'max_tokens' can only be 0 when 'echo' is true.", 'max_tokens')
  const raw = promptList(body.prompt)
  checkWork(body, raw.length)
  checkKept({
    isKept: body.stream !== true,
    choices: raw.length * (body.n ?? 1),
    maxTokens: body.max_tokens ?? 16,
    logprobs: body.logprobs,
  })
  const prompts = await startInTurns(raw, (one, i) =>
    encodePrompt(model, body, one, raw.length > 1 ? `prompt.${i}` : 'prompt'),
  )
  const n = body.n ?? 1
  return {
    body,
    model,
    prompts,
    requests: await planRequests(model, body, prompts),
    n,
    arrival,
    toEvent: (prompt, delta) => eventOf(prompt * n + delta.choice, delta),
    // Text is not split here: a tag in it is text.
    reasoningTokens: () => 0,
    id: answerId('cmpl'),
    created: unixTime(),
  }
}

/** Choice index = prompt * n + choice of the prompt. */
const makeChoices = (plan: Plan): CompletionChoice[] =>
  plan.prompts.flatMap((prompt) =>
    Array.from({ length: plan.n }, () =>
      createCompletionChoice({
        tokenizer: plan.model.tokenizer,
        echo: plan.body.echo === true ? prompt : undefined,
        skipSpecial: plan.body.skip_special_tokens ?? true,
      }),
    ),
  )

/** What a choice says once. In slices. */
function* choiceExtras(plan: Plan, prompt: number, first: AnswerEvent | undefined) {
  const asked = plan.body.prompt_logprobs !== undefined && first?.promptLogprobs
  return {
    ...(plan.body.return_token_ids && { prompt_token_ids: plan.prompts[prompt]?.ids ?? [] }),
    ...(asked && { prompt_logprobs: yield* promptLogprobs(asked, plan.model.tokenizer) }),
  }
}

const answerExtras = (plan: Plan) =>
  plan.body.truncate_prompt_tokens === undefined
    ? {}
    : {
        truncate_prompt_tokens: plan.body.truncate_prompt_tokens,
        truncated_tokens: plan.prompts.reduce((sum, prompt) => sum + prompt.dropped, 0),
      }

type Part = { readonly choice: CompletionChoice; answer: string; readonly events: AnswerEvent[] }

function* choiceObject(plan: Plan, { choice, answer, events }: Part, index: number) {
  const { body, n } = plan
  const logprobs = body.logprobs === undefined ? null : noLogprobs()
  if (logprobs) for (const event of events) yield* choice.logprobs(event, logprobs)
  const last = events.at(-1)
  return {
    index,
    text: answer,
    logprobs,
    finish_reason: last?.finish ?? 'stop',
    ...stopReason(last, body),
    ...(body.return_token_ids && { token_ids: events.flatMap((event) => event.tokenIds) }),
    ...(yield* choiceExtras(plan, Math.floor(index / n), events[0])),
  }
}

const wholeCompletion = (plan: Plan): WholeForm => {
  const { body } = plan
  const parts = makeChoices(plan).map((choice): Part => ({ choice, answer: '', events: [] }))

  function* object({ counts }: Run) {
    const choices = []
    for (const [i, part] of parts.entries()) choices.push(yield* choiceObject(plan, part, i))
    yield* jsonPieces({
      id: plan.id,
      object: 'text_completion' as const,
      created: plan.created,
      model: body.model,
      system_fingerprint: plan.model.engine.info.fingerprint,
      choices,
      usage: usageObject(counts, 0),
      ...answerExtras(plan),
      ...(body.timings && { timings: timingsObject(counts) }),
    })
  }
  return {
    event: (event) => {
      const part = parts[event.choice]
      if (part === undefined) return
      part.answer += part.choice.text(event)
      part.events.push(event)
    },
    answer: object,
  }
}

const completionStream = (plan: Plan): StreamForm => {
  const { body, n } = plan
  const choices = makeChoices(plan)
  const begun = choices.map(() => false)
  const frame = createFrame('text_completion', plan)
  let live = choices.length
  let isFirst = true

  function* events(event: AnswerEvent, { counts }: Run): Generator<string, string> {
    const { choice: index } = event
    const choice = choices[index]
    if (choice === undefined) return ''
    const text = choice.text(event)
    const entries = body.logprobs === undefined ? null : noLogprobs()
    if (entries) yield* choice.logprobs(event, entries)
    const logprobs = entries?.tokens.length ? entries : null
    const detailed =
      logprobs !== null || (body.return_token_ids === true && event.tokenIds.length > 0)
    let out = ''
    if (text !== '' || detailed) {
      const details = isLong(event) ? yield* jsonText(logprobs) : JSON.stringify(logprobs)
      const ids = body.return_token_ids ? `,"token_ids":${JSON.stringify(event.tokenIds)}` : ''
      const more = begun[index]
        ? ''
        : asMembers(yield* jsonText(yield* choiceExtras(plan, Math.floor(index / n), event)))
      out = frame.chunk(
        `{"index":${index},"text":${JSON.stringify(text)},` +
          `"logprobs":${details}${ids}${more},"finish_reason":null}`,
        counts,
        isFirst ? members(answerExtras(plan)) : '',
      )
      begun[index] = true
      isFirst = false
    }
    if (event.finish === undefined) return out
    live--
    const last =
      `{"index":${index},"text":"","logprobs":null,` +
      `"finish_reason":"${event.finish}"${members(stopReason(event, body))}}`
    const timings = live === 0 && body.timings ? members({ timings: timingsObject(counts) }) : ''
    return out + frame.chunk(last, counts, timings)
  }

  return {
    event: (event, run) => {
      const work = events(event, run)
      return isLong(event) ? work : atOnce(work)
    },
    closing: frame.closing,
    error: frame.error,
  }
}

export const completionRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, CompletionRequest, 'chat')
    const plan = await planCompletion(server, body, arrival)
    const form = body.stream ? { stream: completionStream(plan) } : { whole: wholeCompletion(plan) }
    return respond(c, server, plan, form)
  }
