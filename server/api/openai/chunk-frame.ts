// What chats and completions have in common on OpenAI's wire. All that stays the same in a stream is
// serialised once.

import type { AnswerEvent } from '../../generation/answer-event.js'
import type { Counts, Run } from '../../generation/run.js'
import { errorBody } from '../../http/errors.js'
import type { ServedModel } from '../../model/served-model.js'
import { badRequest, type RequestError } from '../../request-error.js'
import type { GenerationBody } from './schema.js'
import { usageObject } from './usage.js'

/** An object's JSON as members to go on with inside another: `,"a":1`. */
export const asMembers = (json: string): string => {
  const text = json.slice(1, -1)
  return text === '' ? '' : `,${text}`
}
export const members = (object: object): string => asMembers(JSON.stringify(object))

/** It brings the whole prompt: its chunk is made in slices. */
export const isLong = (event: AnswerEvent): boolean => event.promptLogprobs !== undefined

/** The stop string or id that ended a choice, where the caller asked for it. */
export const stopReason = (
  event: AnswerEvent | undefined,
  body: Pick<GenerationBody, 'stop_token_ids'>,
) => {
  const stop = event?.stopReason
  const asked =
    typeof stop === 'string' || (stop !== undefined && body.stop_token_ids?.includes(stop))
  return asked ? { stop_reason: stop } : {}
}

export const checkStreamOptions = (body: GenerationBody): void => {
  const isAsked = Object.values(body.stream_options ?? {}).some((one) => one)
  if (isAsked && body.stream !== true)
    throw badRequest("'stream_options' is only allowed when 'stream' is true.", 'stream_options')
}

const DONE = 'data: [DONE]\n\n'

type Framed = {
  readonly id: string
  readonly created: number
  readonly body: GenerationBody
  readonly model: ServedModel
  readonly reasoningTokens: () => number
}

type Frame = {
  /** One chunk; `choice` and `more` are JSON text. */
  readonly chunk: (choice: string, counts: Counts, more: string) => string
  /** The chunk with the usage, when asked for, and the end. */
  readonly closing: (run: Run) => string
  readonly error: (error: RequestError) => string
}

export const createFrame = (object: string, framed: Framed): Frame => {
  const { body, model } = framed
  const showUsage = body.stream_options?.include_usage === true
  const everyUsage = showUsage && body.stream_options?.continuous_usage_stats === true
  const head =
    `data: {"id":"${framed.id}","object":"${object}","created":${framed.created},` +
    `"model":${JSON.stringify(body.model)},` +
    `"system_fingerprint":${JSON.stringify(model.engine.info.fingerprint)},"choices":[`
  const usage = (counts: Counts): string =>
    `,"usage":${JSON.stringify(usageObject(counts, framed.reasoningTokens()))}`
  const noUsage = showUsage ? ',"usage":null' : ''
  return {
    chunk: (choice, counts, more) =>
      `${head}${choice}]${everyUsage ? usage(counts) : noUsage}${more}}\n\n`,
    closing: ({ counts }) => (showUsage ? `${head}]${usage(counts)}}\n\n${DONE}` : DONE),
    error: (error) => `data: ${JSON.stringify(errorBody(error))}\n\n${DONE}`,
  }
}
