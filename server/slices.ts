// Long work of one request in slices, so that it never keeps the others waiting: a generator yields
// wherever it may be left for a while.

import { setImmediate as nextTurn } from 'node:timers/promises'

const SLICE_MS = 5
/** Elements of a long list that are turned into JSON at once. */
const GROUP = 16

/** A value as JSON, piece by piece; together they are what JSON.stringify gives. */
export function* jsonPieces(value: unknown): Generator<string> {
  if (Array.isArray(value) && value.length > GROUP) {
    for (let i = 0; i < value.length; i += GROUP)
      yield (i === 0 ? '[' : ',') + JSON.stringify(value.slice(i, i + GROUP)).slice(1, -1)
    yield ']'
  } else if (Array.isArray(value)) {
    yield '['
    for (const [i, item] of value.entries()) {
      if (i > 0) yield ','
      yield* jsonPieces(item ?? null)
    }
    yield ']'
  } else if (typeof value === 'object' && value !== null) {
    let before = '{'
    for (const [key, member] of Object.entries(value)) {
      if (member === undefined) continue
      yield `${before}${JSON.stringify(key)}:`
      yield* jsonPieces(member)
      before = ','
    }
    yield before === '{' ? '{}' : '}'
  } else yield JSON.stringify(value)
}

/** To call between the parts of long work: gives the event loop its turn when a slice is over. */
export const createTurn = (): (() => Promise<void>) => {
  let since = performance.now()
  return async () => {
    if (performance.now() - since < SLICE_MS) return
    await nextTurn()
    since = performance.now()
  }
}

/** So many results at most come in one turn of the event loop. */
const LANES = 32

/** The results of all, some of them under way at once; stops at the first error. */
export const mapInTurns = async <T, R>(
  items: readonly T[],
  act: (item: T, i: number) => Promise<R>,
): Promise<R[]> => {
  const turn = createTurn()
  const results = new Array<R>(items.length)
  const rest = items.entries()
  let hasFailed = false
  const lane = async () => {
    for (const [i, item] of rest) {
      if (hasFailed) return
      try {
        results[i] = await act(item, i)
      } catch (error) {
        hasFailed = true
        throw error
      }
      await turn()
    }
  }
  await Promise.all(Array.from({ length: Math.min(LANES, items.length) }, lane))
  return results
}

/** Starts one after another, with turns of the event loop in between; all of their results. */
export const startInTurns = async <T, R>(
  items: readonly T[],
  start: (item: T, i: number) => Promise<R>,
): Promise<R[]> => {
  const turn = createTurn()
  const started: Promise<R>[] = []
  for (const [i, item] of items.entries()) {
    const one = start(item, i)
    one.catch(() => {}) // one that fails before all have started is told below
    started.push(one)
    await turn()
  }
  return Promise.all(started)
}

/** All pieces as UTF-8; the event loop gets its turn in between. */
export const bytesInSlices = async (pieces: Iterable<string>): Promise<Uint8Array<ArrayBuffer>> => {
  const done: Buffer[] = []
  let text = ''
  let since = performance.now()
  for (const piece of pieces) {
    text += piece
    if (performance.now() - since < SLICE_MS) continue
    done.push(Buffer.from(text))
    text = ''
    await nextTurn()
    since = performance.now()
  }
  done.push(Buffer.from(text))
  return Buffer.concat(done)
}

/** A value as JSON, in slices. */
export function* jsonText(value: unknown): Generator<string, string> {
  let text = ''
  for (const piece of jsonPieces(value)) {
    text += piece
    yield ''
  }
  return text
}

/** Gives `take` what the work yields and its result: at once where a slice is enough, else later, if still wanted. */
export const finishInSlices = (
  work: Generator<string, string>,
  take: (text: string) => void,
  isWanted: () => boolean,
): Promise<void> | undefined => {
  const slice = (): boolean => {
    const until = performance.now() + SLICE_MS
    for (;;) {
      const { done, value } = work.next()
      if (value !== '') take(value)
      if (done || performance.now() > until) return done === true
    }
  }
  const rest = async () => {
    do await nextTurn()
    while (isWanted() && !slice())
  }
  return slice() ? undefined : rest()
}

type Act = () => Promise<void> | undefined | void

/**
 * Acts one after another: those that come while one is at work wait for it. What an act throws at
 * once is the caller's; `onError` gets what comes later, and those that waited are dropped.
 */
export const createTurns = (onError: (error: unknown) => void) => {
  const waiting: Act[] = []
  let atWork = false

  const finish = async (work: Promise<void>) => {
    atWork = true
    try {
      await work
      for (let act = waiting.shift(); act; act = waiting.shift()) await act()
    } catch (error) {
      waiting.length = 0
      onError(error)
    } finally {
      atWork = false
    }
  }
  return (act: Act): void => {
    if (atWork) {
      waiting.push(act)
      return
    }
    const work = act()
    if (work) void finish(work)
  }
}

/** The same work in one go. */
export const atOnce = <T>(work: Generator<string, T>): T => {
  for (;;) {
    const { done, value } = work.next()
    if (done) return value
  }
}
