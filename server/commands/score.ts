// `nemotron-server score`: rewards for a JSONL file of answers or preference pairs.

import type { Command } from 'commander'
import { z } from 'zod'
import { tell } from '../log.js'
import { JsonlError, type Members, readJsonl } from './jsonl.js'
import { addJobCommand, type JobFlags, runJob } from './reward-job.js'

const Turns = z.array(z.looseObject({ role: z.string() })).min(1)
/** An answer: text, or a conversation that ends with it. */
const Answer = z.union([z.string(), Turns])
const Line = z
  .looseObject({
    prompt: z.union([z.string(), Turns]).optional(),
    messages: Turns.optional(),
    response: z.string().optional(),
    responses: z.array(z.string()).min(1).optional(),
    chosen: Answer.optional(),
    rejected: Answer.optional(),
    helpfulness: z.number().optional(),
  })
  .refine((line) => (line.chosen === undefined) === (line.rejected === undefined), {
    message: "'chosen' and 'rejected' go together",
  })
type Line = z.output<typeof Line>

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

type Turn = Readonly<Record<string, unknown>>

/** The conversation before the answer. */
const promptTurns = (line: Line): readonly Turn[] => {
  const { prompt, messages } = line
  if (typeof prompt === 'string') return [{ role: 'user', content: prompt }]
  return prompt ?? messages ?? []
}

const withAnswer = (line: Line, answer: z.output<typeof Answer>): readonly Turn[] =>
  typeof answer === 'string'
    ? [...promptTurns(line), { role: 'assistant', content: answer }]
    : answer.length === 1 || (line.prompt !== undefined && answer[0]?.role === 'assistant')
      ? [...promptTurns(line), ...answer]
      : answer

/** What a line asks to be scored. */
const conversations = (line: Line): readonly (readonly Turn[])[] => {
  if (line.chosen !== undefined && line.rejected !== undefined)
    return [withAnswer(line, line.chosen), withAnswer(line, line.rejected)]
  if (line.responses !== undefined) return line.responses.map((one) => withAnswer(line, one))
  if (line.response !== undefined) return [withAnswer(line, line.response)]
  if (line.messages !== undefined) return [line.messages]
  throw new JsonlError(
    "needs 'messages', or 'prompt' with 'response', 'responses', or 'chosen' and 'rejected'",
  )
}

const reward = ({ reward: value, scores }: Item) =>
  value !== null ? value : scores.length === 1 ? (scores[0] ?? null) : null

/** What the answers of a line scored. */
const scored = (line: Line, items: readonly Item[]): Members => {
  if (line.chosen !== undefined) {
    const [chosen, rejected] = items.map(reward)
    return { chosen_reward: chosen, rejected_reward: rejected }
  }
  if (line.responses !== undefined)
    return { rewards: items.map(reward), scores: items.map(({ scores }) => scores) }
  const [item] = items
  return item === undefined
    ? {}
    : {
        reward: reward(item),
        scores: item.scores,
        ...(item.attributes && { attributes: item.attributes }),
      }
}

const Scored = z.looseObject({
  chosen_reward: z.number().nullish(),
  rejected_reward: z.number().nullish(),
  prompt: z.unknown().optional(),
  reward: z.number().nullish(),
  helpfulness: z.number().optional(),
})

type PairCount = { right: number; total: number }

/** Pairs of the output, by category: chosen over rejected, and HelpSteer2's neighbours with the same
 * prompt and different helpfulness. A tie counts as half. */
const countPairs = async (
  path: string,
  category: string | undefined,
): Promise<ReadonlyMap<string, PairCount>> => {
  const counts = new Map<string, PairCount>()
  const add = (line: Readonly<Record<string, unknown>>, better: number, worse: number) => {
    const name = category === undefined ? 'all' : String(line[category] ?? '(none)')
    const count = counts.get(name) ?? { right: 0, total: 0 }
    count.right += better > worse ? 1 : better === worse ? 0.5 : 0
    count.total++
    counts.set(name, count)
  }
  let last: z.output<typeof Scored> | undefined
  for await (const value of readJsonl(path)) {
    const line = Scored.parse(value)
    if (line.chosen_reward != null && line.rejected_reward != null)
      add(line, line.chosen_reward, line.rejected_reward)
    const same = last?.prompt !== undefined && last.prompt === line.prompt
    if (same && last?.helpfulness !== undefined && line.helpfulness !== undefined) {
      const [better, worse] = last.helpfulness > line.helpfulness ? [last, line] : [line, last]
      if (better.helpfulness !== worse.helpfulness && better.reward != null && worse.reward != null)
        add(line, better.reward, worse.reward)
      last = undefined
    } else last = line
  }
  return counts
}

const summary = (counts: ReadonlyMap<string, PairCount>): readonly string[] => {
  const all = [...counts.values()].reduce(
    (sum, one) => ({ right: sum.right + one.right, total: sum.total + one.total }),
    { right: 0, total: 0 },
  )
  if (all.total === 0) return []
  const show = (name: string, { right, total }: PairCount) =>
    `${name}: ${((100 * right) / total).toFixed(1)} % of ${total} pairs in the right order`
  const parts = counts.size > 1 ? [...counts].sort(([a], [b]) => (a < b ? -1 : 1)) : []
  return [...parts.map(([name, count]) => `  ${show(name, count)}`), show('pair accuracy', all)]
}

type Flags = JobFlags & { readonly category?: string }

const run = async (input: string, flags: Flags): Promise<void> => {
  await runJob({
    input,
    flags,
    unit: 'lines',
    schema: Line,
    work: async (line, _, { target, rewardModel }) => {
      const inputs = conversations(line).map((messages) => ({ messages }))
      const answer = await target.post('/reward', { model: rewardModel, inputs })
      return [scored(line, RewardAnswer.parse(answer).data)]
    },
  })
  for (const line of summary(await countPairs(flags.output, flags.category))) tell(line)
}

export const addScoreCommand = (program: Command): void => {
  addJobCommand<Flags>(program, {
    name: 'score',
    description: 'Score a JSONL file of answers with a reward model.',
    input: 'JSONL: messages, or prompt with response, responses, or chosen/rejected',
    output: 'JSONL with the scores added',
    concurrency: 16,
    run,
  }).option('--category <field>', 'report pair accuracy by this field')
}
