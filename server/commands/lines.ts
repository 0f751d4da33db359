// The lines of a JSONL file or pipe, each with what it holds or why it holds nothing that can be used.
// One bad line never hides the others: whoever reads decides what becomes of it.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { fileError } from './file-error.js'

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

async function* readChunks(path: string): AsyncGenerator<Buffer> {
  const chunks: AsyncIterable<Buffer> = isStandardInput(path)
    ? process.stdin
    : createReadStream(path)
  try {
    yield* chunks
  } catch (error) {
    throw fileError(error, path, 'read')
  }
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
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? { text, value: value as JsonText['value'] }
      : { problem: 'it is not a JSON object, such as {"prompt": "..."}' }
  } catch (error) {
    return { problem: `it is not JSON: ${error instanceof Error ? error.message : error}` }
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
