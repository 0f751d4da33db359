// Tensors that are stored or asked for in a packed type and take 16 bits a value or more in memory: said, since
// the model needs more memory than its file makes one expect.

import type { MemoryPlan } from '../engine/types.js'

const MOST_SHOWN = 10

/** A line for each reason. */
export const widenedTexts = (tensors: MemoryPlan['widenedTensors']): readonly string[] => {
  const byReason = new Map<string, string[]>()
  for (const { name, why } of tensors) {
    const names = byReason.get(why)
    if (names) names.push(name)
    else byReason.set(why, [name])
  }
  return [...byReason].map(([why, names]) => {
    const shown = names.slice(0, MOST_SHOWN).join(', ')
    const more = names.length > MOST_SHOWN ? ', ...' : ''
    const tensors = names.length === 1 ? '1 tensor is' : `${names.length} tensors are`
    return `${tensors} not packed but in 16 bits a value or more, since ${why}: ${shown}${more}`
  })
}
