// Request bodies. zod is the only source of their shapes: types, checks and /openapi.json come from
// here. null means absent (see check.ts), so optional fields need no `nullable`.

import { z } from 'zod'
import { LOGPROBS_MODES } from '../../engine/logprobs-mode.js'
import { anyRecord, idle, list, numbersById, ownObject, tokenIds } from '../../list.js'
import {
  GivenMessage,
  GivenMessages,
  GivenTools,
  MAX_MESSAGES,
  Principle,
  ToolChoice,
} from '../../prompt/conversation.js'

/** Absent, null or a value: for fields below the top level. */
const maybe = <T extends z.ZodType>(schema: T) => schema.nullish()

const StreamOptions = z.looseObject({
  include_usage: maybe(z.boolean()),
  continuous_usage_stats: maybe(z.boolean()),
  include_obfuscation: idle('Of no effect: nothing is padded.'),
})

const Schema = z.union([anyRecord(), z.boolean()])
/** vLLM's clients write it as text too. */
const SchemaOrText = z.union([Schema, z.string()])
const Choices = list(z.string(), 1, 10_000)

const ResponseFormat = z.discriminatedUnion('type', [
  z.looseObject({ type: z.literal('text') }),
  z.looseObject({
    type: z.literal('json_object'),
    schema: maybe(anyRecord()).describe('As of json_schema.'),
  }),
  z.looseObject({
    type: z.literal('json_schema'),
    json_schema: z.looseObject({
      name: z.string().min(1),
      schema: Schema.describe('A JSON Schema; what is not supported is refused with its place.'),
      description: maybe(z.string()),
      strict: maybe(z.boolean()).describe('Answers keep to the schema either way.'),
    }),
  }),
])

const StructuredOutputs = z.looseObject({
  json: maybe(SchemaOrText),
  regex: maybe(z.string()),
  choice: maybe(Choices),
  grammar: maybe(z.string()),
  json_object: maybe(z.boolean()),
  disable_any_whitespace: maybe(z.boolean()),
  disable_fallback: idle('Of no effect: nothing falls back.'),
  disable_additional_properties: idle(
    'Of no effect: objects that name their properties have no others.',
  ),
})

/** What the answer has to be; at most one of them. */
const form = {
  response_format: ResponseFormat.optional().describe('Default: text.'),
  structured_outputs: StructuredOutputs.optional().describe("vLLM's way to say it; one member."),
  guided_json: SchemaOrText.optional().describe('As structured_outputs.json.'),
  guided_regex: z.string().optional(),
  guided_choice: Choices.optional(),
  guided_grammar: z.string().optional(),
  guided_json_object: z.boolean().optional(),
  grammar: z
    .string()
    .optional()
    .describe('A grammar that the answer is of: `root ::= "yes" | "no"`.'),
}

/** What chat and text completions share. */
const generation = {
  ...form,
  model: z.string().min(1).describe('A name of GET /v1/models.'),
  n: z.int().min(1).max(128).optional().describe('Answers to one prompt. Default 1.'),
  max_tokens: z.int().min(0).optional(),
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().min(0).max(1).optional(),
  top_k: z.int().min(-1).optional().describe('-1 or 0: off.'),
  min_p: z.number().min(0).max(1).optional(),
  stop: z
    .union([z.string().min(1), list(z.string().min(1), 0, 16)])
    .optional()
    .describe('One string or up to 16: the answer ends before the first that appears.'),
  stop_token_ids: tokenIds(0, 128).optional(),
  include_stop_str_in_output: z.boolean().optional(),
  skip_special_tokens: z.boolean().optional(),
  bad_words: list(z.string().min(1).max(1024), 0, 128).optional(),
  allowed_token_ids: tokenIds(1).optional(),
  seed: z.int().optional(),
  prompt_logprobs: z.int().min(0).max(20).optional(),
  logprob_token_ids: tokenIds(1, 128)
    .optional()
    .describe('With `logprobs`: of these ids, in place of the likeliest.'),
  logprobs_mode: z
    .enum(LOGPROBS_MODES)
    .optional()
    .describe('Of the raw logits, or of what is drawn from. Default: --logprobs-mode.'),
  logit_bias: numbersById(-100, 100).optional(),
  presence_penalty: z.number().min(-2).max(2).optional(),
  frequency_penalty: z.number().min(-2).max(2).optional(),
  repetition_penalty: z.number().min(1e-37).max(100).optional(),
  min_tokens: z.int().min(0).optional(),
  ignore_eos: z.boolean().optional(),
  stream: z.boolean().optional(),
  stream_options: StreamOptions.optional().describe('Only with `stream: true`.'),
  priority: z
    .int()
    .min(-0x80000000)
    .max(0x7fffffff)
    .optional()
    .describe('Lower runs first. Default 0.'),
  cache_salt: z.string().min(1).max(1024).optional(),
  return_token_ids: z.boolean().optional(),
  truncate_prompt_tokens: z
    .int()
    .min(-1)
    .refine((value) => value !== 0, 'expected -1 or at least 1, but got 0')
    .optional()
    .describe('Keep the last so many prompt tokens; -1: as many as fit. Echoed in the answer.'),
  thinking_token_budget: z
    .int()
    .min(0)
    .optional()
    .describe('After so many tokens of thinking the block is closed and the answer begins.'),
  thinking_budget: z.int().min(0).optional().describe('The same as thinking_token_budget.'),
  timings: z.boolean().optional().describe('Add a `timings` object that says where time went.'),
}

const Effort = z.enum(['none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max'])

/** What decides the prompt of a chat. */
const conversation = {
  messages: GivenMessages,
  tools: GivenTools.optional().describe('Functions that the model may call.'),
  tool_choice: ToolChoice.optional().describe('Default: auto with tools, none without.'),
  parallel_tool_calls: z
    .boolean()
    .optional()
    .describe('false: an answer has one call at most. Default true.'),
  add_generation_prompt: z.boolean().optional(),
  continue_final_message: z.boolean().optional(),
  chat_template_kwargs: anyRecord().optional(),
  reasoning_effort: Effort.optional().describe('none, minimal: thinking off; else on.'),
  keep_thinking: z
    .boolean()
    .optional()
    .describe("Keep earlier turns' thinking in the prompt. Default false."),
}

const chat = {
  ...generation,
  ...conversation,
  max_completion_tokens: z.int().min(1).optional(),
  max_tokens: z.int().min(1).optional(),
  logprobs: z.boolean().optional(),
  top_logprobs: z.int().min(0).max(20).optional(),
  reasoning_format: z
    .enum(['auto', 'none', 'deepseek'])
    .optional()
    .describe('none: leave the tags in the content.'),
  include_reasoning: z.boolean().optional(),
  best_of: z
    .int()
    .min(1)
    .max(128)
    .optional()
    .describe('Candidates to generate, with `reward`; the best `n` are returned. Default n.'),
  reward: ownObject(
    {
      model: z.string().min(1).describe('A reward model of this server.'),
      include_thinking: maybe(z.boolean()).describe('Score the thinking too. Default false.'),
      principle: Principle.optional(),
    },
    { pipeline: 'POST /v1/refine does feedback, edit and select' },
  )
    .optional()
    .describe('Score the candidates and return the best, best first.'),
  principle: Principle.optional(),
}

export const RenderRequest = z.looseObject(chat)
export type RenderRequest = z.output<typeof RenderRequest>

export const ChatRequest = z.looseObject({
  ...chat,
  messages: list(GivenMessage, 0, MAX_MESSAGES)
    .optional()
    .describe('At least one, or prompt_token_ids in their place.'),
  prompt_token_ids: tokenIds(1)
    .optional()
    .describe('The whole prompt, in place of messages and their template.'),
})
export type ChatRequest = z.output<typeof ChatRequest>

const MAX_PROMPTS = 2048

const {
  n: _n,
  stream: _stream,
  stream_options: _options,
  best_of: _best,
  reward: _reward,
  principle: _principle,
  tools: _tools,
  tool_choice: _choice,
  parallel_tool_calls: _calls,
  ...batched
} = chat

/** vLLM's shape: a chat's fields without those of streams, tools and several choices. */
export const ChatBatchRequest = z.looseObject({
  ...batched,
  messages: list(GivenMessages, 1, MAX_PROMPTS).describe('Conversations: each gets a choice.'),
})
export type ChatBatchRequest = z.output<typeof ChatBatchRequest>

const Prompt = z.union([
  z.string(),
  tokenIds(1),
  list(z.string(), 1, MAX_PROMPTS),
  list(tokenIds(1), 1, MAX_PROMPTS),
])

export const CompletionRequest = z.looseObject({
  ...generation,
  prompt: Prompt.optional().describe(
    'Text, a list of texts, token ids, or a list of lists of them. Needed, or prompt_token_ids.',
  ),
  prompt_token_ids: z
    .union([tokenIds(1), list(tokenIds(1), 1, MAX_PROMPTS)])
    .optional()
    .describe('In place of prompt: token ids, or a list of lists of them.'),
  echo: z.boolean().optional(),
  logprobs: z.int().min(0).max(20).optional(),
  add_special_tokens: z.boolean().optional().describe('Begin with BOS. Default true.'),
})
export type CompletionRequest = z.output<typeof CompletionRequest>

const TextOrIds = z.union([z.string(), tokenIds(0)])

/** vLLM's shape. */
export const GenerativeScoringRequest = z.looseObject({
  model: z.string().min(1).describe('A chat model of GET /v1/models.'),
  query: TextOrIds.describe('Text or token ids that go with every item.'),
  items: z
    .union([list(z.string(), 1, MAX_PROMPTS), list(tokenIds(0), 1, MAX_PROMPTS)])
    .describe('Texts or token ids.'),
  label_token_ids: tokenIds(1, 128).describe(
    'What may come next; the score is the probability of the first.',
  ),
  apply_softmax: z
    .boolean()
    .optional()
    .describe('Among the labels, or in the whole vocabulary. Default true.'),
  item_first: z.boolean().optional().describe('Items stand before the query. Default false.'),
  add_special_tokens: z.boolean().optional().describe('Begin text with BOS. Default true.'),
  priority: generation.priority,
  cache_salt: generation.cache_salt,
})
export type GenerativeScoringRequest = z.output<typeof GenerativeScoringRequest>

export const TokenizeRequest = z
  .looseObject({
    model: z.string().min(1).optional(),
    ...conversation,
    prompt: z.string().optional(),
    messages: conversation.messages.optional(),
    add_special_tokens: z.boolean().optional(),
    return_token_strs: z.boolean().optional(),
  })
  .refine((body) => (body.prompt === undefined) !== (body.messages === undefined), {
    path: ['prompt'],
    message: 'exactly one of prompt and messages is needed',
  })

export const DetokenizeRequest = z.looseObject({
  model: z.string().min(1).optional(),
  tokens: tokenIds(0),
})

/** What chat and text completions share. */
export type GenerationBody = z.output<z.ZodObject<typeof generation>>
