// Bodies of /v1/reward and its thin relatives. Like openai/schema.ts: the only source of their shapes.

import { z } from 'zod'
import { list, ownObject, tokenIds } from '../../list.js'
import { GivenMessages, Principle } from '../../prompt/conversation.js'
import { RewardBody } from '../../scoring/rewards.js'

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

const RankedText = z.string().min(1)
const OneOrMany = z.union([RankedText, list(RankedText, 1, MAX_INPUTS)]).optional()

/** vLLM's shape, and so Jina's and Cohere's. */
export const RerankRequest = z.looseObject({
  ...common,
  query: RankedText.describe('What the user asks.'),
  documents: list(
    z.union([RankedText, z.looseObject({ text: RankedText })]),
    1,
    MAX_INPUTS,
  ).describe('Answers to it: texts, or objects with a `text`.'),
  top_n: z.int().min(0).optional().describe('How many of the best to return. Default 0: all.'),
  return_documents: z.boolean().optional().describe('Default true.'),
  principle: Principle.optional(),
})
export type RerankRequest = z.output<typeof RerankRequest>

/** vLLM's shape, under each of its names for the two sides. */
export const ScoreRequest = z.looseObject({
  ...common,
  text_1: OneOrMany.describe('What the user asks: one text for all answers, or one for each.'),
  text_2: OneOrMany.describe('Answers.'),
  data_1: OneOrMany.describe('Another name of `text_1`.'),
  data_2: OneOrMany.describe('Another name of `text_2`.'),
  queries: OneOrMany.describe('Another name of `text_1`.'),
  documents: OneOrMany.describe('Another name of `text_2`, beside `queries`.'),
  items: OneOrMany.describe('The same.'),
  principle: Principle.optional(),
})
export type ScoreRequest = z.output<typeof ScoreRequest>

const sampled = {
  temperature: z.number().min(0).max(2).optional().describe('Default 0.7.'),
  top_p: z.number().gt(0).max(1).optional(),
}

const OF_ALL = { max_tokens: "use 'max_tokens' of the request, which is of each text" }

const stage = (prompt: string) => ({
  model: z.string().min(1).describe('A chat model of this server.'),
  prompt: z
    .string()
    .min(1)
    .max(1 << 16)
    .optional()
    .describe(prompt),
  ...sampled,
})

/** Feedback, edit, select. */
export const RefineRequest = z.looseObject({
  model: z.string().min(1).optional().describe('Which chat model writes the drafts.'),
  messages: GivenMessages,
  responses: list(z.string(), 1, 64).optional().describe('The drafts, instead of `model`.'),
  drafts: z.int().min(1).max(16).optional().describe('How many are written. Default 1.'),
  ...sampled,
  feedback: ownObject(
    {
      ...stage('What is asked about a draft, as a last message of the user.'),
      n: z.int().min(1).max(64).optional().describe('Of each draft. Default 10.'),
    },
    OF_ALL,
  ),
  edit: ownObject(
    stage('What is asked, as a last message of the user; {feedback} stands for the feedback.'),
    OF_ALL,
  ),
  select: ownObject({
    model: z.string().min(1).describe('A reward model of this server.'),
    principle: Principle.optional(),
  }),
  max_tokens: z.int().min(1).optional().describe('Of each text. Default: what there is room for.'),
  seed: z.int().optional(),
  priority: common.priority,
  cache_salt: common.cache_salt,
})
export type RefineRequest = z.output<typeof RefineRequest>
