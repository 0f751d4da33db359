// A long job over a JSONL file or pipe: several lines at once, results in order, and a kill at any moment
// loses nothing and repeats nothing. A line that cannot be used is told apart from a run that cannot go on.

import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { fileError, messageOf } from '../failure.js'
import { noteSources } from '../json-source.js'
import { type Host, tell } from './host.js'
import { setMembers } from './json-line.js'
import { type InputLine, inputName, isStandardInput, readLines } from './lines.js'
import { type Output, openOutput } from './output.js'
import { endBy, onSignals } from './signals.js'
import { startTasks, type Task } from './tasks.js'

export type Members = Readonly<Record<string, unknown>>
type Value = Readonly<Record<string, unknown>>

/** What is wrong with one line: others may still be right. */
export class LineError extends Error {}

/** What becomes of a line that cannot be used: the run stops, or goes on without it, or writes it with
 * an `error` member. */
export const ON_ERROR = ['stop', 'skip', 'record'] as const
type OnError = (typeof ON_ERROR)[number]

/** What a line gave: one record for each of `records`, the line with these members set. */
export type Result = {
  readonly records: readonly Members[]
  /** Counted for the end of the job, such as why there is no record. */
  readonly counted?: readonly string[]
}

export type Opened<T> = {
  /** The command and its models: what an output was begun by goes on with it. */
  readonly by: string
  /** By name, those by which other records would be made: the same holds for them. */
  readonly flags?: Readonly<Record<string, string>>
  /** What else is wrong with a line for these models, of a file said of all lines before the first is worked on.
   * Throws LineError. */
  readonly check?: (given: T) => void
  readonly work: (given: T, line: number) => Promise<Result>
}

type JsonlJob<T> = {
  readonly host: Host
  /** A file, a pipe, or - for standard input. */
  readonly input: string
  /** A file, with its state beside it, or a pipe, or - for standard output. */
  readonly output: string
  readonly concurrency: number
  readonly onError: OnError
  /** Members that records may have: a line's own of these names are left out. */
  readonly members: readonly string[]
  /** What a line says. Throws LineError; of a file all lines are asked before the first is worked on. */
  readonly read: (value: Value) => T
  /** What is worked on is shown as it is written: its texts are noted (json-source.ts). */
  readonly isShown?: boolean
  /** Called once, when the input was found right and the output could be opened. */
  readonly open: () => Promise<Opened<T>>
  /** Every record of the output in order, those of an earlier run too. Members that are left out are undefined. */
  readonly onRecord?: (record: Value) => void
  /** The total of a pipe is Infinity: its lines are not counted ahead. */
  readonly onProgress: (done: number, total: number) => void
}

export type Done = {
  /** Lines of an earlier run. */
  readonly resumed: number
  readonly lines: number
  /** Lines that could not be used. */
  readonly failed: number
  /** By what Result's `counted` said. */
  readonly counts: ReadonlyMap<string, number>
}

/** Problems that are shown one by one. */
const SHOWN = 10
const HINT =
  'Mend them, or choose --on-error skip (leave such lines out) or --on-error record (write them with an error member).'
/** Among the counts. */
const FAILED = ''

const isFile = async (path: string): Promise<boolean> => {
  if (isStandardInput(path)) return false
  try {
    const found = await stat(path)
    // Reading a folder says what is wrong with it.
    return found.isFile() || found.isDirectory()
  } catch (error) {
    throw fileError(error, path, 'read')
  }
}

const reading = <T>({ content }: InputLine, read: (value: Value) => T): T => {
  if ('problem' in content) throw new LineError(content.problem)
  return read(content.value)
}

/** The number of lines of a file, each of them asked what it says; Infinity of a pipe. */
const checkLines = async <T>(
  job: Pick<JsonlJob<T>, 'host' | 'input' | 'onError' | 'read'>,
): Promise<number> => {
  const { host, input, onError, read } = job
  if (!(await isFile(input))) return Number.POSITIVE_INFINITY
  const problems: string[] = []
  let lines = 0
  let wrong = 0
  for await (const line of readLines(input, host)) {
    lines++
    try {
      reading(line, read)
    } catch (error) {
      if (!(error instanceof LineError)) throw error
      if (++wrong <= SHOWN) problems.push(`  ${line.unit} ${line.number}: ${error.message}\n`)
    }
  }
  if (lines === 0) throw new Error(`${inputName(input)} has no lines`)
  if (wrong === 0) return lines
  const found = `${wrong} of ${lines} lines of ${input} cannot be used`
  if (onError !== 'stop') {
    tell(host, found)
    return lines
  }
  const more = wrong > SHOWN ? `  and ${wrong - SHOWN} more\n` : ''
  throw new Error(`${found}, and nothing was begun:\n${problems.join('')}${more}${HINT}`)
}

/** How far the job is: lines, their hash, and what was counted. */
const createTally = (begun: Readonly<Record<string, number>>) => {
  const hash = createHash('sha256')
  const counts = new Map(Object.entries(begun))
  let lines = 0
  const sha256 = () => hash.copy().digest('hex')
  return {
    add: ({ identity }: InputLine): void => {
      hash.update(identity)
      lines++
    },
    count: (what: string): void => void counts.set(what, (counts.get(what) ?? 0) + 1),
    lines: () => lines,
    sha256,
    progress: () => ({ lines, sha256: sha256(), counts: Object.fromEntries(counts) }),
    done: (resumed: number): Done => {
      const { [FAILED]: failed = 0, ...others } = Object.fromEntries(counts)
      return { resumed, lines, failed, counts: new Map(Object.entries(others)) }
    },
  }
}
type Tally = ReturnType<typeof createTally>

/** What becomes of a line whose work failed: the text that is written for it, or an error that ends the run. */
const createFailure = <T>(
  { host, onError, members }: JsonlJob<T>,
  { lines }: Tally,
): ((line: InputLine, error: unknown) => readonly string[]) => {
  const cleared = Object.fromEntries(members.map((name) => [name, undefined]))
  let told = 0
  return ({ unit, number, content }, failure) => {
    const at = `${unit} ${number}`
    const error = messageOf(failure)
    if (!(failure instanceof LineError)) throw new Error(`${at}: ${error}`)
    if (onError === 'stop')
      throw new Error(
        `${at}: ${error}\n${lines()} lines were done before it. ${HINT} Then run the same command again.`,
      )
    if (++told <= SHOWN) tell(host, `${at}: ${error}`)
    if (told === SHOWN) tell(host, 'further lines that cannot be used are only counted')
    if (onError === 'skip') return []
    return 'text' in content
      ? [setMembers(content.text, { ...cleared, error })]
      : [JSON.stringify({ [unit]: number, error })]
  }
}

/** The lines that are still to be done; those of an earlier run are only looked at. */
async function* linesToDo<T>(
  { host, input, output }: JsonlJob<T>,
  begun: { readonly lines: number; readonly sha256: string },
  tally: Tally,
): AsyncGenerator<InputLine> {
  for await (const line of readLines(input, host)) {
    if (tally.lines() >= begun.lines) {
      yield line
      continue
    }
    tally.add(line)
    if (tally.lines() === begun.lines && tally.sha256() !== begun.sha256)
      throw new Error(
        `${output} was begun from other lines than ${input} has now. Remove it and ${output}.state, or name another output.`,
      )
  }
  if (tally.lines() < begun.lines)
    throw new Error(`${input} has ${tally.lines()} lines, but ${begun.lines} were done already.`)
}

const shown = (flags: Readonly<Record<string, string>>, name: string): string => {
  const value = flags[name]
  if (value === undefined) return `without --${name}`
  return `with --${name}${value === '' ? '' : ` ${value}`}`
}

/** Throws where going on would mix the records of two commands. */
const checkBegun = <T>(
  { output }: JsonlJob<T>,
  { lines, by, flags }: Output['begun'],
  now: Opened<T>,
): void => {
  if (lines === 0) return
  const remedy = `Remove it and ${output}.state, or name another output.`
  if (by !== undefined && by !== now.by)
    throw new Error(`${output} was begun by ${by}, and this is ${now.by}. ${remedy}`)
  const { flags: own = {} } = now
  if (flags === undefined) return // of a version that did not say them
  const other = Object.keys({ ...flags, ...own }).filter((name) => flags[name] !== own[name])
  if (other.length === 0) return
  const [was, is] = [flags, own].map((one) => other.map((name) => shown(one, name)).join(', '))
  throw new Error(
    `${output} was begun ${was}, and this is ${is}. Give the same flags to go on. ${remedy}`,
  )
}

const runTasks = async <T>(job: JsonlJob<T>, output: Output, total: number): Promise<Done> => {
  const { host, input, concurrency, members, onRecord, onProgress } = job
  const { begun } = output
  const tally = createTally(begun.counts)
  const failed = createFailure(job, tally)
  const cleared = Object.fromEntries(members.map((name) => [name, undefined]))
  const pass = ({ content }: InputLine): void => {
    if ('value' in content) onRecord?.(content.value)
  }
  if (begun.lines > 0 && onRecord)
    for await (const line of readLines(job.output, host, begun.bytes)) pass(line)

  const textsOf = async ({ given: line, result }: Task<InputLine, Result>) => {
    const { content } = line
    let done: Result
    try {
      done = await result
    } catch (error) {
      return { texts: failed(line, error), counted: [FAILED] }
    }
    const { records, counted = [] } = done
    if (!('text' in content)) return { texts: [], counted }
    const set = records.map((one) => ({ ...cleared, ...one }))
    for (const one of set) onRecord?.({ ...content.value, ...one })
    return { texts: set.map((one) => setMembers(content.text, one)), counted }
  }

  const opened = await job.open()
  const { by, flags, check, work } = opened
  checkBegun(job, begun, opened)
  const read = (value: Value): T => {
    const given = job.read(value)
    check?.(given)
    return given
  }
  if (check !== undefined) await checkLines({ ...job, read })
  const start = async (line: InputLine) => {
    const { content } = line
    if (job.isShown && 'text' in content) await noteSources(content.text, content.value)
    return work(reading(line, read), line.number)
  }
  for await (const task of startTasks(linesToDo(job, begun, tally), start, concurrency)) {
    const { texts, counted } = await textsOf(task)
    // In one go with put, so that no state is written between them.
    for (const what of counted) tally.count(what)
    tally.add(task.given)
    const progress = () => ({ ...tally.progress(), by, flags })
    await output.put(texts.map((text) => `${text}\n`).join(''), progress)
    onProgress(tally.lines(), total)
  }
  if (tally.lines() === 0) throw new Error(`${inputName(input)} has no lines`)
  if (Number.isFinite(total) && tally.lines() < total)
    throw new Error(
      `${input} had ${total} lines when they were checked, and ${tally.lines()} when they were read: it was changed meanwhile`,
    )
  return tally.done(begun.lines)
}

/** That a signal ended the run. */
class Interruption extends Error {
  readonly signal: NodeJS.Signals

  constructor(signal: NodeJS.Signals) {
    super(`stopped by ${signal}`)
    this.signal = signal
  }
}

/** After an interruption the process ends by its signal; any other error is thrown again. */
export const endAsToldTo = (host: Host, error: unknown, isPiped: boolean): void => {
  if (!(error instanceof Interruption)) throw error
  tell(host, `${error.message}${isPiped ? '' : ': the same command goes on'}`)
  endBy(host, error.signal)
}

/** Rejects with the first signal; a second one ends the process. A terminal that closes ends only what
 * tells its progress there, so that `nohup` works: Node forgets which signals it was told to ignore. */
const watchSignals = (host: Host) => {
  let stop: (signal: NodeJS.Signals) => void = () => {}
  const came = new Promise<never>((_, reject) => {
    stop = (signal) => reject(new Interruption(signal))
  })
  came.catch(() => {}) // it is raced with the work
  const ignore = () => {}
  const ends = host.stderr.isTTY ? (['SIGHUP'] as const) : []
  const endListening = onSignals(host, ['SIGINT', 'SIGTERM', ...ends], {
    first: stop,
    again: (signal) => endBy(host, signal),
  })
  host.on('SIGHUP', ignore)
  const end = () => {
    endListening()
    host.off('SIGHUP', ignore)
  }
  return { came, end }
}

/** Work that writes to an output, which is closed when it ends. Throws what ends it; Interruption when what was done
 * is written. */
export const withOutput = async <T>(
  host: Host,
  path: string,
  work: (output: Output) => Promise<T>,
): Promise<T> => {
  const output = await openOutput(path, host)
  const signals = watchSignals(host)
  let isDone = false
  try {
    const done = await Promise.race([work(output), signals.came])
    isDone = true
    return done
  } finally {
    await output.close(isDone)
    signals.end()
  }
}

export const runJsonl = async <T>(job: JsonlJob<T>): Promise<Done> => {
  const total = await checkLines(job)
  return withOutput(job.host, job.output, (output) => runTasks(job, output, total))
}
