// Request bodies of Anthropic's Messages API. zod is the only source of their shapes.

import { z } from 'zod'
import { anyRecord, idle, list, refuseMembers } from '../../list.js'
import { typeErrors } from '../items.js'

const maybe = <T extends z.ZodType>(schema: T) => schema.nullish()

const MAX_MESSAGES = 2048
const MAX_BLOCKS = 1024
const MAX_TOOLS = 128
const MAX_EDITS = 16

const TEXT_ONLY = 'this server takes and makes text only'
const HOSTED = 'it is of a tool that Anthropic runs; this server runs none'

/** Blocks that there are elsewhere. */
const WHY: Readonly<Record<string, string>> = {
  image: TEXT_ONLY,
  document: `${TEXT_ONLY}: send its text as a block of type "text"`,
  search_result: 'send it as a block of type "text"',
  redacted_thinking: 'only its maker can read it: leave it out',
  server_tool_use: HOSTED,
  container_upload: HOSTED,
  compaction: 'nothing is summarised here: send the messages themselves, or a text of your own',
  tool_reference: "name the tools in 'tools': each is in the prompt",
  tool_addition: "name the tools in 'tools'",
  tool_removal: "name the tools that are left in 'tools'",
}

const whyNot = (type: unknown, known: readonly string[]): string => {
  if (typeof type !== 'string') return `expected one of ${known.join(', ')}`
  const own = Object.hasOwn(WHY, type) ? WHY[type] : undefined
  const hosted = /_tool_(result|use|listing)$/.test(type) ? HOSTED : undefined
  const others = `there are ${known.map((one) => `"${one}"`).join(', ')}`
  return `blocks of type ${JSON.stringify(type.slice(0, 100))} are not supported: ${own ?? hosted ?? others}`
}

/** What an error says of a block of another type. */
const blockError =
  (...known: readonly string[]) =>
  ({ input }: { readonly input?: unknown }): string =>
    whyNot((input as { readonly type?: unknown } | undefined)?.type, known)

const cached = { cache_control: idle('Of no effect: every prefix is cached.') }

const TextBlock = z.looseObject({
  type: z.literal('text'),
  text: z.string(),
  citations: idle(),
  ...cached,
})
/** Where only text may stand: a union of one, for its error. */
const OnlyText = z.discriminatedUnion('type', [TextBlock], { error: blockError('text') })
const Texts = z.union([z.string(), list(OnlyText, 0, MAX_BLOCKS)])

const UserBlock = z.discriminatedUnion(
  'type',
  [
    TextBlock,
    z.looseObject({
      type: z.literal('tool_result'),
      tool_use_id: z.string().min(1),
      content: maybe(Texts),
      is_error: maybe(z.boolean()).describe('The model sees `Error: ` before the content.'),
      ...cached,
    }),
  ],
  { error: blockError('text', 'tool_result') },
)
export type UserBlock = z.output<typeof UserBlock>

const AssistantBlock = z.discriminatedUnion(
  'type',
  [
    TextBlock,
    z.looseObject({
      type: z.literal('thinking'),
      thinking: z.string(),
      signature: maybe(z.string()).describe('Not checked: nothing is signed here.'),
    }),
    z.looseObject({
      type: z.literal('tool_use'),
      id: z.string().min(1),
      name: z.string().min(1),
      input: anyRecord(),
      caller: idle(),
      ...cached,
    }),
  ],
  { error: blockError('text', 'thinking', 'tool_use') },
)
export type AssistantBlock = z.output<typeof AssistantBlock>

const GivenMessage = z.discriminatedUnion('role', [
  z.looseObject({
    role: z.literal('user'),
    content: z.union([z.string(), list(UserBlock, 0, MAX_BLOCKS)]),
  }),
  z.looseObject({
    role: z.literal('assistant'),
    content: z.union([z.string(), list(AssistantBlock, 0, MAX_BLOCKS)]),
  }),
  z.looseObject({
    role: z.literal('system'),
    content: Texts,
    clear_at: maybe(z.enum(['next_user_message', 'never'])).describe(
      "next_user_message: not shown once a later message is the user's.",
    ),
  }),
])
export type GivenMessage = z.output<typeof GivenMessage>

const Tool = z
  .looseObject({
    type: maybe(z.literal('custom')).describe('Tools that Anthropic runs are not supported.'),
    name: z.string().min(1).max(256),
    description: maybe(z.string()),
    input_schema: anyRecord().describe('A JSON Schema of an object.'),
    strict: maybe(z.boolean()).describe('Calls of it keep to its schema. Default false.'),
    allowed_callers: maybe(
      z.array(z.string()).refine((callers) => callers.length === 0 || callers.includes('direct'), {
        error: 'no code runs here that could call it: only "direct" does',
      }),
    ),
    input_examples: idle(),
    eager_input_streaming: idle('Of no effect: calls stream as they are written.'),
    ...cached,
  })
  .superRefine(
    refuseMembers({
      defer_loading: 'each tool is in the prompt: leave it out of "tools" until it is needed',
    }),
  )
export type Tool = z.output<typeof Tool>

const single = { disable_parallel_tool_use: maybe(z.boolean()) }
const ToolChoice = z.discriminatedUnion('type', [
  z.looseObject({ type: z.literal('auto'), ...single }),
  z.looseObject({ type: z.literal('any'), ...single }),
  z.looseObject({ type: z.literal('tool'), name: z.string().min(1), ...single }),
  z.looseObject({ type: z.literal('none') }),
])

const display = {
  display: maybe(z.enum(['summarized', 'omitted'])).describe(
    'omitted: the thinking block is empty. Thinking is never summarised.',
  ),
}
const Thinking = z.discriminatedUnion('type', [
  z.looseObject({
    type: z.literal('enabled'),
    budget_tokens: z
      .int()
      .min(1)
      .describe('After so many tokens of thinking the answer begins; less than max_tokens.'),
    ...display,
  }),
  z.looseObject({ type: z.literal('adaptive'), ...display }),
  z.looseObject({ type: z.literal('disabled') }),
])

const OutputConfig = z
  .looseObject({
    effort: maybe(z.string()).describe('Of no effect.'),
    format: maybe(
      z.looseObject({
        type: z.literal('json_schema'),
        schema: z.union([anyRecord(), z.boolean()]),
      }),
    ).describe('The answer keeps to this JSON Schema.'),
  })
  .superRefine(refuseMembers({ task_budget: "use 'max_tokens' and 'thinking.budget_tokens'" }))

const NO_EDITS = 'the messages that are sent are the prompt: leave out what it is not to have'
/** Edits of earlier thinking ask for nothing: the template leaves it out in any case. */
const ContextManagement = z.looseObject({
  edits: maybe(
    list(
      z.discriminatedUnion(
        'type',
        [z.looseObject({ type: z.literal('clear_thinking_20251015'), keep: idle() })],
        {
          error: typeErrors(() => NO_EDITS)('clear_thinking_20251015'),
        },
      ),
      0,
      MAX_EDITS,
    ),
  ),
})

/** What decides the prompt. */
const prompt = {
  model: z.string().min(1).describe('A name of GET /v1/models.'),
  messages: list(GivenMessage, 1, MAX_MESSAGES).describe(
    "One that ends with the assistant's is gone on with.",
  ),
  system: Texts.optional(),
  tools: list(Tool, 0, MAX_TOOLS).optional(),
  tool_choice: ToolChoice.optional().describe('Default: auto with tools.'),
  thinking: Thinking.optional().describe("Default: the server's --thinking, or the system text."),
  output_config: OutputConfig.optional(),
  context_management: ContextManagement.optional(),
}

export const MessagesRequest = z.looseObject({
  ...prompt,
  max_tokens: z
    .int()
    .min(1)
    .describe("At most: where the model's length ends first, so does the answer."),
  stop_sequences: list(z.string().min(1), 0, 16).optional(),
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().min(0).max(1).optional(),
  top_k: z.int().min(-1).optional().describe('-1 or 0: off.'),
  stream: z.boolean().optional(),
  metadata: anyRecord().optional().describe('Of no effect.'),
  cache_salt: z.string().min(1).max(1024).optional(),
})
export type MessagesRequest = z.output<typeof MessagesRequest>

export const CountTokensRequest = z.looseObject(prompt)
export type CountTokensRequest = z.output<typeof CountTokensRequest>

export const MessageError = z.object({
  type: z.literal('error'),
  error: z.object({
    type: z.enum([
      'invalid_request_error',
      'authentication_error',
      'permission_error',
      'not_found_error',
      'request_too_large',
      'rate_limit_error',
      'api_error',
      'timeout_error',
      'overloaded_error',
    ]),
    message: z.string(),
    details: z.looseObject({}).optional(),
  }),
  request_id: z.string(),
})
