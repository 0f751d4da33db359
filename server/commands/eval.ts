// `nemotron-server eval`: how often a model is right, thinking on and off.

import { readdirSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { z } from 'zod'
import { tell } from '../log.js'
import { createProgress } from '../terminal.js'
import { packagePath } from '../version.js'
import { openTarget, type Target } from './client.js'
import { CARD_SCORES, type Item, readItem, splitAnswer } from './evaluation.js'
import { collect, positiveInteger } from './flags.js'
import { readJsonl } from './jsonl.js'
import { table } from './summary.js'

const ChatAnswer = z.looseObject({
  choices: z
    .array(
      z.looseObject({
        message: z.looseObject({
          content: z.string().nullable(),
          reasoning_content: z.string().nullish(),
        }),
        finish_reason: z.string(),
      }),
    )
    .min(1),
})

type Mode = 'on' | 'off'
type Trial = { readonly item: Item; readonly mode: Mode; readonly run: number }
type Outcome = {
  readonly id: string
  readonly skill: string
  readonly thinking: Mode
  readonly run: number
  readonly right: boolean
  readonly well_formed: boolean
  /** The reference's steps, to the letter; null where there are none or thinking is off. */
  readonly trace_right: boolean | null
  readonly finish_reason: string
  readonly answer: string
}

type Flags = {
  readonly model?: readonly string[]
  readonly url?: string
  readonly apiKey?: string
  readonly name?: string
  readonly thinking: Mode | 'both'
  readonly runs: number
  readonly seed: number
  readonly temperature: number
  readonly topP: number
  readonly bestOf?: number
  readonly reward?: string
  readonly limit?: number
  readonly maxTokens?: number
  readonly concurrency: number
  readonly output?: string
}

const readItems = async (files: readonly string[], limit: number): Promise<readonly Item[]> => {
  const items: Item[] = []
  for (const file of files) {
    const name = basename(file).replace(/\.jsonl$/, '')
    let number = 0
    for await (const value of readJsonl(file)) {
      if (++number > limit) break
      try {
        items.push(readItem(value, name, number))
      } catch (error) {
        throw new Error(
          `${file}: line ${number}: ${error instanceof Error ? error.message : error}`,
        )
      }
    }
  }
  return items
}

const ownFiles = (): readonly string[] => {
  const folder = packagePath('models/tiny/training/eval')
  return readdirSync(folder)
    .filter((name) => name.endsWith('.jsonl'))
    .map((name) => join(folder, name))
}

/** The card's settings: the mode in the system turn; on: temperature 0.6, top_p 0.95; off: greedy.
 * With a reward model, thinking on gives the best of several, judged with their thinking. */
const ask = async (target: Target, model: string, trial: Trial, flags: Flags): Promise<Outcome> => {
  const { item, mode, run } = trial
  const system = `detailed thinking ${mode}${item.system === '' ? '' : `\n\n${item.system}`}`
  const answer = ChatAnswer.parse(
    await target.post('/chat/completions', {
      model,
      messages: [{ role: 'system', content: system }, ...item.messages],
      ...(mode === 'on'
        ? {
            temperature: flags.temperature,
            top_p: flags.topP,
            seed: flags.seed + run,
            ...(flags.reward !== undefined && {
              best_of: flags.bestOf,
              reward: { model: flags.reward, include_thinking: true },
            }),
          }
        : { temperature: 0 }),
      ...(flags.maxTokens !== undefined && { max_tokens: flags.maxTokens }),
    }),
  )
  const [choice] = answer.choices
  const parts = splitAnswer(choice?.message.content ?? '', choice?.message.reasoning_content)
  const verdict = item.judge(parts.answer)
  return {
    id: item.id,
    skill: item.skill,
    thinking: mode,
    run,
    right: verdict.right,
    well_formed: verdict.wellFormed,
    trace_right: item.trace === undefined || mode === 'off' ? null : parts.thinking === item.trace,
    finish_reason: choice?.finish_reason ?? '',
    answer: parts.answer,
  }
}

/** All trials, `concurrency` at a time, outcomes in order. */
const runAll = async <T, R>(
  list: readonly T[],
  concurrency: number,
  work: (one: T) => Promise<R>,
  onDone: (done: number) => void,
): Promise<readonly R[]> => {
  const results: R[] = []
  let next = 0
  let done = 0
  const worker = async () => {
    for (let i = next++; i < list.length; i = next++) {
      results[i] = await work(list[i] as T)
      onDone(++done)
    }
  }
  await Promise.all(Array.from({ length: Math.min(concurrency, list.length) }, worker))
  return results
}

const percent = (list: readonly boolean[]): string =>
  list.length === 0 ? '-' : ((100 * list.filter((one) => one).length) / list.length).toFixed(1)

const report = (outcomes: readonly Outcome[]): string => {
  const skills = [...new Set(outcomes.map(({ skill }) => skill))]
  const row = (skill: string): readonly string[] => {
    const of = (mode: Mode) =>
      outcomes.filter((one) => one.skill === skill && one.thinking === mode)
    const traces = of('on').flatMap(({ trace_right }) =>
      trace_right === null ? [] : [trace_right],
    )
    const formed = outcomes.filter((one) => one.skill === skill).map((one) => one.well_formed)
    const card = CARD_SCORES[skill.toLowerCase().replaceAll('-', '_')]
    return [
      skill,
      String(new Set(outcomes.filter((one) => one.skill === skill).map(({ id }) => id)).size),
      percent(of('off').map(({ right }) => right)),
      percent(of('on').map(({ right }) => right)),
      percent(traces),
      percent(formed),
      card === undefined ? '-' : `${card.off} / ${card.on}`,
    ]
  }
  const head = ['% right', 'items', 'off', 'on', 'steps', 'well-formed', 'card off / on']
  return table([head, ...skills.map(row)])
}

const run = async (files: readonly string[], flags: Flags): Promise<void> => {
  const items = await readItems(
    files.length > 0 ? files : ownFiles(),
    flags.limit ?? Number.POSITIVE_INFINITY,
  )
  if (items.length === 0) throw new Error('there is nothing to ask')
  const modes: readonly Mode[] = flags.thinking === 'both' ? ['off', 'on'] : [flags.thinking]
  const trials = modes.flatMap((mode) =>
    // Greedy answers are the same each time.
    Array.from({ length: mode === 'on' ? flags.runs : 1 }, (_, run) => run).flatMap((run) =>
      items.map((item): Trial => ({ item, mode, run })),
    ),
  )
  const target = await openTarget({ ...flags, model: flags.model ?? [], tell })
  const progress = createProgress(process.stderr, undefined, (count) => `${Math.round(count)}`)
  try {
    const model = flags.name ?? (await target.models())[0]?.id
    if (model === undefined) throw new Error(`${target.url} serves no model`)
    const outcomes = await runAll(
      trials,
      flags.concurrency,
      (trial) => ask(target, model, trial, flags),
      (done) => progress.update(`asked ${model}`, done, trials.length),
    )
    progress.finish()
    process.stdout.write(`${model}\n${report(outcomes)}\n`)
    if (flags.output !== undefined)
      await writeFile(flags.output, outcomes.map((one) => `${JSON.stringify(one)}\n`).join(''))
  } finally {
    progress.finish()
    await target.close()
  }
}

const number =
  (low: number, high: number) =>
  (value: string): number => {
    const parsed = Number(value)
    if (value.trim() === '' || !(parsed >= low && parsed <= high))
      throw new InvalidArgumentError(`It must be a number from ${low} to ${high}.`)
    return parsed
  }

export const addEvalCommand = (program: Command): void => {
  program
    .command('eval')
    .description('Ask held-out questions and count right answers, thinking on and off.')
    .argument(
      '[files...]',
      'JSONL: items of our skills, or question and answer (and options); default: the embedded set',
    )
    .option('--model <folder or id>', 'model to load; default: the embedded ones', collect)
    .option('--url <url>', 'ask this server instead, such as http://127.0.0.1:8000/v1')
    .option('--api-key <key>', 'for --url', process.env.OPENAI_API_KEY)
    .option('--name <model>', 'which of its models; default: the first')
    .addOption(
      new Option('--thinking <mode>', 'reasoning mode')
        .choices(['on', 'off', 'both'])
        .default('both'),
    )
    .option('--runs <n>', 'sampled runs to average, thinking on', positiveInteger, 1)
    .option('--seed <n>', 'of the first run', positiveInteger, 1)
    .option('--temperature <t>', 'thinking on', number(0, 2), 0.6)
    .option('--top-p <p>', 'thinking on', number(0, 1), 0.95)
    .option('--reward <model>', 'thinking on: the best by this reward model of the server')
    .option('--best-of <n>', 'candidates of --reward', positiveInteger, 4)
    .option('--limit <n>', 'items of each file', positiveInteger)
    .option('--max-tokens <n>', 'of each answer', positiveInteger)
    .option('--concurrency <n>', 'questions at once', positiveInteger, 16)
    .option('-o, --output <file>', 'every answer and verdict as JSONL')
    .action(async (files: readonly string[], flags: Flags, command: Command) => {
      try {
        await run(files, flags)
      } catch (error) {
        command.error(`error: ${error instanceof Error ? error.message : String(error)}`)
      }
    })
}
