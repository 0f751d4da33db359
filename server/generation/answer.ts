// The life of an answer: run, told event by event in the words of a dialect, ended once.
// Knows no protocol: a dialect turns events into text, the client takes the text.

import type { Delta, GenerateRequest } from '../engine/types.js'
import type { RequestLog } from '../log.js'
import type { ServedModel } from '../model/served-model.js'
import {
  asRequestError,
  clientGone,
  type RequestError,
  stackOf,
  timedOut,
} from '../request-error.js'
import { createTurns, finishInSlices } from '../slices.js'
import type { AnswerEvent } from './answer-event.js'
import { type Run, startRun } from './run.js'

export type AnswerHandler = {
  readonly onEvent: (event: AnswerEvent) => void
  readonly onDone: () => void
  readonly onError: (error: RequestError) => void
}

/** Takes a run's events in the answer's place, and passes on which and when it likes. */
export type Stage = AnswerHandler & { readonly abort: () => void }

/** What is to be generated. */
export type Generation = {
  readonly model: ServedModel
  readonly requests: readonly GenerateRequest[]
  /** Choices of one prompt in the answer. */
  readonly n: number
  /** performance.now() when the request came. */
  readonly arrival: number
  /** What of the request is done without, by its field. */
  readonly ignored?: readonly string[] | undefined
  readonly toEvent: (prompt: number, delta: Delta) => AnswerEvent
  /** Such an answer comes late, all at once. */
  readonly stage?: ((answer: AnswerHandler, record: RequestLog) => Stage) | undefined
}

/** How a dialect tells an answer as a stream. Text that takes long is made in slices: what a generator yields
 * and returns. */
export type StreamForm = {
  /** `''` sends nothing. The first event opens the answer. */
  readonly event: (event: AnswerEvent, run: Run) => string | Generator<string, string>
  /** After the last event. */
  readonly closing: (run: Run) => string | Generator<string, string>
  /** In place of what was still to come. */
  readonly error: (error: RequestError) => string
}

/** How a dialect tells an answer in one piece: takes the events, and in the end makes JSON of them. */
export type WholeForm = {
  readonly event: (event: AnswerEvent) => void
  readonly answer: (run: Run) => Iterable<string>
}

type EventStream = {
  /** Whole events, ended by a blank line. */
  readonly send: (events: string) => void
  /** Something that says only that we are still here. */
  readonly ping: () => void
  readonly end: () => void
  /** Before anything was sent: leaves the response to someone else. */
  readonly cancel: () => void
  readonly started: () => boolean
}

/** Who asked, as far as an answer has to know. */
type Client = {
  readonly record: RequestLog
  /** Returns how to stop listening. */
  readonly onGone: (listener: () => void) => () => void
  readonly openStream: (onGone: (why: 'closed' | 'stalled') => void) => EventStream
  /** Notes an error that goes out inside a stream. */
  readonly noteError: (error: RequestError) => void
}

type AnswerContext = {
  readonly client: Client
  /** Seconds that an answer may take; 0: no limit. */
  readonly timeout: number
}

/** Submits, and makes events of the deltas. */
const start = (generation: Generation, { record }: Client, answer: AnswerHandler): Run => {
  const { toEvent } = generation
  const stage = generation.stage?.(answer, record)
  const { onEvent, onDone, onError } = stage ?? answer
  const run = startRun(
    { ...generation, record },
    { onDelta: (prompt, delta) => onEvent(toEvent(prompt, delta)), onDone, onError },
  )
  if (stage === undefined) return run
  return {
    counts: run.counts,
    abort: () => {
      stage.abort()
      run.abort()
    },
  }
}

const deadline = (seconds: number, expire: (error: RequestError) => void): (() => void) => {
  if (seconds <= 0) return () => {}
  const timer = setTimeout(() => expire(timedOut(seconds)), seconds * 1000)
  return () => clearTimeout(timer)
}

/** Runs to the end, or until the client goes away; resolves with the answer's JSON, in pieces. */
export const answerWhole = (
  context: AnswerContext,
  generation: Generation,
  form: WholeForm,
): Promise<Iterable<string>> =>
  new Promise((resolve, reject) => {
    const { client, timeout } = context
    const settle = () => {
      stop()
      stopListening()
    }
    const give = (error: RequestError) => {
      settle()
      reject(error)
    }
    const run = start(generation, client, {
      onEvent: form.event,
      onDone: () => {
        settle()
        resolve(form.answer(run))
      },
      onError: give,
    })
    const stop = deadline(timeout, (error) => {
      run.abort()
      give(error)
    })
    const stopListening = client.onGone(() => {
      client.record.line.gone = 'closed'
      run.abort()
      give(clientGone())
    })
  })

/** Streams to the end. Resolves once the head is on its way; an error before that rejects. */
export const answerAsStream = (
  context: AnswerContext,
  generation: Generation,
  form: StreamForm,
): Promise<void> =>
  new Promise((resolve, reject) => {
    const { client, timeout } = context
    /** Told to the end, or nobody listens. */
    let over = false
    const finish = (last: string) => {
      over = true
      stop()
      stream.send(last)
      stream.end()
      resolve()
    }
    const fail = (error: RequestError) => {
      if (over) return
      if (stream.started()) {
        client.noteError(error)
        finish(form.error(error))
        return
      }
      over = true
      stop()
      stream.cancel()
      reject(error)
    }
    const send = (events: string) => {
      if (events === '') return
      stream.send(events)
      resolve()
    }
    const tell = (events: string | Generator<string, string>): Promise<void> | undefined => {
      if (typeof events !== 'string') return finishInSlices(events, send, () => !over)
      send(events)
    }
    const inTurn = createTurns((error) => {
      client.record.line.bug = stackOf(error)
      run.abort()
      fail(asRequestError(error))
    })
    const run = start(generation, client, {
      onEvent: (event) =>
        inTurn(() => {
          if (!over) return tell(form.event(event, run))
        }),
      onDone: () =>
        inTurn(() => {
          if (over) return
          const close = () => {
            if (!over) finish('')
          }
          const work = tell(form.closing(run))
          if (work !== undefined) return work.then(close)
          close()
        }),
      onError: (error) => inTurn(() => fail(error)),
    })
    const stop = deadline(timeout, (error) => {
      run.abort()
      inTurn(() => fail(error))
    })
    const stream = client.openStream((why) => {
      over = true
      stop()
      client.record.line.gone = why
      run.abort()
      resolve()
    })
    if (generation.stage === undefined) return
    stream.ping()
    resolve()
  })
