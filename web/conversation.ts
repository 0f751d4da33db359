// Conversations, kept in this browser alone, and the one answer that is under way.

import { call, errorText, eventsOf, type ModelCard, ServerError } from './api.js'
import {
  type Answer,
  bodyOf,
  type Candidate,
  chosenOf,
  DEFAULTS,
  NOTHING,
  type Settings,
  type Token,
  type ToolCall,
  type Turn,
  type Usage,
} from './request.js'
import { createStore, forget, keep, namesOf, onOthers, recall } from './store.js'

type Conversation = {
  readonly id: string
  /** When something was last asked in it, or it was begun: milliseconds since 1970. */
  readonly at: number
  readonly turns: readonly Turn[]
}

const newId = (): string =>
  Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('')

const empty = (): Conversation => ({ id: newId(), at: Date.now(), turns: [] })

// --- Kept: an item each, so that a tab writes over no conversation but those that it changes ---

const ITEM = 'conversation.'

const recallOne = (id: string): Conversation | undefined => {
  const one = recall(localStorage, ITEM + id) as Partial<Conversation> | undefined
  const { at, turns } = one ?? {}
  return typeof at === 'number' && Array.isArray(turns) ? { id, at, turns } : undefined
}

const keptIds = (): readonly string[] =>
  namesOf(localStorage, ITEM).map((name) => name.slice(ITEM.length))

/** The newest first. */
const inOrder = (all: readonly Conversation[]): readonly Conversation[] =>
  [...all].sort((a, b) => b.at - a.at)

// Once all were kept in one item.
const old = recall(localStorage, 'conversations')
if (Array.isArray(old)) {
  forget(localStorage, 'conversations')
  for (const [i, one] of old.entries())
    if (one?.id) keep(localStorage, ITEM + one.id, { at: Date.now() - i, turns: one.turns })
}

const kept = inOrder(keptIds().flatMap((id) => recallOne(id) ?? []))

/** The newest first. */
export const conversations = createStore<readonly Conversation[]>(
  kept.length > 0 ? kept : [empty()],
)
export const currentId = createStore(conversations.get()[0]?.id ?? '')
/** Why this browser keeps nothing more. */
export const keepProblem = createStore<string | undefined>(undefined)

const keptSettings = recall(localStorage, 'settings')
export const settings = createStore<Settings>({
  ...DEFAULTS,
  ...(typeof keptSettings === 'object' ? keptSettings : {}),
})
let lastSettings = settings.get()
settings.subscribe((value) => {
  // What another tab has set stays, but for what is set here.
  const set = Object.entries(value).filter(
    ([name, one]) => one !== lastSettings[name as keyof Settings],
  )
  lastSettings = value
  const before = recall(localStorage, 'settings')
  keep(localStorage, 'settings', { ...(before ?? value), ...Object.fromEntries(set) })
})

/** Its own end, and not that of another that was to stand in its place. */
const isWhole = (turn: Answer): boolean =>
  turn.cut === undefined && chosenOf(turn).finish !== undefined

/** Probabilities are many times the text: they go with the page, as do an edit that failed and why no other answer
 * came. */
const slim = (turn: Turn): object =>
  turn.role === 'assistant'
    ? {
        ...turn,
        candidates: turn.candidates.map((one) => ({ ...one, tokens: [] })),
        ...(isWhole(turn) && { problem: undefined }),
      }
    : { ...turn, edit: undefined }

/** As it is kept. An answer under way goes with the page: what is kept of it is one that was lost. */
const imageOf = ({ id, at, turns }: Conversation): object => {
  const now = running.get()
  if (now?.conversation !== id) return { at, turns: turns.map(slim) }
  if (now.before) return { at, turns: now.before.map(slim) }
  return {
    at,
    turns: turns.map((turn) => ({ ...slim(turn), ...(turn.id === now.turn && { cut: 'lost' }) })),
  }
}

/** Changed since they were last kept. */
const unsaved = new Set<string>()

const saveAll = (): void => {
  for (const id of [...unsaved]) {
    const one = conversations.get().find((other) => other.id === id)
    if (one === undefined || keep(localStorage, ITEM + id, imageOf(one))) unsaved.delete(id)
  }
  keepProblem.set(
    unsaved.size === 0
      ? undefined
      : 'This browser has no room for more: the newest answers are gone when the page is closed. Delete some conversations.',
  )
}

const save = (id: string): void => {
  unsaved.add(id)
  saveAll()
}

const drop = (id: string): void => {
  if (running.get()?.conversation === id) running.get()?.stop()
  unsaved.delete(id)
  const left = conversations.get().filter((one) => one.id !== id)
  conversations.set(left.length > 0 ? left : [empty()])
  if (currentId.get() === id) currentId.set(conversations.get()[0]?.id ?? '')
}

/** Takes over what another tab has kept or deleted. */
const follow = (id: string): void => {
  const one = recallOne(id)
  if (one === undefined) drop(id)
  // What is written here is newer.
  else if (running.get()?.conversation !== id && !unsaved.has(id))
    conversations.update((all) => inOrder([one, ...all.filter((other) => other.id !== id)]))
}

addEventListener('pagehide', () => {
  const now = running.get()
  if (now) save(now.conversation)
})

onOthers((name) => {
  if (name.startsWith(ITEM)) follow(name.slice(ITEM.length))
})

// A page that the browser brings back has heard of nothing meanwhile.
addEventListener('pageshow', ({ persisted }) => {
  if (!persisted) return
  const known = conversations.get().filter(({ id, turns }) => turns.length > 0 && !unsaved.has(id))
  for (const id of new Set([...known.map((one) => one.id), ...keptIds()])) follow(id)
})

export const titleOf = ({ turns }: Conversation): string => {
  const asked = turns.find((turn) => turn.role === 'user')
  return asked?.text.trim().slice(0, 60) || 'New conversation'
}

const current = (): Conversation =>
  conversations.get().find(({ id }) => id === currentId.get()) ?? empty()

const setTurns = (id: string, change: (turns: readonly Turn[]) => readonly Turn[]): void =>
  conversations.update((all) =>
    all.map((one) => (one.id === id ? { ...one, turns: change(one.turns) } : one)),
  )

export const startNew = (): void => {
  const unused = conversations.get().find(({ turns }) => turns.length === 0)
  const next = unused ?? empty()
  if (!unused) conversations.update((all) => [next, ...all])
  currentId.set(next.id)
}

export const remove = (id: string): void => {
  drop(id)
  forget(localStorage, ITEM + id)
  saveAll()
}

type Running = {
  readonly conversation: string
  readonly turn: string
  readonly stop: () => void
  /** The turns that are there as long as nothing new has come. */
  readonly before: readonly Turn[] | undefined
}
export const running = createStore<Running | undefined>(undefined)

// --- One answer ---

type Mutable<T> = { -readonly [K in keyof T]: T[K] }
type Draft = Mutable<Candidate> & { tokens: Token[] }

/** As the server's chunks have it; each part may be missing. */
type Chunk = {
  readonly choices?: readonly {
    readonly index: number
    readonly delta: {
      readonly content?: string | null
      readonly reasoning_content?: string
      readonly tool_calls?: readonly {
        readonly index: number
        readonly id?: string
        readonly function?: { readonly name?: string; readonly arguments?: string }
      }[]
    }
    readonly logprobs?: {
      readonly content?: readonly {
        readonly token: string
        readonly logprob: number
        readonly bytes: readonly number[]
        readonly top_logprobs: readonly { readonly token: string; readonly logprob: number }[]
      }[]
    } | null
    readonly finish_reason?: string | null
    readonly reward?: number | null
  }[]
  readonly usage?: {
    readonly prompt_tokens: number
    readonly completion_tokens: number
    readonly prompt_tokens_details: { readonly cached_tokens: number }
  } | null
  readonly timings?: { readonly tokens_per_second: number | null }
}

const addCalls = (
  calls: readonly ToolCall[],
  pieces: NonNullable<NonNullable<Chunk['choices']>[number]['delta']['tool_calls']>,
): readonly ToolCall[] => {
  const all = [...calls]
  for (const { index, id, function: piece } of pieces) {
    const one = all[index] ?? { id: id ?? '', name: '', arguments: '' }
    all[index] = {
      id: one.id,
      name: one.name + (piece?.name ?? ''),
      arguments: one.arguments + (piece?.arguments ?? ''),
    }
  }
  return all
}

/** `decoders`: one for each draft. */
const addChunk = (
  drafts: readonly Draft[],
  decoders: readonly TextDecoder[],
  chunk: Chunk,
): void => {
  for (const { index, delta, logprobs, finish_reason: finish, reward } of chunk.choices ?? []) {
    const draft = drafts[index]
    if (draft === undefined) continue
    const { content, reasoning_content: thinking } = delta
    for (const { token, logprob, bytes, top_logprobs: top } of logprobs?.content ?? [])
      draft.tokens.push({
        text: token,
        logprob,
        top: top.map((one) => ({ text: one.token, logprob: one.logprob })),
        adds: decoders[index]?.decode(Uint8Array.from(bytes), { stream: true }) ?? '',
      })
    if (content) draft.text += content
    if (thinking) draft.thinking += thinking
    if (delta.tool_calls) draft.calls = addCalls(draft.calls, delta.tool_calls)
    if (finish) draft.finish = finish
    if (reward !== undefined) draft.reward = reward
  }
}

/** Once a frame; a page that nobody sees has none. */
const soon = (work: () => void): void => {
  if (document.hidden) setTimeout(work, 200)
  else requestAnimationFrame(work)
}

/** How often an answer is kept while it comes: a page that is killed hears nothing of it. */
const KEEP_MS = 2000

type Job = {
  readonly conversation: string
  readonly body: Record<string, unknown>
  readonly turn: string
  /** All that stand in the turn. */
  readonly candidates: readonly Candidate[]
  /** Those of them that are written. */
  readonly drafts: readonly Draft[]
  readonly chosen: number
  /** What comes back where nothing new does; undefined: nothing was there. */
  readonly before: readonly Turn[] | undefined
}

/** `usage`: what is known of it already. */
const usageOf = (
  chunk: Chunk,
  usage: Usage | undefined,
  firstTokenSeconds: number | null,
): Usage | undefined => {
  const { usage: counted, timings } = chunk
  if (!counted && !timings) return usage
  return {
    ...(usage ?? NO_USAGE),
    ...(counted && {
      promptTokens: counted.prompt_tokens,
      cachedTokens: counted.prompt_tokens_details.cached_tokens,
      completionTokens: counted.completion_tokens,
    }),
    ...(timings && { tokensPerSecond: timings.tokens_per_second }),
    firstTokenSeconds,
  }
}

/** What stood there, and why nothing new does. */
const again = (turns: readonly Turn[], problem: string | undefined): readonly Turn[] =>
  turns.map((turn, i) =>
    turn.role === 'assistant' && i === turns.length - 1 && problem !== undefined
      ? { ...turn, problem }
      : turn,
  )

const runJob = async (job: Job): Promise<void> => {
  const { conversation, body, turn, candidates, drafts, chosen, before } = job
  const controller = new AbortController()
  const decoders = drafts.map(() => new TextDecoder('utf-8', { ignoreBOM: true }))
  const began = performance.now()
  let usage: Usage | undefined
  /** null: nothing has come. */
  let firstTokenSeconds: number | null = null
  let isScheduled = false
  const show = (more: Pick<Answer, 'problem' | 'cut'> = {}) => {
    isScheduled = false
    const shown: Turn = {
      id: turn,
      role: 'assistant',
      candidates: candidates.map((one) => ({ ...one })),
      chosen,
      ...(usage && { usage }),
      ...more,
    }
    setTurns(conversation, (turns) => turns.map((one) => (one.id === turn ? shown : one)))
  }
  const now = { conversation, turn, stop: () => controller.abort() }
  running.set({ ...now, before })
  const keeper = setInterval(() => save(conversation), KEEP_MS)
  let end: Pick<Answer, 'problem' | 'cut'> = {}
  try {
    const response = await call('/v1/chat/completions', { body, signal: controller.signal })
    let isDone = false
    for await (const data of eventsOf(response)) {
      if (data === '[DONE]') {
        isDone = true
        break
      }
      const chunk: Chunk = JSON.parse(data)
      const failure = errorText(chunk)
      if (failure !== undefined) throw new ServerError(failure, 500)
      if (chunk.choices?.length && firstTokenSeconds === null) {
        firstTokenSeconds = (performance.now() - began) / 1000
        running.set({ ...now, before: undefined })
      }
      addChunk(drafts, decoders, chunk)
      usage = usageOf(chunk, usage, firstTokenSeconds)
      if (!isScheduled) {
        isScheduled = true
        soon(() => isScheduled && show())
      }
    }
    if (!isDone) end = { cut: 'lost', problem: LOST }
  } catch (error) {
    if (controller.signal.aborted) end = { cut: 'stopped' }
    else if (!(error instanceof ServerError)) end = { cut: 'lost', problem: LOST }
    else end = { problem: error.message, ...(firstTokenSeconds !== null && { cut: 'lost' }) }
  } finally {
    clearInterval(keeper)
    isScheduled = false
    if (firstTokenSeconds !== null || before === undefined) show(end)
    else setTurns(conversation, () => again(before, end.problem))
    running.set(undefined)
    save(conversation)
  }
}

const LOST = 'The connection to the server was lost. What came until then is kept.'
const NO_USAGE: Usage = {
  promptTokens: 0,
  cachedTokens: 0,
  completionTokens: 0,
  tokensPerSecond: null,
  firstTokenSeconds: null,
}

/** To be gone on with: calls that were cut are written anew, and a reward was for what there was. */
const newDraft = (from: Candidate = NOTHING): Draft => {
  const { finish, reward, ...rest } = from
  return { ...rest, calls: [], tokens: [...from.tokens] }
}

/** Asks for an answer to `turns`, in place of `before`. Throws a SettingsError when a control says no number or no
 * JSON. */
const answer = (turns: readonly Turn[], model: ModelCard, before?: readonly Turn[]): void => {
  const body = bodyOf(settings.get(), model, turns)
  const { id: conversation } = current()
  const turn = newId()
  const drafts = Array.from({ length: typeof body.n === 'number' ? body.n : 1 }, () => newDraft())
  setTurns(conversation, () => [
    ...turns,
    { id: turn, role: 'assistant', candidates: drafts.map((one) => ({ ...one })), chosen: 0 },
  ])
  // The conversation that is talked in comes first.
  conversations.update((all) =>
    inOrder(all.map((one) => (one.id === conversation ? { ...one, at: Date.now() } : one))),
  )
  void runJob({ conversation, body, turn, candidates: drafts, drafts, chosen: 0, before })
  save(conversation)
}

export const send = (text: string, model: ModelCard): void =>
  answer([...current().turns, { id: newId(), role: 'user', text }], model)

/** The same question with another text: what came after it is gone. */
export const editTurn = (id: string, text: string, model: ModelCard): void => {
  const { turns } = current()
  const at = turns.findIndex((turn) => turn.id === id)
  const before = turns.map((turn) =>
    turn.id === id && turn.role === 'user' ? { ...turn, edit: text } : turn,
  )
  if (at >= 0) answer([...turns.slice(0, at), { id: newId(), role: 'user', text }], model, before)
}

/** Another answer in place of this one. */
export const regenerate = (id: string, model: ModelCard): void => {
  const { turns } = current()
  const at = turns.findIndex((turn) => turn.id === id)
  if (at >= 0) answer(turns.slice(0, at), model, turns)
}

/** Goes on with an answer that was cut, at its last character. */
export const resume = (id: string, model: ModelCard): void => {
  const { id: conversation, turns } = current()
  const at = turns.findIndex((one) => one.id === id)
  const turn = turns[at]
  if (turn?.role !== 'assistant') return
  const body = bodyOf(settings.get(), model, turns.slice(0, at + 1), true)
  const from = chosenOf(turn)
  const draft = newDraft(from)
  const candidates = turn.candidates.map((one) => (one === from ? draft : one))
  const { chosen } = turn
  void runJob({ conversation, body, turn: id, candidates, drafts: [draft], chosen, before: turns })
}

export const giveResults = (
  results: readonly { readonly call: ToolCall; readonly text: string }[],
  model: ModelCard,
): void =>
  answer(
    [
      ...current().turns,
      ...results.map(({ call: { id: callId, name }, text }) => ({
        id: newId(),
        role: 'tool' as const,
        callId,
        name,
        text,
      })),
    ],
    model,
  )

export const choose = (id: string, chosen: number): void => {
  setTurns(currentId.get(), (turns) =>
    turns.map((turn) => (turn.id === id && turn.role === 'assistant' ? { ...turn, chosen } : turn)),
  )
  save(currentId.get())
}
