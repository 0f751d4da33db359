// What the commands that send a JSONL file through a reward model have in common: flags, the server
// they ask, and how they say what went wrong.

import { type Command, InvalidArgumentError, Option } from 'commander'
import { messageOf } from '../failure.js'
import { Principle } from '../prompt/conversation.js'
import { createProgress } from '../terminal.js'
import {
  isRequestsFault,
  type ListedModel,
  openTarget,
  RequestFailure,
  type Target,
} from './client.js'
import { addOutput, apiKey, collect, positiveInteger } from './flags.js'
import { type Host, tell } from './host.js'
import { type Done, endAsToldTo, LineError, ON_ERROR, type Opened, runJsonl } from './jsonl.js'
import { isPipe, outputName } from './output.js'
import {
  checkTexts,
  type FieldNames,
  LINE_FIELDS,
  renameFields,
  takeFields,
} from './preference-line.js'
import { printSummary } from './print.js'
import { formatSummary, type Section, SUMMARIES, type SummaryFormat } from './summary.js'

export type JobFlags = {
  readonly output: string
  readonly model?: readonly string[]
  readonly rewardModel?: string
  readonly chatModel?: string
  readonly url?: string
  readonly apiKey?: string
  readonly principle?: string
  readonly concurrency: number
  readonly onError: (typeof ON_ERROR)[number]
  readonly truncate?: boolean
  readonly field?: FieldNames
  readonly summary: SummaryFormat
}

type RewardModel = ListedModel & {
  /** Whether a request says what answers are judged by. */
  readonly principle: 'needed' | 'possible' | 'none'
  /** It compares answers to one conversation. */
  readonly isJudge: boolean
}

const refuses = (error: unknown, param: string): boolean =>
  error instanceof RequestFailure && error.status === 400 && error.param === param

/** Whether a judge's template shows a principle, which is asked before its blank answer is found. */
const judgesByPrinciple = async (target: Target, model: ListedModel): Promise<boolean> => {
  const messages = [{ role: 'user', content: 'a' }]
  try {
    const body = { model: model.id, messages, responses: [' '], principle: 'correctness' }
    await target.post('/reward', body)
    return true
  } catch (error) {
    if (refuses(error, 'principle')) return false
    if (refuses(error, 'responses.0')) return true
    throw error
  }
}

/** Throws what is wrong with a model, its server, or the key. */
const tryRewards = async (target: Target, model: ListedModel): Promise<RewardModel> => {
  const messages = [{ role: 'user', content: 'a' }]
  try {
    // A judge says at once that a blank answer is none.
    await target.post('/reward', { model: model.id, messages, responses: [' '] })
    return { ...model, principle: 'none', isJudge: false }
  } catch (error) {
    if (refuses(error, 'principle')) return { ...model, principle: 'needed', isJudge: false }
    if (!refuses(error, 'responses.0')) throw error
    const principle = (await judgesByPrinciple(target, model)) ? 'possible' : 'none'
    return { ...model, principle, isJudge: true }
  }
}

/** Those that give rewards. What else goes wrong is thrown: it says nothing about the model. */
const ableModels = async (target: Target, models: readonly ListedModel[]) => {
  const able: RewardModel[] = []
  for (const model of models) {
    try {
      able.push(await tryRewards(target, model))
    } catch (error) {
      if (!refuses(error, 'model')) throw error
    }
  }
  return able
}

const named = (models: readonly ListedModel[]): string => models.map(({ id }) => id).join(', ')

const findNamed = (
  models: readonly ListedModel[],
  name: string,
  flag: string,
  url: string,
): ListedModel => {
  const model = models.find(({ id }) => id === name)
  if (model !== undefined) return model
  throw new Error(`${flag}: ${url} serves no '${name}', but ${named(models) || 'nothing'}`)
}

/** The model to ask: the one named, or the only one that gives rewards. */
const rewardModelOf = async (target: Target, name: string | undefined): Promise<RewardModel> => {
  const models = await target.models()
  if (name !== undefined) {
    return tryRewards(target, findNamed(models, name, '--reward-model', target.url))
  }
  const able = await ableModels(target, models)
  const [only] = able
  if (only === undefined)
    throw new Error(
      `none of the models of ${target.url} gives rewards (${named(models)}): serve a reward model too`,
    )
  if (able.length > 1)
    throw new Error(`several models give rewards (${named(able)}): choose one with --reward-model`)
  return only
}

/** The model that answers: the one named, or the first that gives no rewards. */
export const chatModelOf = async (
  { target, rewardModel }: Asking,
  name: string | undefined,
): Promise<ListedModel> => {
  const models = await target.models()
  const asked =
    name === undefined
      ? models.filter(({ id }) => id !== rewardModel.id)
      : [findNamed(models, name, '--chat-model', target.url)]
  const able = await ableModels(target, asked)
  const model = asked.find(({ id }) => able.every((one) => one.id !== id))
  if (model !== undefined) return model
  throw new Error(
    name === undefined
      ? `${target.url} serves no chat model beside '${rewardModel.id}'`
      : `--chat-model: '${name}' is a reward model: it writes no answers`,
  )
}

export type Asking = {
  readonly target: Target
  readonly rewardModel: RewardModel
  /** What a line's answers are judged by: its own principle or the flag's; undefined: nothing. Throws LineError. */
  readonly principleOf: (given: unknown) => string | undefined
}

const checkPrinciple = (principle: string): string => {
  const [issue] = Principle.safeParse(principle).error?.issues ?? []
  if (issue?.code === 'too_big')
    throw new LineError(
      `the principle has ${principle.length} characters, and may have ${issue.maximum}`,
    )
  if (issue !== undefined) throw new LineError('the principle is empty')
  checkTexts({ principle })
  return principle
}

/** Of the flag, before there is a model. */
const checkFlag = (principle: string | undefined): void => {
  try {
    if (principle !== undefined) checkPrinciple(principle)
  } catch (error) {
    throw new Error(`--principle: ${messageOf(error)}`)
  }
}

const principleFor =
  (model: RewardModel, flag: string | undefined): Asking['principleOf'] =>
  (given) => {
    if (model.principle === 'none') return undefined
    if (given != null && typeof given !== 'string')
      throw new LineError(
        `'principle' must be a text, and is ${JSON.stringify(given).slice(0, 40)}`,
      )
    if (typeof given === 'string' && given !== '') return checkPrinciple(given)
    if (flag !== undefined) return flag
    if (model.principle === 'possible') return undefined
    throw new LineError(
      `'${model.id}' says whether an answer satisfies a principle: give one with --principle, or lines a 'principle'`,
    )
  }

const openAsking = async (target: Target, flags: JobFlags): Promise<Asking> => {
  const rewardModel = await rewardModelOf(target, flags.rewardModel)
  const { principle } = flags
  if (principle !== undefined && rewardModel.principle === 'none')
    throw new Error(`--principle: '${rewardModel.id}' scores answers by no principle`)
  return { target, rewardModel, principleOf: principleFor(rewardModel, principle) }
}

/** As a state has them: '' of a flag without a value. */
export const flagsOf = (
  { field = new Map(), principle }: JobFlags,
  own: Readonly<Record<string, string | number | boolean | undefined>>,
): Readonly<Record<string, string>> => {
  const all: typeof own = {
    ...own,
    ...(principle !== undefined && { principle }),
    ...(field.size > 0 && { field: [...field].map((names) => names.join('=')).join(' ') }),
  }
  const given = Object.entries(all).filter(([, value]) => value !== undefined && value !== false)
  return Object.fromEntries(
    given.map(([name, value]) => [name, value === true ? '' : String(value)]),
  )
}

/** What the server refuses of a line is the line's. */
export const asking = async <T>(ask: () => Promise<T>): Promise<T> => {
  try {
    return await ask()
  } catch (error) {
    throw isRequestsFault(error) ? new LineError(error.message) : error
  }
}

/** A conversation is longer than the model reads, or than the server takes. */
export const isTooLong = (error: unknown): boolean =>
  error instanceof RequestFailure &&
  (error.status === 413 ||
    (error.code === 'context_length_exceeded' && error.param !== 'max_tokens'))

type Job<T> = {
  readonly host: Host
  readonly input: string
  readonly flags: JobFlags
  /** What a line is called. */
  readonly unit: string
  readonly members: readonly string[]
  readonly read: (line: Readonly<Record<string, unknown>>) => T
  /** Once the server is there. */
  readonly open: (asking: Asking) => Promise<Opened<T>>
  /** Called with each record of the output, its fields under our names. */
  readonly onRecord?: (record: Readonly<Record<string, unknown>>) => void
  readonly summary: (done: Pick<Done, 'failed' | 'counts'>) => readonly Section[]
}

/** Every line to records, with progress; then why some have none, and the summary. */
export const runJob = async <T>(job: Job<T>): Promise<void> => {
  const { host, input, flags, unit, members, open, onRecord } = job
  const { field = new Map() } = flags
  checkFlag(flags.principle)
  const isPiped = await isPipe(flags.output)
  if (isPiped)
    tell(host, `${outputName(flags.output)} is no file: a run that is interrupted cannot go on`)
  const progress = createProgress(host.stderr, undefined, (count) => `${Math.round(count)} ${unit}`)
  let target: Target | undefined
  try {
    const done = await runJsonl({
      ...{ host, input },
      members,
      output: flags.output,
      concurrency: flags.concurrency,
      onError: flags.onError,
      read: (value) => job.read(takeFields(value, field)),
      open: async () => {
        const names = { '--reward-model': flags.rewardModel, '--chat-model': flags.chatModel }
        target = await openTarget(host, { ...flags, model: flags.model ?? [], names })
        return open(await openAsking(target, flags))
      },
      ...(onRecord && { onRecord: (record) => onRecord(renameFields(record, field)) }),
      onProgress: (count, total) => progress.update('done', count, total),
    })
    progress.finish()
    if (done.resumed > 0) tell(host, `went on after ${done.resumed} ${unit} of an earlier run`)
    if (done.failed > 0) {
      const fate = flags.onError === 'skip' ? 'were left out' : 'have an error member'
      tell(host, `${done.failed} of ${done.lines} ${unit} could not be used and ${fate}`)
    }
    await printSummary(host, `${formatSummary(job.summary(done), flags.summary)}\n`, isPiped)
  } catch (error) {
    progress.finish()
    endAsToldTo(host, error, isPiped)
  } finally {
    progress.finish()
    await target?.close()
  }
}

const readField = (value: string, previous: FieldNames = new Map()): FieldNames => {
  const [ours = '', theirs = '', ...more] = value.split('=')
  if (!LINE_FIELDS.some((name) => name === ours) || theirs === '' || more.length > 0)
    throw new InvalidArgumentError(
      `It must be OURS=THEIRS with OURS one of ${LINE_FIELDS.join(', ')}, such as prompt=instruction.`,
    )
  return new Map([...previous, [ours, theirs]])
}

type JobCommand<F> = {
  readonly name: string
  readonly description: string
  readonly input: string
  readonly output: string
  /** Lines at once, unless --concurrency says otherwise. */
  readonly concurrency: number
  readonly run: (input: string, flags: F, host: Host) => Promise<void>
}

/** Adds the command with the flags that all of them have. */
export const addJobCommand = <F extends JobFlags>(
  program: Command,
  host: Host,
  { name, description, input, output, concurrency, run }: JobCommand<F>,
): Command =>
  addOutput(
    program
      .command(name)
      .description(description)
      .argument('<input>', `${input}; - for standard input`),
    output,
  )
    .option(
      '--model <folder or id>',
      'model to load, repeatable; default: NEMOTRON_MODEL, else the embedded ones',
      collect,
    )
    .option('--url <url>', 'use this server instead, such as http://127.0.0.1:8000/v1')
    .addOption(apiKey())
    .option('--reward-model <name>', 'which of its models; default: the one that gives rewards')
    .option(
      '--principle <text>',
      "what answers are judged by, of reward models that take one; a line's own goes before it",
    )
    .option('--concurrency <n>', 'lines at once', positiveInteger, concurrency)
    .addOption(
      new Option(
        '--on-error <what>',
        'a line that cannot be used: stop; skip: leave it out; record: write it with an error member',
      )
        .choices(ON_ERROR)
        .default('stop'),
    )
    .option(
      '--truncate',
      'cut conversations that are too long at their start, and write how many characters went (truncated)',
    )
    .option('--field <ours=theirs>', 'their name of a field, repeatable', readField)
    .addOption(
      new Option(
        '--summary <format>',
        'of the summary on standard output (with -o -: standard error)',
      )
        .choices(SUMMARIES)
        .default('text'),
    )
    .action(async (file: string, flags: F) => {
      try {
        await run(file, flags, host)
      } catch (error) {
        tell(host, `error: ${messageOf(error)}`)
        host.exit(1) // standard input may go on and on
      }
    })
