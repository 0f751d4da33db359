// Typed questions about a conversation, answered with probabilities and no text: how likely the model's answer
// begins with each of a few labels. In no dialect.

import type { RequestLog } from '../log.js'
import { isJudge, isReward, type ServedModel } from '../model/served-model.js'
import type { Message } from '../prompt/conversation.js'
import { encodePrompt, type Segment } from '../prompt/encode.js'
import { badRequest, contextExceeded } from '../request-error.js'
import { type Asked, labelLogprobs } from '../scoring/label-logprobs.js'
import { encodeInputs, type ScoreInput, scoreItems } from '../scoring/scoring.js'
import { mapInTurns } from '../slices.js'
import type { Tokenizer } from '../tokenizer/types.js'
import { renderChat } from './prompt.js'

type Option = { readonly text: string; readonly description?: string | null | undefined }

export type Question = {
  readonly text: string
  /** predicate: is it true? Its options are yes and no, in this order. choice: one of the options. score: a
   * level, from the lowest on. */
  readonly kind: 'predicate' | 'choice' | 'score'
  /** Of a predicate: empty. */
  readonly options: readonly Option[]
}

export type Reading = {
  /** Of the options, in their order; together 1. */
  readonly probabilities: readonly number[]
  /** How much of all that the model might say the labels are. */
  readonly labelMass: number
  /** The likeliest first token of an answer begins a label. */
  readonly isLabelLikeliest: boolean
}

/** Index of the likeliest option; the first of several. */
export const likeliestOf = ({ probabilities }: Reading): number =>
  probabilities.indexOf(Math.max(...probabilities))

/** Its share of everything that might have been said. */
export const confidenceOf = ({ probabilities, labelMass }: Reading): number =>
  Math.max(...probabilities) * labelMass

/** Mean of the options' indices. */
export const meanOf = ({ probabilities }: Reading): number =>
  probabilities.reduce((sum, p, i) => sum + i * p, 0)

/** Of all prompts of a request: what they take in memory is bounded. */
const MAX_TOKENS = 1 << 22
/** Positions at which labels are read. */
const MAX_READS = 8192

const LETTERS = 26

/** A label as it may be written. None is the beginning of another's. */
type Labels = readonly (readonly string[])[]

const written = (label: string): readonly string[] => [label, ` ${label}`]

const YES_NO: Labels = ['Yes', 'No'].map((word) =>
  [word, word.toLowerCase(), word.toUpperCase()].flatMap(written),
)

/** The labels of so many options, as the question shows them. */
const labelNames = (kind: Question['kind'], count: number): readonly string[] => {
  const index = Array.from({ length: count }, (_, i) => i)
  if (kind === 'choice' && count <= LETTERS) return index.map((i) => String.fromCharCode(65 + i))
  const { length: width } = String(kind === 'choice' ? count : count - 1)
  return index.map((i) => String(kind === 'choice' ? i + 1 : i).padStart(width, '0'))
}

const labelsOf = ({ kind, options }: Question): Labels =>
  kind === 'predicate' ? YES_NO : labelNames(kind, options.length).map(written)

const listed = (names: readonly string[], options: readonly Option[]): string =>
  options
    .map(({ text, description }, i) =>
      description ? `${names[i]}: ${text} (${description})` : `${names[i]}: ${text}`,
    )
    .join('\n')

/** What the model is asked. The conversation comes first, then what all questions of a kind say alike: both are
 * in the prefix cache when the next one comes. */
const questionText = ({ kind, text, options }: Question): string => {
  const names = labelNames(kind, options.length)
  switch (kind) {
    case 'predicate':
      return `Is the following true of the above? Answer with Yes or No only.\n\n${text}`
    case 'choice':
      return `${text}\n\nOptions:\n${listed(names, options)}\n\nAnswer with the label of one option only.`
    case 'score':
      return `${text}\n\nLevels, from the lowest to the highest:\n${listed(names, options)}\n\nAnswer with the number of one level only.`
  }
}

/** Some templates want users and assistants to take turns. */
const withQuestion = (messages: readonly Message[], text: string): readonly Message[] => {
  const last = messages.at(-1)
  if (last?.role !== 'user') return [...messages, { role: 'user', content: text }]
  return [...messages.slice(0, -1), { ...last, content: `${last.content}\n\n${text}` }]
}

const beginsWith = (ids: readonly number[], start: readonly number[]): boolean =>
  ids.length > start.length && start.every((id, i) => ids[i] === id)

/** Characters of a prompt's end that decide how a label behind it is tokenized. */
const END_CHARACTERS = 64

type LabelEncoder = (end: string, label: string) => Promise<readonly number[]>

/** Token ids of a label behind the end of a prompt; questions mostly end alike, and each pair is encoded once. */
const createLabelEncoder = (tokenizer: Tokenizer): LabelEncoder => {
  const known = new Map<string, Promise<readonly number[]>>()
  const encode = (text: string): Promise<readonly number[]> => {
    const found = known.get(text) ?? tokenizer.encodeParts([text])
    known.set(text, found)
    return found
  }
  return async (end, label) => {
    const tail = end.slice(-END_CHARACTERS).replace(/^[\uDC00-\uDFFF]/, '')
    const [before, whole] = await Promise.all([encode(tail), encode(tail + label)])
    return beginsWith(whole, before) ? whole.slice(before.length) : encode(label)
  }
}

/** By option: its label in token ids, in every form. */
const encodeLabels = async (
  encoder: LabelEncoder,
  segments: readonly Segment[],
  labels: Labels,
  param: string,
): Promise<readonly (readonly (readonly number[])[])[]> => {
  const last = segments.at(-1)
  const end = last !== undefined && 'text' in last ? last.text : ''
  const taken = new Map<string, number>()
  return mapInTurns(labels, async (forms, option) => {
    const own: (readonly number[])[] = []
    const encoded = await mapInTurns(forms, (form) => encoder(end, form))
    for (const [i, ids] of encoded.entries()) {
      const key = ids.join(' ')
      const by = taken.get(key)
      taken.set(key, by ?? option)
      if (by === undefined && ids.length > 0) own.push(ids)
      else if (by !== option && i === 0)
        throw badRequest(
          `'${param}' has ${labels.length} options, more than this model's tokenizer tells apart.`,
          param,
        )
    }
    return own
  })
}

type Read = Asked & { readonly path: string }

/** Every position at which one of the labels goes on, the prompt's own first. */
const readsOf = (
  prompt: readonly number[],
  labels: readonly (readonly (readonly number[])[])[],
): readonly Read[] => {
  const nodes = new Map<string, { readonly ids: readonly number[]; readonly next: Set<number> }>()
  for (const ids of labels.flat())
    for (const [i, id] of ids.entries()) {
      const before = ids.slice(0, i)
      const path = before.join(' ')
      const node = nodes.get(path) ?? { ids: before, next: new Set() }
      nodes.set(path, node)
      node.next.add(id)
    }
  return [...nodes].map(([path, { ids, next }]) => ({
    path,
    prompt: ids.length === 0 ? prompt : prompt.concat(ids),
    labels: [...next],
  }))
}

const logSum = (logs: readonly number[]): number => {
  const most = Math.max(...logs)
  if (most === Number.NEGATIVE_INFINITY) return most
  return most + Math.log(logs.reduce((sum, log) => sum + Math.exp(log - most), 0))
}

/** Logs of how likely options are, apart from what else might be said. */
const shares = (logs: readonly number[]): readonly number[] => {
  const all = logSum(logs)
  return logs.map((log) => Math.exp(log - all))
}

type Planned = {
  readonly labels: readonly (readonly (readonly number[])[])[]
  readonly reads: readonly Read[]
  readonly promptTokens: number
}

type DecideCall = {
  readonly model: ServedModel
  readonly messages: readonly Message[]
  readonly questions: readonly Question[]
  /** The field of a question, for errors. */
  readonly paramOf: (question: number) => string
  /** The field of the conversation. */
  readonly inputParam: string
  readonly record: RequestLog
  readonly signal: AbortSignal
  readonly arrival: number
  readonly priority: number | undefined
  readonly cacheSalt: string | undefined
}

export type Decided = {
  readonly readings: readonly Reading[]
  readonly promptTokens: number
  readonly cachedTokens: number
}

const plan = async (
  { model, messages, paramOf, cacheSalt }: DecideCall,
  encoder: LabelEncoder,
  question: Question,
  i: number,
): Promise<Planned> => {
  const asked = { messages: withQuestion(messages, questionText(question)) }
  const { segments } = renderChat(model, asked, 'never')
  const param = paramOf(i)
  const [prompt, labels] = await Promise.all([
    encodePrompt(segments, model, param, cacheSalt),
    encodeLabels(encoder, segments, labelsOf(question), param),
  ])
  const longest = Math.max(...labels.flat().map(({ length }) => length))
  const { maxModelLen } = model.engine.info
  if (prompt.length + longest > maxModelLen)
    throw contextExceeded(maxModelLen, prompt.length, longest, param)
  return { labels, reads: readsOf(prompt, labels), promptTokens: prompt.length }
}

const decideByText = async (call: DecideCall): Promise<Decided> => {
  let tokens = 0
  let count = 0
  const encoder = createLabelEncoder(call.model.tokenizer)
  const planned = await mapInTurns(call.questions, async (question, i) => {
    const one = await plan(call, encoder, question, i)
    tokens += one.reads.reduce((sum, { prompt }) => sum + prompt.length, 0)
    count += one.reads.length
    if (tokens > MAX_TOKENS || count > MAX_READS)
      throw badRequest(
        `The questions, each with the input, make more than ${MAX_TOKENS} tokens or ${MAX_READS} reads in one request: ask fewer at once.`,
        'questions',
      )
    return one
  })
  const asked = planned.flatMap(({ reads }) => reads)
  const { answers } = await labelLogprobs({ ...call, asked })
  let at = 0
  let cachedTokens = 0
  const readings = planned.map(({ labels, reads }): Reading => {
    const mine = new Map(reads.map((read, i) => [read.path, { read, answer: answers[at + i] }]))
    at += reads.length
    const logOf = (ids: readonly number[]): number =>
      ids.reduce((sum, id, i) => {
        const found = mine.get(ids.slice(0, i).join(' '))
        return sum + (found?.answer?.logprobs[found.read.labels.indexOf(id)] ?? 0)
      }, 0)
    const logs = labels.map((forms) => logSum(forms.map(logOf)))
    const first = mine.get('')
    const { likeliest, cachedTokens: cached = 0 } = first?.answer ?? {}
    cachedTokens += cached
    return {
      probabilities: shares(logs),
      // Sums of rounded parts may come out above 1.
      labelMass: Math.min(1, Math.exp(logSum(logs))),
      isLabelLikeliest: likeliest !== undefined && first?.read.labels.includes(likeliest) === true,
    }
  })
  const promptTokens = planned.reduce((sum, one) => sum + one.promptTokens, 0)
  return { readings, promptTokens, cachedTokens }
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/** What a reward model can say: whether the last answer satisfies a principle, and which of several answers it
 * prefers (Bradley-Terry, in which both orders of two are one). */
const rewardInput = ({ model, messages, paramOf }: DecideCall, question: Question, i: number) => {
  const { readout } = model
  const param = paramOf(i)
  const refuse = (why: string) =>
    badRequest(`'${param}' cannot be answered by '${model.id}': ${why}.`, param)
  const hasPrinciple = readout.question?.includes('{principle}') === true
  if (!readout.isScalar) throw refuse('it gives several scores and no weights for them')
  if (question.kind === 'score') throw refuse('a reward model knows no levels; ask a chat model')
  if (question.kind === 'predicate') {
    if (!hasPrinciple) throw refuse('it judges by no principle; ask a choice, or a chat model')
    return { messages, responses: undefined, principle: question.text }
  }
  if (hasPrinciple)
    throw refuse(
      'it says whether an answer satisfies a principle; ask a predicate, or another model',
    )
  return {
    messages: withQuestion(messages, question.text),
    responses: question.options.map(({ text }) => text),
    principle: undefined,
  }
}

const decideByReward = async (call: DecideCall): Promise<Decided> => {
  const inputs: readonly ScoreInput[] = call.questions.map((question, i) =>
    rewardInput(call, question, i),
  )
  const { model, inputParam, paramOf, cacheSalt } = call
  const count = inputs.reduce((all, { responses }) => all + (responses?.length ?? 1), 0)
  if (count > MAX_READS)
    throw badRequest(
      `The questions have ${count} options together, each scored by itself: at most ${MAX_READS} in one request.`,
      'questions',
    )
  const names = {
    all: inputParam,
    item: (input: number) => (inputs[input]?.responses ? paramOf(input) : inputParam),
  }
  const items = await encodeInputs(model, inputs, () => '', { names, cacheSalt })
  const scored = await scoreItems({ ...call, items })
  const rewardsOf: number[][] = inputs.map(() => [])
  for (const { input, scores } of scored) rewardsOf[input]?.push(model.readout.reward(scores) ?? 0)
  const readings = rewardsOf.map((rewards, i): Reading => {
    const [first = 0] = rewards
    const isTrue = sigmoid(first)
    return {
      probabilities: inputs[i]?.responses ? shares(rewards) : [isTrue, 1 - isTrue],
      labelMass: 1,
      isLabelLikeliest: true,
    }
  })
  const sum = (of: (one: (typeof scored)[number]) => number) =>
    scored.reduce((all, one) => all + of(one), 0)
  return {
    readings,
    promptTokens: sum(({ ids }) => ids.length),
    cachedTokens: sum(({ timings }) => timings.cachedTokens),
  }
}

/** A reward model is shown answers, and not what is said of them. */
export const losesDescriptions = (model: ServedModel, questions: readonly Question[]): boolean =>
  isReward(model) &&
  questions.some(({ options }) => options.some(({ description }) => Boolean(description)))

/** One batch on the engine: the questions share the conversation's blocks. */
export const decide = (call: DecideCall): Promise<Decided> => {
  const { model } = call
  if (isJudge(model))
    throw badRequest(`'${model.id}' is a judge: it answers at /v1/reward.`, 'model')
  return isReward(model) ? decideByReward(call) : decideByText(call)
}
