// `nemotron-server score`: rewards for a JSONL file of answers or preference pairs.

import type { Command } from 'commander'
import { z } from 'zod'
import { positiveInteger } from './flags.js'
import type { Host } from './host.js'
import { LineError, type Members, type Opened } from './jsonl.js'
import {
  type Conversation,
  conversationsOf,
  type Question,
  readScoredLine,
} from './preference-line.js'
import {
  type Asking,
  addJobCommand,
  asking,
  flagsOf,
  isTooLong,
  type JobFlags,
  runJob,
} from './reward-job.js'
import { createScoreSummary } from './score-summary.js'
import { textOf, truncate } from './truncate.js'

const RewardAnswer = z.looseObject({
  data: z.array(
    z.looseObject({
      reward: z.number().nullable(),
      scores: z.array(z.number()),
      attributes: z.record(z.string(), z.number()).optional(),
    }),
  ),
})
type Item = z.output<typeof RewardAnswer>['data'][number]

/** What records may have. */
const MEMBERS = [
  'reward',
  'scores',
  'attributes',
  'rewards',
  'chosen_reward',
  'rejected_reward',
  'chosen_rewards',
  'rejected_rewards',
  'truncated',
]

const reward = ({ reward: value, scores }: Item): number | null =>
  value !== null ? value : scores.length === 1 ? (scores[0] ?? null) : null

/** What the answers of a line scored. */
const scored = (question: Question, items: readonly Item[]): Members => {
  const rewards = items.map(reward)
  switch (question.kind) {
    case 'pair': {
      const better = rewards.slice(0, question.chosen.length)
      const worse = rewards.slice(question.chosen.length)
      return question.isList
        ? { chosen_rewards: better, rejected_rewards: worse }
        : { chosen_reward: better[0], rejected_reward: worse[0] }
    }
    case 'several':
      return { rewards, scores: items.map(({ scores }) => scores) }
    default: {
      const [item] = items
      return {
        reward: rewards[0],
        scores: item?.scores,
        ...(item?.attributes && { attributes: item.attributes }),
      }
    }
  }
}

type Flags = JobFlags & { readonly category?: string; readonly seed: number }

type Given = { readonly question: Question; readonly principle: unknown }

/** Answers to one conversation, which a judge compares with one another. */
const comparison = (conversations: readonly Conversation[]) => {
  const [first = []] = conversations
  const messages = first.slice(0, -1)
  const responses = conversations.map((one) => {
    if (JSON.stringify(one.slice(0, -1)) !== JSON.stringify(messages))
      throw new LineError('a judge compares answers to one conversation, and these are of several')
    const answer = one.at(-1)
    if (Array.isArray(answer?.tool_calls) && answer.tool_calls.length > 0)
      throw new LineError("a judge compares texts, and an answer has 'tool_calls'")
    const text = answer === undefined ? '' : textOf(answer)
    if (text.trim() === '') throw new LineError('the answer is blank: there is nothing to judge')
    return text
  })
  return { messages, responses }
}

const openScoring = ({ target, rewardModel, principleOf }: Asking, flags: Flags): Opened<Given> => {
  const { id: model, isJudge, max_model_len: tokens = Number.MAX_SAFE_INTEGER } = rewardModel
  if (flags.truncate && isJudge)
    throw new Error(
      `--truncate: '${model}' is a judge, which reads two answers at once and writes: what fits is not known`,
    )
  const score = async ({ question, principle: own }: Given, line: number) => {
    const principle = principleOf(own)
    // Lines are counted from 1.
    const judge = isJudge ? { seed: flags.seed + line - 1 } : undefined
    const ask = async (conversations: readonly Conversation[]): Promise<readonly Item[]> => {
      const inputs = isJudge
        ? [comparison(conversations)]
        : conversations.map((messages) => ({ messages }))
      const body = { model, inputs, principle, judge }
      return RewardAnswer.parse(await target.post('/reward', body)).data
    }
    const given = conversationsOf(question)
    try {
      return { records: [scored(question, await ask(given))] }
    } catch (error) {
      if (!flags.truncate || !isTooLong(error)) throw error
    }
    const { conversations, cut } = await truncate(target, [{ model, tokens, principle }], given)
    return { records: [{ ...scored(question, await ask(conversations)), truncated: cut }] }
  }
  return {
    by: `score with '${model}'`,
    flags: flagsOf(flags, { seed: isJudge ? flags.seed : undefined }),
    // Of other models there is nothing more to check, and a file is read once less.
    ...((isJudge || rewardModel.principle !== 'none') && {
      check: ({ question, principle }: Given) => {
        principleOf(principle)
        if (isJudge) comparison(conversationsOf(question))
      },
    }),
    work: (given, line) => asking(() => score(given, line)),
  }
}

const run = async (input: string, flags: Flags, host: Host): Promise<void> => {
  const summary = createScoreSummary(flags.category)
  await runJob({
    ...{ host, input },
    flags,
    unit: 'lines',
    members: MEMBERS,
    read: (line): Given => ({ question: readScoredLine(line), principle: line.principle }),
    open: async (with_) => openScoring(with_, flags),
    onRecord: summary.add,
    summary: summary.sections,
  })
}

export const addScoreCommand = (program: Command, host: Host): void => {
  addJobCommand<Flags>(program, host, {
    name: 'score',
    description:
      'Score a JSONL file of answers or preference pairs with a reward model, and sum up: means, pairs in the right order, RewardBench sections, correlation with HelpSteer2 attributes.',
    input: 'JSONL: messages, or prompt with response, responses, or chosen and rejected',
    output: 'JSONL with the scores added',
    concurrency: 32,
    run,
  })
    .option('--category <field>', 'count pairs by this field too')
    .option('--seed <n>', 'of the first line, where a judge writes', positiveInteger, 1)
}
