// The server as the page asks it: with the key, and with errors as the server words them.

import { createStore, keep, recall } from './store.js'

export class ServerError extends Error {
  constructor(
    message: string,
    /** 0: there was no answer. */
    readonly status: number,
  ) {
    super(message)
  }
}

/** Another each time that one is given, so that the same is tried again. */
export type Key = { readonly text: string }

const keptKey = recall(sessionStorage, 'key')
/** For this tab alone. */
export const apiKey = createStore<Key>({ text: typeof keptKey === 'string' ? keptKey : '' })
apiKey.subscribe(({ text }) => keep(sessionStorage, 'key', text))
/** The server asked for a key: what it said. */
export const keyWanted = createStore<string | undefined>(undefined)

export const messageOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error)

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null

/** `error.message` of an error body or event. */
export const errorText = (body: unknown): string | undefined => {
  const error = isObject(body) ? body.error : undefined
  return isObject(error) && typeof error.message === 'string' ? error.message : undefined
}

const textOf = async (response: Response): Promise<string> => {
  const text = await response.text()
  try {
    const body: unknown = JSON.parse(text)
    const field = isObject(body) && isObject(body.error) ? body.error.param : undefined
    const message = errorText(body) ?? (isObject(body) ? String(body.message ?? text) : text)
    return typeof field === 'string' && !message.includes(field) ? `${field}: ${message}` : message
  } catch {
    return text || `The server answered ${response.status}.`
  }
}

type Call = { readonly body?: unknown; readonly signal?: AbortSignal }

/** Rejects with a ServerError, or as fetch does when aborted. */
export const call = async (path: string, { body, signal }: Call = {}): Promise<Response> => {
  const { text: key } = apiKey.get()
  const response = await fetch(path, {
    method: body === undefined ? 'GET' : 'POST',
    headers: {
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(key !== '' && { authorization: `Bearer ${key}` }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
    ...(signal && { signal }),
  }).catch((error: unknown) => {
    if (signal?.aborted) throw error
    throw new ServerError('The server does not answer.', 0)
  })
  if (response.ok) return response
  const message = await textOf(response)
  if (response.status === 401) keyWanted.set(key === '' ? 'This server wants a key.' : message)
  throw new ServerError(message, response.status)
}

/** The data of server-sent events, as they come. Ends where the answer ends, even if it broke off. */
export async function* eventsOf(response: Response): AsyncGenerator<string, void> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  if (reader === undefined) return
  let rest = ''
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      const blocks = (rest + value).split('\n\n')
      rest = blocks.pop() ?? ''
      for (const block of blocks) {
        const lines = block.split('\n').filter((line) => line.startsWith('data:'))
        if (lines.length > 0) yield lines.map((line) => line.slice(5).trimStart()).join('\n')
      }
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

type Sampling = { readonly temperature: number; readonly top_p: number }

export type ModelCard = {
  readonly id: string
  readonly aliases: readonly string[]
  readonly root: string
  readonly kind: 'chat' | 'reward'
  readonly architecture: string
  readonly device: string
  readonly device_note: string
  readonly dtype: string
  readonly fingerprint: string
  readonly max_model_len: number
  readonly max_num_seqs: number
  readonly max_num_batched_tokens: number
  readonly places: number
  readonly vocab_size: number
  readonly reasoning: {
    readonly default_thinking: boolean
    readonly on: Sampling
    readonly off: Sampling
  } | null
  readonly reward_outputs: readonly string[] | null
  readonly memory: {
    readonly weights: number
    readonly kv_cache: number
    readonly activations: number
    readonly total: number
    readonly available: number
    readonly kv_blocks: number
    readonly block_size: number
    readonly kv_tokens: number
    readonly kv_bytes_per_token: number
  }
  readonly load_seconds: number
  readonly checkpoint_bytes: number
}

export type ServerCard = { readonly version: string; readonly models: readonly ModelCard[] }

type Measured = { readonly count: number; readonly sum: number }

export type Activity = {
  readonly id: string
  readonly running: number
  readonly waiting: number
  readonly kv_blocks: number
  readonly kv_blocks_used: number
  readonly kv_blocks_cached: number
  readonly prompt_tokens: number
  readonly generation_tokens: number
  readonly prefix_cache_queries: number
  readonly prefix_cache_hits: number
  readonly steps: number
  readonly rows: number
  readonly preemptions: number
  readonly rejected: number
  readonly failed: number
  readonly time_to_first_token_seconds: Measured
  readonly inter_token_latency_seconds: Measured
}

export type ServerEvent = {
  readonly time: number
  readonly phase: string
  readonly message: string
  readonly models: readonly Activity[]
}
