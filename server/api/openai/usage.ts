// What an answer took, in OpenAI's words, and in ours where OpenAI has none.

import type { Counts } from '../../generation/run.js'

export const usageObject = (counts: Counts, reasoningTokens: number) => ({
  prompt_tokens: counts.promptTokens,
  completion_tokens: counts.completionTokens,
  total_tokens: counts.promptTokens + counts.completionTokens,
  prompt_tokens_details: { cached_tokens: counts.cachedTokens, audio_tokens: 0 },
  completion_tokens_details: {
    reasoning_tokens: reasoningTokens,
    audio_tokens: 0,
    accepted_prediction_tokens: 0,
    rejected_prediction_tokens: 0,
  },
})

/** Where weights may change: those that ran when the answer ended, in SGLang's place. */
export const weightsFields = ({ weightVersion }: Counts) =>
  weightVersion === undefined ? {} : { metadata: { weight_version: weightVersion } }

/** Of the slowest choice. */
export const timingsObject = ({ slowest: t, completionTokens }: Counts) => ({
  queue_seconds: t?.queueSeconds ?? 0,
  prefill_seconds: t?.prefillSeconds ?? 0,
  decode_seconds: t?.decodeSeconds ?? 0,
  tokens_per_second: t && t.decodeSeconds > 0 ? completionTokens / t.decodeSeconds : null,
  cached_tokens: t?.cachedTokens ?? 0,
  cache_miss: t?.cacheMiss ?? null,
  preemptions: t?.preemptions ?? 0,
  drafted_tokens: t?.draftedTokens ?? 0,
  accepted_tokens: t?.acceptedTokens ?? 0,
})
