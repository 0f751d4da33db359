// `nemotron-server generate-pairs`: the preference-data recipe in one command. For each prompt n answers
// are generated and scored; the best and the worst become chosen and rejected when they lie far enough
// apart.

import { type Command, InvalidArgumentError } from 'commander'
import { z } from 'zod'
import { JsonlError, runJsonl } from '../jsonl.js'
import { tell } from '../log.js'
import { createProgress } from '../progress.js'
import { openTarget } from '../target.js'
import { collect, positiveInteger, rewardModelOf } from './score.js'

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

type Flags = {
  readonly output: string
  readonly model?: readonly string[]
  readonly chatModel?: string
  readonly rewardModel?: string
  readonly url?: string
  readonly apiKey?: string
  readonly concurrency: number
  readonly n: number
  readonly margin: number
  readonly temperature: number
  readonly maxTokens?: number
  readonly thinking?: string
  readonly seed: number
}

const run = async (input: string, flags: Flags): Promise<void> => {
  const target = await openTarget({ ...flags, model: flags.model ?? [], tell })
  const progress = createProgress(
    process.stderr,
    undefined,
    (count) => `${Math.round(count)} lines`,
  )
  let kept = 0
  try {
    const rewardModel = await rewardModelOf(target, flags.rewardModel)
    const model = flags.chatModel ?? (await target.models()).find((name) => name !== rewardModel)
    if (model === undefined) throw new JsonlError('no chat model is served beside the reward model')

    const pair = async (value: unknown, number: number): Promise<readonly object[]> => {
      const line = Line.safeParse(value)
      if (!line.success) throw new JsonlError(`line ${number}: ${z.prettifyError(line.error)}`)
      const { prompt, messages, ...rest } = line.data
      const turns =
        messages ?? (prompt === undefined ? undefined : [{ role: 'user', content: prompt }])
      if (turns === undefined) throw new JsonlError(`line ${number}: needs 'prompt' or 'messages'`)
      const body = {
        model,
        messages: turns,
        n: flags.n,
        seed: flags.seed + number,
        temperature: flags.temperature,
        reward: { model: rewardModel },
        ...(flags.maxTokens !== undefined && { max_tokens: flags.maxTokens }),
        ...(flags.thinking !== undefined && {
          chat_template_kwargs: { enable_thinking: flags.thinking === 'on' },
        }),
      }
      const answer = ChatAnswer.parse(
        await target.post('/chat/completions', body).catch((error: unknown) => {
          throw new JsonlError(
            `line ${number}: ${error instanceof Error ? error.message : String(error)}`,
          )
        }),
      )
      const [best] = answer.choices
      const worst = answer.choices.at(-1)
      if (!best || !worst || best.reward - worst.reward < flags.margin) return []
      if (best.message.content === worst.message.content) return []
      return [
        {
          ...rest,
          ...(messages === undefined ? { prompt } : { messages }),
          chosen: best.message.content,
          rejected: worst.message.content,
          chosen_reward: best.reward,
          rejected_reward: worst.reward,
        },
      ]
    }

    const resumed = await runJsonl({
      input,
      output: flags.output,
      concurrency: flags.concurrency,
      work: pair,
      records: (records) => {
        kept += records.length
        return records
      },
      onProgress: (done, total) => progress.update('prompts', done, total),
    })
    progress.finish()
    if (resumed > 0) tell(`went on after ${resumed} prompts of an earlier run`)
    tell(`${kept} pairs with a margin of at least ${flags.margin}`)
  } finally {
    progress.finish()
    await target.close()
  }
}

export const addGeneratePairsCommand = (program: Command): void => {
  program
    .command('generate-pairs')
    .description('Prompts in, preference pairs out: n answers each, scored, best and worst kept.')
    .argument('<input>', 'JSONL with prompt or messages')
    .requiredOption('-o, --output <file>', 'JSONL of pairs; an unfinished one goes on')
    .option(
      '--model <folder or id>',
      'model to load, repeatable; default: the embedded ones',
      collect,
    )
    .option('--url <url>', 'use this server instead, such as http://127.0.0.1:8000/v1')
    .option('--api-key <key>', 'for --url', process.env.OPENAI_API_KEY)
    .option('--chat-model <name>', 'which model answers')
    .option('--reward-model <name>', 'which model scores')
    .option('--n <count>', 'answers to each prompt', twoOrMore, 4)
    .option('--margin <reward>', 'least distance between the two rewards', nonNegative, 0)
    .option('--temperature <t>', 'of the answers', nonNegative, 1)
    .option('--max-tokens <n>', 'of each answer', positiveInteger)
    .option('--thinking <on|off>', 'reasoning mode of the answers')
    .option('--seed <n>', 'of the first line', positiveInteger, 1)
    .option('--concurrency <n>', 'prompts at once', positiveInteger, 8)
    .action(async (input: string, flags: Flags, command: Command) => {
      try {
        await run(input, flags)
      } catch (error) {
        command.error(`error: ${error instanceof Error ? error.message : String(error)}`)
      }
    })
}
