// Request bodies of OpenAI's Responses API. zod is the only source of their shapes.

import { z } from 'zod'
import { anyRecord, idle, list } from '../../list.js'
import { answered, itemOf, typeErrors } from '../items.js'

const maybe = <T extends z.ZodType>(schema: T) => schema.nullish()

const MAX_ITEMS = 4096
const MAX_PARTS = 1024
export const MAX_TOOLS = 128

const TEXT_ONLY = 'this server takes and makes text only'
const NOT_KEPT = 'nothing is kept between requests: send the items themselves, with "store": false'
const HOSTED = 'it is of a tool that OpenAI runs; this server runs none'
const BUILT_IN = "it is of a tool that is built into OpenAI's models: offer a function in 'tools'"
const CUSTOM = "calls here have JSON arguments: offer a function with one text in 'tools'"

/** Items and parts that there are elsewhere. */
const WHY: Readonly<Record<string, string>> = {
  input_image: TEXT_ONLY,
  input_file: TEXT_ONLY,
  input_audio: TEXT_ONLY,
  item_reference: NOT_KEPT,
  compaction: NOT_KEPT,
  compaction_trigger: NOT_KEPT,
  custom: CUSTOM,
  custom_tool_call: CUSTOM,
  custom_tool_call_output: CUSTOM,
  additional_tools: "name them in 'tools'",
  refusal: 'send it as a part of type "output_text"',
}
/** Tools that clients run, and what is said of their calls. */
const isBuiltIn = (type: string): boolean =>
  /^(local_shell|shell|apply_patch|computer\w*)(_call(_output)?)?$/.test(type)
/** Tools that OpenAI runs, and what is said of their calls. */
const isHosted = (type: string): boolean =>
  /_call(_output)?$|^mcp|^program|^(web|file|tool)_search|^code_interpreter|^image_gen/.test(type)

const typeError = typeErrors((type) => {
  if (Object.hasOwn(WHY, type)) return WHY[type]
  if (isBuiltIn(type)) return BUILT_IN
  return isHosted(type) ? HOSTED : undefined
})

const text = <T extends string, M extends z.ZodRawShape>(type: T, more: M) =>
  z.looseObject({ type: z.literal(type), text: z.string(), ...more })

const Part = z.discriminatedUnion(
  'type',
  [
    text('input_text', {
      prompt_cache_breakpoint: idle('Of no effect: every prefix is cached.'),
    }),
    text('output_text', { annotations: idle(), logprobs: idle() }),
  ],
  { error: typeError('input_text', 'output_text') },
)
const Content = z.union([z.string(), list(Part, 0, MAX_PARTS)])

const Item = z.discriminatedUnion(
  'type',
  [
    z.looseObject({
      type: z.literal('message'),
      role: z.enum(['user', 'assistant', 'system', 'developer']),
      content: Content,
      phase: idle(),
      ...answered,
    }),
    z.looseObject({
      type: z.literal('reasoning'),
      summary: maybe(list(text('summary_text', {}), 0, MAX_PARTS)),
      content: maybe(list(text('reasoning_text', {}), 0, MAX_PARTS)),
      encrypted_content: idle('Of no effect: the summary is the thinking itself.'),
      ...answered,
    }),
    z.looseObject({
      type: z.literal('function_call'),
      call_id: z.string().min(1),
      name: z.string().min(1),
      namespace: maybe(z.string()),
      arguments: z.string(),
      caller: idle(),
      created_by: idle(),
      ...answered,
    }),
    z.looseObject({
      type: z.literal('function_call_output'),
      call_id: z.string().min(1),
      output: Content,
      caller: idle(),
      created_by: idle(),
      ...answered,
    }),
  ],
  { error: typeError('message', 'reasoning', 'function_call', 'function_call_output') },
)
export type Item = z.output<typeof Item>

const Named = { name: z.string().min(1).max(256) }

const FunctionTool = z.looseObject({
  type: z.literal('function'),
  ...Named,
  description: maybe(z.string()),
  parameters: maybe(anyRecord()).describe('A JSON Schema of an object.'),
  strict: maybe(z.boolean()).describe('Calls of it keep to its schema. Default false.'),
})
export type FunctionTool = z.output<typeof FunctionTool>

/** That OpenAI runs, of which a caller gives no more than the wish: a model answers without them. */
const OptionalTool = z
  .looseObject({
    type: z
      .enum(['web_search', 'web_search_preview', 'image_generation'])
      .describe('Left out, and named in the x-ignored-params header.'),
  })
  // All of it is told by its type.
  .meta({ additionalProperties: true })
const NamespaceTool = z.looseObject({
  type: z.literal('namespace').describe('Its functions are shown as `namespace.name`.'),
  ...Named,
  description: idle('Not shown to the model.'),
  tools: list(
    // A union of one, for its error.
    z.discriminatedUnion('type', [FunctionTool], { error: typeError('function') }),
    0,
    MAX_TOOLS,
  ),
})
const Tool = z.discriminatedUnion('type', [FunctionTool, NamespaceTool, OptionalTool], {
  error: typeError('function', 'namespace'),
})
type Tool = z.output<typeof Tool>

export const isLeftOut = ({ type }: Tool): boolean => type !== 'function' && type !== 'namespace'

const ToolRef = z.looseObject({ type: z.literal('function'), ...Named })
const ToolChoice = z.union([
  z.enum(['none', 'auto', 'required']),
  z.discriminatedUnion(
    'type',
    [
      ToolRef,
      z.looseObject({
        type: z.literal('allowed_tools'),
        mode: z.enum(['auto', 'required']),
        tools: list(ToolRef, 1, MAX_TOOLS),
      }),
    ],
    { error: typeError('function', 'allowed_tools') },
  ),
])

const Format = z.discriminatedUnion(
  'type',
  [
    z.looseObject({ type: z.literal('text') }),
    z.looseObject({ type: z.literal('json_object') }),
    z.looseObject({
      type: z.literal('json_schema'),
      name: z.string().min(1),
      schema: z.union([anyRecord(), z.boolean()]),
      description: maybe(z.string()),
      strict: maybe(z.boolean()).describe('Answers keep to the schema either way.'),
    }),
  ],
  { error: typeError('text', 'json_object', 'json_schema') },
)

export const ResponsesRequest = z.looseObject({
  model: z.string().min(1).describe('A name of GET /v1/models.'),
  input: z.union([z.string(), list(itemOf(Item), 1, MAX_ITEMS)]),
  instructions: z.string().optional().describe('A system message before all others.'),
  max_output_tokens: z.int().min(1).optional(),
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().min(0).max(1).optional(),
  tools: list(Tool, 0, MAX_TOOLS).optional(),
  tool_choice: ToolChoice.optional().describe('Default: auto with tools.'),
  parallel_tool_calls: z.boolean().optional(),
  text: z
    .looseObject({ format: maybe(Format), verbosity: maybe(z.string()).describe('Of no effect.') })
    .optional(),
  reasoning: z
    .looseObject({
      effort: maybe(z.enum(['none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max'])).describe(
        'none, minimal: thinking off; else on.',
      ),
      summary: maybe(z.string()).describe('Of no effect: the summary is the thinking itself.'),
    })
    .optional(),
  include: list(z.enum(['reasoning.encrypted_content']), 0, 16).optional(),
  truncation: z.enum(['disabled']).optional().describe('Nothing is cut silently.'),
  store: z.boolean().optional().describe('Nothing is stored, and the answer says so.'),
  metadata: anyRecord().optional().describe('Comes back.'),
  stream: z.boolean().optional(),
  cache_salt: z.string().min(1).max(1024).optional(),
})
export type ResponsesRequest = z.output<typeof ResponsesRequest>
