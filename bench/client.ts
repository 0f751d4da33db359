// One streamed request, with the times that matter.

import { Agent, request as httpRequest } from 'node:http'
import { request as httpsRequest, Agent as TlsAgent } from 'node:https'
import { createEventReader } from './event-reader.js'

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
  endpoint: string,
): Target => {
  const options = { keepAlive: true, maxSockets: Number.POSITIVE_INFINITY }
  return {
    baseUrl: baseUrl.replace(/\/+$/, ''),
    apiKey,
    endpoint: endpoint === 'completions' ? 'completions' : 'chat',
    agent: baseUrl.startsWith('https:') ? new TlsAgent(options) : new Agent(options),
  }
}

/** Milliseconds since the request was sent. */
export type Outcome = {
  readonly ok: boolean
  readonly error?: string
  readonly status: number
  readonly promptTokens: number
  readonly outputTokens: number
  readonly reasoningTokens: number
  readonly ttft: number
  /** To the first token that is not thinking. */
  readonly ttfo: number | undefined
  readonly e2el: number
  /** Gaps between chunks that brought text. */
  readonly itl: readonly number[]
}

type Chunk = {
  readonly error?: { readonly message?: string }
  readonly usage?: {
    readonly prompt_tokens?: number
    readonly completion_tokens?: number
    readonly completion_tokens_details?: { readonly reasoning_tokens?: number }
  } | null
  readonly choices?: readonly {
    readonly text?: string
    readonly delta?: {
      readonly content?: string | null
      readonly reasoning_content?: string | null
      readonly reasoning?: string | null
    }
  }[]
}

const PATH = { chat: '/chat/completions', completions: '/completions' }

export const streamOnce = (target: Target, body: object): Promise<Outcome> =>
  new Promise((resolve) => {
    const text = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } })
    const send = target.baseUrl.startsWith('https:') ? httpsRequest : httpRequest
    const start = performance.now()
    const itl: number[] = []
    let [status, first, last, answered] = [0, 0, 0, 0]
    let usage: Chunk['usage']
    let chunks = 0
    let error: string | undefined
    let done = false

    const finish = (why?: string) => {
      const problem = why ?? error ?? (done ? undefined : 'the stream ended without [DONE]')
      resolve({
        ok: problem === undefined,
        ...(problem !== undefined && { error: problem }),
        status,
        promptTokens: usage?.prompt_tokens ?? 0,
        outputTokens: usage?.completion_tokens ?? chunks,
        reasoningTokens: usage?.completion_tokens_details?.reasoning_tokens ?? 0,
        ttft: first > 0 ? first - start : Number.NaN,
        ttfo: answered > 0 ? answered - start : undefined,
        e2el: (last > 0 ? last : performance.now()) - start,
        itl,
      })
    }

    const onData = (data: string) => {
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
      chunks++
      if (first === 0) first = now
      else itl.push(now - last)
      if (content && answered === 0) answered = now
      last = now
    }

    const request = send(
      `${target.baseUrl}${PATH[target.endpoint]}`,
      {
        method: 'POST',
        agent: target.agent,
        headers: {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(text),
          ...(target.apiKey !== undefined && { authorization: `Bearer ${target.apiKey}` }),
        },
      },
      (response) => {
        status = response.statusCode ?? 0
        if (status !== 200) {
          let answer = ''
          response.on('data', (chunk) => {
            answer += chunk
          })
          response.on('end', () => finish(`HTTP ${status}: ${answer.slice(0, 200)}`))
          return
        }
        const reader = createEventReader(onData)
        response.on('data', reader.push)
        response.on('end', () => finish())
        response.on('error', (failure) => finish(failure.message))
      },
    )
    request.on('error', (failure) => finish(failure.message))
    request.end(text)
  })
