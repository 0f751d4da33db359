// Conversations to scores: the one way from messages to a reward model's outputs. /v1/reward, the
// NIM form, /pooling, /classify, /v1/rerank, /v1/score and best-of-N all go through here. Everything is
// rendered and checked before anything is submitted, so a batch is scored whole or not at all.

import type { Engine, Timings } from '../engine/types.js'
import type { RequestLog } from '../log.js'
import type { ServedModel } from '../model/served-model.js'
import { charactersOf, type Message } from '../prompt/conversation.js'
import {
  checkCharacters,
  encodePrompt,
  encodeText,
  type Segment,
  segmentsText,
} from '../prompt/encode.js'
import type { ChatTemplate } from '../prompt/template.js'
import { badRequest, contextExceeded, RequestError } from '../request-error.js'
import { createTurn, mapInTurns, startInTurns } from '../slices.js'
import { engineWork } from './engine-work.js'

/** A conversation, and candidate answers to it or none. */
export type ScoreInput = {
  readonly messages: readonly Message[]
  readonly responses?: readonly string[] | null | undefined
  /** Of models that ask whether the answer satisfies one. */
  readonly principle?: string | undefined
}

/** What it takes to make scores of conversations. */
export type RewardModel = Pick<ServedModel, 'id' | 'engine' | 'tokenizer' | 'template' | 'readout'>

/** One thing to score. */
export type ScoreItem = {
  readonly ids: readonly number[]
  /** Position in the request: which input, which of its responses. */
  readonly input: number
  readonly response: number
}

export type Scored = ScoreItem & {
  readonly scores: readonly number[]
  readonly timings: Timings
}

const PRINCIPLE = '{principle}'

/** The question about an answer; a model without one takes no principle, and one that needs it says so. */
export const questionOf = (
  { id, readout }: RewardModel,
  principle: string | undefined,
  at: string,
): string | undefined => {
  const { question } = readout
  const takes = question?.includes(PRINCIPLE) === true
  if (takes && principle === undefined)
    throw badRequest(
      `Missing required parameter: '${at}'. '${id}' says whether an answer satisfies a principle, such as "correctness".`,
      at,
    )
  if (!takes && principle !== undefined)
    throw badRequest(`'${at}' is not supported: '${id}' scores answers by no principle.`, at)
  return question?.replace(PRINCIPLE, () => principle ?? '')
}

/** What a judge is asked. */
export const judgeSegments = (template: ChatTemplate, messages: readonly Message[]) =>
  template.render({
    ...{ messages, addGenerationPrompt: true, continueFinal: false, keepThinking: true },
    ...{ kwargs: {}, prefill: '' },
  })

/** A judge takes a principle where its template shows a message of that role: another makes another prompt. */
const showsPrinciple = ({ template }: RewardModel): boolean => {
  const promptBy = (principle: string): string =>
    segmentsText(
      judgeSegments(template, [
        { role: 'user', content: 'a' },
        { role: 'principle', content: principle },
        { role: 'response_1', content: 'b' },
      ]),
    )
  try {
    return promptBy('correctness') !== promptBy('wit')
  } catch (error) {
    if (error instanceof RequestError) return false // a role that it refuses
    throw error
  }
}

/** The message that tells a judge what to judge by: none without a principle. */
export const principleMessages = (
  model: RewardModel,
  principle: string | undefined,
  at: string,
): readonly Message[] => {
  if (principle === undefined) return []
  if (!showsPrinciple(model))
    throw badRequest(
      `'${at}' is not supported: '${model.id}' judges answers by no principle, its chat template shows none.`,
      at,
    )
  return [{ role: 'principle', content: principle }]
}

/**
 * What is scored of a conversation, at its last token, whatever that is. Nothing is put before it: the
 * checkpoint's own template says how it begins.
 */
export const scoredPrompt = (
  model: RewardModel,
  given: readonly Message[],
  question: string | undefined,
): readonly Segment[] => {
  const messages: readonly Message[] =
    question === undefined ? given : [...given, { role: 'user', content: question }]
  checkCharacters(charactersOf(messages), model, 'messages')
  return model.template.render({
    messages,
    addGenerationPrompt: question !== undefined,
    continueFinal: false,
    // What is scored is what was given: nothing of it is dropped behind the caller's back.
    keepThinking: true,
    kwargs: {},
    prefill: '',
  })
}

const checkLength = (model: RewardModel, ids: readonly number[], param: string): void => {
  const { maxModelLen } = model.engine.info
  if (ids.length > maxModelLen) throw contextExceeded(maxModelLen, ids.length, 0, param)
}

const checkTurns = (input: ScoreInput, path: string): void => {
  const last = input.messages.at(-1)
  const at = `${path}messages`
  if (input.responses != null) {
    if (last?.role === 'assistant')
      throw badRequest(
        `With 'responses' the messages end before the answer, but the last one in '${at}' is the assistant's.`,
        at,
      )
    return
  }
  if (last?.role !== 'assistant')
    throw badRequest(
      `The last message in '${at}' must be the assistant's: it is the answer that is scored. To score several answers give 'responses'.`,
      at,
    )
  if (last.content === '' && !last.toolCalls?.length)
    throw badRequest(`The answer in '${at}' is empty: there is nothing to score.`, at)
}

type Asked = {
  readonly messages: readonly Message[]
  readonly principle: string | undefined
  readonly cacheSalt: string | undefined
}

/** Before candidates are generated: the conversation itself must leave room for an answer. */
export const checkRoom = async (
  model: RewardModel,
  { messages, principle, cacheSalt }: Asked,
  /** Where the principle stands. */
  at = 'reward.principle',
): Promise<void> => {
  const isJudge = model.readout.judge !== undefined
  const judgedBy = isJudge ? principleMessages(model, principle, at) : []
  const question = isJudge ? undefined : questionOf(model, principle, at)
  const asked: readonly Message[] = [...messages, ...judgedBy, { role: 'assistant', content: '' }]
  const prompt = scoredPrompt(model, asked, question)
  const ids = await encodePrompt(prompt, model, 'messages', cacheSalt)
  checkLength(model, ids, 'messages')
}

/** Of all conversations of a request, each with each of its responses. */
const MAX_CHARACTERS = 1 << 25

const charactersOfInput = ({ messages, responses }: ScoreInput): number =>
  charactersOf(messages) * (responses?.length ?? 1) +
  (responses?.reduce((sum, { length }) => sum + length, 0) ?? 0)

type Rendered = Pick<ScoreItem, 'input' | 'response'> & {
  readonly segments: readonly Segment[]
  readonly param: string
}

/** The error of one conversation of several says which. */
const named = (error: unknown, param: string): unknown => {
  if (!(error instanceof RequestError) || param === 'messages') return error
  const { kind, code } = error
  return new RequestError(`${param}: ${error.message}`, { kind, param, code })
}

const naming = <T>(param: string, act: () => T): T => {
  try {
    return act()
  } catch (error) {
    throw named(error, param)
  }
}

const encodeItem = async (
  model: RewardModel,
  { segments, param, input, response }: Rendered,
  cacheSalt: string | undefined,
): Promise<ScoreItem> => {
  try {
    const ids = await encodePrompt(segments, model, 'messages', cacheSalt)
    checkLength(model, ids, param)
    return { ids, input, response }
  } catch (error) {
    throw named(error, param)
  }
}

/** Where a request has what it asks, if not in `messages`, `responses` and `inputs`; for errors. */
type FieldNames = {
  readonly item: (input: number, response: number) => string
  readonly all: string
}

type EncodeOptions = {
  readonly names?: FieldNames
  readonly cacheSalt?: string | undefined
}

/** Every conversation, or every (conversation, response), in order. `path` and `names` are for errors.
 * The event loop gets its turn between them. */
export const encodeInputs = async (
  model: RewardModel,
  inputs: readonly ScoreInput[],
  path: (input: number) => string,
  { names, cacheSalt }: EncodeOptions = {},
): Promise<readonly ScoreItem[]> => {
  for (const [input, one] of inputs.entries()) checkTurns(one, path(input))
  const characters = inputs.reduce((sum, one) => sum + charactersOfInput(one), 0)
  if (characters > MAX_CHARACTERS)
    throw badRequest(
      `The conversations, each with each of its responses, have ${characters} characters: at most ${MAX_CHARACTERS} in one request.`,
      names?.all ?? (path(0) === '' ? 'messages' : 'inputs'),
    )
  const prompts: Rendered[] = []
  const turn = createTurn()
  for (const [input, one] of inputs.entries()) {
    const list: readonly (readonly Message[])[] = one.responses?.map((content) => [
      ...one.messages,
      { role: 'assistant' as const, content },
    ]) ?? [one.messages]
    const question = questionOf(model, one.principle, `${path(input)}principle`)
    for (const [response, messages] of list.entries()) {
      const param =
        names?.item(input, response) ??
        `${path(input)}${one.responses ? `responses.${response}` : 'messages'}`
      const segments = naming(param, () => scoredPrompt(model, messages, question))
      prompts.push({ segments, param, input, response })
      await turn()
    }
  }
  return mapInTurns(prompts, (one) => encodeItem(model, one, cacheSalt))
}

/** Raw text or ids, scored at their last token. */
export const encodeRaw = async (
  model: ServedModel,
  given: string | readonly string[] | readonly number[] | readonly (readonly number[])[],
  param: string,
): Promise<readonly ScoreItem[]> => {
  const list: readonly (string | readonly number[])[] =
    typeof given === 'string'
      ? [given]
      : given.every((one) => typeof one === 'number')
        ? [given]
        : given
  const encode = async (one: string | readonly number[], input: number): Promise<ScoreItem> => {
    if (typeof one === 'string') checkCharacters(one.length, model, param)
    const ids = typeof one === 'string' ? await encodeText(model.tokenizer, one, true) : one
    checkLength(model, ids, list.length > 1 ? `${param}.${input}` : param)
    return { ids, input, response: 0 }
  }
  return mapInTurns(list, encode)
}

type BatchOptions = {
  readonly signal?: AbortSignal | undefined
  readonly priority?: number | undefined
  readonly cacheSalt?: string | undefined
  /** Part of work that has its place already. */
  readonly isAdmitted?: boolean
  /** When that work began. */
  readonly since?: number | undefined
  readonly onScored?: (timings: Timings) => void
}

/** All items in one batch on the engine: those that share a prompt compute it once. The first failure
 * ends the others. */
export const scoreBatch = async (
  engine: Engine,
  items: readonly ScoreItem[],
  { signal, priority, cacheSalt, isAdmitted = false, since, onScored }: BatchOptions,
): Promise<readonly Scored[]> => {
  const others = new AbortController()
  const any = signal ? AbortSignal.any([signal, others.signal]) : others.signal
  const one = async (item: ScoreItem, i: number): Promise<Scored> => {
    const { scores, timings } = await engine.score(
      {
        promptTokenIds: item.ids,
        // The first asks for a place, the others come with it.
        admitted: isAdmitted || i > 0,
        since,
        ...(priority !== undefined && { priority }),
        ...(cacheSalt !== undefined && { cacheSalt }),
      },
      { signal: any },
    )
    onScored?.(timings)
    return { ...item, scores, timings }
  }
  try {
    return await startInTurns(items, one)
  } catch (error) {
    others.abort()
    throw error
  }
}

type ScoreOptions = BatchOptions & {
  readonly model: ServedModel
  readonly items: readonly ScoreItem[]
  readonly record: RequestLog
  readonly signal: AbortSignal
  readonly arrival: number
}

/** The same as one HTTP request: admitted, measured, logged. */
export const scoreItems = (options: ScoreOptions): Promise<readonly Scored[]> => {
  const { model, items, record } = options
  const promptTokens = items.reduce((sum, { ids }) => sum + ids.length, 0)
  const counts = { items: items.length, choices: items.length, promptTokens, maxTokens: 0 }
  return engineWork({ ...options, ...counts }, (done) =>
    scoreBatch(model.engine, items, {
      ...options,
      since: record.begun,
      onScored: (timings) => done({ finish: 'stop', tokens: 0, timings }, 0),
    }),
  )
}

export const scoreUsage = (scored: readonly Scored[]) => {
  const tokens = scored.reduce((sum, { ids }) => sum + ids.length, 0)
  const cached = scored.reduce((sum, { timings }) => sum + timings.cachedTokens, 0)
  return {
    prompt_tokens: tokens,
    total_tokens: tokens,
    prompt_tokens_details: { cached_tokens: cached },
  }
}
