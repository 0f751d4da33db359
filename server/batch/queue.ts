// What is in hand between the ledger and the engine: lines that are asked next, answers that are not written yet.

import type { Answer, BatchRow, Ledger, OpenLine } from './ledger.js'

/** `from`: not before, in milliseconds of Date.now. */
export type Waiting = { readonly batch: BatchRow; readonly line: OpenLine; readonly from: number }

/** Lines taken from the ledger together. */
const AHEAD = 64

/** Lines that are to be asked. Each comes out of the ledger once in the life of a server. */
export const createQueue = (ledger: Ledger) => {
  /** Batch -> the last line that was taken from the ledger. */
  const cursors = new Map<string, number>()
  /** Of these the ledger has no line left. */
  const drained = new Set<string>()
  let ahead: Waiting[] = []
  let again: Waiting[] = []
  const openLines = (id: string, limit: number) => {
    const lines = ledger.openLines(id, cursors.get(id) ?? 0, limit)
    if (lines.length < limit) drained.add(id)
    return lines
  }
  /** Asked at the end of every line, of every batch: the ledger is looked into once. */
  const hasMore = (id: string): boolean => {
    if (!drained.has(id) && !cursors.has(id) && openLines(id, 1).length > 0) cursors.set(id, 0)
    return !drained.has(id)
  }
  return {
    /** Has `room` lines of these batches, the first batch first, or all that there are; drops those of all
     * others. */
    fill: (batches: readonly BatchRow[], room: number): void => {
      const at = Date.now()
      const isOn = (one: Waiting) => batches.some(({ id }) => id === one.batch.id)
      const late = again.filter(isOn)
      again = late.filter(({ from }) => from > at)
      ahead = [...late.filter(({ from }) => from <= at), ...ahead.filter(isOn)]
      for (const batch of batches) {
        if (ahead.length >= room) return
        if (drained.has(batch.id)) continue
        const lines = openLines(batch.id, Math.max(AHEAD, room))
        ahead.push(...lines.map((line) => ({ batch, line, from: 0 })))
        const last = lines.at(-1)
        if (last) cursors.set(batch.id, last.number)
      }
    },
    take: (room: number): readonly Waiting[] => ahead.splice(0, room),
    /** To be asked again. */
    putBack: (one: Waiting): void => void again.push(one),
    hasLines: (id: string): boolean =>
      [...ahead, ...again].some(({ batch }) => batch.id === id) || hasMore(id),
    forget: (id: string): void => {
      cursors.delete(id)
      drained.delete(id)
    },
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
