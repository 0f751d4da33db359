// `nemotron-server generate-pairs`: the preference-data recipe in one command. For each prompt n answers
// are generated and scored; the best and the worst become chosen and rejected when they lie far enough
// apart.

import { type Command, InvalidArgumentError, Option } from 'commander'
import { z } from 'zod'
import { ChatChoice, type ListedModel } from './client.js'
import { integerFrom, numberFrom, positiveInteger } from './flags.js'
import { type Host, tell } from './host.js'
import type { Members, Opened, Result } from './jsonl.js'
import { type Conversation, readPromptLine, readTools } from './preference-line.js'
import {
  type Asking,
  addJobCommand,
  asking,
  chatModelOf,
  flagsOf,
  isTooLong,
  type JobFlags,
  runJob,
} from './reward-job.js'
import { createMoments } from './statistics.js'
import { truncate } from './truncate.js'

const ChatAnswer = z.looseObject({
  choices: z
    .array(
      ChatChoice.extend({
        /** Null: too long for the reward model, or a judge did not say what it is worth. */
        reward: z.number().nullable(),
      }),
    )
    .min(2),
})
type Choice = z.output<typeof ChatAnswer>['choices'][number]

/** What records may have. */
const MEMBERS = [
  'chosen',
  'rejected',
  'chosen_reasoning',
  'rejected_reasoning',
  'chosen_reward',
  'rejected_reward',
  'candidates',
  'dropped',
  'truncated',
]

const nonNegative = (value: string): number => {
  const number = Number(value)
  if (value.trim() === '' || !(number >= 0))
    throw new InvalidArgumentError('It must be a number of at least 0.')
  return number
}

type Flags = JobFlags & {
  readonly n: number
  readonly margin: number
  readonly temperature: number
  readonly maxTokens?: number
  readonly thinking?: 'on' | 'off'
  readonly includeThinking?: boolean
  readonly keepCandidates?: boolean
  readonly keepDropped?: boolean
  readonly seed: number
}

const contentOf = ({ message }: Choice): string => message.content ?? ''
const callsOf = ({ message }: Choice) => message.tool_calls ?? []
/** A text, or the turn that has its calls. */
const answerOf = (choice: Choice) =>
  callsOf(choice).length === 0
    ? contentOf(choice)
    : { role: 'assistant', content: contentOf(choice), tool_calls: callsOf(choice) }
/** What tells answers apart: calls have ids of their own. */
const saidOf = (choice: Choice): string =>
  JSON.stringify([contentOf(choice), callsOf(choice).map((call) => call.function)])
/** One whose tokens went into thinking is no answer. */
const isAnswer = (choice: Choice): boolean => answerOf(choice) !== ''
const reasoningOf = ({ message }: Choice): string | undefined =>
  message.reasoning_content || undefined

const candidateOf = (choice: Choice) => ({
  content: contentOf(choice),
  tool_calls: callsOf(choice).length > 0 ? callsOf(choice) : undefined,
  reasoning: reasoningOf(choice),
  reward: choice.reward,
  finish_reason: choice.finish_reason,
})

/** The best and the worst of the answers, or why they make no pair. Answers come best first, those
 * without a reward last. */
const pairOf = (
  choices: readonly Choice[],
  { margin, isJudged }: { readonly margin: number; readonly isJudged: boolean },
): Members | string => {
  const answers = choices.filter(isAnswer)
  const rated = answers.filter((one) => one.reward !== null)
  const [best] = rated
  const worst = rated.at(-1)
  if (best === undefined || worst === undefined || best === worst)
    return isJudged && answers.length > 1
      ? 'fewer than two answers could be judged'
      : 'fewer than two answers are neither empty nor too long for the reward model'
  const rewards = { chosen_reward: best.reward, rejected_reward: worst.reward }
  const isSame = saidOf(best) === saidOf(worst)
  if (isSame && reasoningOf(best) === reasoningOf(worst)) return 'all answers are the same'
  if (isSame) return 'the best and the worst answer differ in their thinking alone'
  if ((best.reward ?? 0) - (worst.reward ?? 0) < margin)
    return `the rewards are closer than ${margin}`
  return {
    chosen: answerOf(best),
    rejected: answerOf(worst),
    chosen_reasoning: reasoningOf(best),
    rejected_reasoning: reasoningOf(worst),
    ...rewards,
  }
}

/** A prompt leaves room for an answer: --max-tokens or a quarter of the context, but no more than half of it. */
const readerOf = (
  { id, max_model_len: most = Number.MAX_SAFE_INTEGER }: ListedModel,
  { maxTokens }: Flags,
) => ({
  model: id,
  tokens: Math.floor(most - Math.min(maxTokens ?? most / 4, most / 2)),
})

type Line = {
  readonly messages: Conversation
  readonly tools: unknown
  /** The line's own. */
  readonly principle: unknown
}
type Given = Line & { readonly principle: string | undefined }

const openPairs = async (with_: Asking, flags: Flags): Promise<Opened<Line>> => {
  const { target, rewardModel, principleOf } = with_
  const { n, margin, temperature, thinking, maxTokens } = flags
  const chatModel = await chatModelOf(with_, flags.chatModel)
  const common = {
    model: chatModel.id,
    n,
    temperature,
    ...(maxTokens !== undefined && { max_tokens: maxTokens }),
    ...(thinking !== undefined && {
      chat_template_kwargs: { enable_thinking: thinking === 'on' },
    }),
  }
  const judge = { model: rewardModel.id, include_thinking: flags.includeThinking === true }
  const ask = async (given: Given, line: number): Promise<readonly Choice[]> => {
    const { messages, tools, principle } = given
    const seed = flags.seed + line - 1 // lines are counted from 1
    const body = { ...common, messages, tools, reward: { ...judge, principle }, seed }
    return ChatAnswer.parse(await target.post('/chat/completions', body)).choices
  }
  const answers = async (given: Given, line: number) => {
    try {
      return { choices: await ask(given, line), cut: undefined }
    } catch (error) {
      if (!flags.truncate || !isTooLong(error)) throw error
    }
    const { messages, principle } = given
    const counted = rewardModel.isJudge ? undefined : principle
    const readers = [
      { ...readerOf(chatModel, flags), tools: given.tools },
      { ...readerOf(rewardModel, flags), principle: counted },
    ]
    const { conversations, cut } = await truncate(target, readers, [messages])
    const [short = messages] = conversations
    return { choices: await ask({ ...given, messages: short }, line), cut }
  }
  const make = async (given: Line, line: number): Promise<Result> => {
    const principle = principleOf(given.principle)
    const { choices, cut } = await answers({ ...given, principle }, line)
    const more: Members = {
      ...(flags.keepCandidates && { candidates: choices.map(candidateOf) }),
      truncated: cut,
    }
    const pair = pairOf(choices, { margin, isJudged: rewardModel.isJudge })
    if (typeof pair !== 'string') return { records: [{ ...pair, ...more }] }
    return {
      records: flags.keepDropped ? [{ ...more, dropped: pair }] : [],
      counted: [`without a pair: ${pair}`],
    }
  }
  return {
    by: `generate-pairs with '${chatModel.id}' and '${rewardModel.id}'`,
    flags: flagsOf(flags, {
      ...{ n, margin, temperature, thinking, seed: flags.seed, 'max-tokens': maxTokens },
      'include-thinking': flags.includeThinking,
      'keep-candidates': flags.keepCandidates,
      'keep-dropped': flags.keepDropped,
    }),
    ...(rewardModel.principle !== 'none' && {
      check: ({ principle }: Line) => void principleOf(principle),
    }),
    work: (given, line) => asking(() => make(given, line)),
  }
}

const run = async (input: string, flags: Flags, host: Host): Promise<void> => {
  if (flags.thinking === 'on' && !flags.includeThinking)
    tell(host, 'answers are judged without their thinking: --include-thinking judges both')
  const [chosen, rejected, margin] = [createMoments(), createMoments(), createMoments()]
  await runJob({
    ...{ host, input },
    flags,
    unit: 'prompts',
    members: MEMBERS,
    read: (line): Line => ({
      messages: readPromptLine(line),
      tools: readTools(line),
      principle: line.principle,
    }),
    open: (with_) => openPairs(with_, flags),
    onRecord: ({ chosen_reward: better, rejected_reward: worse, dropped }) => {
      if (dropped !== undefined || typeof better !== 'number' || typeof worse !== 'number') return
      chosen.add(better)
      rejected.add(worse)
      margin.add(better - worse)
    },
    summary: ({ failed, counts }) => [
      {
        name: 'prompts',
        rows: [
          { name: 'with a pair', values: { count: margin.count() } },
          ...[...counts].map(([name, count]) => ({ name, values: { count } })),
          { name: 'that could not be used', values: { count: failed } },
        ],
      },
      {
        name: 'rewards',
        rows: Object.entries({ chosen, rejected, margin }).flatMap(([name, one]) =>
          one.count() > 0 ? [{ name, values: one.values() }] : [],
        ),
      },
    ],
  })
}

export const addGeneratePairsCommand = (program: Command, host: Host): void => {
  addJobCommand<Flags>(program, host, {
    name: 'generate-pairs',
    description: 'Prompts in, preference pairs out: n answers each, scored, best and worst kept.',
    input: 'JSONL with prompt or messages; where both are there, prompt is asked',
    output: 'JSONL of pairs, with all that the line has',
    concurrency: 8,
    run,
  })
    .option('--chat-model <name>', 'which model answers')
    .option('--n <count>', 'answers to each prompt', integerFrom(2, 128), 4)
    .option('--margin <reward>', 'least distance between the two rewards', nonNegative, 0)
    .option('--temperature <t>', 'of the answers', numberFrom(0, 2), 1)
    .option('--max-tokens <n>', 'of each answer', positiveInteger)
    .addOption(
      new Option('--thinking <on|off>', 'reasoning mode of the answers').choices(['on', 'off']),
    )
    .option('--include-thinking', 'judge the answers with their thinking, as tiny-reward needs it')
    .option('--keep-candidates', 'write all answers of a prompt with their rewards (candidates)')
    .option('--keep-dropped', 'write prompts without a pair too, with the reason (dropped)')
    .option('--seed <n>', 'of the first line', positiveInteger, 1)
}
