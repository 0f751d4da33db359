// Structured log lines on standard output; what is for people goes to standard error.

import { type Logger, pino } from 'pino'

export const createLog = (level: string): Logger =>
  pino({
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    redact: ['headers.authorization'],
  })

export const tell = (text: string): void => {
  process.stderr.write(`${text}\n`)
}

/** What the one log line of a request says; whoever works on it fills it in. Never content. */
export type RequestLog = Record<string, string | number | boolean | null | undefined>
