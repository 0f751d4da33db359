// The lines of a JSONL file or pipe, or the items of one JSON list, each with what it holds or why it holds
// nothing that can be used. One bad line never hides the others: whoever reads decides what becomes of it.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { fileError, messageOf } from '../failure.js'
import { otherFormat } from './file-format.js'
import type { Host } from './host.js'

export type InputLine = {
  /** What the input consists of. */
  readonly unit: 'line' | 'item'
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
const [COMMA, QUOTE, BACKSLASH] = [0x2c, 0x22, 0x5c]
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d]

/** Bytes of the byte order mark at the beginning. */
const markOf = (begin: Buffer): number => (begin.subarray(0, 3).equals(BYTE_ORDER_MARK) ? 3 : 0)

/** /dev/stdin cannot be opened where standard input is a socket. */
export const isStandardInput = (path: string): boolean => path === '-' || path === '/dev/stdin'

/** How messages call it. */
export const inputName = (path: string): string => (path === '-' ? 'standard input' : path)

async function* readChunks(
  path: string,
  { stdin }: Pick<Host, 'stdin'>,
): AsyncGenerator<Buffer, void> {
  const chunks: AsyncIterable<Buffer> = isStandardInput(path) ? stdin : createReadStream(path)
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
    return 'it is only the beginning of JSON: an object must stand on one line, as `jq -c .` writes it'
  if (/^\s*[{[]/.test(text)) return `it is not JSON: ${messageOf(error)}`
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
        problem: `it must be ${SUCH_AS}, but is a list: one list of objects may be the whole input, not a line of it`,
      }
    // Line breaks stand only between the members: no text has them as they are.
    return typeof value === 'object' && value !== null
      ? { text: text.replace(/[\r\n]+/g, ' '), value: value as JsonText['value'] }
      : { problem: `it must be ${SUCH_AS}` }
  } catch (error) {
    return { problem: whyNoObject(text, error) }
  }
}

/** The pieces of one line, or item, as they come in. */
const createPieces = (unit: InputLine['unit']) => {
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
        return { unit, number, identity: digest, content: { problem } }
      }
      if (number === 1 && unit === 'line') bytes = bytes.subarray(markOf(bytes))
      if (bytes.at(-1) === RETURN) bytes = bytes.subarray(0, -1)
      if (bytes.every((byte) => BLANKS.includes(byte))) return undefined
      return { unit, number, identity: bytes, content: readJson(bytes) }
    },
    isEmpty: () => size === 0,
  }
}

async function* splitLines(chunks: AsyncIterable<Buffer>, end: number): AsyncGenerator<InputLine> {
  const pieces = createPieces('line')
  let number = 0
  let left = end
  for await (const whole of chunks) {
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

/** Follows the bytes of one JSON list; says which are ends of its items. */
const createListReader = () => {
  let depth = 0
  let inText = false
  let isEscaped = false
  return {
    /** Whether a comma between items, or the list's last bracket. */
    isEnd: (byte: number): boolean => {
      if (inText) {
        if (isEscaped) isEscaped = false
        else if (byte === BACKSLASH) isEscaped = true
        else if (byte === QUOTE) inText = false
        return false
      }
      if (byte === QUOTE) inText = true
      else if (byte === OPEN_LIST || byte === OPEN_OBJECT) depth++
      else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) return --depth === 0
      else return byte === COMMA && depth === 1
      return false
    },
    isClosed: () => depth <= 0,
  }
}

/** The items of one list. What they are is not looked at here: each is read by itself. */
async function* splitList(chunks: AsyncIterable<Buffer>): AsyncGenerator<InputLine> {
  const pieces = createPieces('item')
  const list = createListReader()
  let number = 0
  const problem = (text: string): InputLine => ({
    ...{ unit: 'item', number: ++number, identity: Buffer.from(text) },
    content: { problem: text },
  })
  let hasBegun = false
  let isLast = false
  for await (const chunk of chunks) {
    let begin = 0
    if (!hasBegun) {
      begin = chunk.indexOf(OPEN_LIST) + 1
      list.isEnd(OPEN_LIST)
      hasBegun = true
    }
    for (let at = begin; at < chunk.length; at++) {
      const byte = chunk[at] ?? 0
      if (isLast) {
        if (byte === NEWLINE || BLANKS.includes(byte)) continue
        yield problem('something stands behind the end of the list: an input is one list, or lines')
        return
      }
      if (!list.isEnd(byte)) continue
      pieces.add(chunk.subarray(begin, at))
      begin = at + 1
      isLast = list.isClosed()
      const item = pieces.end(number + 1)
      if (item) {
        number++
        yield item
      } else if (!isLast || number > 0) yield problem('nothing stands before or behind a comma')
    }
    if (!isLast) pieces.add(chunk.subarray(begin))
  }
  if (!isLast) yield problem('the file ends before its list does: it was cut off')
}

/** Whether an input that begins so is one list. */
const beginsList = (begin: Buffer): boolean => {
  const first = begin
    .subarray(markOf(begin))
    .find((byte) => byte !== NEWLINE && !BLANKS.includes(byte))
  return first === OPEN_LIST
}

/** Every line but blank ones, or every item of the list that the input is. `end`: bytes of lines after which
 * nothing is read. */
export async function* readLines(
  path: string,
  host: Pick<Host, 'stdin'>,
  end = Number.POSITIVE_INFINITY,
): AsyncGenerator<InputLine> {
  const chunks = readChunks(path, host)
  const { value: first, done } = await chunks.next()
  if (done) return
  const all = (async function* () {
    try {
      yield first
      yield* chunks
    } finally {
      await chunks.return(undefined)
    }
  })()
  yield* beginsList(first) ? splitList(all) : splitLines(all, end)
}
