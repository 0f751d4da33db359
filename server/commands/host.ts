// What a command has of the process that runs it. Passed, never global: a process can run several of them.

import type { Readable, Writable } from 'node:stream'

type OnSignal = (signal: NodeJS.Signals) => void

/** `process` is one. */
export type Host = {
  readonly stdin: Readable
  readonly stdout: Writable
  readonly stderr: Writable & { readonly isTTY?: boolean }
  readonly env: NodeJS.ProcessEnv
  /** What it ends with when nothing is left to do. */
  exitCode?: number | string | null | undefined
  /** Ends it, whatever it still does. */
  readonly exit: (code: number) => never
  readonly on: (signal: NodeJS.Signals, listener: OnSignal) => unknown
  readonly off: (signal: NodeJS.Signals, listener: OnSignal) => unknown
  readonly removeAllListeners: (signal: NodeJS.Signals) => unknown
  readonly pid: number
  readonly kill: (pid: number, signal: NodeJS.Signals) => unknown
}

/** A line for people, beside what was asked for. */
export const tell = ({ stderr }: Pick<Host, 'stderr'>, text: string): void => {
  stderr.write(`${text}\n`)
}
