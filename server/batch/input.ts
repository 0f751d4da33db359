// The lines of an input file: where each is, and what is wrong with those that cannot be asked.

import { createReadStream } from 'node:fs'
import { z } from 'zod'
import { faultText } from '../check.js'
import { messageOf } from '../failure.js'
import { scanJson } from '../http/json-scan.js'
import { jsonOf, noteSources } from '../json-source.js'
import { anyRecord } from '../list.js'
import { RequestError } from '../request-error.js'

const NEWLINE = 0x0a
const BLANKS = [0x20, 0x09, 0x0d]

type RawLine = {
  /** From 1, blank lines counted. */
  readonly number: number
  /** In bytes, from the beginning of the file. */
  readonly at: number
  readonly size: number
  /** Undefined where it is longer than was asked for. */
  readonly bytes: Buffer | undefined
}

/** Every line but blank ones. `most`: bytes of a line that are kept. Throws when `signal` says so. */
export async function* rawLines(
  path: string,
  most: number,
  signal: AbortSignal,
): AsyncGenerator<RawLine> {
  let parts: Buffer[] = []
  let number = 0
  let at = 0
  let size = 0
  const end = (): RawLine | undefined => {
    const line = {
      number: ++number,
      at,
      size,
      bytes: size > most ? undefined : Buffer.concat(parts),
    }
    at += size + 1
    parts = []
    size = 0
    return line.bytes?.every((byte) => BLANKS.includes(byte)) ? undefined : line
  }
  const add = (piece: Buffer): void => {
    size += piece.length
    if (size > most) parts = []
    else parts.push(piece)
  }
  for await (const chunk of createReadStream(path, {
    highWaterMark: 1 << 18,
    signal,
  }) as AsyncIterable<Buffer>) {
    let begin = 0
    for (let stop = chunk.indexOf(NEWLINE); stop >= 0; stop = chunk.indexOf(NEWLINE, begin)) {
      add(chunk.subarray(begin, stop))
      const line = end()
      if (line) yield line
      begin = stop + 1
    }
    add(chunk.subarray(begin))
  }
  if (size === 0) return
  const line = end()
  if (line) yield line
}

const MAX_ID = 512
const utf8 = new TextDecoder('utf-8', { fatal: true })

const Line = z.object({
  custom_id: z.string().min(1).max(MAX_ID),
  method: z.literal('POST'),
  url: z.string().regex(/^\//, { error: "expected a path, such as '/v1/chat/completions'" }),
  body: anyRecord(),
})

type Problem = { readonly code: string; readonly message: string }

type CheckedLine = {
  readonly customId: string | null
  readonly problem: Problem | undefined
  readonly url: string
  readonly body: Readonly<Record<string, unknown>>
}

type ReadLine = CheckedLine & { readonly text: string; readonly value: unknown }

const idOf = (value: unknown): string | null => {
  const id =
    typeof value === 'object' && value !== null && 'custom_id' in value ? value.custom_id : null
  return typeof id === 'string' && id !== '' && id.length <= MAX_ID ? id : null
}

const bad = (customId: string | null, code: string, message: string): CheckedLine => ({
  customId,
  problem: { code, message },
  url: '',
  body: {},
})

/** What a line says. `endpoint`: the only one that it may go to. */
export const checkLine = (value: unknown, endpoint: string | undefined): CheckedLine => {
  const customId = idOf(value)
  const read = Line.safeParse(value)
  if (!read.success) {
    const shown = endpoint ?? '/v1/chat/completions'
    return bad(
      customId,
      'invalid_request',
      `${faultText(read.error, value)}. A line is {"custom_id": "...", "method": "POST", "url": "${shown}", "body": {...}}.`,
    )
  }
  const { url, body } = read.data
  if (endpoint !== undefined && url !== endpoint)
    return bad(
      customId,
      'mismatched_url',
      `Invalid value for 'url': it is '${url}', and the batch is for '${endpoint}'.`,
    )
  if (body.stream === true)
    return bad(
      customId,
      'unsupported_value',
      "Invalid value for 'body.stream': a line of a batch has one whole answer. Leave it out.",
    )
  return { customId, problem: undefined, url, body }
}

/** What a line of a batch to `endpoint` says. Its JSON has the limits of a body's. */
export const readLine = async (bytes: Buffer, endpoint: string): Promise<ReadLine> => {
  let text = ''
  let value: unknown
  try {
    await scanJson(bytes)
    text = utf8.decode(bytes)
    value = JSON.parse(text)
    return { ...checkLine(value, endpoint), text, value }
  } catch (error) {
    const isRefused = error instanceof RequestError
    const why = `${isRefused ? '' : 'The line is not JSON in UTF-8: '}${messageOf(error)}`
    return { ...bad(null, 'invalid_json_line', why), text, value }
  }
}

/** The body of a line that is right, as it is written there: a prompt may show its numbers. */
export const bodyOf = async ({ text, value, body }: ReadLine): Promise<string> => {
  await noteSources(text, value)
  return jsonOf(body)
}
