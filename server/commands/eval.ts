// `nemotron-server eval`: how often a model is right, thinking on and off.

import { createHash } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { type Command, Option } from 'commander'
import { z } from 'zod'
import { messageOf } from '../failure.js'
import { createProgress } from '../terminal.js'
import { packagePath } from '../version.js'
import { ChatChoice, isRequestsFault, openTarget, type Target } from './client.js'
import { CARD_SCORES, type Item, readItem, splitAnswer, UNBOXED } from './evaluation.js'
import { apiKey, collect, integerFrom, numberFrom, positiveInteger } from './flags.js'
import { type Host, tell } from './host.js'
import { endAsToldTo, withOutput } from './jsonl.js'
import { readLines } from './lines.js'
import { isPipe, type Output, outputName } from './output.js'
import { printSummary } from './print.js'
import { formatSummary, type Section, SUMMARIES, type SummaryFormat } from './summary.js'
import { startTasks } from './tasks.js'

const ChatAnswer = z.looseObject({
  choices: z.array(ChatChoice).min(1),
})

const Mode = z.enum(['on', 'off'])
type Mode = z.output<typeof Mode>
type Trial = { readonly item: Item; readonly mode: Mode; readonly run: number }
const Outcome = z.object({
  id: z.string(),
  skill: z.string(),
  thinking: Mode,
  run: z.int(),
  right: z.boolean(),
  well_formed: z.boolean(),
  /** The reference's steps, to the letter; null where there are none or thinking is off. */
  trace_right: z.boolean().nullable(),
  finish_reason: z.string(),
  answer: z.string(),
  /** Why there is no answer. */
  error: z.string().optional(),
})
type Outcome = Readonly<z.output<typeof Outcome>>

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
  readonly onError: 'stop' | 'skip'
  readonly unboxed: (typeof UNBOXED)[number]
  readonly summary: SummaryFormat
}

/** Problems that are shown one by one. */
const SHOWN = 10

/** The items of all files, and a hash of them; what is wrong with their lines, all of it, unless such lines are
 * skipped. */
const readItems = async (
  files: readonly string[],
  { limit = Number.POSITIVE_INFINITY, unboxed, onError }: Flags,
  host: Host,
): Promise<{ readonly items: readonly Item[]; readonly hash: string }> => {
  const items: Item[] = []
  const hash = createHash('sha256')
  const problems: string[] = []
  for (const file of files) {
    const name = basename(file).replace(/\.jsonl?$/, '')
    let count = 0
    for await (const { unit, number, content, identity } of readLines(file, host)) {
      if (++count > limit) break
      try {
        if ('problem' in content) throw new Error(content.problem)
        items.push(readItem(content.value, { name, number, unboxed }))
        hash.update(`${name} ${number}\n`).update(identity)
      } catch (error) {
        problems.push(`  ${file}: ${unit} ${number}: ${messageOf(error)}`)
      }
    }
  }
  const read = { items, hash: hash.digest('hex') }
  if (problems.length === 0) return read
  const more = problems.length > SHOWN ? [`  and ${problems.length - SHOWN} more`] : []
  const text = [
    `${problems.length} ${problems.length === 1 ? 'line' : 'lines'} cannot be used:`,
    ...problems.slice(0, SHOWN),
    ...more,
  ].join('\n')
  if (onError === 'stop') throw new Error(`${text}\nMend them, or leave them out: --on-error skip.`)
  tell(host, text)
  return read
}

const ownFiles = (): readonly string[] => {
  const folder = packagePath('models/tiny/training/eval')
  return readdirSync(folder)
    .filter((name) => name.endsWith('.jsonl'))
    .map((name) => join(folder, name))
}

/** The model that is asked. */
type Asked = { readonly id: string; readonly thinking: string | null | undefined }

/** How a request says which mode it wants: by the line in the system turn as the cards have it, where the model
 * reads one. Of a server that does not say how its model is told, it is taken to. */
const modeOf = ({ thinking }: Asked, mode: Mode, system: string) => {
  if (thinking === null) return { system }
  if (thinking === undefined || thinking === 'detailed_thinking')
    return { system: `detailed thinking ${mode}${system === '' ? '' : `\n\n${system}`}` }
  return { system, chat_template_kwargs: { enable_thinking: mode === 'on' } }
}

/** The card's settings; on: temperature 0.6, top_p 0.95; off: greedy.
 * With a reward model, thinking on gives the best of several, judged with their thinking. */
const ask = async (target: Target, model: Asked, trial: Trial, flags: Flags): Promise<Outcome> => {
  const { item, mode, run } = trial
  const { system, ...told } = modeOf(model, mode, item.system)
  const turns = system === '' ? [] : [{ role: 'system', content: system }]
  const answer = ChatAnswer.parse(
    await target.post('/chat/completions', {
      model: model.id,
      messages: [...turns, ...item.messages],
      ...told,
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

/** What the server refuses of a question ends the run, or counts as wrong. */
const askOrRecord = async (
  target: Target,
  model: Asked,
  trial: Trial,
  flags: Flags,
): Promise<Outcome> => {
  try {
    return await ask(target, model, trial, flags)
  } catch (error) {
    const { item, mode, run } = trial
    if (flags.onError === 'stop' || !isRequestsFault(error))
      throw new Error(`question ${item.id} of ${item.skill}: ${messageOf(error)}`)
    return {
      ...{ id: item.id, skill: item.skill, thinking: mode, run, right: false, well_formed: false },
      ...{ trace_right: null, finish_reason: 'error', answer: '', error: messageOf(error) },
    }
  }
}

const shareOf = (list: readonly boolean[]): number | null =>
  list.length === 0 ? null : list.filter((one) => one).length / list.length

/** Shares of right answers by skill; beside those of the model card where it has them, in percent there. */
const report = (outcomes: readonly Outcome[]): Section => {
  const row = (skill: string) => {
    const all = outcomes.filter((one) => one.skill === skill)
    const of = (mode: Mode) => all.filter(({ thinking }) => thinking === mode)
    const right = (mode: Mode) => shareOf(of(mode).map((one) => one.right))
    const traces = of('on').flatMap(({ trace_right: one }) => (one === null ? [] : [one]))
    const card = CARD_SCORES[skill.toLowerCase().replaceAll('-', '_')]
    return {
      name: skill,
      values: {
        items: new Set(all.map(({ id }) => id)).size,
        off: right('off'),
        on: right('on'),
        steps: shareOf(traces),
        well_formed: shareOf(all.map((one) => one.well_formed)),
        ...(card && { card_off: card.off / 100, card_on: card.on / 100 }),
      },
    }
  }
  return { name: 'right', rows: [...new Set(outcomes.map(({ skill }) => skill))].map(row) }
}

/** What the shares do not say. */
const tellAbout = (
  host: Host,
  outcomes: readonly Outcome[],
  trials: readonly Trial[],
  flags: Flags,
): void => {
  const answered = (one: Outcome) => one.error === undefined
  const unboxed = outcomes.filter(
    (one, i) => answered(one) && trials[i]?.item.isBoxed && !one.well_formed,
  ).length
  if (unboxed > 0)
    tell(
      host,
      `${unboxed} of ${outcomes.length} answers have no \\boxed{}, which the questions ask for, and ` +
        (flags.unboxed === 'wrong'
          ? 'count as wrong: --unboxed last judges them by their last number or letter'
          : 'were judged by their last number or letter'),
    )
  const cut = outcomes.filter((one) => one.finish_reason === 'length').length
  if (cut > 0) tell(host, `${cut} of ${outcomes.length} answers were cut off at their longest`)
  const failed = outcomes.filter((one) => !answered(one)).length
  if (failed > 0)
    tell(
      host,
      `${failed} of ${outcomes.length} questions were refused by the server and count as wrong`,
    )
}

/** What is asked how often. */
const trialsOf = (items: readonly Item[], modes: readonly Mode[], runs: number) =>
  modes.flatMap((mode) =>
    // Greedy answers are the same each time.
    Array.from({ length: mode === 'on' ? runs : 1 }, (_, run) => run).flatMap((run) =>
      items.map((item): Trial => ({ item, mode, run })),
    ),
  )

const modesOf = (
  host: Host,
  { id, thinking }: Asked,
  wanted: Flags['thinking'],
): readonly Mode[] => {
  if (thinking !== null) return wanted === 'both' ? ['off', 'on'] : [wanted]
  if (wanted === 'on') throw new Error(`--thinking on: ${id} does not reason`)
  if (wanted === 'both') tell(host, `${id} does not reason: it is asked as with thinking off`)
  return ['off']
}

/** What an earlier run had asked. */
const readOutcomes = async (
  host: Host,
  path: string,
  { begun }: Output,
  sha256: string,
): Promise<Outcome[]> => {
  const outcomes: Outcome[] = []
  if (begun.lines === 0) return outcomes
  if (begun.sha256 !== sha256)
    throw new Error(
      `${path} was begun with other questions, another model or other flags. Remove it and ${path}.state, or name another output.`,
    )
  for await (const { content } of readLines(path, host, begun.bytes))
    if ('value' in content) outcomes.push(Outcome.parse(content.value))
  tell(host, `went on after ${outcomes.length} answers of an earlier run`)
  return outcomes
}

/** The flags by which answers and verdicts differ. */
const judgedBy = ({ seed, temperature, topP, bestOf, reward, maxTokens, unboxed }: Flags) => [
  ...[seed, temperature, topP, bestOf, reward, maxTokens, unboxed],
]

type Asking = {
  readonly target: Target
  readonly model: Asked
  readonly trials: readonly Trial[]
  /** Of the items. */
  readonly hash: string
  readonly onDone: (done: number) => void
}

/** All outcomes, in order, each written as it comes. */
const askAll = async (
  host: Host,
  { target, model, trials, hash, onDone }: Asking,
  flags: Flags,
  output: Output | undefined,
): Promise<readonly Outcome[]> => {
  const asked = [hash, model, trials.map(({ mode, run }) => [mode, run]), judgedBy(flags)]
  const sha256 = createHash('sha256').update(JSON.stringify(asked)).digest('hex')
  const outcomes = output ? await readOutcomes(host, flags.output ?? '', output, sha256) : []
  const work = (trial: Trial) => askOrRecord(target, model, trial, flags)
  for await (const { result } of startTasks(
    trials.slice(outcomes.length),
    work,
    flags.concurrency,
  )) {
    const outcome = await result
    // In one go with put, so that no state is written between them.
    outcomes.push(outcome)
    const progress = () => ({ lines: outcomes.length, sha256, counts: {} })
    await output?.put(`${JSON.stringify(outcome)}\n`, progress)
    onDone(outcomes.length)
  }
  return outcomes
}

const run = async (files: readonly string[], flags: Flags, host: Host): Promise<void> => {
  const { items, hash } = await readItems(files.length > 0 ? files : ownFiles(), flags, host)
  if (items.length === 0) throw new Error('there is nothing to ask')
  const { output: path } = flags
  const isPiped = path !== undefined && (await isPipe(path))
  if (isPiped) tell(host, `${outputName(path)} is no file: a run that is interrupted cannot go on`)
  const progress = createProgress(host.stderr, undefined, (count) => `${Math.round(count)}`)
  let target: Target | undefined
  const work = async (output?: Output) => {
    const names = { '--name': flags.name, '--reward': flags.reward }
    target = await openTarget(host, { ...flags, model: flags.model ?? [], names })
    const id = flags.name ?? (await target.models())[0]?.id
    if (id === undefined) throw new Error(`${target.url} serves no model`)
    const model = { id, thinking: await target.thinking(id) }
    const trials = trialsOf(items, modesOf(host, model, flags.thinking), flags.runs)
    const onDone = (done: number) => progress.update(`asked ${id}`, done, trials.length)
    const outcomes = await askAll(host, { target, model, trials, hash, onDone }, flags, output)
    return { id, trials, outcomes }
  }
  try {
    const { id, trials, outcomes } = await (path === undefined
      ? work()
      : withOutput(host, path, work))
    progress.finish()
    tell(host, `answers of ${id}`)
    tellAbout(host, outcomes, trials, flags)
    await printSummary(host, `${formatSummary([report(outcomes)], flags.summary)}\n`, isPiped)
  } catch (error) {
    progress.finish()
    endAsToldTo(host, error, isPiped)
  } finally {
    progress.finish()
    await target?.close()
  }
}

export const addEvalCommand = (program: Command, host: Host): void => {
  program
    .command('eval')
    .description('Ask held-out questions and count right answers, thinking on and off.')
    .argument(
      '[files...]',
      'JSONL: items of our skills, or question and answer (and options), whose answer is wanted in \\boxed{}; - for standard input; default: the embedded set',
    )
    .option(
      '--model <folder or id>',
      'model to load; default: NEMOTRON_MODEL, else the embedded ones',
      collect,
    )
    .option('--url <url>', 'ask this server instead, such as http://127.0.0.1:8000/v1')
    .addOption(apiKey())
    .option('--name <model>', 'which of its models; default: the first')
    .addOption(
      new Option('--thinking <mode>', 'reasoning mode')
        .choices(['on', 'off', 'both'])
        .default('both'),
    )
    .option('--runs <n>', 'sampled runs to average, thinking on', positiveInteger, 1)
    .option('--seed <n>', 'of the first run', positiveInteger, 1)
    .option('--temperature <t>', 'thinking on', numberFrom(0, 2), 0.6)
    .option('--top-p <p>', 'thinking on', numberFrom(0, 1), 0.95)
    .option('--reward <model>', 'thinking on: the best by this reward model of the server')
    .option('--best-of <n>', 'candidates of --reward', integerFrom(1, 128), 4)
    .option('--limit <n>', 'items of each file', positiveInteger)
    .option('--max-tokens <n>', 'of each answer', positiveInteger)
    .option('--concurrency <n>', 'questions at once', positiveInteger, 16)
    .addOption(
      new Option(
        '--unboxed <how>',
        'an answer without the \\boxed{} that was asked for: wrong, or judged by its last number or letter',
      )
        .choices(UNBOXED)
        .default('wrong'),
    )
    .addOption(
      new Option(
        '--on-error <what>',
        'a line that cannot be used: stop, or leave it out; a question that the server refuses: stop, or count it as wrong',
      )
        .choices(['stop', 'skip'])
        .default('stop'),
    )
    .addOption(
      new Option('--summary <format>', 'of the shares on standard output')
        .choices(SUMMARIES)
        .default('text'),
    )
    .option(
      '-o, --output <file>',
      'every answer and verdict as JSONL; an unfinished one goes on; - for standard output',
    )
    .action(async (files: readonly string[], flags: Flags) => {
      try {
        await run(files, flags, host)
      } catch (error) {
        tell(host, `error: ${messageOf(error)}`)
        host.exit(1) // standard input may go on and on
      }
    })
}
