// What the server is and does, for people who look at it: GET /v1/server and its stream of events.

import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { clientOf } from '../http/client.js'
import { addHeader, type Ctx } from '../http/context.js'
import { isReward, type ServedModel } from '../model/served-model.js'
import { healthOf } from './about.js'
import { requireReady } from './admission.js'
import type { Server } from './server.js'

const sampling = (one: { readonly temperature: number; readonly top_p: number }) => ({
  temperature: one.temperature,
  top_p: one.top_p,
})

/** What a model is: all but its weights stays so as long as it is loaded. */
const cardOf = (model: ServedModel, defaultThinking: boolean) => {
  const { info } = model.engine
  const { plan, load } = info
  const reasoning = isReward(model) ? undefined : model.profile.reasoning
  return {
    id: model.id,
    aliases: model.aliases,
    root: model.root,
    kind: isReward(model) ? ('reward' as const) : ('chat' as const),
    architecture: info.architecture,
    device: info.device,
    device_note: info.deviceNote,
    dtype: info.dtype,
    fingerprint: info.fingerprint,
    /** Which weights run: null: they never change. */
    weight_version: model.weights.version ?? null,
    /** Where they were read. */
    weights_from: model.weights.folder ?? info.model,
    max_model_len: info.maxModelLen,
    max_num_seqs: info.maxNumSeqs,
    max_num_batched_tokens: info.maxNumBatchedTokens,
    places: info.places,
    vocab_size: info.vocabSize,
    /** How thinking is switched, and sampling as the card advises it; null: the model does not reason. */
    reasoning: reasoning
      ? {
          default_thinking: defaultThinking,
          switch: reasoning.switch,
          on: sampling(reasoning.on),
          off: sampling(reasoning.off),
        }
      : null,
    reward_outputs: info.rewardLabels,
    /** Who guesses tokens for it; null: nobody. */
    draft: info.draft && {
      root: info.draft.model,
      architecture: info.draft.architecture,
      tokens: info.draft.tokens,
      rows: info.draft.rows,
    },
    /** Bytes, but for the counts. */
    memory: {
      weights: plan.weights,
      kv_cache: plan.kv,
      activations: plan.activations,
      draft_model: plan.draft,
      draft_kv_cache: plan.draftKv,
      total: plan.total,
      available: plan.available,
      kv_blocks: plan.numBlocks,
      block_size: plan.blockSize,
      kv_tokens: plan.kvTokens,
      kv_bytes_per_token: plan.kvBytesPerToken,
      draft_kv_bytes_per_token: plan.draftKvBytesPerToken,
    },
    load_seconds: load.openSeconds + load.packSeconds + load.prepareSeconds,
    checkpoint_bytes: load.bytes,
  }
}

export const serverRoute = (server: Server) => (c: Ctx) => {
  requireReady(server, 'show')
  const { defaultThinking } = server.config
  return c.json({
    object: 'server' as const,
    version: server.version,
    models: server.models().map((model) => cardOf(model, defaultThinking)),
  })
}

/** Counters run from the start of the server: who reads them takes differences. */
const activityOf = ({ id, engine, metrics }: ServedModel) => {
  const s = engine.stats()
  const { firstToken, nextToken } = metrics.latencies()
  return {
    id,
    running: s.running,
    waiting: s.waiting,
    waiting_tokens: s.waitingTokens,
    kv_blocks: s.blocksTotal,
    kv_blocks_used: s.blocksUsed,
    kv_blocks_cached: s.blocksCached,
    prompt_tokens: s.promptTokens,
    generation_tokens: s.generatedTokens,
    prefix_cache_queries: s.queriedTokens,
    prefix_cache_hits: s.cachedTokens,
    steps: s.steps,
    rows: s.rows,
    step_seconds: s.stepSecondsSum,
    preemptions: s.preemptions,
    drafts: s.drafts,
    aborted: s.aborted,
    failed: s.failed,
    rejected: s.rejected,
    last_step_age_seconds: s.lastStepAge,
    time_to_first_token_seconds: firstToken,
    inter_token_latency_seconds: nextToken,
  }
}

const eventOf = (server: Server): string => {
  const { phase, message } = healthOf(server)
  const models = server.models().map(activityOf)
  return `data: ${JSON.stringify({ time: Date.now() / 1000, phase, message, models })}\n\n`
}

const EVERY_MS = 1000

/** Ends when the server leaves: its drain waits for open answers. */
export const serverEventsRoute = (server: Server) => (c: Ctx) => {
  // The answer has no end that the next request on this connection could wait for.
  addHeader(c, 'connection', 'close')
  if (c.env.incoming.method === 'HEAD')
    return c.body(null, 200, { 'content-type': 'text/event-stream; charset=utf-8' })
  let timer: NodeJS.Timeout | undefined
  const stream = clientOf(c, server.config).openStream(() => clearInterval(timer))
  const tell = () => {
    stream.send(eventOf(server))
    const { name } = server.phase()
    if (name !== 'leaving' && name !== 'draining') return
    clearInterval(timer)
    stream.end()
  }
  timer = setInterval(tell, EVERY_MS)
  tell()
  return RESPONSE_ALREADY_SENT
}
