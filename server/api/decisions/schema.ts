// Request bodies of OpenAI's Decisions API. zod is the only source of their shapes.

import { z } from 'zod'
import { anyRecord, idle, list } from '../../list.js'
import { answered, itemOf, typeErrors } from '../items.js'

const MAX_ITEMS = 4096
const MAX_PARTS = 1024
const MAX_QUESTIONS = 400
const MAX_CHOICES = 255
const MAX_LEVELS = 10

const maybe = <T extends z.ZodType>(schema: T) => schema.nullish()

const typeError = typeErrors((type) =>
  type === 'input_image' ? 'this server takes text only' : undefined,
)

const text = <T extends string>(type: T) =>
  z.looseObject({
    type: z.literal(type),
    text: z.string(),
    annotations: idle(),
    logprobs: idle(),
    prompt_cache_breakpoint: idle(),
  })
const Json = z.looseObject({
  type: z.literal('input_json'),
  data: z.union([anyRecord(), list(anyRecord(), 0, MAX_PARTS)]),
})

const Part = z.discriminatedUnion('type', [text('input_text'), Json], {
  error: typeError('input_text', 'input_json'),
})
/** Of the same types for instructions and for users. */
const Parts = z.union([z.string(), list(Part, 0, MAX_PARTS)])
const SomeParts = z.union([z.string().min(1), list(Part, 1, MAX_PARTS)])
const Texts = z.union([
  z.string(),
  list(
    z.discriminatedUnion('type', [text('input_text')], { error: typeError('input_text') }),
    0,
    MAX_PARTS,
  ),
])
const Said = z.union([
  z.string(),
  list(
    z.discriminatedUnion(
      'type',
      [text('output_text'), z.looseObject({ type: z.literal('refusal'), refusal: z.string() })],
      { error: typeError('output_text', 'refusal') },
    ),
    0,
    MAX_PARTS,
  ),
])

const call = <T extends string, F extends string>(type: T, field: F) =>
  z.looseObject({
    type: z.literal(type),
    call_id: z.string().min(1),
    name: z.string().min(1),
    ...({ [field]: z.string() } as Record<F, z.ZodString>),
    ...answered,
  })
const output = <T extends string>(type: T) =>
  z.looseObject({
    type: z.literal(type),
    call_id: z.string().min(1),
    output: Texts,
    ...answered,
  })

const message = { type: z.literal('message'), phase: idle(), ...answered }
const Message = z.discriminatedUnion('role', [
  z.looseObject({ ...message, role: z.literal('user'), content: Parts }),
  z.looseObject({ ...message, role: z.enum(['system', 'developer']), content: Texts }),
  z.looseObject({ ...message, role: z.literal('assistant'), content: Said }),
])

const Item = z.discriminatedUnion(
  'type',
  [
    Message,
    call('function_call', 'arguments'),
    output('function_call_output'),
    call('custom_tool_call', 'input'),
    output('custom_tool_call_output'),
  ],
  {
    error: typeError(
      'message',
      'function_call',
      'function_call_output',
      'custom_tool_call',
      'custom_tool_call_output',
    ),
  },
)
export type Item = z.output<typeof Item>

const common = {
  name: maybe(z.string()).describe('Comes back with the answer.'),
  instructions: SomeParts,
}

const Question = z.discriminatedUnion(
  'type',
  [
    z.looseObject({ type: z.literal('predicate'), ...common }),
    z.looseObject({
      type: z.literal('choice'),
      ...common,
      choices: list(
        z.looseObject({
          value: z.union([z.string().min(1), z.boolean()]),
          description: maybe(z.string()),
        }),
        2,
        MAX_CHOICES,
      ),
    }),
    z.looseObject({
      type: z.literal('score'),
      ...common,
      levels: list(
        z.looseObject({ label: z.string().min(1), description: maybe(z.string()) }),
        2,
        MAX_LEVELS,
      ).describe('From the lowest on.'),
    }),
  ],
  { error: typeError('predicate', 'choice', 'score') },
)
export type Question = z.output<typeof Question>
export type Content = z.output<typeof Parts> | z.output<typeof Texts> | z.output<typeof Said>

export const DecisionsRequest = z.looseObject({
  model: z.string().min(1).describe('A name of GET /v1/models.'),
  input: z.union([z.string().min(1), list(itemOf(Item), 1, MAX_ITEMS)]),
  questions: list(Question, 1, MAX_QUESTIONS),
  prompt_cache_key: maybe(z.string()).describe(
    'Of no effect: prompts share what they have in common.',
  ),
  prompt_cache_options: maybe(anyRecord()).describe('Of no effect.'),
  priority: z.int().min(-2147483648).max(2147483647).optional(),
  cache_salt: z.string().min(1).max(1024).optional(),
})
export type DecisionsRequest = z.output<typeof DecisionsRequest>
