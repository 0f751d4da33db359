// What the tests of the typed API share.

import assert from 'node:assert/strict'
import type {
  Delta,
  Engine,
  EngineOptions,
  GenerateRequest,
  Sampling,
} from '../../server/engine/types.js'

/** Exact, so that answers are those of any processor. */
export const smallEngine = (model: string): EngineOptions => ({
  model,
  device: 'cpu',
  exactActivations: true,
  threads: 1,
  kvCacheMemory: 4 << 20,
})

export const prompt = [256, ...Buffer.from('The quick brown fox')]

export const gather = async (deltas: AsyncIterable<Delta>): Promise<readonly Delta[]> => {
  const all: Delta[] = []
  for await (const delta of deltas) all.push(delta)
  return all
}

export const generate = (
  engine: Engine,
  sampling: Sampling,
  request: Partial<GenerateRequest> = {},
): Promise<readonly Delta[]> =>
  gather(engine.generate({ promptTokenIds: prompt, sampling, ...request }))

export const textOf = (deltas: readonly Delta[], choice = 0): string =>
  deltas.map((delta) => (delta.choice === choice ? delta.text : '')).join('')

export const idsOf = (deltas: readonly Delta[], choice = 0): readonly number[] =>
  deltas.flatMap((delta) => (delta.choice === choice ? delta.tokenIds : []))

export const until = async (what: string, condition: () => boolean): Promise<void> => {
  const limit = performance.now() + 20_000
  while (!condition()) {
    assert.ok(performance.now() < limit, `waited in vain for: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** Every block is back and nothing runs. */
export const isIdle = (engine: Engine): boolean => {
  const { running, waiting, blocksUsed } = engine.stats()
  return running === 0 && waiting === 0 && blocksUsed === 0
}
