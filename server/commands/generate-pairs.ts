// `nemotron-server generate-pairs`: the preference-data recipe in one command. For each prompt n answers
// are generated and scored; the best and the worst become chosen and rejected when they lie far enough
// apart.

import { type Command, InvalidArgumentError, Option } from 'commander'
import { z } from 'zod'
import { tell } from '../log.js'
import { positiveInteger } from './flags.js'
import { JsonlError, type Members } from './jsonl.js'
import { type Asking, addJobCommand, type JobFlags, runJob } from './reward-job.js'

const Line = z.looseObject({
  prompt: z.string().optional(),
  messages: z
    .array(z.looseObject({ role: z.string() }))
    .min(1)
    .optional(),
})

const ChatAnswer = z.looseObject({
  choices: z
    .array(z.looseObject({ message: z.looseObject({ content: z.string() }), reward: z.number() }))
    .min(2),
})

const nonNegative = (value: string): number => {
  const number = Number(value)
  if (value.trim() === '' || !(number >= 0))
    throw new InvalidArgumentError('It must be a number of at least 0.')
  return number
}

const twoOrMore = (value: string): number => {
  const number = positiveInteger(value)
  if (number < 2 || number > 128) throw new InvalidArgumentError('It must be from 2 to 128.')
  return number
}

type Flags = JobFlags & {
  readonly chatModel?: string
  readonly n: number
  readonly margin: number
  readonly temperature: number
  readonly maxTokens?: number
  readonly thinking?: string
  readonly seed: number
}

/** The best and the worst of n answers, or nothing where they lie too close. */
const pair = async (
  line: z.output<typeof Line>,
  body: object,
  {
    target,
    margin,
    drop,
  }: {
    readonly target: Asking['target']
    readonly margin: number
    readonly drop: (reason: string) => void
  },
): Promise<readonly Members[]> => {
  // Where both are there, as in UltraFeedback, the messages hold an answer already.
  const turns = line.prompt === undefined ? line.messages : [{ role: 'user', content: line.prompt }]
  if (turns === undefined) throw new JsonlError("needs 'prompt' or 'messages'")
  const answer = ChatAnswer.parse(
    await target.post('/chat/completions', { ...body, messages: turns }),
  )
  const [best] = answer.choices
  const worst = answer.choices.at(-1)
  if (!best || !worst) return []
  if (best.message.content === worst.message.content) {
    drop('the best and the worst answer are the same')
    return []
  }
  if (best.reward - worst.reward < margin) {
    drop(`the rewards are closer than ${margin}`)
    return []
  }
  return [
    {
      chosen: best.message.content,
      rejected: worst.message.content,
      chosen_reward: best.reward,
      rejected_reward: worst.reward,
    },
  ]
}

const run = async (input: string, flags: Flags): Promise<void> => {
  const { n, margin, temperature, thinking, maxTokens } = flags
  let chatModel: Promise<string> | undefined
  const dropped = new Map<string, number>()
  const find = async ({ target, rewardModel }: Asking): Promise<string> => {
    const name = flags.chatModel ?? (await target.models()).find((one) => one !== rewardModel)
    if (name === undefined) throw new JsonlError('no chat model is served beside the reward model')
    return name
  }
  const kept = await runJob({
    input,
    flags,
    unit: 'prompts',
    schema: Line,
    work: async (line, number, asking) => {
      chatModel ??= find(asking)
      const body = {
        model: await chatModel,
        n,
        seed: flags.seed + number,
        temperature,
        reward: { model: asking.rewardModel },
        ...(maxTokens !== undefined && { max_tokens: maxTokens }),
        ...(thinking !== undefined && {
          chat_template_kwargs: { enable_thinking: thinking === 'on' },
        }),
      }
      return pair(line, body, {
        target: asking.target,
        margin,
        drop: (reason) => dropped.set(reason, (dropped.get(reason) ?? 0) + 1),
      })
    },
  })
  tell(`${kept} pairs with a margin of at least ${margin}`)
  for (const [reason, count] of dropped) tell(`${count} prompts without a pair: ${reason}`)
}

export const addGeneratePairsCommand = (program: Command): void => {
  addJobCommand<Flags>(program, {
    name: 'generate-pairs',
    description: 'Prompts in, preference pairs out: n answers each, scored, best and worst kept.',
    input: 'JSONL with prompt or messages; where both are there, prompt is asked',
    output: 'JSONL of pairs',
    concurrency: 8,
    run,
  })
    .option('--chat-model <name>', 'which model answers')
    .option('--n <count>', 'answers to each prompt', twoOrMore, 4)
    .option('--margin <reward>', 'least distance between the two rewards', nonNegative, 0)
    .option('--temperature <t>', 'of the answers', nonNegative, 1)
    .option('--max-tokens <n>', 'of each answer', positiveInteger)
    .addOption(
      new Option('--thinking <on|off>', 'reasoning mode of the answers').choices(['on', 'off']),
    )
    .option('--seed <n>', 'of the first line', positiveInteger, 1)
}
