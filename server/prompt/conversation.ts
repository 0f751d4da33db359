// A conversation: as callers write it (OpenAI's messages, checked by zod), and as prompts are made of
// it, in no dialect.

import { z } from 'zod'
import { anyRecord, idle, list, refuseMembers } from '../list.js'
import { badRequest } from '../request-error.js'

export const MAX_MESSAGES = 2048
/** Of one message. */
const MAX_PARTS = 1024
const MAX_CALLS = 128

const maybe = <T extends z.ZodType>(schema: T) => schema.nullish()

const TextPart = z.looseObject({
  type: z.literal('text'),
  text: z.string(),
  cache_control: idle('Of no effect: every prefix is cached.'),
  prompt_cache_breakpoint: idle('The same.'),
})
const Content = z
  .union([z.string(), list(TextPart, 0, MAX_PARTS), z.null()])
  .describe('A string, null, or a list of text parts.')

const FunctionCall = z.looseObject({
  id: maybe(z.string()),
  type: maybe(z.literal('function')),
  function: z.looseObject({
    name: z.string(),
    arguments: z.string(),
    parsed_arguments: idle("Of no effect: what clients make of 'arguments'."),
  }),
  index: idle('Of no effect: as in a stream.'),
})

/** Members by which other servers' messages say something, and what says it here. */
const UNSERVED: Readonly<Record<string, string>> = {
  function_call: "use 'tool_calls'",
  images: 'this server takes and makes text only',
  audio: 'this server takes and makes text only',
  video: 'this server takes and makes text only',
  thinking: "use 'reasoning_content'",
  reasoning_details: "use 'reasoning_content'",
  prefix: "use 'continue_final_message' of the request",
  partial: "use 'continue_final_message' of the request",
  refusal: "use 'content'",
}

const plain = <R extends string>(role: R) =>
  z.looseObject({ role: z.literal(role), content: Content, name: maybe(z.string()) })

type GivenRole = 'system' | 'developer' | 'user' | 'assistant' | 'tool'

const AnyMessage = z.discriminatedUnion('role', [
  plain('system'),
  plain('developer'),
  plain('user'),
  z.looseObject({
    role: z.literal('assistant'),
    content: Content.optional(),
    name: maybe(z.string()),
    reasoning: maybe(z.string()),
    reasoning_content: maybe(z.string()),
    tool_calls: maybe(list(FunctionCall, 0, MAX_CALLS)),
    parsed: idle("Of no effect: what clients make of 'content'."),
  }),
  z.looseObject({
    role: z.literal('tool'),
    content: Content,
    name: maybe(z.string()),
    tool_call_id: maybe(z.string()),
  }),
])
/** Members that mean something in a message of one role, and would go unseen in any other. */
const ROLE_OF: Readonly<Record<string, GivenRole>> = {
  reasoning: 'assistant',
  reasoning_content: 'assistant',
  tool_calls: 'assistant',
  tool_call_id: 'tool',
}

const refuseOtherRoles = (message: { readonly role: string }, context: z.RefinementCtx): void => {
  const others = Object.entries(ROLE_OF).filter(([, role]) => role !== message.role)
  const why = others.map(([name, role]) => [name, `it is of messages of role '${role}'`] as const)
  refuseMembers(Object.fromEntries(why))(message, context)
}

/** A message as callers write it. */
export const GivenMessage = AnyMessage.superRefine(refuseMembers(UNSERVED)).superRefine(
  refuseOtherRoles,
)
export type GivenMessage = z.output<typeof GivenMessage>

export const GivenMessages = list(GivenMessage, 1, MAX_MESSAGES)

/** Of models that ask whether an answer satisfies one, and of judges. */
export const Principle = z
  .string()
  .min(1)
  .max(4096)
  .describe(
    'What the answer is judged by: of models that judge by a principle, which need it, and of judges whose template shows one.',
  )

const MAX_TOOLS = 128
const MAX_NAME = 256

const Named = z.looseObject({ name: z.string().min(1).max(MAX_NAME) })

/** A tool as callers write it. A template sees its members in this order, whichever the caller's was. */
const GivenTool = z
  .looseObject({
    type: z.literal('function'),
    function: z.looseObject({
      ...Named.shape,
      description: maybe(z.string()),
      parameters: maybe(anyRecord()).describe(
        'A JSON Schema of an object. Default: no parameters.',
      ),
      strict: maybe(z.boolean()).describe('Calls of it keep to its schema. Default false.'),
    }),
  })
  // Which others are read, the template says.
  .meta({ additionalProperties: true })
export type Tool = z.output<typeof GivenTool>

export const GivenTools = list(GivenTool, 0, MAX_TOOLS)

const ToolRef = z.looseObject({ type: z.literal('function'), function: Named })

export const ToolChoice = z.union([
  z.enum(['none', 'auto', 'required']),
  z.discriminatedUnion('type', [
    ToolRef,
    z.looseObject({
      type: z.literal('allowed_tools'),
      allowed_tools: z.looseObject({
        mode: z.enum(['auto', 'required']),
        tools: list(ToolRef, 1, MAX_TOOLS),
      }),
    }),
  ]),
])
export type ToolChoice = z.output<typeof ToolChoice>

export type ToolCall = {
  readonly id: string
  readonly name: string
  /** JSON text. */
  readonly arguments: string
}

export type Message = {
  /** The last two are answers that a judge compares. */
  readonly role:
    | 'system'
    | 'user'
    | 'assistant'
    | 'tool'
    | 'principle'
    | 'response_1'
    | 'response_2'
  /** '' where there is none. */
  readonly content: string
  readonly name?: string | undefined
  /** What an assistant thought before it answered; undefined: it may stand in the content. */
  readonly reasoning?: string | undefined
  readonly toolCalls?: readonly ToolCall[]
  readonly toolCallId?: string | undefined
}

/** The messages that items or blocks make, which may be more than those: a template takes its time for each.
 * `param`: what they were made of. */
export const boundMessages = (messages: readonly Message[], param: string): readonly Message[] => {
  const refuse = (what: string) => badRequest(`Invalid value for '${param}': ${what}.`, param)
  if (messages.length > MAX_MESSAGES)
    throw refuse(
      `it makes ${messages.length} messages, at most ${MAX_MESSAGES} make a conversation`,
    )
  const calls = messages.reduce((most, one) => Math.max(most, one.toolCalls?.length ?? 0), 0)
  if (calls > MAX_CALLS)
    throw refuse(`it makes a message with ${calls} calls, one may have ${MAX_CALLS}`)
  return messages
}

const textOf = (content: z.output<typeof Content> | undefined): string =>
  typeof content === 'string' ? content : (content?.map((part) => part.text).join('\n') ?? '')

const thoughtOf = (given: Extract<GivenMessage, { role: 'assistant' }>): string | undefined =>
  given.reasoning === undefined && given.reasoning_content === undefined
    ? undefined
    : (given.reasoning ?? given.reasoning_content ?? '')

const readMessage = (given: GivenMessage): Message => {
  const { role } = given
  const common = { content: textOf(given.content), name: given.name ?? undefined }
  switch (role) {
    case 'developer':
      return { role: 'system', ...common }
    case 'tool':
      return { role, ...common, toolCallId: given.tool_call_id ?? undefined }
    case 'assistant':
      return {
        role,
        ...common,
        reasoning: thoughtOf(given),
        toolCalls: (given.tool_calls ?? []).map(({ id, function: { name, arguments: text } }) => ({
          id: id ?? '',
          name,
          arguments: text,
        })),
      }
    default:
      return { role, ...common }
  }
}

export const readMessages = (given: readonly GivenMessage[]): readonly Message[] =>
  given.map(readMessage)

const charactersOfCall = ({ id, name, arguments: text }: ToolCall): number =>
  id.length + name.length + text.length

/** All text that a template may write. */
export const charactersOf = (messages: readonly Message[]): number =>
  messages.reduce(
    (sum, { content, name = '', reasoning = '', toolCallId = '', toolCalls = [] }) =>
      toolCalls.reduce(
        (all, call) => all + charactersOfCall(call),
        sum + content.length + name.length + reasoning.length + toolCallId.length,
      ),
    0,
  )

/** A conversation that is to be answered. The fields have the names that errors give them. */
export type Conversation = {
  readonly messages: readonly Message[]
  readonly tools?: readonly Tool[] | undefined
  readonly tool_choice?: ToolChoice | undefined
  readonly parallel_tool_calls?: boolean | undefined
  readonly add_generation_prompt?: boolean | undefined
  readonly continue_final_message?: boolean | undefined
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | undefined
  readonly reasoning_effort?: string | undefined
  /** Keep earlier turns' thinking in the prompt. */
  readonly keep_thinking?: boolean | undefined
  readonly thinking_token_budget?: number | undefined
  readonly thinking_budget?: number | undefined
}
