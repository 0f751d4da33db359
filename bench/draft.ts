// npm run bench -- draft: a draft model beside none. Two engines with the same weights play the same requests in
// turns, one of them with a draft model of the named shape and the same vocabulary.
//
// Both models are random, so greedy they agree on nothing. A guess is drawn with the noise of the draw itself, and at a
// high temperature the noise says more than the logits: the temperature shapes the acceptance, from none to nearly all,
// and nothing else of the work changes. It is measured, not assumed, and the tokens of both engines have to be equal.

import { openEngine } from '../server/engine/engine.js'
import type { Delta, Engine, EngineOptions, Timings } from '../server/engine/types.js'
import { count, list, readFlags, text, UsageError } from './flags.js'
import { machineLine } from './machine.js'
import { benchModel, randomPrompt } from './random-model.js'
import { kvBytes, type Shape, shapeNamed, shapes } from './shapes.js'
import { compare, percent } from './stats.js'

const names = Object.keys(shapes).join(', ')

const flags = {
  shape: text('NAME', `of the large model: ${names}`, '1b'),
  draft: text('NAME', 'of the draft model, with the vocabulary of the large one', '160m'),
  temperatures: list('LIST', 'each a row; 0: greedy', '0,2,4,8,16'),
  sequences: list('LIST', 'each with each temperature', '1,4'),
  'draft-tokens': count('guesses at most', 5),
  prompt: count('tokens', 64),
  output: count('tokens', 48),
  threads: count('of both engines', 2),
  rounds: count('of each row', 3),
}

const numbersOf = (values: readonly string[], flag: string): readonly number[] =>
  values.map((value) => {
    const number = Number(value)
    if (!(number >= 0)) throw new UsageError(`--${flag}: expected numbers, not '${value}'`)
    return number
  })

type Turn = { readonly rate: number; readonly ids: readonly number[][]; readonly ends: Timings[] }

type Play = {
  readonly sequences: number
  readonly temperature: number
  readonly output: number
  readonly prompts: readonly (readonly number[])[]
}

const play = async (engine: Engine, play: Play): Promise<Turn> => {
  const { sequences, temperature, output, prompts } = play
  const ids = Array.from({ length: sequences }, (): number[] => [])
  const ends: Timings[] = []
  const one = (promptTokenIds: readonly number[], at: number): Promise<void> =>
    new Promise((resolve, reject) => {
      const sampling = { maxTokens: output, temperature, seed: at, ignoreEos: true }
      engine.submit({ promptTokenIds, sampling }, (delta: Delta) => {
        for (const id of delta.tokenIds) ids[at]?.push(id)
        if (delta.error !== undefined) reject(new Error(delta.error.message))
        if (delta.timings !== undefined) ends.push(delta.timings)
        if (delta.finish !== undefined) resolve()
      })
    })
  await Promise.all(prompts.map(one))
  // Prompts are computed alike: what counts is the time after the first token.
  const seconds = Math.max(...ends.map(({ decodeSeconds }) => decodeSeconds))
  return { rate: (sequences * (output - 1)) / seconds, ids, ends }
}

const sum = (ends: readonly Timings[], of: (t: Timings) => number): number =>
  ends.reduce((total, one) => total + of(one), 0)

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('draft', 'a draft model beside none', flags, args)
  if (!values) return
  const temperatures = numbersOf(values.temperatures, 'temperatures')
  const batches = numbersOf(values.sequences, 'sequences')
  const shape = shapeNamed(values.shape)
  const { vocab, tied } = shape
  const named = shapeNamed(values.draft)
  const small: Shape = { ...named, vocab, tied, name: `${named.name}-of-${shape.name}` }
  const maxModelLen = values.prompt + values.output
  const most = Math.max(...batches)
  const options: EngineOptions = {
    model: benchModel(shape),
    device: 'cpu',
    threads: values.threads,
    maxModelLen,
    maxNumSeqs: most,
    kvCacheMemory: (kvBytes(shape) + kvBytes(small)) * (maxModelLen + 128) * most + (1 << 20),
    prefixCache: false,
  }
  const plain = await openEngine(options)
  const drafted = await openEngine({
    ...options,
    draftModel: benchModel(small),
    draftTokens: values['draft-tokens'],
  })
  try {
    console.log(`${machineLine()}\n${shape.name} with ${small.name}, ${plain.info.device}`)
    for (const sequences of batches) {
      for (const temperature of temperatures) {
        const { prompt, output, rounds } = values
        await row(plain, drafted, { sequences, temperature, vocab, prompt, output, rounds })
      }
    }
  } finally {
    await drafted.close()
    await plain.close()
  }
}

type Row = Omit<Play, 'prompts'> & {
  readonly vocab: number
  readonly prompt: number
  readonly rounds: number
}

const row = async (plain: Engine, drafted: Engine, of: Row): Promise<void> => {
  const rates: { readonly ours: number[]; readonly theirs: number[] } = { ours: [], theirs: [] }
  const ends: Timings[] = []
  for (let round = 0; round < of.rounds; round++) {
    const prompts = Array.from({ length: of.sequences }, (_, at) =>
      randomPrompt(of.prompt, of.vocab, 1 + round * of.sequences + at),
    )
    const engines = round % 2 === 0 ? [plain, drafted] : [drafted, plain]
    const turns = new Map<Engine, Turn>()
    for (const engine of engines) turns.set(engine, await play(engine, { ...of, prompts }))
    const [without, using] = [turns.get(plain), turns.get(drafted)]
    if (without === undefined || using === undefined) throw new Error('an engine did not play')
    if (JSON.stringify(without.ids) !== JSON.stringify(using.ids))
      throw new Error('the draft model changed a token')
    rates.theirs.push(without.rate)
    rates.ours.push(using.rate)
    ends.push(...using.ends)
  }
  const guesses = sum(ends, (t) => t.draftedTokens)
  const accepted = sum(ends, (t) => t.acceptedTokens)
  const tokens = of.rounds * of.sequences * of.output
  const { ratio, range } = compare(rates.ours, rates.theirs)
  console.log(
    `decode ${of.sequences} at temperature ${of.temperature}: ${percent(guesses && accepted / guesses)} of ` +
      `${(guesses / tokens).toFixed(2)} guesses a token accepted, ${(tokens / (tokens - accepted)).toFixed(2)} tokens a ` +
      `step, speed-up ${ratio.toFixed(2)} (${range.map((x) => x.toFixed(2)).join(' to ')})`,
  )
}
