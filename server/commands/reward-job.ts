// What the commands that send a JSONL file through a reward model have in common: flags, the server
// they ask, and how they say what went wrong.

import type { Command } from 'commander'
import { z } from 'zod'
import { tell } from '../log.js'
import { createProgress } from '../terminal.js'
import { openTarget, type Target } from './client.js'
import { collect, positiveInteger } from './flags.js'
import { JsonlError, type Members, runJsonl } from './jsonl.js'

export type JobFlags = {
  readonly output: string
  readonly model?: readonly string[]
  readonly rewardModel?: string
  readonly url?: string
  readonly apiKey?: string
  readonly concurrency: number
}

/** The model to ask: the one named, or the only one that gives rewards. */
const rewardModelOf = async (target: Target, named: string | undefined): Promise<string> => {
  if (named !== undefined) return named
  const models = await target.models()
  const able: string[] = []
  for (const model of models) {
    const body = { model, messages: [{ role: 'user', content: 'a' }], responses: ['b'] }
    if (await target.post('/reward', body).then(Boolean, () => false)) able.push(model)
  }
  const [only] = able
  if (only === undefined || able.length > 1)
    throw new JsonlError(
      able.length === 0
        ? `none of ${models.join(', ')} gives rewards: name a reward model`
        : `several models give rewards (${able.join(', ')}): choose one with --reward-model`,
    )
  return only
}

export type Asking = { readonly target: Target; readonly rewardModel: string }

type Job<Line extends z.ZodType> = {
  readonly input: string
  readonly flags: JobFlags
  /** What a line is called. */
  readonly unit: string
  readonly schema: Line
  /** Members that a line gets: one record for each. */
  readonly work: (
    line: z.output<Line>,
    number: number,
    asking: Asking,
  ) => Promise<readonly Members[]>
}

/** Every line to records, with progress; what is wrong with a line names it. Returns the number of
 * records written. */
export const runJob = async <Line extends z.ZodType>(job: Job<Line>): Promise<number> => {
  const { input, flags, unit, schema, work } = job
  const target = await openTarget({ ...flags, model: flags.model ?? [], tell })
  const progress = createProgress(
    process.stderr,
    undefined,
    (count) => `${Math.round(count)} ${unit}`,
  )
  let written = 0
  try {
    const asking = { target, rewardModel: await rewardModelOf(target, flags.rewardModel) }
    const resumed = await runJsonl({
      input,
      output: flags.output,
      concurrency: flags.concurrency,
      work: async (value, number) => {
        const line = schema.safeParse(value)
        if (!line.success) throw new JsonlError(`line ${number}: ${z.prettifyError(line.error)}`)
        try {
          return await work(line.data, number, asking)
        } catch (error) {
          throw new JsonlError(
            `line ${number}: ${error instanceof Error ? error.message : String(error)}`,
          )
        }
      },
      records: (records) => {
        written += records.length
        return records
      },
      onProgress: (done, total) => progress.update('done', done, total),
    })
    progress.finish()
    if (resumed > 0) tell(`went on after ${resumed} ${unit} of an earlier run`)
    return written
  } finally {
    progress.finish()
    await target.close()
  }
}

type JobCommand<F> = {
  readonly name: string
  readonly description: string
  readonly input: string
  readonly output: string
  /** Lines at once, unless --concurrency says otherwise. */
  readonly concurrency: number
  readonly run: (input: string, flags: F) => Promise<void>
}

/** Adds the command with the flags that all of them have. */
export const addJobCommand = <F extends JobFlags>(
  program: Command,
  { name, description, input, output, concurrency, run }: JobCommand<F>,
): Command =>
  program
    .command(name)
    .description(description)
    .argument('<input>', `${input}; - for standard input`)
    .requiredOption('-o, --output <file>', `${output}; an unfinished one goes on`)
    .option(
      '--model <folder or id>',
      'model to load, repeatable; default: the embedded ones',
      collect,
    )
    .option('--url <url>', 'use this server instead, such as http://127.0.0.1:8000/v1')
    .option('--api-key <key>', 'for --url', process.env.OPENAI_API_KEY)
    .option('--reward-model <name>', 'which of its models; default: the one that gives rewards')
    .option('--concurrency <n>', 'lines at once', positiveInteger, concurrency)
    .action(async (file: string, flags: F, command: Command) => {
      try {
        await run(file, flags)
      } catch (error) {
        command.error(`error: ${error instanceof Error ? error.message : String(error)}`)
      }
    })
