// Server-sent events straight into the node response. One write per request per engine step: what is
// sent within one tick is joined. A reader that stops reading never slows anyone: its text piles up
// here (bounded by its own max_tokens) until it reads on, or its socket is closed (listen.ts).

import type { ServerResponse } from 'node:http'
import { onOneLine } from './one-line.js'
import { whyGone } from './stalled-client.js'

type EventStream = {
  /** Whole events, ended by a blank line. */
  readonly send: (events: string) => void
  /** A comment, which says only that we are still here. */
  readonly ping: () => void
  readonly end: () => void
  /** Before anything was sent: leaves the response to someone else. */
  readonly cancel: () => void
  readonly started: () => boolean
}

type EventStreamOptions = {
  /** Asked when the head is written. */
  readonly headers: () => Readonly<Record<string, string>>
  /** Milliseconds of silence after which `: ping` is sent. */
  readonly ping: number
  /** The client went away or was cut off before end(). Called at most once. */
  readonly onGone: (why: 'closed' | 'stalled') => void
}

type Waiting = { readonly isDue: () => boolean; readonly ping: () => void }
const waiting = new Set<Waiting>()
const TICK_MS = 250
const PING = ': ping\n\n'
/** Characters that may wait for a reader; a string could not be much longer. */
const MOST_UNREAD = 1 << 28
let tick = 0
let sweeper: NodeJS.Timeout | undefined

/** One timer for all streams: arming one per token would cost more than the token. */
const watch = (stream: Waiting): void => {
  waiting.add(stream)
  sweeper ??= setInterval(() => {
    tick++
    for (const one of waiting) if (one.isDue()) one.ping()
  }, TICK_MS).unref()
}

const unwatch = (stream: Waiting): void => {
  waiting.delete(stream)
  if (waiting.size > 0) return
  clearInterval(sweeper)
  sweeper = undefined
}

/** Streams with something to send: one microtask flushes all that an engine step wrote to. */
let unsent: (() => void)[] = []

const flushAll = (): void => {
  const all = unsent
  unsent = []
  for (const flush of all) flush()
}

const flushSoon = (flush: () => void): void => {
  if (unsent.push(flush) === 1) queueMicrotask(flushAll)
}

/** How a stream's bytes leave. */
type Out = {
  readonly write: (text: string) => boolean
  readonly onceDrained: (resume: () => void) => void
}

const asChunk = (text: string, bytes: number): string => `${bytes.toString(16)}\r\n${text}\r\n`

/**
 * Sends the head and says how the rest is written. Node writes a chunk as four pieces; where the
 * response has its socket, one string with the same framing costs a third less. A pipelined response
 * has no socket yet, and HTTP/1.0 has no chunks: those go through Node.
 */
const begin = (outgoing: ServerResponse, headers: Readonly<Record<string, string>>): Out => {
  outgoing.writeHead(200, {
    ...headers,
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
  })
  outgoing.flushHeaders()
  const { socket } = outgoing
  if (socket === null || !outgoing.chunkedEncoding) {
    return {
      write: (text) => outgoing.write(onOneLine(text)),
      onceDrained: (resume) => outgoing.once('drain', resume),
    }
  }
  return {
    write: (text) => {
      if (socket.destroyed) return true
      const framed = asChunk(text, text.length)
      // Nearly all text is ASCII, and then Latin-1 is a copy. Asking the framed string joins its
      // pieces, once.
      if (Buffer.byteLength(framed) === framed.length) return socket.write(framed, 'latin1')
      const safe = onOneLine(text)
      return socket.write(asChunk(safe, Buffer.byteLength(safe)))
    },
    onceDrained: (resume) => socket.once('drain', resume),
  }
}

type State = {
  readonly outgoing: ServerResponse
  readonly options: EventStreamOptions
  readonly watched: Waiting
  /** Sends what is pending; one closure a stream, not one a token. */
  readonly flush: () => void
  out: Out | undefined
  pending: string
  isScheduled: boolean
  /** The reader has to take what was written first. */
  isBlocked: boolean
  /** end() was called: nothing more is sent. */
  hasEnded: boolean
  /** Nobody listens any more. */
  isOver: boolean
  lastTick: number
}

const finish = (state: State): void => {
  state.isOver = true
  unwatch(state.watched)
}

const gone = (state: State, why: 'closed' | 'stalled'): void => {
  if (state.isOver) return
  finish(state)
  state.options.onGone(why)
}

const cutOff = (state: State): void => {
  gone(state, 'stalled')
  state.outgoing.destroy()
}

const schedule = (state: State): void => {
  if (state.isScheduled) return
  state.isScheduled = true
  flushSoon(state.flush)
}

const send = (state: State, events: string): void => {
  if (state.isOver || state.hasEnded) return
  if (state.pending.length + events.length > MOST_UNREAD) {
    cutOff(state)
    return
  }
  state.pending += events
  schedule(state)
}

const flushStream = (state: State): void => {
  const { outgoing, options, pending: text } = state
  state.isScheduled = false
  if (state.isOver || state.isBlocked) return
  if (text === '' && !state.hasEnded) return
  state.pending = ''
  state.lastTick = tick
  state.out ??= begin(outgoing, options.headers())
  const isFlowing = text === '' || state.out.write(text)
  if (state.hasEnded) {
    unwatch(state.watched)
    outgoing.end()
  } else if (!isFlowing) {
    state.isBlocked = true
    state.out.onceDrained(() => {
      state.isBlocked = false
      state.flush()
    })
  }
}

export const openEventStream = (
  outgoing: ServerResponse,
  options: EventStreamOptions,
): EventStream => {
  const pingTicks = Math.max(1, Math.round(options.ping / TICK_MS))
  const state: State = {
    outgoing,
    options,
    watched: {
      isDue: () => tick - state.lastTick >= pingTicks,
      ping: () => {
        if (!state.isBlocked && state.pending === '') send(state, PING)
      },
    },
    flush: () => flushStream(state),
    out: undefined,
    pending: '',
    isScheduled: false,
    isBlocked: false,
    hasEnded: false,
    isOver: false,
    lastTick: tick,
  }
  outgoing.once('close', () => {
    if (state.hasEnded) finish(state)
    else gone(state, whyGone(outgoing.socket))
  })
  watch(state.watched)
  return {
    send: (events) => send(state, events),
    ping: () => send(state, PING),
    end: () => {
      if (state.isOver || state.hasEnded) return
      state.hasEnded = true
      schedule(state)
    },
    cancel: () => finish(state),
    started: () => state.out !== undefined || state.pending !== '',
  }
}
