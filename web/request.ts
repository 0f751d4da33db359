// What the controls and a conversation ask for, as the body of POST /v1/chat/completions.

export type Settings = {
  readonly model: string
  readonly system: string
  readonly thinking: 'default' | 'on' | 'off'
  /** Numbers as they were typed; '' leaves the field out. */
  readonly thinkingBudget: string
  readonly temperature: string
  readonly topP: string
  readonly topK: string
  readonly maxTokens: string
  readonly seed: string
  readonly stop: string
  readonly n: string
  /** '': candidates are not scored. */
  readonly reward: string
  readonly probabilities: boolean
  readonly tools: string
  readonly toolChoice: 'auto' | 'required' | 'none'
  readonly schema: string
}

export const DEFAULTS: Settings = {
  model: '',
  system: '',
  thinking: 'default',
  thinkingBudget: '',
  temperature: '',
  topP: '',
  topK: '',
  maxTokens: '',
  seed: '',
  stop: '',
  n: '1',
  reward: '',
  probabilities: false,
  tools: '',
  toolChoice: 'auto',
  schema: '',
}

export const EXAMPLE_TOOLS = JSON.stringify(
  [
    {
      type: 'function',
      function: {
        name: 'get_weather',
        description: 'The weather in a city',
        parameters: {
          type: 'object',
          properties: { city: { type: 'string' } },
          required: ['city'],
        },
      },
    },
  ],
  null,
  2,
)

export const EXAMPLE_SCHEMA = JSON.stringify(
  {
    type: 'object',
    properties: { answer: { type: 'integer' }, sure: { type: 'boolean' } },
    required: ['answer', 'sure'],
  },
  null,
  2,
)

export type ToolCall = { readonly id: string; readonly name: string; readonly arguments: string }
type Alternative = { readonly text: string; readonly logprob: number }
export type Token = Alternative & {
  readonly top: readonly Alternative[]
  /** What it adds to a text: of a character in pieces only the last has it. */
  readonly adds: string
}

export type Candidate = {
  readonly text: string
  readonly thinking: string
  readonly calls: readonly ToolCall[]
  /** All that were drawn, those of tags and calls too; only while the page is open. */
  readonly tokens: readonly Token[]
  /** undefined: it has not ended by itself. */
  readonly finish?: string
  /** null: it could not be scored. */
  readonly reward?: number | null
}

export const NOTHING: Candidate = {
  text: '',
  thinking: '',
  calls: [],
  tokens: [],
}

export type Usage = {
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
  readonly tokensPerSecond: number | null
  /** As this page saw it. */
  readonly firstTokenSeconds: number | null
}

export type Turn =
  | {
      readonly id: string
      readonly role: 'user'
      readonly text: string
      /** What it was changed to, where no answer to that came. */
      readonly edit?: string
    }
  | {
      readonly id: string
      readonly role: 'tool'
      readonly callId: string
      readonly name: string
      readonly text: string
    }
  | {
      readonly id: string
      readonly role: 'assistant'
      readonly candidates: readonly Candidate[]
      /** The candidate that the conversation goes on with. */
      readonly chosen: number
      readonly usage?: Usage
      /** Why it did not end as it should. */
      readonly problem?: string
      /** The server went away in the middle, or the reader stopped it: it can go on from here. */
      readonly cut?: 'lost' | 'stopped'
    }
export type Answer = Extract<Turn, { role: 'assistant' }>

export const chosenOf = ({ candidates, chosen }: Answer): Candidate =>
  candidates[chosen] ?? candidates[0] ?? NOTHING

class SettingsError extends Error {}

const number = (name: string, text: string): number | undefined => {
  if (text.trim() === '') return undefined
  const value = Number(text)
  if (Number.isFinite(value)) return value
  throw new SettingsError(`${name}: '${text}' is no number.`)
}

const json = (name: string, text: string): unknown => {
  if (text.trim() === '') return undefined
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new SettingsError(`${name}: ${error instanceof Error ? error.message : error}`)
  }
}

/** Calls that came to their end: of others the arguments may be missing. */
export const callsOf = ({ calls, finish }: Candidate): readonly ToolCall[] =>
  finish === 'tool_calls' ? calls : []

/** Whether the model can go on from what it wrote. */
export const canGoOn = ({ text, thinking }: Candidate): boolean => text !== '' || thinking !== ''

const messageOfAnswer = (candidate: Candidate, withThinking: boolean) => {
  const calls = callsOf(candidate)
  return {
    role: 'assistant',
    content: candidate.text === '' && calls.length > 0 ? null : candidate.text,
    ...(withThinking && candidate.thinking !== '' && { reasoning_content: candidate.thinking }),
    ...(calls.length > 0 && {
      tool_calls: calls.map(({ id, name, arguments: text }) => ({
        id,
        type: 'function',
        function: { name, arguments: text },
      })),
    }),
  }
}

const messagesOf = (system: string, turns: readonly Turn[], isContinued: boolean) => [
  ...(system.trim() === '' ? [] : [{ role: 'system', content: system }]),
  ...turns.flatMap((turn, i): object => {
    if (turn.role === 'user') return { role: 'user', content: turn.text }
    if (turn.role === 'tool') return { role: 'tool', tool_call_id: turn.callId, content: turn.text }
    const isLast = isContinued && i === turns.length - 1
    const candidate = chosenOf(turn)
    // With the thinking alone the model goes on inside it.
    if (isLast && candidate.text === '' && candidate.thinking !== '')
      return { role: 'assistant', reasoning_content: candidate.thinking }
    // An answer that says nothing was none: the model has not said it.
    if (!isLast && candidate.text === '' && callsOf(candidate).length === 0) return []
    return messageOfAnswer(candidate, isLast)
  }),
]

/** What there is to know of a model. */
type Model = { readonly id: string; readonly reasoning: object | null }

/** Throws a SettingsError that names the control. `isContinued`: the last turn is an answer to go on with. */
export const bodyOf = (
  settings: Settings,
  model: Model,
  turns: readonly Turn[],
  isContinued = false,
): Record<string, unknown> => {
  const { thinking, reward, probabilities, toolChoice } = settings
  const n = isContinued ? 1 : (number('Candidates', settings.n) ?? 1)
  const tools = json('Tools', settings.tools)
  const schema = json('Answer schema', settings.schema)
  const stop = settings.stop.split('\n').filter((line) => line !== '')
  const reasons = model.reasoning !== null
  const fields: Record<string, unknown> = {
    temperature: number('Temperature', settings.temperature),
    top_p: number('Top p', settings.topP),
    top_k: number('Top k', settings.topK),
    max_completion_tokens: number('Most tokens', settings.maxTokens),
    seed: number('Seed', settings.seed),
    stop: stop.length > 0 ? stop : undefined,
    n: n > 1 ? n : undefined,
    reward: n > 1 && reward !== '' ? { model: reward, include_thinking: true } : undefined,
    chat_template_kwargs:
      reasons && thinking !== 'default' ? { enable_thinking: thinking === 'on' } : undefined,
    thinking_token_budget: reasons ? number('Thinking budget', settings.thinkingBudget) : undefined,
    logprobs: probabilities || undefined,
    top_logprobs: probabilities ? 5 : undefined,
    tools,
    tool_choice: tools === undefined || toolChoice === 'auto' ? undefined : toolChoice,
    response_format:
      schema === undefined
        ? undefined
        : { type: 'json_schema', json_schema: { name: 'answer', schema } },
    continue_final_message: isContinued || undefined,
    add_generation_prompt: isContinued ? false : undefined,
  }
  return {
    model: model.id,
    messages: messagesOf(settings.system, turns, isContinued),
    ...Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)),
    stream: true,
    stream_options: { include_usage: true },
    timings: true,
  }
}
