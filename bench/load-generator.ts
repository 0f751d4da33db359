// Streamed requests on one OpenAI-compatible server, with the times that matter: one, or many, each sent
// when an answer made room for it (closed loop) or when a plan says so (open loop).

import { setMaxListeners } from 'node:events'
import { Agent, type ClientRequest, request as httpRequest } from 'node:http'
import { request as httpsRequest, Agent as TlsAgent } from 'node:https'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { createEventReader } from './event-reader.js'
import { UsageError } from './flags.js'
import type { Conversation } from './serve/conversations.js'
import type { Loaded, Outcome } from './serve/figures.js'

export type Target = {
  /** Ends in /v1, without a slash. */
  readonly baseUrl: string
  readonly apiKey: string | undefined
  readonly endpoint: 'chat' | 'completions'
  readonly agent: Agent
  /** Seconds without a piece of the answer, after which a request has failed. */
  readonly timeout: number
}

export const createTarget = (
  baseUrl: string,
  apiKey: string | undefined,
  endpoint: Target['endpoint'],
  timeout = 600,
): Target => {
  const options = { keepAlive: true, maxSockets: Number.POSITIVE_INFINITY }
  return {
    baseUrl: baseUrl.replace(/\/+$/, ''),
    apiKey,
    endpoint,
    timeout,
    agent: baseUrl.startsWith('https:') ? new TlsAgent(options) : new Agent(options),
  }
}

const authorization = (apiKey: string | undefined): Record<string, string> =>
  apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }

const oneLine = (text: string): string => text.replace(/\s+/g, ' ').trim().slice(0, 200)

type Asking = {
  /** The flag that gave the key. */
  readonly keyFlag?: string
  /** Seconds. */
  readonly timeout?: number
}

/** What is at that address, as text. */
const read = async (url: string, apiKey: string | undefined, timeout: number) => {
  try {
    const signal = AbortSignal.timeout(1000 * timeout)
    const answer = await fetch(url, { headers: authorization(apiKey), signal })
    return { status: answer.status, text: await answer.text() }
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
    const isLate = cause instanceof Error && cause.name === 'TimeoutError'
    const said = cause instanceof Error ? cause.message || String(cause) : String(cause)
    const why = isLate ? `no answer in ${timeout} s` : said
    throw new UsageError(`${url} cannot be reached: ${why}; --base-url says where the server is`)
  }
}

/** The model of that name, else the first; `root`: where our server says its files lie. */
export const findModel = async (
  baseUrl: string,
  apiKey: string | undefined,
  name: string | undefined,
  { keyFlag = '--api-key', timeout = 10 }: Asking = {},
): Promise<{ readonly id: string; readonly root?: string }> => {
  const url = `${baseUrl.replace(/\/+$/, '')}/models`
  const { status, text } = await read(url, apiKey, timeout)
  if (status < 200 || status > 299)
    throw new UsageError(
      `${url}: HTTP ${status}: ${oneLine(text)}; ` +
        (status === 401 ? `${keyFlag} is sent` : '--base-url ends in /v1 for most servers'),
    )
  try {
    const { data }: { data: { id: string; root?: string }[] } = JSON.parse(text)
    const found = name === undefined ? data[0] : data.find(({ id }) => id === name)
    if (found !== undefined) return found
    const ids = data.map(({ id }) => id)
    if (ids.length === 0) throw new UsageError(`${url} lists no model`)
    throw new UsageError(`--model: ${url} lists no '${name}'; it lists ${ids.join(', ')}`)
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(
      `${url} is no list of models: ${oneLine(text)}; --base-url ends in /v1 for most servers`,
    )
  }
}

type Chunk = {
  readonly error?: { readonly message?: string }
  readonly usage?: {
    readonly prompt_tokens?: number
    readonly completion_tokens?: number
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null
    readonly completion_tokens_details?: { readonly reasoning_tokens?: number } | null
  } | null
  readonly choices?: readonly {
    readonly text?: string
    readonly delta?: Readonly<
      Partial<Record<'content' | 'reasoning_content' | 'reasoning', string | null>>
    > & { readonly tool_calls?: readonly unknown[] | null }
  }[]
}

type Answer = { readonly outcome: Outcome; readonly text: string }

/** Times of a request: all on the clock of performance.now(). */
type Sending = {
  readonly planned: number
  /** Of the run: outcomes name the plan from there. */
  readonly origin: number
  /** A chunk with text came. */
  readonly onChunk?: (now: number) => void
  /** Ends it. */
  readonly signal?: AbortSignal
}

/** Reads the events of one answer. */
const createReader = ({ planned, origin, onChunk }: Sending, sent: number) => {
  const itl: number[] = []
  let [first, last, answered, chunks, text] = [Number.NaN, Number.NaN, Number.NaN, 0, '']
  let usage: Chunk['usage']
  let error: string | undefined
  let done = false
  const onData = (data: string): void => {
    const now = performance.now()
    if (data === '[DONE]') {
      done = true
      return
    }
    const chunk = readChunk(data)
    if (chunk === undefined) error ??= `an event that is no JSON: ${oneLine(data)}`
    if (chunk?.error) error = chunk.error.message ?? 'an error event'
    if (chunk?.usage) usage = chunk.usage
    const [choice] = chunk?.choices ?? []
    const content = choice?.delta?.content || choice?.text
    const calls = (choice?.delta?.tool_calls?.length ?? 0) > 0
    const thought = choice?.delta?.reasoning_content || choice?.delta?.reasoning
    if (!content && !calls && !thought) return
    if (++chunks === 1) first = now
    else itl.push(now - last)
    if ((content || calls) && Number.isNaN(answered)) answered = now
    text += content ?? ''
    last = now
    onChunk?.(now)
  }
  const answer = (why?: string): Answer => ({
    text,
    outcome: {
      error: why ?? error ?? (done ? undefined : 'the stream ended without [DONE]'),
      planned: planned - origin,
      late: sent - planned,
      promptTokens: usage?.prompt_tokens ?? 0,
      cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0,
      outputTokens: usage?.completion_tokens ?? chunks,
      reasoningTokens: usage?.completion_tokens_details?.reasoning_tokens ?? 0,
      ttft: first - planned,
      ttfo: answered - planned,
      e2el: (chunks > 0 ? last : performance.now()) - planned,
      itl,
    },
  })
  return { onData, answer }
}

const readChunk = (data: string): Chunk | undefined => {
  try {
    return JSON.parse(data)
  } catch {
    return undefined
  }
}

const INTERRUPTED = 'it was interrupted'
/** The longest that a timer of Node's takes. */
const MAX_MS = 2 ** 31 - 1

/**
 * Ends a request on which nothing comes for as long as the target may take, or that is interrupted. Not by the socket: a
 * server whose model stands still may well send comments to keep a stream open.
 */
const watch = (request: ClientRequest, { timeout }: Target, signal: AbortSignal | undefined) => {
  const isLate = (): void => {
    request.destroy(new Error(`no answer in ${timeout} s`))
  }
  const interrupt = (): void => {
    request.destroy(new Error(INTERRUPTED))
  }
  const timer = setTimeout(isLate, Math.min(1000 * timeout, MAX_MS))
  signal?.addEventListener('abort', interrupt)
  return {
    saw: (): void => {
      timer.refresh()
    },
    end: (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', interrupt)
    },
  }
}

const send = (target: Target, body: object, sending: Sending): Promise<Answer> =>
  new Promise((resolve) => {
    const text = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } })
    const post = target.baseUrl.startsWith('https:') ? httpsRequest : httpRequest
    const { onData, answer } = createReader(sending, performance.now())
    const ended = (why?: string): void => {
      watched.end()
      resolve(answer(why))
    }
    const failed = (error: Error): void => ended(error.message)
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
      ...authorization(target.apiKey),
    }
    const path = target.endpoint === 'chat' ? '/chat/completions' : '/completions'
    const options = { method: 'POST', agent: target.agent, headers }
    let hasBegun = false
    const request = post(`${target.baseUrl}${path}`, options, (response) => {
      hasBegun = true
      response.on('error', failed)
      if (response.statusCode === 200) {
        const events = createEventReader((data) => {
          watched.saw()
          onData(data)
        })
        response.on('data', events.push)
        response.on('end', () => ended())
        return
      }
      let refusal = ''
      response.on('data', (chunk) => {
        watched.saw()
        refusal += chunk
      })
      response.on('end', () => ended(`HTTP ${response.statusCode}: ${oneLine(refusal)}`))
    })
    const watched = watch(request, target, sending.signal)
    request.on('error', (error) => {
      // A connection that was kept may be closed just as it is used again: no fault of the answer. The time counts.
      const isStale = request.reusedSocket && 'code' in error && error.code === 'ECONNRESET'
      if (!isStale || hasBegun || sending.signal?.aborted) return failed(error)
      watched.end()
      resolve(send(target, body, sending))
    })
    request.end(text)
  })

export const streamOnce = async (target: Target, body: object): Promise<Outcome> => {
  const now = performance.now()
  return (await send(target, body, { planned: now, origin: now })).outcome
}

type Load = {
  /** Conversation i; undefined: there are no more. */
  readonly conversation: (i: number) => Conversation | undefined
  /** Most conversations at once. */
  readonly concurrency: number
  /** Seconds from the start to each conversation; undefined: one begins when another ended. */
  readonly arrivals?: Iterator<number>
  /** After so many seconds none begins any more; those under way run to their end. */
  readonly duration?: number
  /** Called after each request. */
  readonly onDone?: (requests: number, seconds: number) => void
  /** Ends the load: no request begins any more, and those that are open fail. */
  readonly signal?: AbortSignal
}

/** At most so many at once; the others wait in order. */
const createPlaces = (count: number) => {
  const queue: (() => void)[] = []
  let free = count
  return {
    take: (): Promise<void> => {
      if (free > 0) {
        free--
        return Promise.resolve()
      }
      return new Promise((resolve) => queue.push(resolve))
    },
    giveBack: (): void => {
      const next = queue.shift()
      if (next === undefined) free++
      else next()
    },
  }
}

/** A turn of the event loop at least, so that answers are read by a generator that is behind its plan. */
const sleepUntil = async (at: number, signal: AbortSignal | undefined): Promise<void> => {
  await nextTurn()
  const isOver = (): boolean => signal?.aborted === true
  for (let left = at - performance.now(); left > 0 && !isOver(); left = at - performance.now())
    await sleep(left, undefined, { ...(signal && { signal }) }).catch(() => {})
}

/**
 * Sends them all. With arrivals the plan stands, however slow the answers are, and every time counts from
 * the plan: also the wait for a place under `concurrency`, and what this generator was late. So a server
 * that stalls is charged with every request that was due meanwhile (no coordinated omission). A later
 * request of a conversation is due when the answer before it ended.
 */
export const runLoad = async (target: Target, load: Load): Promise<Loaded> => {
  const { conversation, concurrency, arrivals, duration = Infinity, onDone, signal } = load
  const outcomes: Outcome[] = []
  const chunks: number[] = []
  const origin = performance.now()
  const idleBefore = performance.eventLoopUtilization()
  const seconds = (): number => (performance.now() - origin) / 1000
  const isOver = (): boolean => signal?.aborted === true
  if (signal) setMaxListeners(0, signal)
  const onChunk = (now: number): void => {
    const second = Math.floor((now - origin) / 1000)
    while (chunks.length <= second) chunks.push(0)
    chunks[second] = (chunks[second] ?? 0) + 1
  }
  const converse = async (next: Conversation, due: number): Promise<void> => {
    const answers: string[] = []
    for (let body = next(answers), planned = due; body !== undefined; body = next(answers)) {
      if (isOver()) return
      const sending = { planned, origin, onChunk, ...(signal && { signal }) }
      const { outcome, text } = await send(target, body, sending)
      outcomes.push(outcome)
      onDone?.(outcomes.length, seconds())
      if (outcome.error !== undefined) return
      answers.push(text)
      planned = performance.now()
    }
  }
  let begun = 0
  const closed = async (): Promise<void> => {
    while (seconds() < duration && !isOver()) {
      const next = conversation(begun++)
      if (next === undefined) return
      await converse(next, performance.now())
    }
  }
  const open = async (plan: Iterator<number>): Promise<void> => {
    const places = createPlaces(concurrency)
    const running: Promise<void>[] = []
    const begin = async (next: Conversation, due: number): Promise<void> => {
      await places.take()
      await converse(next, due)
      places.giveBack()
    }
    for (let at = plan.next().value; at < duration; at = plan.next().value) {
      const next = conversation(begun++)
      if (next === undefined) break
      await sleepUntil(origin + 1000 * at, signal)
      if (isOver()) break
      running.push(begin(next, origin + 1000 * at))
    }
    await Promise.all(running)
  }
  if (arrivals === undefined) await Promise.all(Array.from({ length: concurrency }, closed))
  else await open(arrivals)
  const busy = performance.eventLoopUtilization(idleBefore).utilization
  return { outcomes, chunks, busy, seconds: seconds() }
}
