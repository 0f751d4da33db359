// A step loop that stands still: how long, where, and what was running. Health says it in a sentence, the log
// in full, once for each time. And one that has failed.

import { isTaken, type LiveRequest } from '../http/request-log.js'
import type { ServedModel } from '../model/served-model.js'
import type { Server } from './server.js'

/** Requests that a log line names. */
const NAMED = 100
const EVERY_MS = 1000

/** The rank that is behind the others, or all of them. */
const whereOf = (layers: readonly number[]): string => {
  const least = Math.min(...layers)
  const behind = layers.flatMap((layer, rank) => (layer === least ? [rank] : []))
  if (layers.length < 2) return `after layer ${least}`
  const ranks = behind.length === layers.length ? 'all ranks' : `rank ${behind.join(', ')}`
  return `${ranks} after layer ${least}`
}

/** Whether there is work and nothing of it got on for so many seconds. */
export const isStalled = ({ engine }: ServedModel, timeout: number): boolean =>
  engine.stats().lastStepAge > timeout

/** null: it makes progress, or has nothing to do. */
export const stallOf = ({ id, engine }: ServedModel, timeout: number): string | null => {
  const { lastStepAge, launchedRows, launchedSeqs, drafting, rankLayers } = engine.stats()
  if (lastStepAge <= timeout) return null
  const step = drafting ? 'a step of the draft model:' : 'a step of'
  return (
    `${id}: no progress for ${lastStepAge.toFixed(1)} s in ${step} ${launchedRows} tokens of ` +
    `${launchedSeqs} sequences, ${whereOf(rankLayers)}.`
  )
}

const requestsOf = (live: ReadonlySet<LiveRequest>) =>
  [...live]
    .filter(isTaken)
    .slice(0, NAMED)
    .map(({ requestId, path, since, record }) => ({
      ...{ request_id: requestId, path, seconds: (performance.now() - since) / 1000 },
      ...record.line,
    }))

const dump = (server: Server, model: ServedModel) => {
  const stats = model.engine.stats()
  return {
    model: model.id,
    seconds: stats.lastStepAge,
    step_tokens: stats.launchedRows,
    step_sequences: stats.launchedSeqs,
    drafting: stats.drafting,
    rank_layers: stats.rankLayers,
    steps: stats.steps,
    running: stats.running,
    waiting: stats.waiting,
    kv_blocks_used: stats.blocksUsed,
    kv_blocks: stats.blocksTotal,
    requests: requestsOf(server.live),
  }
}

/** Looks once a second; a function that ends it. */
export const watchStalls = (server: Server): (() => void) => {
  const stalled = new Set<string>()
  const failed = new Set<string>()
  const look = () => {
    for (const model of server.models()) {
      const { failure } = model.engine.stats()
      if (failure !== null) {
        if (failed.has(model.id)) continue
        failed.add(model.id)
        server.log.error({ model: model.id }, `${model.id} has failed: ${failure}`)
        continue
      }
      const why = stallOf(model, server.config.stallTimeout)
      if (why === null) {
        if (stalled.delete(model.id)) server.log.warn({ model: model.id }, 'it makes steps again')
      } else if (!stalled.has(model.id)) {
        stalled.add(model.id)
        server.log.error(dump(server, model), why)
      }
    }
  }
  const timer = setInterval(look, EVERY_MS).unref()
  return () => clearInterval(timer)
}
