// What chunks of chats and of completions have in common. All that stays the same in a stream is
// serialised once.

import type { Delta } from '../../engine/types.js'
import type { Run } from '../../generation/run.js'
import type { ServedModel } from '../../model/served-model.js'
import type { GenerationFields } from './schema.js'

/** An object's JSON as members to go on with inside another: `,"a":1`. */
export const asMembers = (json: string): string => {
  const text = json.slice(1, -1)
  return text === '' ? '' : `,${text}`
}
export const members = (object: object): string => asMembers(JSON.stringify(object))

/** It brings the whole prompt: its event is made in slices. */
export const isLong = (delta: Delta): boolean => delta.promptLogprobs !== undefined

export const finishReason = (delta: Delta | undefined) =>
  delta?.finish === 'length' ? ('length' as const) : ('stop' as const)

/** The stop string or id that ended a choice, where the caller asked for it. */
export const stopReason = (delta: Delta | undefined, body: GenerationFields) => {
  const stop = delta?.stopReason
  const asked =
    typeof stop === 'string' || (stop !== undefined && body.stop_token_ids?.includes(stop))
  return asked ? { stop_reason: stop } : {}
}

type Framed = {
  readonly id: string
  readonly created: number
  readonly body: GenerationFields
  readonly model: ServedModel
}

export type Frame = {
  /** One chunk; `choice` and `more` are JSON text. */
  readonly chunk: (choice: string, run: Run, more: string) => string
  /** The chunk with the usage, when asked for. */
  readonly closing: (run: Run) => string
}

export const createFrame = (object: string, { id, created, body, model }: Framed): Frame => {
  const showUsage = body.stream_options?.include_usage === true
  const everyUsage = showUsage && body.stream_options?.continuous_usage_stats === true
  const head =
    `data: {"id":"${id}","object":"${object}","created":${created},` +
    `"model":${JSON.stringify(body.model)},` +
    `"system_fingerprint":${JSON.stringify(model.engine.info.fingerprint)},"choices":[`
  const usage = (run: Run): string => `,"usage":${JSON.stringify(run.usage())}`
  const noUsage = showUsage ? ',"usage":null' : ''
  return {
    chunk: (choice, run, more) =>
      `${head}${choice}]${everyUsage ? usage(run) : noUsage}${more}}\n\n`,
    closing: (run) => (showUsage ? `${head}]${usage(run)}}\n\n` : ''),
  }
}
