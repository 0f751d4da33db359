// `nemotron-server batch`: a file of requests, answered without a server that keeps files.

import { randomUUID } from 'node:crypto'
import type { Command } from 'commander'
import { z } from 'zod'
import { checkLine } from '../batch/input.js'
import { messageOf } from '../failure.js'
import { createProgress } from '../terminal.js'
import { openTarget, type Target } from './client.js'
import { addOutput, apiKey, collect, positiveInteger } from './flags.js'
import { type Host, tell } from './host.js'
import { endAsToldTo, type Members, runJsonl } from './jsonl.js'
import { isPipe, outputName } from './output.js'

type Flags = {
  readonly output: string
  readonly model?: readonly string[]
  readonly url?: string
  readonly apiKey?: string
  readonly concurrency: number
}

type Line = Readonly<Record<string, unknown>>

/** What a line of the output has beside its custom_id; of the line's own, nothing else stays. */
const MEMBERS = ['id', 'method', 'url', 'body', 'response', 'error']

/** Custom ids, and the lines that have them; 0: a line of an earlier run. */
type Names = Map<string, number>

const answerOf = async (
  target: Target,
  names: Names,
  given: Line,
  number: number,
): Promise<Members> => {
  const id = `batch_req_${randomUUID().replaceAll('-', '')}`
  const failed = (code: string, message: string) => ({
    id,
    response: null,
    error: { code, message },
  })
  const { customId, problem, url, body } = checkLine(given, undefined)
  if (problem !== undefined) return failed(problem.code, `Line ${number}: ${problem.message}`)
  if (customId === null) return failed('invalid_request', `Line ${number} has no custom_id.`)
  const first = names.get(customId)
  if (first !== undefined)
    return failed(
      'duplicate_custom_id',
      `Line ${number} has the custom_id '${customId}' of ${first === 0 ? 'an earlier line' : `line ${first}`}: each line needs its own.`,
    )
  names.set(customId, number)
  const { status, requestId, weightVersion, body: answer } = await target.ask(url, body)
  const response = {
    status_code: status,
    request_id: requestId,
    ...(weightVersion !== undefined && { weight_version: weightVersion }),
    body: answer,
  }
  return { id, response, error: null }
}

const Fault = z.looseObject({ message: z.string() })
/** Of a line that is no request. */
const Problem = z.string().transform((message) => ({ message }))

const Told = z.looseObject({
  error: z.union([Fault, Problem]).nullish(),
  response: z
    .looseObject({
      status_code: z.number(),
      body: z.looseObject({ error: Fault }).optional().catch(undefined),
    })
    .nullish(),
})

/** Why the line has no answer; undefined: it has one. */
const whyNot = (record: Members): string | undefined => {
  const { error, response } = Told.safeParse(record).data ?? {}
  if (response && response.status_code < 300) return undefined
  const fault = error ?? response?.body?.error
  return fault?.message ?? `it got the status ${response?.status_code}`
}

const run = async (input: string, flags: Flags, host: Host): Promise<void> => {
  const isPiped = await isPipe(flags.output)
  if (isPiped)
    tell(host, `${outputName(flags.output)} is no file: a run that is interrupted cannot go on`)
  const progress = createProgress(host.stderr, undefined, (count) => `${Math.round(count)} lines`)
  const names: Names = new Map()
  let completed = 0
  let fault: string | undefined
  let target: Target | undefined
  try {
    const done = await runJsonl({
      ...{ host, input },
      members: MEMBERS,
      output: flags.output,
      concurrency: flags.concurrency,
      // One bad line never stops the others.
      onError: 'record',
      read: (value) => value,
      isShown: true,
      open: async () => {
        const opened = await openTarget(host, { ...flags, model: flags.model ?? [] })
        target = opened
        return {
          by: 'batch',
          work: async (given, line) => ({ records: [await answerOf(opened, names, given, line)] }),
        }
      },
      onRecord: (record) => {
        const { custom_id: name } = record
        if (typeof name === 'string' && !names.has(name)) names.set(name, 0)
        const why = whyNot(record)
        if (why === undefined) completed++
        else fault ??= why
      },
      onProgress: (count, total) => progress.update('done', count, total),
    })
    progress.finish()
    if (done.resumed > 0) tell(host, `went on after ${done.resumed} lines of an earlier run`)
    tell(host, `${done.lines} lines: ${completed} completed, ${done.lines - completed} failed`)
    if (fault !== undefined) tell(host, `one of them: ${fault}`)
  } catch (error) {
    progress.finish()
    endAsToldTo(host, error, isPiped)
  } finally {
    progress.finish()
    await target?.close()
  }
}

export const addBatchCommand = (program: Command, host: Host): void => {
  const command = program
    .command('batch')
    .description(
      "Answer a file of requests, each line as OpenAI's batches have it, for any route of the server.",
    )
    .argument('<input>', 'JSONL: custom_id, method, url and body; - for standard input')
  addOutput(command, 'JSONL with a response or an error for each line')
    .option(
      '--model <folder or id>',
      'model to load, repeatable; default: NEMOTRON_MODEL, else the embedded ones',
      collect,
    )
    .option('--url <url>', 'use this server instead, such as http://127.0.0.1:8000/v1')
    .addOption(apiKey())
    .option('--concurrency <n>', 'lines at once', positiveInteger, 64)
    .action(async (file: string, flags: Flags) => {
      await run(file, flags, host).catch((error) => {
        tell(host, `error: ${messageOf(error)}`)
        host.exit(1) // standard input may go on and on
      })
    })
}
