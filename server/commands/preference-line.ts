// What a line of data says that can be scored: the shapes in which public preference data and answers come.

import { z } from 'zod'
import { brokenText, checkBody } from '../check.js'
import { GivenMessages, GivenTools } from '../prompt/conversation.js'
import { LineError } from './jsonl.js'
import { hasFields } from './line-fields.js'

export type Turn = Readonly<Record<string, unknown>> & { readonly role: string }
export type Conversation = readonly Turn[]
type Value = Readonly<Record<string, unknown>>

const SHAREGPT_ROLES: Readonly<Record<string, string>> = {
  human: 'user',
  gpt: 'assistant',
}

/** OpenAI's turns, or ShareGPT's. */
const Said = z.union([
  z.looseObject({ role: z.string() }),
  z
    .looseObject({ from: z.string(), value: z.string() })
    .transform(({ from, value }): Turn => ({ role: SHAREGPT_ROLES[from] ?? from, content: value })),
])
const Turns = z.array(Said).min(1)
/** A text, a conversation, or its one turn. */
const Prompt = z.union([z.string(), Turns, Said])
/** An answer, or several of the same rank, as RewardBench 2 has them. */
const Answer = z.union([z.string(), z.array(z.string()).min(1), Turns, Said])
/** As UltraFeedback's completions have them, too. What a turn may hold, a conversation says. */
const Response = z.union([
  z.string(),
  z.looseObject({ response: z.string() }).transform(({ response }) => response),
  Said,
])

export const LINE_FIELDS = [
  'system',
  'prompt',
  'messages',
  'response',
  'responses',
  'chosen',
  'rejected',
  'principle',
] as const

const Line = z.looseObject({
  prompt: Prompt.optional(),
  messages: Turns.optional(),
  conversations: Turns.optional(),
  context: z.unknown().optional(),
  system: z.string().optional(),
  /** OpenOrca's. */
  system_prompt: z.string().optional(),
  response: z.string().optional(),
  responses: z.array(Response).min(1).optional(),
  chosen: Answer.optional(),
  rejected: Answer.optional(),
  response_0: z.string().optional(),
  response_1: z.string().optional(),
  response_2: z.string().optional(),
  response1: z.string().optional(),
  response2: z.string().optional(),
  original_response: z.string().optional(),
  edited_response: z.string().optional(),
  good_edited_response: z.string().optional(),
  bad_edited_response: z.string().optional(),
})
type Line = z.output<typeof Line>

const MARKED_TURN = {
  /** Anthropic's helpful and harmless data. */
  hh: { begin: /^\s*Human:/, cut: /(?:^|\n\n)(Human|Assistant):\s?/ },
  /** HelpSteer2's prompts of several turns; the first is the user's. */
  helpSteer: {
    begin: /<extra_id_1>(?:User|Assistant)\n/,
    cut: /\n?<extra_id_1>(User|Assistant)\n/,
  },
} as const

/** A conversation that is written as one text; undefined where it is plain text. */
const readMarked = (text: string, { begin, cut }: { begin: RegExp; cut: RegExp }) => {
  if (!begin.test(text)) return undefined
  const [before = '', ...parts] = text.split(cut)
  const turns: Turn[] = before.trim() === '' ? [] : [{ role: 'user', content: before }]
  for (let i = 0; i < parts.length; i += 2) {
    const role = parts[i] === 'Assistant' ? 'assistant' : 'user'
    turns.push({ role, content: (parts[i + 1] ?? '').trim() })
  }
  return turns
}

const readTurns = (given: z.output<typeof Prompt>): Conversation => {
  if (typeof given === 'string')
    return readMarked(given, MARKED_TURN.helpSteer) ?? [{ role: 'user', content: given }]
  return Array.isArray(given) ? given : [given]
}

/** The conversation before the answer; undefined where the line has none. */
const readPrompt = (line: Line): Conversation | undefined => {
  const { prompt, messages, conversations, context } = line
  if (prompt !== undefined) return readTurns(prompt)
  // HelpSteer3's; elsewhere a context is something else, and no list of turns.
  return messages ?? conversations ?? Turns.safeParse(context).data
}

/** HelpSteer3's edits: the good one is better than the bad one, an edit better than what was edited. */
const editsOf = (line: Line): Pick<Line, 'chosen' | 'rejected'> | undefined => {
  const { good_edited_response: good, bad_edited_response: bad } = line
  if (good !== undefined && bad !== undefined) return { chosen: good, rejected: bad }
  const { edited_response: edited, original_response: original } = line
  if (edited !== undefined && original !== undefined) return { chosen: edited, rejected: original }
  return undefined
}

/** The line's system text goes before a conversation that has none. */
const withSystem = (
  conversation: Conversation,
  { system_prompt = '', system = system_prompt }: Pick<Line, 'system' | 'system_prompt'>,
) =>
  system === '' || conversation[0]?.role === 'system'
    ? conversation
    : [{ role: 'system', content: system }, ...conversation]

const isEmpty = (value: unknown): boolean =>
  value == null || value === '' || (Array.isArray(value) && value.length === 0)

/** What other data calls our fields, the likeliest first. */
const OTHER_NAMES = {
  prompt: ['question', 'instruction', 'query', 'problem', 'input', 'post', 'user', 'human', 'text'],
  messages: ['conversation', 'dialogue', 'dialog', 'turns', 'chat'],
  response: ['output', 'answer', 'completion', 'generation', 'reply', 'assistant', 'model_output'],
  responses: ['completions', 'outputs', 'answers', 'generations', 'candidates'],
  chosen: ['chosen_response', 'preferred', 'better', 'accepted'],
  rejected: ['rejected_response', 'dispreferred', 'worse'],
} as const satisfies Partial<Record<(typeof LINE_FIELDS)[number], readonly string[]>>
type Meant = keyof typeof OTHER_NAMES

/** Which fields of the line were probably meant by ours that it lacks. */
const meantBy = (line: Value, ours: readonly Meant[]): string => {
  const flags = ours.flatMap((name) => {
    const theirs: string | undefined = OTHER_NAMES[name].find((other) => !isEmpty(line[other]))
    return isEmpty(line[name]) && theirs !== undefined ? [`--field ${name}=${theirs}`] : []
  })
  if (flags.length > 0) return ` Perhaps ${flags.join(' ')}?`
  return ` Fields of other names: --field ${ours[0]}=NAME${hasFields(line)}.`
}

const needPrompt = (prompt: Conversation | undefined, field: string, line: Line): Conversation => {
  if (prompt !== undefined) return prompt
  throw new LineError(
    `needs 'prompt' (or 'messages') beside '${field}'.${meantBy(line, ['prompt', 'messages'])}`,
  )
}

const withAnswer = (prompt: Conversation, answer: string | Turn, field: string): Conversation => {
  if (prompt.at(-1)?.role === 'assistant')
    throw new LineError(
      `the conversation ends with the assistant's turn, and '${field}' is another answer: leave one out`,
    )
  return [...prompt, typeof answer === 'string' ? { role: 'assistant', content: answer } : answer]
}

/** Conversations that end with the answer. */
const readAnswer = (
  line: Line,
  prompt: Conversation | undefined,
  field: 'chosen' | 'rejected',
): readonly Conversation[] => {
  const answer = line[field]
  if (answer === undefined)
    throw new LineError(
      `'chosen' and 'rejected' go together: '${field}' is missing. For one answer there is 'response'.`,
    )
  const beside = (text: string) => withAnswer(needPrompt(prompt, field, line), text, field)
  if (typeof answer === 'string') {
    const marked = prompt === undefined ? readMarked(answer, MARKED_TURN.hh) : undefined
    return [marked ?? beside(answer)]
  }
  const list: readonly (string | Turn)[] = Array.isArray(answer) ? answer : [answer]
  const texts = list.filter((one) => typeof one === 'string')
  if (texts.length > 0) return texts.map(beside)
  const turns = list.filter((one) => typeof one !== 'string')
  const isAnswerOnly = turns[0]?.role === 'assistant'
  return [isAnswerOnly ? [...needPrompt(prompt, field, line), ...turns] : turns]
}

/** What is to be scored: a better and a worse side, or answers beside one another, or one. */
export type Question =
  | {
      readonly kind: 'pair'
      readonly chosen: readonly Conversation[]
      readonly rejected: readonly Conversation[]
      /** Each side was given as a list. */
      readonly isList: boolean
    }
  | { readonly kind: 'several'; readonly answers: readonly Conversation[] }
  | { readonly kind: 'one'; readonly answer: Conversation }

/** Answers beside one another: a list, HelpSteer's 1 and 2, PKU-SafeRLHF's 0 and 1. One of two alone says nothing, but
 * for where another field has the answer. */
const readSeveral = (line: Line): readonly (string | Turn)[] => {
  if (line.responses !== undefined) return line.responses
  const numbered = [
    line.response_0,
    line.response_1 ?? line.response1,
    line.response_2 ?? line.response2,
  ]
  const there = numbered.flatMap((answer, number) => (answer === undefined ? [] : [number]))
  const [only] = there
  if (there.length === 1 && only !== undefined && line.response === undefined) {
    const missing = only === 1 ? 2 : 1
    throw new LineError(
      `'response_${Math.min(only, missing)}' and 'response_${Math.max(only, missing)}' go together: 'response_${missing}' is missing. For one answer there is 'response'.`,
    )
  }
  return there.length > 1 ? numbered.filter((one) => one !== undefined) : []
}

const readQuestion = (given: Line): Question => {
  const line = given.chosen === undefined ? { ...given, ...editsOf(given) } : given
  const prompt = readPrompt(line)
  const { chosen, rejected, responses, response } = line
  if (chosen !== undefined || rejected !== undefined) {
    const isList = [chosen, rejected].some(
      (side) => Array.isArray(side) && typeof side[0] === 'string',
    )
    return {
      ...{ kind: 'pair', isList },
      chosen: readAnswer(line, prompt, 'chosen'),
      rejected: readAnswer(line, prompt, 'rejected'),
    }
  }
  const several = readSeveral(line)
  if (several.length > 0) {
    const before = needPrompt(prompt, responses ? 'responses' : 'response_1', line)
    return { kind: 'several', answers: several.map((one) => withAnswer(before, one, 'responses')) }
  }
  if (response !== undefined)
    return {
      kind: 'one',
      answer: withAnswer(needPrompt(prompt, 'response', line), response, 'response'),
    }
  // Beside a prompt, as in UltraChat, they are the whole conversation.
  const whole = line.messages ?? line.conversations
  if (whole !== undefined) return { kind: 'one', answer: whole }
  const answers: readonly Meant[] = ['response', 'responses', 'chosen', 'rejected']
  const meant: readonly Meant[] =
    prompt === undefined ? ['prompt', 'messages', ...answers] : answers
  throw new LineError(
    `needs 'messages', or 'prompt' with 'response', 'responses', or 'chosen' and 'rejected'.${meantBy(line, meant)}`,
  )
}

/** The conversations of a question, in the order in which they are scored. */
export const conversationsOf = (question: Question): readonly Conversation[] => {
  switch (question.kind) {
    case 'pair':
      return [...question.chosen, ...question.rejected]
    case 'several':
      return question.answers
    default:
      return [question.answer]
  }
}

const mapQuestion = (
  question: Question,
  change: (conversation: Conversation) => Conversation,
): Question => {
  switch (question.kind) {
    case 'pair': {
      const { chosen, rejected } = question
      return { ...question, chosen: chosen.map(change), rejected: rejected.map(change) }
    }
    case 'several':
      return { ...question, answers: question.answers.map(change) }
    default:
      return { ...question, answer: change(question.answer) }
  }
}

const Messages = z.looseObject({ messages: GivenMessages })

/** No request can say half of a surrogate pair. */
export const checkTexts = (value: object): void => {
  const path = brokenText(value)
  if (path !== undefined)
    throw new LineError(
      `'${path.join('.')}' has half of a surrogate pair, such as "\\ud83d": cut texts between characters`,
    )
}

/** As the server will check them, so that it is said before the first line is sent. */
const checkMessages = (messages: Conversation): void => {
  checkBody(Messages, { messages }, { isStrict: false })
  checkTexts({ messages })
}

const checkConversation = (messages: Conversation): void => {
  checkMessages(messages)
  const last = messages.at(-1)
  if (last?.role !== 'assistant')
    throw new LineError(
      `the conversation ends with a turn of '${last?.role}', but it is the assistant's answer that is scored`,
    )
  const { content, tool_calls: calls } = last
  if ((content === '' || content == null) && !(Array.isArray(calls) && calls.length > 0))
    throw new LineError('the answer is empty: there is nothing to score')
}

/** Our field name -> theirs. */
export type FieldNames = ReadonlyMap<string, string>

const renamed = (value: Value, names: FieldNames): Value =>
  Object.fromEntries([...names].map(([ours, theirs]) => [ours, value[theirs]]))

export const renameFields = (value: Value, names: FieldNames): Value => ({
  ...value,
  ...renamed(value, names),
})

/** The same of a line that is read: a field that has another name has its own no more. */
export const takeFields = (value: Value, names: FieldNames): Value => {
  const theirs = new Set(names.values())
  const others = Object.entries(value).filter(([name]) => !theirs.has(name))
  return { ...Object.fromEntries(others), ...renamed(value, names) }
}

/** What a check of fields finds is the line's. */
const asLineError = <T>(read: () => T): T => {
  try {
    return read()
  } catch (error) {
    throw error instanceof Error ? new LineError(error.message) : error
  }
}

/** Throws LineError. */
export const readScoredLine = (value: Value): Question =>
  asLineError(() => {
    if (!isEmpty(value.tools))
      throw new LineError(
        "'tools' are not shown to a reward model: leave them out of the line, or tell them in its system turn",
      )
    const line = checkBody(Line, value, { isStrict: false }).body
    const question = mapQuestion(readQuestion(line), (one) => withSystem(one, line))
    for (const conversation of conversationsOf(question)) checkConversation(conversation)
    return question
  })

const PromptLine = Line.pick({
  prompt: true,
  messages: true,
  conversations: true,
  context: true,
  system: true,
  system_prompt: true,
})

/** The conversation that is to be answered. Throws LineError. */
export const readPromptLine = (value: Value): Conversation =>
  asLineError(() => {
    const line = checkBody(PromptLine, value, { isStrict: false }).body
    const { prompt, messages, conversations, context } = line
    // Where both are there, as in UltraFeedback, the messages hold an answer already.
    const turns =
      prompt === undefined
        ? (messages ?? conversations ?? Turns.safeParse(context).data)
        : readTurns(prompt)
    if (turns === undefined)
      throw new LineError(`needs 'prompt' or 'messages'.${meantBy(line, ['prompt', 'messages'])}`)
    const conversation = withSystem(turns, line)
    checkMessages(conversation)
    const last = turns.at(-1)
    if (last?.role === 'assistant')
      throw new LineError(
        "the conversation ends with the assistant's turn: there is nothing to answer",
      )
    if (last?.content === '') throw new LineError('the prompt is empty: there is nothing to answer')
    return conversation
  })

const ToolsLine = z.looseObject({ tools: GivenTools.optional() })

/** The tools that an answer may call; undefined without any. Throws LineError. */
export const readTools = ({ tools: given }: Value): unknown =>
  asLineError(() => {
    const { tools = [] } = checkBody(ToolsLine, { tools: given }, { isStrict: false }).body
    checkTexts({ tools })
    return tools.length > 0 ? tools : undefined
  })
