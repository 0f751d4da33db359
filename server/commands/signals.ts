// Signals that end a process. One press of Ctrl-C and one closed terminal can each be two of them.

import type { Host } from './host.js'

/** A terminal sends SIGINT to npm and to what npm has started, and npm hands it on some 0.4 s later; bash hands SIGHUP
 * on at once. What comes so soon is no second wish. */
const SAME_MS = 1500

type Stop = (signal: NodeJS.Signals) => void

/** `first` once, `again` when one that was meant so comes after it: a terminal that closes asks for no haste. Returns how
 * to stop listening. */
export const onSignals = (
  host: Host,
  signals: readonly NodeJS.Signals[],
  { first, again }: { readonly first: Stop; readonly again: Stop },
): (() => void) => {
  let since: number | undefined
  const hear = (signal: NodeJS.Signals): void => {
    if (since === undefined) {
      since = performance.now()
      first(signal)
    } else if (signal !== 'SIGHUP' && performance.now() - since > SAME_MS) again(signal)
  }
  for (const signal of signals) host.on(signal, hear)
  return () => {
    for (const signal of signals) host.off(signal, hear)
  }
}

/** As if nobody had caught it. */
export const endBy = (host: Host, signal: NodeJS.Signals): void => {
  host.removeAllListeners(signal)
  host.kill(host.pid, signal)
}
