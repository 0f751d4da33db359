// A long job over a JSONL file: several lines at once, results in order, and a kill at any moment loses
// nothing and repeats nothing. Beside the output lies OUTPUT.state with how far it got: lines done, a
// hash of them, and bytes written; what is in the output beyond that is cut off when the job goes on.

import { createHash } from 'node:crypto'
import { createReadStream, existsSync } from 'node:fs'
import { open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { z } from 'zod'
import { setMembers } from './json-line.js'

const State = z.object({ lines: z.int().min(0), bytes: z.int().min(0), sha256: z.string() })
type State = z.output<typeof State>

export type Members = Readonly<Record<string, unknown>>

export class JsonlError extends Error {}

type JsonlJob<T> = {
  /** A file, a pipe, or - for standard input. */
  readonly input: string
  /** A file: its state lies beside it. */
  readonly output: string
  readonly concurrency: number
  /** The parsed line and its number, from 1. Throws JsonlError for a line that makes no sense. */
  readonly work: (value: unknown, line: number) => Promise<T>
  /** What is written for it: any number of copies of the line, each with these members set. */
  readonly records: (result: T) => readonly Members[]
  /** The total of a pipe is Infinity: its lines are not counted ahead. */
  readonly onProgress?: (done: number, total: number) => void
}

const NEWLINE = 0x0a
/** /dev/stdin cannot be opened where standard input is a socket. */
const isStandardInput = (path: string) => path === '-' || path === '/dev/stdin'

/** The lines without their ends. A byte order mark at the start is left out; bytes that are not UTF-8 are
 * an error that names their line. */
async function* readLines(path: string): AsyncGenerator<string> {
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let number = 0
  const decode = (parts: readonly Uint8Array[]): string => {
    number++
    try {
      const text = utf8.decode(Buffer.concat(parts)).replace(/\r$/, '')
      return number === 1 ? text.replace(/^\uFEFF/, '') : text
    } catch {
      throw new JsonlError(`line ${number} of ${path} is not valid UTF-8: convert the file first`)
    }
  }
  let rest: Uint8Array[] = []
  const chunks: AsyncIterable<Buffer> = isStandardInput(path)
    ? process.stdin
    : createReadStream(path)
  for await (const chunk of chunks) {
    let begin = 0
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, begin)) {
      yield decode([...rest, chunk.subarray(begin, end)])
      rest = []
      begin = end + 1
    }
    if (begin < chunk.length) rest.push(chunk.subarray(begin))
  }
  if (rest.length > 0) yield decode(rest)
}

/** Infinity for what can be read only once. */
const countLines = async (path: string): Promise<number> => {
  if (isStandardInput(path) || !(await stat(path)).isFile()) return Number.POSITIVE_INFINITY
  let lines = 0
  for await (const line of readLines(path)) if (line.trim() !== '') lines++
  return lines
}

const readState = async (output: string): Promise<State> => {
  const path = `${output}.state`
  if (existsSync(path)) return State.parse(JSON.parse(await readFile(path, 'utf8')))
  if (existsSync(output) && (await stat(output)).size > 0)
    throw new JsonlError(`${output} exists and is no unfinished job: name another output.`)
  return { lines: 0, bytes: 0, sha256: '' }
}

const parseLine = (text: string, line: number): unknown => {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new JsonlError(`line ${line}: ${error instanceof Error ? error.message : String(error)}`)
  }
}

type Task<T> = { readonly text: string; readonly result: Promise<T> }

/** Resolves with the number of lines that an earlier run had done. */
export const runJsonl = async <T>(job: JsonlJob<T>): Promise<number> => {
  const { input, output, concurrency, work, records, onProgress } = job
  if (output === '-' || (existsSync(output) && !(await stat(output)).isFile()))
    throw new JsonlError(`the output is ${output}, but must be a file: its state is kept beside it`)
  const total = await countLines(input)
  const begun = await readState(output)
  const statePath = `${output}.state`
  const out = await open(output, existsSync(output) ? 'r+' : 'w')
  const hash = createHash('sha256')
  let { lines, bytes } = begun

  const save = async ({ text, result }: Task<T>) => {
    const made = records(await result).map((members) => `${setMembers(text, members)}\n`)
    const data = Buffer.from(made.join(''))
    await out.write(data, 0, data.length, bytes)
    bytes += data.length
    lines++
    hash.update(text)
    const state: State = { lines, bytes, sha256: hash.copy().digest('hex') }
    await writeFile(`${statePath}.new`, JSON.stringify(state))
    await rename(`${statePath}.new`, statePath)
    onProgress?.(lines, total)
  }

  try {
    const window: Task<T>[] = []
    let number = 0
    let seen = 0
    for await (const text of readLines(input)) {
      number++
      if (text.trim() === '') continue
      if (++seen <= begun.lines) {
        hash.update(text)
        if (seen < begun.lines) continue
        if (hash.copy().digest('hex') === begun.sha256) continue
        throw new JsonlError(
          `${output} was begun from other lines than ${input} has now. Remove it and ${statePath}, or name another output.`,
        )
      }
      if (seen === begun.lines + 1) await out.truncate(begun.bytes)
      const result = work(parseLine(text, number), number)
      result.catch(() => {}) // it is awaited in save, in order
      window.push({ text, result })
      const first = window.length >= concurrency ? window.shift() : undefined
      if (first) await save(first)
    }
    if (seen < begun.lines)
      throw new JsonlError(`${input} has ${seen} lines, but ${begun.lines} were done already.`)
    for (const task of window) await save(task)
  } finally {
    await out.close()
  }
  await rm(statePath, { force: true })
  return begun.lines
}

/** Every record of a finished output. */
export async function* readJsonl(path: string): AsyncGenerator<unknown> {
  let number = 0
  for await (const text of readLines(path)) {
    number++
    if (text.trim() !== '') yield parseLine(text, number)
  }
}
