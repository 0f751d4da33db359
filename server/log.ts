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
    if (!isTold) tell(`the log cannot be written: ${message}`)
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

export const tell = (text: string): void => {
  process.stderr.write(`${text}\n`)
}

/** What the one log line of a request says; whoever works on it fills it in. Never content. */
export type RequestLog = Record<string, string | number | boolean | null | undefined>
