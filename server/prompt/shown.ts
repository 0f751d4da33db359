// What a chat template shows of a conversation. One that passes something over would lose it without a word:
// it is shown in another way, or refused.

import { badRequest, type RequestError } from '../request-error.js'
import type { Message } from './conversation.js'
import { fromJs, type Value } from './value.js'

/** Roles whose messages may not be lost; of a judge's answers scoring/judge.ts says more. */
const ROLES = ['system', 'user', 'assistant', 'tool'] as const satisfies readonly Message['role'][]
type Role = (typeof ROLES)[number]

const isChecked = (role: Message['role']): role is Role => ROLES.some((one) => one === role)

/** A text that may be lost: a message by its role, `system` in first place, or what is named here. */
type Place = Role | 'second system' | 'later system' | 'call' | 'beside a call'

const system = { role: 'system', content: 's' }
const user = { role: 'user', content: 'a' }
const assistant = { role: 'assistant', content: 'b' }
const callOf = (name: string, id: string) => ({
  id,
  type: 'function',
  function: { name, arguments: { a: 1 } },
})
const CALL = callOf('f', 'call00001')
const OTHER_CALL = callOf('g', 'call00002')
const calling = { role: 'assistant', content: '', tool_calls: [CALL] }
const resultOf = ({ id }: typeof CALL, content = 'c') => ({
  role: 'tool',
  content,
  name: 'f',
  tool_call_id: id,
})

/** Texts that no template makes the same of. */
const TEXTS = ['first 1', 'other 2'] as const

type Conversation = readonly object[]

/** Conversations with a text in a place, as they usually go. */
const conversations = (place: Place, text: string): readonly Conversation[] => {
  const own = { role: place, content: text }
  const late = { ...system, content: text }
  const called = { ...calling, tool_calls: [callOf(text, CALL.id)] }
  const said = { ...calling, content: text }
  const all: Readonly<Record<Place, readonly Conversation[]>> = {
    system: [
      [own, user],
      [own, user, assistant],
    ],
    'second system': [
      [system, late, user],
      [system, late, user, assistant],
    ],
    'later system': [
      [system, user, late, user],
      [system, user, assistant, late, user],
    ],
    user: [[own], [own, assistant]],
    assistant: [
      [user, own],
      [user, own, user],
    ],
    tool: [
      [user, calling, resultOf(CALL, text)],
      [user, calling, resultOf(CALL, text), user],
    ],
    call: [
      [user, called],
      [user, called, resultOf(CALL), user],
    ],
    'beside a call': [
      [user, said],
      [user, said, resultOf(CALL), user],
    ],
  }
  return all[place]
}

/** Conversations that some templates refuse. */
const TRIALS = {
  'one call': [user, calling, resultOf(CALL), user],
  'two calls': [
    user,
    { ...calling, tool_calls: [CALL, OTHER_CALL] },
    resultOf(CALL),
    resultOf(OTHER_CALL),
    user,
  ],
  'text, call': [user, assistant, calling, resultOf(CALL), user],
} as const satisfies Readonly<Record<string, Conversation>>

const TOOL = {
  type: 'function',
  function: { name: 'f', description: 'd', parameters: { type: 'object', properties: {} } },
}

/** Where a tool may have a member of a name that is no tool's. */
export type ToolPlace = 'tool' | 'function'

const toolWith = (place: ToolPlace, text: string) =>
  place === 'tool'
    ? { ...TOOL, other: text }
    : { ...TOOL, function: { ...TOOL.function, other: text } }

type Render = (values: ReadonlyMap<string, Value>) => string

/** How a template renders, found out by trying. */
type Probe = {
  /** What a template refuses it does not lose. */
  readonly shows: (place: Place) => boolean
  readonly refuses: (trial: keyof typeof TRIALS) => boolean
  /** All that stands in such a place of a tool. */
  readonly showsAll: (place: ToolPlace) => boolean
}

/** Each is tried once, when it is first asked for. */
const remembered = <K>(find: (key: K) => boolean): ((key: K) => boolean) => {
  const known = new Map<K, boolean>()
  return (key) => {
    const found = known.get(key) ?? find(key)
    known.set(key, found)
    return found
  }
}

/** `hasTools`: whether tools are given with a conversation. */
export const probeTemplate = (
  render: Render,
  tokens: Readonly<Record<string, string>>,
  hasTools: boolean,
): Probe => {
  const ours = hasTools ? [TOOL] : null
  /** Undefined: refused. */
  const rendered = (
    messages: Conversation,
    tools: readonly object[] | null = ours,
  ): string | undefined => {
    const values = { documents: null, ...tokens, messages, tools, add_generation_prompt: true }
    const entries = Object.entries(values).map(([name, value]): [string, Value] => [
      name,
      fromJs(value, (text) => text, { depth: 16, values: 1000 }),
    ])
    try {
      return render(new Map(entries))
    } catch {
      return undefined
    }
  }
  return {
    shows: remembered((place) => {
      const [first, other] = TEXTS.map((text) =>
        conversations(place, text).map((messages) => rendered(messages)),
      )
      return (
        first === undefined || first.some((text, i) => text === undefined || text !== other?.[i])
      )
    }),
    refuses: remembered((trial) => rendered(TRIALS[trial]) === undefined),
    showsAll: remembered((place) => {
      const [first, other] = TEXTS.map((text) => rendered([user], [toolWith(place, text)]))
      return first === undefined || first !== other
    }),
  }
}

const hasCalls = ({ toolCalls }: Message): boolean => (toolCalls?.length ?? 0) > 0

/** Whether a conversation is about tools: one that goes by a template's form for them. */
export const isOfTools = (messages: readonly Message[]): boolean =>
  messages.some((message) => message.role === 'tool' || hasCalls(message))

/** System messages before all others. */
const leadingSystems = (messages: readonly Message[]): number => {
  const end = messages.findIndex(({ role }) => role !== 'system')
  return end < 0 ? messages.length : end
}

const lost = (at: number, part: 'role' | 'tool_calls', why: string): RequestError => {
  const param = `messages.${at}.${part}`
  return badRequest(`Invalid value for '${param}': the model's chat template shows ${why}.`, param)
}

/** Refuses what this template would lose. `added`: how many messages at the start are not the caller's. */
const checkShown = (messages: readonly Message[], { shows }: Probe, added: number): void => {
  const first = leadingSystems(messages)
  for (const [i, message] of messages.entries()) {
    const { role, content } = message
    const at = i - added
    if (hasCalls(message) && !shows('call') && shows('user'))
      throw lost(at, 'tool_calls', 'no calls of tools, so that these would be lost')
    if (!isChecked(role) || content.trim() === '') continue
    if (shows(role === 'system' && i >= first ? 'later system' : role)) continue
    // One that shows not even what the user says goes by something else.
    if (!shows('user')) return
    const shown = ROLES.filter(shows)
    throw lost(
      at,
      'role',
      role === 'system' && shows(role)
        ? "a message of role 'system' at the start alone, so that this one would be lost"
        : `no message of role '${role}', so that this one would be lost; it shows ${shown.join(', ') || 'none'}`,
    )
  }
}

/** Where a template shows the first system message alone, those at the start are one. */
const withOneSystem = (messages: readonly Message[], { shows }: Probe): readonly Message[] => {
  const count = leadingSystems(messages)
  const [first] = messages
  if (first === undefined || count < 2 || shows('second system')) return messages
  const texts = messages.slice(0, count).map(({ content }) => content)
  const content = texts.filter((text) => text.trim() !== '').join('\n\n')
  return [{ ...first, content }, ...messages.slice(count)]
}

/** What one message calls, and what came of it, as turns of one call each. */
const oneByOne = (message: Message, results: readonly Message[]): readonly Message[] => {
  const { toolCalls = [] } = message
  const byId = new Map(
    toolCalls.map(({ id }) => [id, results.find((one) => one.toolCallId === id)]),
  )
  const isNamed =
    byId.size === toolCalls.length && results.every((one) => byId.get(one.toolCallId ?? '') === one)
  const turns = toolCalls.flatMap((call, i) => {
    const result = isNamed ? byId.get(call.id) : results[i]
    const turn = { ...message, content: i === 0 ? message.content : '', toolCalls: [call] }
    return result === undefined ? [turn] : [turn, result]
  })
  return isNamed ? turns : [...turns, ...results.slice(toolCalls.length)]
}

/** Turns of one call each where a template refuses more, and what was said before a call by itself where it
 * would be lost. */
const withCallsApart = (messages: readonly Message[], probe: Probe): readonly Message[] => {
  if (!messages.some(hasCalls)) return messages
  const isSingle = probe.refuses('two calls') && !probe.refuses('one call')
  const isSilent = !probe.shows('beside a call') && !probe.refuses('text, call')
  if (!isSingle && !isSilent) return messages
  const apart: Message[] = []
  let at = 0
  for (let message = messages[at]; message !== undefined; message = messages[at]) {
    at++
    if (!hasCalls(message)) {
      apart.push(message)
      continue
    }
    const results: Message[] = []
    for (let next = messages[at]; next?.role === 'tool'; next = messages[++at]) results.push(next)
    const isSaid = isSilent && message.content.trim() !== ''
    if (isSaid) apart.push({ ...message, toolCalls: [] })
    const calling = isSaid ? { ...message, content: '' } : message
    apart.push(...(isSingle ? oneByOne(calling, results) : [calling, ...results]))
  }
  return apart
}

/** The conversation as this template shows all of it; what it cannot show is refused. */
export const fitted = (
  messages: readonly Message[],
  probe: Probe,
  added: number,
): readonly Message[] => {
  checkShown(messages, probe, added)
  return withCallsApart(withOneSystem(messages, probe), probe)
}
