// The work on batches. A line is asked when nobody else needs the place; its answer is on the disk before the
// batch counts it, and a line that has one is never asked again.

import { createTurn } from '../slices.js'
import { type Files, LostFile, now } from './files.js'
import { bodyOf, readLine } from './input.js'
import { type BatchRow, isFull, type Ledger } from './ledger.js'
import { createAnswers, createQueue, type Waiting } from './queue.js'
import { type Asked, answered, finalize, lost, removeLines, validate } from './stages.js'

/** How lines become requests. */
export type Work = {
  /** Answers as the route of that path would. Aborted: whatever comes is dropped. */
  readonly ask: (
    endpoint: string,
    /** JSON. */
    body: string,
    options: { readonly owner: string; readonly signal: AbortSignal },
  ) => Promise<Asked>
  /** Most lines that are asked at once. */
  readonly atOnce: number
}

export type Log = {
  readonly warn: (fields: object, text: string) => void
  readonly error: (fields: object, text: string) => void
}

type RunnerOptions = {
  /** For messages. */
  readonly folder: string
  /** Bytes of the largest body of a line. */
  readonly bodyLimit: number
  readonly log: Log
}

const TICK_MS = 250
/** Between tries of a line that found no place. */
const BUSY_MS = 1000
/** Between tries after something failed that may be mended. */
const RETRY_MS = 5000
/** Lines that are asked may have together as many bytes as so many of the largest; the last may go beyond. */
const MOST_BODIES = 8

type Running = {
  readonly batch: string
  readonly size: number
  readonly controller: AbortController
}

type State = RunnerOptions & {
  readonly ledger: Ledger
  readonly files: Files
  readonly queue: ReturnType<typeof createQueue>
  readonly answers: ReturnType<typeof createAnswers>
  readonly running: Set<Running>
  /** To wait for before a line is asked: many begin when a step has ended many. */
  readonly mayBegin: () => Promise<void>
  /** The server leaves. */
  readonly stopped: AbortSignal
  work: Work | undefined
  /** Reading an input or writing outputs: one at a time. */
  stage: Promise<void> | undefined
  isPaused: boolean
  /** A tick comes. */
  isDue: boolean
  /** Until then nothing is tried: something failed. Milliseconds of Date.now; 0: nothing did. */
  restUntil: number
  /** The same of batches that something is wrong with: the others go on. */
  readonly resting: Map<string, number>
}

/** What waits for it goes on one after another, in slices. */
const createGate = (): (() => Promise<void>) => {
  const turn = createTurn()
  let last = Promise.resolve()
  return () => {
    last = last.then(turn)
    return last
  }
}

const isResting = ({ resting }: State, batch: string): boolean =>
  (resting.get(batch) ?? 0) > Date.now()

/** All rest. */
const stumble = (state: State, error: unknown, what: string): void => {
  if (state.stopped.aborted) return
  state.restUntil = Date.now() + RETRY_MS
  const why = isFull(error) ? `the disk of ${state.folder} is full or failing` : `${what} failed`
  state.log.error({ err: error }, `batches wait: ${why}`)
}

/** This batch rests, unless the disk is everybody's trouble. */
const stumbleAt = (state: State, batch: string, error: unknown, what: string): void => {
  if (isFull(error)) stumble(state, error, what)
  // All of its lines may fail at once.
  else if (!state.stopped.aborted && !isResting(state, batch)) {
    state.resting.set(batch, Date.now() + RETRY_MS)
    state.log.error({ err: error, batch }, `a batch waits: ${what} failed`)
  }
}

/** The body of a line; undefined where it is no longer what it was when it was checked. */
const read = async (
  { files, mayBegin }: State,
  { batch, line }: Waiting,
): Promise<string | undefined> => {
  try {
    const bytes = await files.read(batch.input, line.at, line.size)
    await mayBegin()
    const read = await readLine(bytes, batch.endpoint)
    const isSame = read.problem === undefined && read.customId === line.customId
    return isSame ? await bodyOf(read) : undefined
  } catch (error) {
    if (error instanceof LostFile) return undefined
    throw error
  }
}

const ask = async (state: State, waiting: Waiting, { signal }: AbortController): Promise<void> => {
  const { batch, line } = waiting
  const body = await read(state, waiting)
  if (signal.aborted) return
  if (body === undefined) {
    const text = lost(line.customId)
    state.answers.add({ batch: batch.id, number: line.number, isOk: false, text })
    return
  }
  const result = await state.work?.ask(batch.endpoint, body, { owner: batch.owner, signal })
  if (result === undefined || signal.aborted) return
  // Refused for want of a place, or by a server that stops: not an answer.
  if (result.status === 429 || result.status === 503)
    state.queue.putBack(waiting, Date.now() + BUSY_MS)
  else
    state.answers.add({
      batch: batch.id,
      number: line.number,
      isOk: result.status < 300,
      text: answered(line.customId, result),
    })
}

const begin = (state: State, waiting: Waiting): void => {
  const controller = new AbortController()
  const { batch, line } = waiting
  const one = { batch: batch.id, size: line.size, controller }
  state.running.add(one)
  ask(state, waiting, controller)
    .catch((error) => {
      if (controller.signal.aborted) return
      state.queue.putBack(waiting, Date.now() + RETRY_MS)
      stumbleAt(state, batch.id, error, 'asking a line')
    })
    .finally(() => {
      state.running.delete(one)
      soon(state)
    })
}

const runsOf = ({ running }: State, batch: string): readonly Running[] =>
  [...running].filter((one) => one.batch === batch)

const abort = (state: State, batch: string): void => {
  for (const { controller } of runsOf(state, batch)) controller.abort()
}

/** What time, a cancel or the last line brings a batch. */
const outcomeOf = (state: State, batch: BatchRow): BatchRow['outcome'] | undefined => {
  const { id, status, expires } = batch
  const isOpen = status === 'validating' || status === 'in_progress'
  const isOver = status === 'cancelling' || (isOpen && expires <= now())
  if (isOver) {
    abort(state, id)
    if (runsOf(state, id).length > 0) return undefined
    state.answers.save()
    if (state.answers.has(id)) return undefined
    return status === 'cancelling' ? 'cancelled' : 'expired'
  }
  // One whose input is still being read has no lines yet.
  if (status !== 'in_progress') return undefined
  if (runsOf(state, id).length > 0 || state.queue.hasLines(id)) return undefined
  state.answers.save()
  return state.answers.has(id) ? undefined : 'completed'
}

const startStage = (state: State, batch: BatchRow): void => {
  if (state.stage !== undefined) return
  const isNew = batch.status === 'validating'
  state.stage = (isNew ? validate(state, batch) : finalize(state, batch))
    .then(() => {
      state.resting.delete(batch.id)
      if (!isNew) state.queue.forget(batch.id)
    })
    .catch((error) =>
      stumbleAt(state, batch.id, error, isNew ? 'reading its input' : 'writing its outputs'),
    )
    .finally(() => {
      state.stage = undefined
      tick(state)
    })
}

/** What a kill left of batches that had ended. */
const clear = (state: State): void => {
  const work = async () => {
    for (const { id } of state.ledger.endedWithLines()) await removeLines(state, id)
  }
  state.stage = work()
    .catch((error) => stumble(state, error, 'removing lines'))
    .finally(() => {
      state.stage = undefined
      tick(state)
    })
}

/** As many lines as there is room for. */
const askLines = (state: State, live: readonly BatchRow[]): void => {
  const { queue, running, bodyLimit, work } = state
  const open = live
    .filter(({ status, expires }) => status === 'in_progress' && expires > now())
    .filter(({ id }) => !isResting(state, id))
    .sort((a, b) => a.expires - b.expires)
  let bytes = [...running].reduce((sum, { size }) => sum + size, 0)
  while (running.size < (work?.atOnce ?? 0) && bytes < MOST_BODIES * bodyLimit) {
    const waiting = queue.next(open)
    if (waiting === undefined) return
    bytes += waiting.line.size
    begin(state, waiting)
  }
}

const step = (state: State): void => {
  const { ledger } = state
  let live = ledger.live()
  const over = live.flatMap((batch) => {
    const outcome = outcomeOf(state, batch)
    return outcome === undefined ? [] : [{ id: batch.id, outcome }]
  })
  for (const { id, outcome } of over)
    ledger.save(() => ledger.setBatch(id, { status: 'finalizing', outcome, finalizing: now() }))
  if (over.length > 0) live = ledger.live()
  const staged = live.find(
    ({ id, status }) =>
      (status === 'validating' || status === 'finalizing') && !isResting(state, id),
  )
  if (staged !== undefined) startStage(state, staged)
  askLines(state, live)
}

const tick = (state: State): void => {
  if (state.work === undefined || state.isPaused || Date.now() < state.restUntil) return
  // After a full disk the answers in hand come first.
  if (state.restUntil > 0) {
    state.restUntil = 0
    state.answers.save()
    if (!state.answers.isEmpty()) return
  }
  try {
    step(state)
  } catch (error) {
    stumble(state, error, 'the ledger')
  }
}

/** Once for all lines that end in one turn of the event loop. */
const soon = (state: State): void => {
  if (state.isDue) return
  state.isDue = true
  setImmediate(() => {
    state.isDue = false
    tick(state)
  })
}

export type Runner = ReturnType<typeof createRunner>

export const createRunner = (ledger: Ledger, files: Files, options: RunnerOptions) => {
  const stop = new AbortController()
  const state: State = {
    ...options,
    ledger,
    files,
    queue: createQueue(ledger),
    answers: createAnswers(ledger, (error) => stumble(state, error, 'writing answers')),
    running: new Set(),
    mayBegin: createGate(),
    stopped: stop.signal,
    work: undefined,
    stage: undefined,
    isPaused: false,
    isDue: false,
    restUntil: 0,
    resting: new Map(),
  }
  let ticking: NodeJS.Timeout | undefined
  return {
    /** Something is new. */
    tick: () => tick(state),
    /** The lines of a batch that are being asked. */
    abort: (batch: string) => abort(state, batch),
    progress: () => ({ running: state.running.size, ...state.answers.counts() }),
    /** From now on lines are asked. */
    begin: (work: Work): void => {
      state.work = work
      ticking = setInterval(() => tick(state), TICK_MS)
      clear(state)
      tick(state)
    },
    /** No line begins any more. */
    pause: (): void => {
      state.isPaused = true
    },
    /** What was answered is written; what was not is asked after the next start. */
    close: async (): Promise<void> => {
      state.isPaused = true
      clearInterval(ticking)
      stop.abort()
      for (const { controller } of state.running) controller.abort()
      await state.stage
      state.answers.save()
    },
  }
}
