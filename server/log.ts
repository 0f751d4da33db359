// Structured log lines on standard output; what is for people goes to standard error.

import { type Logger, pino } from 'pino'

/** Bytes of lines that wait for a disk that is full. Later ones are lost. */
const MOST_WAITING = 1 << 20

/** A disk that is full or a reader that is gone costs lines, never an answer. */
const openDestination = () => {
  const out = pino.destination({ fd: 1, sync: true, maxLength: MOST_WAITING })
  let isTold = false
  out.on('write', () => {
    isTold = false
  })
  out.on('error', ({ message }: Error) => {
    if (!isTold) process.stderr.write(`the log cannot be written: ${message}\n`)
    isTold = true
  })
  return out
}

export const createLog = (level: string): Logger =>
  pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: ['headers.authorization'],
    },
    openDestination(),
  )

/** Work that a request had an engine do, for its trace. Times are those of performance.now(). Never content. */
export type EngineWork = {
  /** What was asked for: an answer, or judging what was given. */
  readonly kind: 'generate' | 'score'
  readonly model: string
  readonly startedAt: number
  readonly endedAt: number
  readonly promptTokens: number
  readonly completionTokens: number
  readonly cachedTokens: number
  /** Of each choice that has finished, in their order. */
  readonly finishes: readonly string[]
  readonly sampling?: {
    readonly maxTokens?: number | undefined
    readonly temperature?: number | undefined
    readonly topP?: number | undefined
    readonly topK?: number | undefined
  }
  readonly choices: number
  /** Of the choice that took longest; undefined: none finished. */
  readonly stages:
    | {
        readonly startedAt: number
        readonly queueSeconds: number
        readonly prefillSeconds: number
        readonly decodeSeconds: number
      }
    | undefined
}

/** What is kept of a request; whoever works on it fills it in. */
export type RequestLog = {
  /** What its one log line says. Never content. */
  readonly line: Record<string, string | number | boolean | null | undefined>
  readonly work: EngineWork[]
  /** When it was read, by performance.now(): its work begins. */
  begun?: number | undefined
  /** Ids of the models that it is not done with, in the order in which it asks them. undefined: not known yet. */
  asks?: readonly string[] | undefined
  /** An error of ours came after its answer had begun. */
  isBroken?: boolean
}

export const newRequestLog = (): RequestLog => ({ line: {}, work: [] })
