// Streamed requests on one OpenAI-compatible server, with the times that matter: one, or many in a closed
// loop or with Poisson arrivals.

import { Agent, request as httpRequest } from 'node:http'
import { request as httpsRequest, Agent as TlsAgent } from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'
import { createEventReader } from './event-reader.js'
import { UsageError } from './flags.js'

export type Target = {
  /** Ends in /v1, without a slash. */
  readonly baseUrl: string
  readonly apiKey: string | undefined
  readonly endpoint: 'chat' | 'completions'
  readonly agent: Agent
}

export const createTarget = (
  baseUrl: string,
  apiKey: string | undefined,
  endpoint: Target['endpoint'],
): Target => {
  const options = { keepAlive: true, maxSockets: Number.POSITIVE_INFINITY }
  return {
    baseUrl: baseUrl.replace(/\/+$/, ''),
    apiKey,
    endpoint,
    agent: baseUrl.startsWith('https:') ? new TlsAgent(options) : new Agent(options),
  }
}

const authorization = (apiKey: string | undefined): Record<string, string> =>
  apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }

/** The model of that name, else the first; `root`: where our server says its files lie. */
export const findModel = async (
  baseUrl: string,
  apiKey: string | undefined,
  name: string | undefined,
): Promise<{ readonly id: string; readonly root?: string }> => {
  const url = `${baseUrl.replace(/\/+$/, '')}/models`
  const answer = await fetch(url, { headers: authorization(apiKey) }).catch((error: unknown) => {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
    const why = cause instanceof Error ? cause.message || String(cause) : String(cause)
    throw new UsageError(`${url} cannot be reached: ${why}; --base-url says where the server is`)
  })
  const text = await answer.text()
  if (!answer.ok) throw new UsageError(`${url}: HTTP ${answer.status}: ${text.slice(0, 200)}`)
  try {
    const { data }: { data: { id: string; root?: string }[] } = JSON.parse(text)
    const found = name === undefined ? data[0] : data.find(({ id }) => id === name)
    if (found === undefined && name === undefined) throw new UsageError(`${url} lists no model`)
    return found ?? { id: name ?? '' }
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`${url} is no list of models: ${text.slice(0, 200)}`)
  }
}

/** Milliseconds since the request was sent. */
export type Outcome = {
  /** Why it failed; undefined: it did not. */
  readonly error: string | undefined
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly outputTokens: number
  readonly reasoningTokens: number
  readonly ttft: number
  /** To the first token that is not thinking. */
  readonly ttfo: number
  readonly e2el: number
  /** Gaps between chunks that brought text. */
  readonly itl: readonly number[]
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
    >
  }[]
}

/** Reads the events of one answer. */
const createReader = (start: number) => {
  const itl: number[] = []
  let [first, last, answered, chunks] = [Number.NaN, Number.NaN, Number.NaN, 0]
  let usage: Chunk['usage']
  let error: string | undefined
  let done = false
  const onData = (data: string): void => {
    const now = performance.now()
    if (data === '[DONE]') {
      done = true
      return
    }
    const chunk: Chunk = JSON.parse(data)
    if (chunk.error) error = chunk.error.message ?? 'an error event'
    if (chunk.usage) usage = chunk.usage
    const [choice] = chunk.choices ?? []
    const content = choice?.delta?.content || choice?.text
    const thought = choice?.delta?.reasoning_content || choice?.delta?.reasoning
    if (!content && !thought) return
    if (++chunks === 1) first = now
    else itl.push(now - last)
    if (content && Number.isNaN(answered)) answered = now
    last = now
  }
  const outcome = (why?: string): Outcome => ({
    error: why ?? error ?? (done ? undefined : 'the stream ended without [DONE]'),
    promptTokens: usage?.prompt_tokens ?? 0,
    cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0,
    outputTokens: usage?.completion_tokens ?? chunks,
    reasoningTokens: usage?.completion_tokens_details?.reasoning_tokens ?? 0,
    ttft: first - start,
    ttfo: answered - start,
    e2el: (chunks > 0 ? last : performance.now()) - start,
    itl,
  })
  return { onData, outcome }
}

export const streamOnce = (target: Target, body: object): Promise<Outcome> =>
  new Promise((resolve) => {
    const text = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } })
    const send = target.baseUrl.startsWith('https:') ? httpsRequest : httpRequest
    const { onData, outcome } = createReader(performance.now())
    const failed = (error: Error): void => resolve(outcome(error.message))
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
      ...authorization(target.apiKey),
    }
    const path = target.endpoint === 'chat' ? '/chat/completions' : '/completions'
    const options = { method: 'POST', agent: target.agent, headers }
    const request = send(`${target.baseUrl}${path}`, options, (response) => {
      response.on('error', failed)
      if (response.statusCode === 200) {
        response.on('data', createEventReader(onData).push)
        response.on('end', () => resolve(outcome()))
        return
      }
      let answer = ''
      response.on('data', (chunk) => {
        answer += chunk
      })
      response.on('end', () => {
        resolve(outcome(`HTTP ${response.statusCode}: ${answer.slice(0, 200)}`))
      })
    })
    request.on('error', failed)
    request.end(text)
  })

type Load = {
  /** The body of request i; undefined: there are no more. */
  readonly body: (i: number) => object | undefined
  readonly concurrency: number
  /** Requests a second; undefined: as fast as the concurrency allows. */
  readonly rate?: number
  /** After so many seconds no request is sent any more; those under way run to their end. */
  readonly duration?: number
  readonly random?: () => number
}

/** Sends them all. A request that waits for a free place here has not begun: its times count from sending. */
export const runLoad = async (target: Target, load: Load) => {
  const { body: bodyOf, concurrency, rate, duration = Infinity, random = Math.random } = load
  const outcomes: Outcome[] = []
  const start = performance.now()
  let next = 0
  let due = start
  const worker = async () => {
    while (performance.now() - start < 1000 * duration) {
      const body = bodyOf(next)
      if (body === undefined) return
      next++
      if (rate !== undefined) {
        due += (-Math.log(1 - random()) / rate) * 1000
        await sleep(Math.max(0, due - performance.now()))
      }
      outcomes.push(await streamOnce(target, body))
    }
  }
  await Promise.all(Array.from({ length: concurrency }, worker))
  return { outcomes, seconds: (performance.now() - start) / 1000 }
}
