// Templates show what tools returned by its place alone, and not by whose call it answers.

import type { Message } from './conversation.js'

/** As they are, unless each names another one of the calls. */
const inOrderOf = (calls: readonly string[], results: readonly Message[]): readonly Message[] => {
  const places = new Map(calls.map((id, i) => [id, i]))
  const placed = new Map(results.map((one) => [places.get(one.toolCallId ?? ''), one]))
  const isClear =
    places.size === calls.length && placed.size === results.length && !placed.has(undefined)
  if (!isClear) return results
  return [...placed].sort(([a = 0], [b = 0]) => a - b).map(([, result]) => result)
}

/** Results that follow each other, in the order of the calls before them. */
export const inCallOrder = (messages: readonly Message[]): readonly Message[] => {
  const ordered: Message[] = []
  let calls: string[] = []
  let results: Message[] = []
  const endResults = () => {
    if (results.length === 0) return
    ordered.push(...inOrderOf(calls, results))
    calls = []
    results = []
  }
  for (const message of messages) {
    if (message.role === 'tool') {
      results.push(message)
      continue
    }
    endResults()
    if (message.role !== 'assistant') calls = []
    for (const { id } of message.toolCalls ?? []) calls.push(id)
    ordered.push(message)
  }
  endResults()
  return ordered
}
