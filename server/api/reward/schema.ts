// Bodies of /v1/reward and its thin relatives. Like openai/schema.ts: the only source of their shapes.

import { z } from 'zod'
import { list, tokenIds } from '../../list.js'
import { GivenMessages } from '../../prompt/conversation.js'
import { Principle, RewardBody } from '../../scoring/rewards.js'

const common = {
  model: z.string().min(1).describe('A reward model of GET /v1/models.'),
  priority: z.int().min(-0x80000000).max(0x7fffffff).optional(),
  cache_salt: z.string().min(1).max(1024).optional(),
}

export const RewardRequest = z.looseObject({ ...common, ...RewardBody.shape })
export type RewardRequest = z.output<typeof RewardRequest>

const TokenIds = tokenIds(1)
const MAX_INPUTS = 2048
const TextInput = z.union([
  z.string().min(1),
  list(z.string().min(1), 1, MAX_INPUTS),
  TokenIds,
  list(TokenIds, 1, MAX_INPUTS),
])

/** vLLM's shape. */
export const PoolingRequest = z.looseObject({
  ...common,
  messages: GivenMessages.optional(),
  principle: Principle.optional(),
  input: TextInput.optional().describe('Raw text or token ids, scored at the last token.'),
  encoding_format: z.enum(['float', 'base64']).optional(),
})
export type PoolingRequest = z.output<typeof PoolingRequest>

/** SGLang's shape; `input` and `model` as in vLLM's /classify. */
export const ClassifyRequest = z.looseObject({
  ...common,
  model: z.string().min(1).optional(),
  text: TextInput.optional(),
  input: TextInput.optional(),
  input_ids: z.union([TokenIds, list(TokenIds, 1, MAX_INPUTS)]).optional(),
})
export type ClassifyRequest = z.output<typeof ClassifyRequest>
