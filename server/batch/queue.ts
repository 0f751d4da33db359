// What is in hand between the ledger and the engine: lines that are asked next, answers that are not written yet.

import type { Answer, BatchRow, Ledger, OpenLine } from './ledger.js'

export type Waiting = { readonly batch: BatchRow; readonly line: OpenLine }

/** Lines taken from the ledger together. */
const AHEAD = 64

/** Of one batch. */
type Lines = {
  ahead: OpenLine[]
  /** To be asked again, not before `from`, in milliseconds of Date.now. */
  readonly again: { readonly line: OpenLine; readonly from: number }[]
  /** The last line that was taken from the ledger. */
  cursor: number
  /** The ledger has no line left. */
  isDrained: boolean
}

/** Lines that are to be asked. Each comes out of the ledger once in the life of a server. */
export const createQueue = (ledger: Ledger) => {
  const known = new Map<string, Lines>()
  /** Owners, who was served longest ago first. */
  let served: readonly string[] = []
  const linesOf = (id: string): Lines => {
    const lines = known.get(id) ?? { ahead: [], again: [], cursor: 0, isDrained: false }
    known.set(id, lines)
    if (lines.ahead.length > 0 || lines.isDrained) return lines
    lines.ahead = [...ledger.openLines(id, lines.cursor, AHEAD)]
    lines.isDrained = lines.ahead.length < AHEAD
    lines.cursor = lines.ahead.at(-1)?.number ?? lines.cursor
    return lines
  }
  const takeFrom = (batch: BatchRow): Waiting | undefined => {
    const { ahead, again } = linesOf(batch.id)
    const late = again.findIndex(({ from }) => from <= Date.now())
    const line = late < 0 ? ahead.shift() : again.splice(late, 1)[0]?.line
    return line && { batch, line }
  }
  return {
    /** The next line of these batches: their owners take turns, and of each the first batch comes first. */
    next: (batches: readonly BatchRow[]): Waiting | undefined => {
      const owners = new Set(batches.map(({ owner }) => owner))
      const longestAgo = [...owners].sort((a, b) => served.indexOf(a) - served.indexOf(b))
      for (const owner of longestAgo)
        for (const batch of batches) {
          const one = batch.owner === owner ? takeFrom(batch) : undefined
          if (one === undefined) continue
          served = [...served.filter((other) => other !== owner), owner]
          return one
        }
      return undefined
    },
    putBack: ({ batch, line }: Waiting, from: number): void =>
      void linesOf(batch.id).again.push({ line, from }),
    hasLines: (id: string): boolean => {
      const { ahead, again } = linesOf(id)
      return ahead.length > 0 || again.length > 0
    },
    forget: (id: string): void => void known.delete(id),
  }
}

/** Answers are written together, at most so long after the first. */
const SAVE_MS = 200

/** `onFault`: they could not be written, and are kept for the next try. */
export const createAnswers = (ledger: Ledger, onFault: (error: unknown) => void) => {
  const counts = { completed: 0, failed: 0 }
  let unsaved: Answer[] = []
  let timer: NodeJS.Timeout | undefined
  const save = (): void => {
    clearTimeout(timer)
    timer = undefined
    if (unsaved.length === 0) return
    try {
      ledger.save(() => unsaved.forEach(ledger.addAnswer))
      for (const { isOk } of unsaved) counts[isOk ? 'completed' : 'failed']++
      unsaved = []
    } catch (error) {
      onFault(error)
    }
  }
  return {
    add: (answer: Answer): void => {
      unsaved.push(answer)
      timer ??= setTimeout(save, SAVE_MS)
    },
    save,
    isEmpty: (): boolean => unsaved.length === 0,
    has: (id: string): boolean => unsaved.some(({ batch }) => batch === id),
    /** Since the server started. */
    counts: () => ({ ...counts }),
  }
}
