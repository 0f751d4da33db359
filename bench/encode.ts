// npm run bench -- encode: a long conversation to token ids, the first time and with one more turn, when the ids of
// its texts are known. No engine runs.

import { loadTokenizer } from '../server/tokenizer/tokenizer.js'
import type { Parts } from '../server/tokenizer/types.js'
import { count, readFlags, text } from './flags.js'
import { machineLine } from './machine.js'
import { benchWords, benchWordsModel, randomWords } from './random-model.js'
import { shapeNamed } from './shapes.js'
import { compare, spread, times } from './stats.js'

const flags = {
  model: text('DIR', 'whose tokenizer; none: a made one, a word a token', ''),
  words: count('of the conversation', 100_000),
  turn: count('words of a turn', 1000),
  rounds: count('of each measurement', 5),
}

const WORDS_OF_LINE = 12

/** Another text for every seed. */
const words = (length: number, seed: number): string => {
  const random = randomWords(seed, 'encode')
  return Array.from({ length }, (_, i) => {
    const word = benchWords[(random() >>> 0) % benchWords.length]
    return i % WORDS_OF_LINE === WORDS_OF_LINE - 1 ? `${word}\n` : `${word} `
  }).join('')
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('encode', 'a conversation to token ids, new and known', flags, args)
  if (!values) return
  const folder = values.model === '' ? benchWordsModel(shapeNamed('tiny')) : values.model
  const tokenizer = await loadTokenizer(folder)
  const [control = 0] = tokenizer.special.values()
  let seed = 1
  const turnOf = (): Parts => [control, words(values.turn, seed++)]
  const timed = async (parts: Parts) => {
    const start = performance.now()
    const ids = await tokenizer.encodeParts(parts, 'bench')
    return { ms: performance.now() - start, tokens: ids.length }
  }
  const turns = Math.ceil(values.words / values.turn)
  const fresh: number[] = []
  const again: number[] = []
  let tokens = 0
  for (let round = 0; round <= values.rounds; round++) {
    const conversation = Array.from({ length: turns }, turnOf).flat()
    const first = await timed(conversation)
    const next = await timed([...conversation, ...turnOf()])
    if (round === 0) continue // the thread of long texts starts
    fresh.push(first.ms)
    again.push(next.ms)
    tokens = first.tokens
  }
  console.log(
    [
      machineLine(),
      `${tokens} tokens in ${turns} messages, new: ${spread(fresh, 'ms')}`,
      `with one more message, the others known: ${spread(again, 'ms')}, ${times(compare(again, fresh))}`,
    ].join('\n'),
  )
}
