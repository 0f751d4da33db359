// Server-sent events straight into the node response. One write per request per engine step: what is
// sent within one tick is joined. A reader that stops reading never slows anyone: its text piles up
// here (bounded by its own max_tokens) until it reads on, or is cut off.

import type { ServerResponse } from 'node:http'

export type EventStream = {
  /** Whole events, ended by a blank line. */
  readonly send: (events: string) => void
  readonly end: () => void
  /** Before anything was sent: leaves the response to someone else. */
  readonly cancel: () => void
  readonly started: () => boolean
}

export type EventStreamOptions = {
  readonly headers: Readonly<Record<string, string>>
  /** Milliseconds without a full drain after which a stalled reader is cut off. */
  readonly writeIdle: number
  /** Milliseconds of silence after which `: ping` is sent. */
  readonly ping: number
  /** The client went away or was cut off before end(). Called at most once. */
  readonly onGone: (why: 'closed' | 'stalled') => void
}

type Waiting = { readonly due: () => number; readonly ping: () => void }
const waiting = new Set<Waiting>()
let sweeper: NodeJS.Timeout | undefined

/** One timer for all streams: arming one per token would cost more than the token. */
const watch = (stream: Waiting): void => {
  waiting.add(stream)
  sweeper ??= setInterval(() => {
    const now = performance.now()
    for (const one of waiting) if (now >= one.due()) one.ping()
  }, 250).unref()
}

const unwatch = (stream: Waiting): void => {
  waiting.delete(stream)
  if (waiting.size > 0) return
  clearInterval(sweeper)
  sweeper = undefined
}

export const openEventStream = (
  outgoing: ServerResponse,
  options: EventStreamOptions,
): EventStream => {
  let pending = ''
  let scheduled = false
  let blocked: NodeJS.Timeout | undefined
  let ended = false
  let over = false
  let lastWrite = performance.now()

  const self: Waiting = {
    due: () => lastWrite + options.ping,
    ping: () => {
      if (blocked === undefined && pending === '') send(': ping\n\n')
    },
  }

  const finish = () => {
    over = true
    clearTimeout(blocked)
    unwatch(self)
  }

  const gone = (why: 'closed' | 'stalled') => {
    if (over) return
    finish()
    options.onGone(why)
  }

  const start = () => {
    if (outgoing.headersSent) return
    outgoing.writeHead(200, {
      ...options.headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
    })
  }

  const onDrain = () => {
    clearTimeout(blocked)
    blocked = undefined
    flush()
  }

  const flush = () => {
    scheduled = false
    if (over || blocked !== undefined) return
    const text = pending
    pending = ''
    if (text !== '' || ended) start()
    lastWrite = performance.now()
    if (ended) {
      // Finished for us; a stalled reader still has its time to take the rest.
      unwatch(self)
      blocked = setTimeout(() => outgoing.destroy(), options.writeIdle).unref()
      outgoing.end(text)
    } else if (text !== '' && !outgoing.write(text)) {
      blocked = setTimeout(() => {
        gone('stalled')
        outgoing.destroy()
      }, options.writeIdle).unref()
      outgoing.once('drain', onDrain)
    }
  }

  const schedule = () => {
    if (scheduled) return
    scheduled = true
    queueMicrotask(flush)
  }

  const send = (events: string) => {
    if (over || ended) return
    pending += events
    schedule()
  }

  outgoing.once('close', () => {
    if (ended) finish()
    else gone('closed')
  })
  watch(self)

  return {
    send,
    end: () => {
      if (over || ended) return
      ended = true
      schedule()
    },
    cancel: finish,
    started: () => outgoing.headersSent || pending !== '',
  }
}
