// The lines of a JSONL file or pipe, each with what it holds or why it holds nothing that can be used.
// One bad line never hides the others: whoever reads decides what becomes of it.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { fileError } from './file-error.js'
import { otherFormat } from './file-format.js'

export type InputLine = {
  /** From 1, blank lines counted. */
  readonly number: number
  /** What tells this line from others: its bytes, or the SHA-256 of very many. */
  readonly identity: Uint8Array
  readonly content: JsonText | { readonly problem: string }
}

type JsonText = { readonly text: string; readonly value: Readonly<Record<string, unknown>> }

/** Bytes of a line that are kept in memory. A server takes 16 MiB unless it is told otherwise. */
const MAX_LINE = 64 << 20
const NEWLINE = 0x0a
const RETURN = 0x0d
const BLANKS = [0x20, 0x09, RETURN]
const BYTE_ORDER_MARK = Buffer.from([0xef, 0xbb, 0xbf])

/** /dev/stdin cannot be opened where standard input is a socket. */
export const isStandardInput = (path: string): boolean => path === '-' || path === '/dev/stdin'

/** How messages call it. */
export const inputName = (path: string): string => (path === '-' ? 'standard input' : path)

async function* readChunks(path: string): AsyncGenerator<Buffer> {
  const chunks: AsyncIterable<Buffer> = isStandardInput(path)
    ? process.stdin
    : createReadStream(path)
  let isFirst = true
  try {
    for await (const chunk of chunks) {
      const problem = isFirst ? otherFormat(chunk) : undefined
      if (problem !== undefined) throw new Error(`${inputName(path)} ${problem}`)
      isFirst = false
      yield chunk
    }
  } catch (error) {
    throw fileError(error, inputName(path), 'read')
  }
}

const SUCH_AS = 'one JSON object, such as {"prompt": "..."}'
const BEGINNING = /^\s*[{[]\s*$/
/** Characters of a line that are shown. */
const SHOWN = 20

const whyNoObject = (text: string, error: unknown): string => {
  if (BEGINNING.test(text))
    return 'it is only the beginning of JSON: an object must stand on one line, as `jq -c .` writes it (of one list: `jq -c ".[]"`)'
  if (/^\s*[{[]/.test(text))
    return `it is not JSON: ${error instanceof Error ? error.message : error}`
  return `it must be ${SUCH_AS}, but begins with ${JSON.stringify(text.slice(0, SHOWN))}`
}

const readJson = (bytes: Uint8Array): InputLine['content'] => {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return { problem: 'it is not valid UTF-8: convert the file first' }
  }
  try {
    const value: unknown = JSON.parse(text)
    if (Array.isArray(value))
      return {
        problem: `it must be ${SUCH_AS}, but is a list: \`jq -c ".[]"\` writes each of a list on a line`,
      }
    return typeof value === 'object' && value !== null
      ? { text, value: value as JsonText['value'] }
      : { problem: `it must be ${SUCH_AS}` }
  } catch (error) {
    return { problem: whyNoObject(text, error) }
  }
}

/** The pieces of one line as they come in. */
const createPieces = () => {
  let parts: Buffer[] = []
  let size = 0
  /** Of a line that is too long to be kept. */
  let hash = createHash('sha256')
  return {
    add: (piece: Buffer): void => {
      size += piece.length
      if (size > MAX_LINE) {
        for (const part of parts) hash.update(part)
        parts = []
        hash.update(piece)
      } else parts.push(piece)
    },
    /** Undefined for a blank line. */
    end: (number: number): InputLine | undefined => {
      const length = size
      let bytes: Buffer = parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts)
      const digest = length > MAX_LINE ? hash.digest() : undefined
      parts = []
      size = 0
      if (digest !== undefined) {
        hash = createHash('sha256')
        const problem = `it has ${length} bytes, more than ${MAX_LINE}`
        return { number, identity: digest, content: { problem } }
      }
      if (number === 1 && bytes.subarray(0, 3).equals(BYTE_ORDER_MARK)) bytes = bytes.subarray(3)
      if (bytes.at(-1) === RETURN) bytes = bytes.subarray(0, -1)
      if (bytes.every((byte) => BLANKS.includes(byte))) return undefined
      return { number, identity: bytes, content: readJson(bytes) }
    },
    isEmpty: () => size === 0,
  }
}

/** Every line but blank ones. `end`: bytes after which nothing is read. */
export async function* readLines(
  path: string,
  end = Number.POSITIVE_INFINITY,
): AsyncGenerator<InputLine> {
  const pieces = createPieces()
  let number = 0
  let left = end
  for await (const whole of readChunks(path)) {
    const chunk = whole.length > left ? whole.subarray(0, left) : whole
    left -= chunk.length
    let begin = 0
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, begin)) {
      pieces.add(chunk.subarray(begin, at))
      const line = pieces.end(++number)
      if (line) yield line
      begin = at + 1
    }
    if (begin < chunk.length) pieces.add(chunk.subarray(begin))
    if (left === 0) break
  }
  if (pieces.isEmpty()) return
  const line = pieces.end(++number)
  if (line) yield line
}
