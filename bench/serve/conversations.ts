// What is asked: conversations, most of one request. The next request of one carries what the server
// answered to the last, as a chat's does.

import { existsSync, readFileSync } from 'node:fs'
import { UsageError } from '../flags.js'

type Message = { readonly role: string; readonly content: string }

/** The messages of a conversation up to each place where the other side answers. */
type Script = {
  /** What is added for each request in turn; the answer to it stands before the next. */
  readonly turns: readonly (readonly Message[])[]
}

const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''
const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const ask = (content: string): Script => ({ turns: [[{ role: 'user', content }]] })

/** The recorded answers are left out: the server gives its own. Throws a text that says what is wrong. */
const scriptOf = (messages: readonly Message[]): Script => {
  const turns: Message[][] = [[]]
  for (const message of messages) {
    const last = turns.at(-1)
    if (message.role !== 'assistant') last?.push(message)
    else if (last !== undefined && last.length > 0) turns.push([])
  }
  const kept = turns.filter((turn) => turn.some(({ role }) => role === 'user'))
  if (kept.length === 0) throw 'it has no message of a user'
  return { turns: kept }
}

const FROM: Readonly<Record<string, string>> = {
  ...{ human: 'user', user: 'user', system: 'system' },
  ...{ gpt: 'assistant', assistant: 'assistant', chatgpt: 'assistant', bing: 'assistant' },
}

const itemOf = (item: unknown): Script => {
  if (!isObject(item)) throw 'it is no JSON object'
  const { prompt, messages, conversations } = item
  if (isText(prompt)) return ask(prompt)
  if (Array.isArray(messages))
    return scriptOf(
      messages.map((message) => {
        if (!isObject(message) || !isText(message.role) || typeof message.content !== 'string')
          throw 'a message needs "role" and "content", both text'
        return { role: message.role, content: message.content }
      }),
    )
  if (Array.isArray(conversations))
    return scriptOf(
      conversations.map((turn) => {
        const role = isObject(turn) && isText(turn.from) ? FROM[turn.from] : undefined
        if (!isObject(turn) || role === undefined || typeof turn.value !== 'string')
          throw '"conversations" needs "from" (human, gpt or system) and "value"'
        return { role, content: turn.value }
      }),
    )
  throw 'it has no text "prompt", no list "messages" and no list "conversations"'
}

const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    throw 'it is no JSON'
  }
}

type Item = { readonly at: string; readonly read: () => unknown }

/** A list in one piece, as ShareGPT's file is, or a line each. */
const itemsOf = (text: string): readonly Item[] => {
  if (text.trimStart().startsWith('[')) {
    let list: unknown
    try {
      list = JSON.parse(text)
    } catch {}
    if (Array.isArray(list))
      return list.map((item, i) => ({ at: `item ${i + 1}`, read: () => item }))
  }
  return text
    .split('\n')
    .map((line, i) => ({ line, at: `line ${i + 1}` }))
    .filter(({ line }) => line.trim() !== '')
    .map(({ line, at }) => ({ at, read: () => parsed(line) }))
}

const NAMED = 5

/** Every bad line is named, or the first of them and how many there are. */
export const readScripts = (path: string): readonly Script[] => {
  if (!existsSync(path)) throw new UsageError(`--dataset: there is no file ${path}`)
  const scripts: Script[] = []
  const wrong: string[] = []
  for (const { at, read } of itemsOf(readFileSync(path, 'utf8').replace(/^\uFEFF/, ''))) {
    try {
      scripts.push(itemOf(read()))
    } catch (why) {
      if (typeof why !== 'string') throw why
      wrong.push(`${at}: ${why}`)
    }
  }
  const more = wrong.length > NAMED ? `; ${wrong.length - NAMED} more` : ''
  if (wrong.length > 0)
    throw new UsageError(`--dataset ${path}: ${wrong.slice(0, NAMED).join('; ')}${more}`)
  if (scripts.length === 0) throw new UsageError(`--dataset ${path}: it is empty`)
  return scripts
}

/** The body of the next request; undefined: the conversation is over. */
export type Conversation = (answers: readonly string[]) => object | undefined

type Form = {
  readonly model: string
  readonly endpoint: 'chat' | 'completions'
  /** More fields of a request. */
  readonly fields: object
}

export const converse =
  ({ turns }: Script, { model, endpoint, fields }: Form): Conversation =>
  (answers) => {
    if (answers.length >= turns.length) return undefined
    const said = turns.slice(0, answers.length + 1).flatMap((turn, i) => {
      const content = answers[i]
      return content === undefined ? turn : [...turn, { role: 'assistant', content }]
    })
    return endpoint === 'chat'
      ? { model, messages: said, ...fields }
      : { model, prompt: said[0]?.content ?? '', ...fields }
  }

/** /completions takes a text. */
export const requireTexts = (scripts: readonly Script[]): void => {
  if (scripts.some(({ turns }) => turns.length > 1 || (turns[0]?.length ?? 0) > 1))
    throw new UsageError('--endpoint completions takes single prompts; conversations need chat')
}
