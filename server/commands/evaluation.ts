// Evaluation items: how a line of a JSONL file becomes a conversation, and whether an answer is right.
// Pure functions; commands/eval.ts asks the server.

import { z } from 'zod'
import { faultText } from '../check.js'
import { hasFields } from './line-fields.js'
import { isSameMath } from './math-answer.js'

const Turn = z.looseObject({ role: z.string(), content: z.string().nullish() })

/** An item of our own skills: models/tiny/training/eval. */
const SkillLine = z.looseObject({
  id: z.string().optional(),
  skill: z.string(),
  messages: z.array(Turn).min(1),
  tools: z.array(z.looseObject({ function: z.unknown() })).optional(),
  check: z.enum(['text', 'tool_call']),
  gold: z.unknown(),
  trace: z.string().optional(),
})

/** A question as public sets have it: MATH500, AIME, GPQA; GSM8K, MATH and MMLU say their answers in other ways. */
const CardLine = z.looseObject({
  id: z.union([z.string(), z.number()]).optional(),
  question: z.string().optional(),
  problem: z.string().optional(),
  options: z.union([z.array(z.string()), z.record(z.string(), z.string())]).optional(),
  choices: z.array(z.string()).optional(),
  answer: z.union([z.string(), z.number()]).optional(),
  solution: z.string().optional(),
})

export type Item = {
  readonly id: string
  readonly skill: string
  readonly messages: readonly Readonly<Record<string, unknown>>[]
  /** Text for the system turn, after the line that sets the mode. */
  readonly system: string
  /** The reference's steps, where the item has them. */
  readonly trace: string | undefined
  /** The answer has to stand in \\boxed{}. */
  readonly isBoxed: boolean
  readonly judge: (answer: string) => { readonly right: boolean; readonly wellFormed: boolean }
}

/** JSON as Python's json.dumps writes it, which is what the templates' `tojson` gives. */
const pythonJson = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(', ')}]`
  if (typeof value === 'object' && value !== null)
    return `{${Object.entries(value)
      .map(([key, one]) => `${JSON.stringify(key)}: ${pythonJson(one)}`)
      .join(', ')}}`
  return JSON.stringify(value)
}

/** Keys in one order, so that equal values are equal texts. */
const canonical = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (typeof value === 'object' && value !== null)
    return `{${Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, one]) => `${JSON.stringify(key)}:${canonical(one)}`)
      .join(',')}}`
  return JSON.stringify(value) ?? 'null'
}

const Call = z.strictObject({ name: z.string(), arguments: z.record(z.string(), z.unknown()) })

/** The one call of an answer that is a call and nothing else. */
export const parseToolCall = (answer: string): z.output<typeof Call> | undefined => {
  const inner = /^<TOOLCALL>\[([\s\S]*)\]<\/TOOLCALL>$/.exec(answer)?.[1]
  if (inner === undefined) return undefined
  try {
    return Call.safeParse(JSON.parse(inner)).data
  } catch {
    return undefined
  }
}

/** What stands in the last \boxed{...}, braces matched; undefined without one. */
export const lastBoxed = (text: string): string | undefined => {
  const start = text.lastIndexOf('\\boxed')
  const open = text.indexOf('{', start)
  if (start < 0 || open < 0) return undefined
  let depth = 0
  for (let i = open; i < text.length; i++) {
    if (text[i] === '{') depth++
    else if (text[i] === '}' && --depth === 0) return text.slice(open + 1, i)
  }
  return undefined
}

const BOXED_PROMPT =
  'Below is a math question. I want you to reason through the steps and then give a final answer. ' +
  'Your final answer should be in \\boxed{}.\nQuestion: '

const LETTERS = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZ']
const NUMBER = /-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?/g

/** What an answer without a box says: nothing, or its last number or letter. */
export const UNBOXED = ['wrong', 'last'] as const
type Unboxed = (typeof UNBOXED)[number]

const lastMatch = (text: string, pattern: RegExp): string | undefined => text.match(pattern)?.at(-1)

type CardOptions = { readonly name: string; readonly number: number; readonly unboxed: Unboxed }

type Options = NonNullable<z.output<typeof CardLine>['options']>

/** Letters and texts of a question's options. */
const choices = (options: Options) => {
  const texts = Object.values(options)
  const letters = LETTERS.slice(0, texts.length)
  const isLettered = Array.isArray(options) || letters.join() === Object.keys(options).sort().join()
  if (letters.length < 2 || letters.length < texts.length || !isLettered)
    throw new Error("'options' must be a list of 2 to 26 texts, or have the names A, B and so on")
  return { letters, texts: Array.isArray(options) ? texts : letters.map((one) => options[one]) }
}

/** The right answer of a line: GSM8K writes its steps before it, MATH puts it into the box of a solution, MMLU counts its
 * choices from 0. */
const goldOf = ({ answer, solution, choices }: z.output<typeof CardLine>): string => {
  if (answer === undefined) {
    const boxed = solution === undefined ? undefined : lastBoxed(solution)
    if (boxed === undefined)
      throw new Error("needs 'answer', or a 'solution' that ends in \\boxed{}")
    return boxed
  }
  if (typeof answer === 'number' && choices !== undefined) return LETTERS[answer] ?? String(answer)
  return /(?:^|\n)####[ \t]*(\S[^\n]*)\s*$/.exec(String(answer))?.[1] ?? String(answer)
}

/** The cards' prompts, nemotron-nano's evaluation settings. */
const cardItem = (
  line: z.output<typeof CardLine>,
  { name, number, unboxed }: CardOptions,
): Item => {
  const question = line.question ?? line.problem
  if (question === undefined) throw new Error(`needs 'question' (or 'problem')${hasFields(line)}`)
  const id = String(line.id ?? number)
  const gold = goldOf(line)
  const ask = (content: string) => [{ role: 'user', content }]
  const common = { id, skill: name, system: '', trace: undefined, isBoxed: true }
  const said = (answer: string, last: RegExp): string | undefined =>
    lastBoxed(answer) ?? (unboxed === 'last' ? lastMatch(answer, last) : undefined)
  const options = line.options ?? line.choices
  if (options === undefined)
    return {
      ...common,
      messages: ask(BOXED_PROMPT + question),
      judge: (answer) => {
        const value = said(answer, NUMBER)
        return {
          wellFormed: lastBoxed(answer) !== undefined,
          right: value !== undefined && isSameMath(value, gold),
        }
      },
    }
  const { letters, texts } = choices(options)
  const right = gold.trim().toUpperCase()
  if (!letters.includes(right))
    throw new Error(`'answer' is '${gold}', but its options make it one of ${letters.join(', ')}`)
  const lines = letters.map((letter, i) => `${letter}. ${texts[i]}`)
  const named = `${letters.slice(0, -1).join(', ')}${letters.length > 2 ? ',' : ''} or ${letters.at(-1)}`
  const letter = `\\b[A-${letters.at(-1)}]\\b`
  const last = new RegExp(letter, 'g')
  const one = new RegExp(letter)
  return {
    ...common,
    messages: ask(
      `What is the correct answer to this question: ${question}\nChoices:\n${lines.join('\n')}\n` +
        `Let's think step by step, and put the final answer (should be a single letter ${named}) ` +
        'into a \\boxed{}',
    ),
    judge: (answer) => ({
      wellFormed: one.test(lastBoxed(answer) ?? ''),
      right: one.exec(said(answer, last) ?? '')?.[0] === right,
    }),
  }
}

const skillItem = (line: z.output<typeof SkillLine>, number: number): Item => ({
  id: line.id ?? String(number),
  skill: line.skill,
  messages: line.messages,
  system:
    line.tools === undefined
      ? ''
      : `<AVAILABLE_TOOLS>[${line.tools.map((tool) => pythonJson(tool.function)).join(', ')}]</AVAILABLE_TOOLS>`,
  trace: line.trace,
  isBoxed: false,
  judge: (answer) => {
    if (line.check === 'text')
      return { right: answer === line.gold, wellFormed: !answer.includes('<TOOLCALL>') }
    const call = parseToolCall(answer)
    return { wellFormed: call !== undefined, right: canonical(call) === canonical(line.gold) }
  },
})

/** `name`: of the file, which names a card's benchmark. */
export const readItem = (value: unknown, options: CardOptions): Item => {
  const skill = SkillLine.safeParse(value)
  if (skill.success) return skillItem(skill.data, options.number)
  const card = CardLine.safeParse(value)
  const { answer, solution } = card.data ?? {}
  const given = Object(value)
  if ('skill' in given && 'gold' in given) throw new Error(faultText(skill.error, value))
  if (!card.success) throw new Error(faultText(card.error, value))
  if ((answer ?? solution) !== undefined) return cardItem(card.data, options)
  throw new Error(
    `needs 'skill', 'messages', 'check' and 'gold', or 'question' and 'answer' (and 'options')${hasFields(given)}`,
  )
}

/** Accuracy that the model card of Llama-3.1-Nemotron-Nano-8B-v1 publishes, in percent. */
export const CARD_SCORES: Readonly<Record<string, { readonly off: number; readonly on: number }>> =
  {
    math500: { off: 36.6, on: 95.4 },
    aime25: { off: 0, on: 47.1 },
    gpqa_d: { off: 39.4, on: 54.1 },
  }

/** Thinking and answer, wherever the server puts the thinking. */
export const splitAnswer = (
  content: string,
  reasoning: string | null | undefined,
): { readonly thinking: string; readonly answer: string } => {
  if (reasoning != null && reasoning !== '')
    return { thinking: reasoning.trim(), answer: content.trim() }
  const at = content.lastIndexOf('</think>')
  if (at < 0) return { thinking: '', answer: content.trim() }
  return {
    thinking: content
      .slice(0, at)
      .replace(/^\s*<think>/, '')
      .trim(),
    answer: content.slice(at + '</think>'.length).trim(),
  }
}
