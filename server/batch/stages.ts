// The stages of a batch before and after its lines are asked: its input is read, its outputs are written.

import { createTurn } from '../slices.js'
import { type Files, newId, now } from './files.js'
import { rawLines, readLine } from './input.js'
import type { BatchRow, FileRow, Ledger, NewLine } from './ledger.js'

const MAX_LINES = 1_000_000
/** Bytes of a line beside its body. */
const LINE_FRAME = 4096
/** Lines that are written to the ledger together. */
const CHUNK = 500
/** Answers that are in memory together while outputs are written. */
const TOLD = 32

export type Asked = {
  readonly status: number
  /** JSON. */
  readonly text: string
  readonly requestId: string
  /** Where weights may change: those that it is of. */
  readonly weightVersion?: string | undefined
}

const record = (customId: string | null, rest: object): string =>
  JSON.stringify({ id: newId('batch_req_'), custom_id: customId, ...rest })

const failure = (customId: string | null, code: string, message: string): string =>
  record(customId, { response: null, error: { code, message } })

/** The answer's own JSON stays as it was written. */
export const answered = (customId: string, asked: Asked): string => {
  const { status, text, requestId, weightVersion: version } = asked
  const head = record(customId, {}).slice(0, -1)
  const response = JSON.stringify({
    status_code: status,
    request_id: requestId,
    weight_version: version,
  })
  return `${head},"response":${response.slice(0, -1)},"body":${text}},"error":null}`
}

const NOT_ASKED = {
  expired: [
    'batch_expired',
    'The completion window of the batch ended before this line was asked.',
  ],
  cancelled: ['batch_cancelled', 'The batch was cancelled before this line was answered.'],
  completed: ['batch_failed', 'This line was not asked.'],
} as const

type Tools = {
  readonly ledger: Ledger
  readonly files: Files
  /** Bytes of the largest body. */
  readonly bodyLimit: number
  /** The server leaves: a stage throws, and is done anew after the next start. */
  readonly stopped: AbortSignal
}

/** Writes lines to the ledger; how many of them cannot be asked. */
const addLines = (ledger: Ledger, batch: string, lines: readonly NewLine[]): number => {
  let failed = 0
  ledger.save(() => {
    for (const line of lines) {
      const { customId } = line
      const first = customId === null ? undefined : ledger.lineNamed(batch, customId)
      if (line.answer !== null || first !== undefined) failed++
      if (first === undefined) ledger.addLine(batch, line)
      else {
        const why = `Line ${line.number} has the custom_id '${customId}' of line ${first}: each line needs its own.`
        const answer = line.answer ?? failure(customId, 'duplicate_custom_id', why)
        ledger.addLine(batch, { ...line, customId: null, answer })
      }
    }
  })
  return failed
}

async function* checkedLines(
  { files, bodyLimit, stopped }: Tools,
  { input, endpoint }: BatchRow,
): AsyncGenerator<NewLine> {
  const path = files.pathOf(input)
  for await (const line of rawLines(path, bodyLimit + LINE_FRAME, stopped)) {
    const { number, at, size, bytes } = line
    const { customId, problem } =
      bytes === undefined ? tooLarge(size) : await readLine(bytes, endpoint)
    const answer = problem
      ? failure(customId, problem.code, `Line ${number}: ${problem.message}`)
      : null
    yield { number, customId, at, size, answer }
  }
}

const tooLarge = (size: number) => ({
  customId: null,
  problem: {
    code: 'line_too_large',
    message: `It has ${size} bytes: more than --body-limit allows.`,
  },
})

/** Of a line whose file was taken away or changed. */
export const lost = (customId: string): string =>
  failure(customId, 'input_file_lost', 'The input file is no longer whole on the server.')

const LOST = { code: 'input_file_lost', message: 'The input file is no longer on the server.' }

/** Why the whole file is refused, by how many lines it has. */
const refusalOf = (lines: number) => {
  if (lines === 0) return { code: 'empty_file', message: 'The file has no line.' }
  if (lines <= MAX_LINES) return undefined
  return { code: 'too_many_lines', message: `The file has more than ${MAX_LINES} lines: cut it.` }
}

/** A million at once would keep everybody waiting. */
export const removeLines = async ({ ledger, stopped }: Tools, batch: string): Promise<void> => {
  const turn = createTurn()
  const remove = (): number => {
    let removed = 0
    ledger.save(() => {
      removed = ledger.removeLines(batch, CHUNK)
    })
    return removed
  }
  while (remove() === CHUNK) {
    await turn()
    stopped.throwIfAborted()
  }
}

/** Reads the input: each line into the ledger, and what is wrong with it. */
export const validate = async (tools: Tools, batch: BatchRow): Promise<void> => {
  const { ledger, files } = tools
  const { id } = batch
  await removeLines(tools, id)
  let chunk: NewLine[] = []
  let total = 0
  let failed = 0
  const turn = createTurn()
  const isThere = files.isThere(batch.input)
  for await (const line of isThere ? checkedLines(tools, batch) : []) {
    if (++total > MAX_LINES) break
    chunk.push(line)
    // A piece of the file has thousands of short lines.
    await turn()
    if (chunk.length < CHUNK) continue
    failed += addLines(ledger, id, chunk)
    chunk = []
  }
  failed += addLines(ledger, id, chunk)
  const refusal = isThere ? refusalOf(total) : LOST
  ledger.save(() => {
    // It may have been cancelled meanwhile.
    const isOn = ledger.batch(id)?.status === 'validating'
    if (refusal === undefined) ledger.setBatch(id, { total, failed })
    if (!isOn) return
    if (refusal === undefined) ledger.setBatch(id, { status: 'in_progress', began: now() })
    else {
      const problems = JSON.stringify([{ ...refusal, line: null, param: 'input_file_id' }])
      ledger.setBatch(id, { status: 'failed', problems, ended: now() })
    }
  })
  if (refusal !== undefined) await removeLines(tools, id)
}

/** The lines of an output file (`isOk`), or of an error file. */
async function* toldLines(
  { ledger, stopped }: Tools,
  batch: BatchRow,
  isOk: boolean,
): AsyncGenerator<string> {
  const [code, message] = NOT_ASKED[batch.outcome]
  const turn = createTurn()
  for (let after = 0; ; ) {
    await turn()
    stopped.throwIfAborted()
    const lines = ledger.told(batch.id, after, TOLD)
    for (const { number, customId, answer } of lines) {
      after = number
      if (answer?.isOk === isOk) yield answer.text
      else if (answer === undefined && !isOk) yield failure(customId, code, message)
    }
    if (lines.length < TOLD) return
  }
}

/** Writes a file of answers; undefined where it would be empty. */
const writeFile = async (
  tools: Tools,
  batch: BatchRow,
  isOk: boolean,
): Promise<FileRow | undefined> => {
  const id = newId('file-')
  const bytes = await tools.files.writeLines(id, toldLines(tools, batch, isOk))
  if (bytes === 0) {
    await tools.files.remove(id)
    return undefined
  }
  const created = now()
  return {
    id,
    owner: batch.owner,
    bytes,
    created,
    filename: `${batch.id}_${isOk ? 'output' : 'error'}.jsonl`,
    purpose: 'batch_output',
    expires: batch.keep === null ? null : created + batch.keep,
  }
}

/** Writes the outputs, and ends the batch. */
export const finalize = async (tools: Tools, batch: BatchRow): Promise<void> => {
  const { ledger, files } = tools
  const made: FileRow[] = []
  try {
    for (const isOk of [true, false]) {
      const row = await writeFile(tools, batch, isOk)
      if (row) made.push(row)
    }
    const named = (part: string) => made.find((row) => row.filename.endsWith(part))?.id ?? null
    ledger.save(() => {
      for (const row of made) ledger.addFile(row)
      ledger.setBatch(batch.id, {
        status: batch.outcome,
        output: named('_output.jsonl'),
        error: named('_error.jsonl'),
        ended: now(),
      })
    })
  } catch (error) {
    for (const { id } of made) await files.remove(id)
    throw error
  }
  await removeLines(tools, batch.id)
}
