// Conversations that are longer than a model reads, made shorter: text goes from the start, the oldest
// turn first; the system's turns and all roles stay. The answer's end, where a reward is read, is last.

import { z } from 'zod'
import type { Target } from './client.js'
import { LineError } from './jsonl.js'
import type { Conversation, Turn } from './preference-line.js'

const Rendered = z.looseObject({ prompt_token_ids: z.array(z.unknown()) })
const Parts = z.array(z.looseObject({ text: z.string() }))

export const textOf = ({ content }: Turn): string =>
  typeof content === 'string'
    ? content
    : (Parts.safeParse(content).data ?? []).map(({ text }) => text).join('\n')

const isCut = ({ role }: Turn): boolean => role !== 'system' && role !== 'developer'

const lengthOf = (turns: Conversation): number =>
  turns.reduce((sum, turn) => sum + (isCut(turn) ? textOf(turn).length : 0), 0)

/** Without the first `count` characters. Half a surrogate pair goes with its other half. */
const cutStart = (turns: Conversation, count: number): Conversation => {
  let left = count
  return turns.map((turn) => {
    const text = textOf(turn)
    if (left === 0 || !isCut(turn)) return turn
    const cut = Math.min(left, text.length)
    left -= cut
    const rest = text.slice(cut)
    return { ...turn, content: /^[\uDC00-\uDFFF]/.test(rest) ? rest.slice(1) : rest }
  })
}

/** Whose prompt it becomes, and how many tokens of it fit. */
type Reader = {
  readonly model: string
  readonly tokens: number
  readonly principle?: string | undefined
  readonly tools?: unknown
}

/** More text than this goes before it is counted in tokens: a server reads no more of a prompt. */
const CHARACTERS_PER_TOKEN = 32
const TRIES = 20

/** How many characters of a conversation have to go. One at least stays. */
const excessOf = async (
  target: Target,
  { model, tokens, principle, tools }: Reader,
  turns: Conversation,
): Promise<number> => {
  const all = lengthOf(turns)
  let cut = Math.max(0, all - CHARACTERS_PER_TOKEN * tokens)
  for (let attempt = 0; attempt < TRIES && cut < all; attempt++) {
    const body = { model, principle, tools, messages: cutStart(turns, cut) }
    const answer = Rendered.parse(await target.post('/chat/completions/render', body))
    const count = answer.prompt_token_ids.length
    if (count <= tokens) return cut
    cut += Math.max(1, Math.ceil(((count - tokens) * (all - cut)) / count))
  }
  throw new LineError(`it is too long for '${model}', and stays so with all but its end cut off`)
}

/** The conversations of one line, so short that the readers can read them, and the most characters that one
 * of them lost. What stands before the answer loses the same in all of them. */
export const truncate = async (
  target: Target,
  readers: readonly Reader[],
  conversations: readonly Conversation[],
): Promise<{ readonly conversations: readonly Conversation[]; readonly cut: number }> => {
  const excess: number[] = []
  for (const turns of conversations) {
    const cuts: number[] = []
    for (const reader of readers) cuts.push(await excessOf(target, reader, turns))
    excess.push(Math.max(0, ...cuts))
  }
  const most = Math.max(0, ...excess)
  const cuts = conversations.map((turns, i) =>
    Math.max(excess[i] ?? 0, Math.min(most, lengthOf(turns.slice(0, -1)))),
  )
  return {
    conversations: conversations.map((turns, i) => cutStart(turns, cuts[i] ?? 0)),
    cut: Math.max(0, ...cuts),
  }
}
