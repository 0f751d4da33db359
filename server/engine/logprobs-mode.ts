// What log probabilities are of, in vLLM's words.

export const LOGPROBS_MODES = ['raw_logprobs', 'processed_logprobs'] as const
export type LogprobsMode = (typeof LOGPROBS_MODES)[number]
