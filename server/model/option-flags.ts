// What an engine says of its options, as the command line names them.

import { withOptionNames } from '../engine/check-call.js'
import type { EngineOptions } from '../engine/types.js'
import { EngineFailure } from '../failure.js'
import { OPTIONS } from '../settings/options.js'

const flagOf = (option: keyof EngineOptions): string => {
  const key =
    option === 'memoryUtilization'
      ? 'gpu_memory_utilization'
      : option.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
  return key in OPTIONS ? `--${key.replaceAll('_', '-')}` : option
}

export const withFlags = (message: string): string => withOptionNames(message, flagOf)

/** A failure of an engine that was opened from settings. */
export const flagFailure = (error: unknown): unknown =>
  error instanceof EngineFailure
    ? new EngineFailure({ code: error.code, message: withFlags(error.message) }, { cause: error })
    : error
