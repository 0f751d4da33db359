// One file over HTTP, into `<target>.incomplete` until it is whole and right. A broken connection goes
// on where it stopped; a stalled one is given up and tried again; wrong content starts over. Several may fetch
// one file, in processes and on machines that share the folder: all write the same bytes to the same places,
// cut off none that another may have written, and take the file of who is done first.

import { createHash, type Hash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { fileError, messageOf } from '../failure.js'

type DownloadOptions = {
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly target: string
  readonly size: number
  /** sha256 (64 hex digits) or git blob id (40); anything else is not checked. */
  readonly etag: string
  /** Bytes that came, or a negative number when a start over throws some away. */
  readonly onBytes: (bytes: number) => void
  readonly stallMs: number
  /** Attempts in a row that bring nothing. */
  readonly attempts: number
  readonly retryMs: number
  /** What is tried again, and why. */
  readonly say: (text: string) => void
  readonly signal?: AbortSignal | undefined
}

export class DownloadError extends Error {}

/** No other attempt mends a disk. */
const write = async (file: FileHandle, chunk: Uint8Array, at: number, path: string) => {
  try {
    for (let done = 0; done < chunk.length; ) {
      const left = chunk.subarray(done)
      done += (await file.write(left, 0, left.length, at + done)).bytesWritten
    }
  } catch (error) {
    const told = fileError(error, path, 'written')
    throw new DownloadError(messageOf(told))
  }
}

/** What another attempt may mend. */
class Passing extends DownloadError {
  readonly waitMs: number
  constructor(message: string, waitMs = 0) {
    super(message)
    this.waitMs = waitMs
  }
}

const makeHash = (etag: string, size: number): Hash | undefined => {
  if (/^[0-9a-f]{64}$/.test(etag)) return createHash('sha256')
  if (/^[0-9a-f]{40}$/.test(etag)) return createHash('sha1').update(`blob ${size}\0`)
  return undefined
}

const fileSize = async (path: string): Promise<number> =>
  (await stat(path).catch(() => undefined))?.size ?? 0

/** The path is still that of the open file: no other download took it away, or began anew. */
const isStill = async (path: string, file: FileHandle): Promise<boolean> =>
  (await stat(path).catch(() => undefined))?.ino === (await file.stat()).ino

const hashFile = async (file: FileHandle, hash: Hash): Promise<void> => {
  const buffer = Buffer.allocUnsafe(1 << 20)
  for (let at = 0; ; ) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at)
    if (bytesRead === 0) return
    hash.update(buffer.subarray(0, bytesRead))
    at += bytesRead
  }
}

const retryAfterMs = (response: Response): number => {
  const seconds = Number(response.headers.get('retry-after'))
  return Number.isFinite(seconds) ? Math.min(seconds, 120) * 1000 : 0
}

const checkStatus = (response: Response, url: string): void => {
  const { status } = response
  if (status === 200 || status === 206) return
  const message = `${url}: HTTP ${status}`
  if (status === 408 || status === 429 || status >= 500)
    throw new Passing(message, retryAfterMs(response))
  throw new DownloadError(message)
}

/** Where the server begins to send; it may ignore the range and send everything. */
const startOf = (response: Response, wanted: number): number => {
  if (response.status === 200) return 0
  const begin = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1]
  if (begin === undefined || Number(begin) !== wanted)
    throw new Passing(
      `asked for bytes from ${wanted}, got '${response.headers.get('content-range')}'`,
    )
  return wanted
}

/** One connection: writes from `have` on, returns how much the file holds at the end. */
const attempt = async (
  options: DownloadOptions,
  file: FileHandle,
  have: number,
): Promise<number> => {
  const { url, headers, target, size, onBytes, stallMs, signal } = options
  const giveUp = new AbortController()
  const stalled = () => giveUp.abort(new Passing(`${url}: nothing came for ${stallMs / 1000} s`))
  const cancel = () => giveUp.abort(signal?.reason)
  let timer = setTimeout(stalled, stallMs)
  signal?.addEventListener('abort', cancel, { once: true })
  let at = have
  try {
    const range: Record<string, string> = have > 0 ? { range: `bytes=${have}-` } : {}
    const response = await fetch(url, {
      headers: { ...headers, ...range, 'accept-encoding': 'identity' },
      signal: giveUp.signal,
    })
    checkStatus(response, url)
    at = startOf(response, have)
    for await (const chunk of response.body ?? []) {
      clearTimeout(timer)
      if (at + chunk.length > size) throw new Passing(`${url}: more than the ${size} bytes it has`)
      await write(file, chunk, at, target)
      at += chunk.length
      if (at > have) onBytes(Math.min(chunk.length, at - have))
      timer = setTimeout(stalled, stallMs)
    }
  } catch (error) {
    if (signal?.aborted) throw signal.reason
    if (error instanceof Passing) throw error
    if (error instanceof DownloadError) throw error
    const reason = giveUp.signal.aborted ? giveUp.signal.reason : error
    const cause = reason instanceof Error && reason.cause instanceof Error ? reason.cause : reason
    throw new Passing(messageOf(cause))
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', cancel)
  }
  if (at < size) throw new Passing(`${url}: ended after ${at} of ${size} bytes`)
  return at
}

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

/** Bytes until the file has its size; tries again as long as something comes. */
const fill = async (options: DownloadOptions, file: FileHandle): Promise<void> => {
  const { size, attempts, retryMs } = options
  let barren = 0
  for (;;) {
    const have = (await file.stat()).size
    if (have === size) return
    if (have > size) {
      options.onBytes(-have)
      await file.truncate(0)
      continue
    }
    try {
      await attempt(options, file, have)
    } catch (error) {
      if (!(error instanceof Passing)) throw error
      const now = (await file.stat()).size
      barren = now > have ? 0 : barren + 1
      if (barren >= attempts) throw new DownloadError(`${error.message} (tried ${attempts} times)`)
      const waitMs = Math.max(error.waitMs, retryMs * 2 ** barren)
      options.say(`${error.message}. Going on in ${waitMs / 1000} s.`)
      await sleep(waitMs)
    }
  }
}

/** The bytes that an earlier run left. */
export const partialSize = (target: string): Promise<number> => fileSize(`${target}.incomplete`)

/** Takes a whole file to its place where its bytes are right, and away where they are not; undefined: it is another
 * download's by now, or gone. */
const settle = async (
  { target, etag, size }: DownloadOptions,
  partial: string,
  file: FileHandle,
): Promise<boolean | undefined> => {
  const hash = makeHash(etag, size)
  if (hash !== undefined) await hashFile(file, hash)
  if ((await file.stat()).size !== size || !(await isStill(partial, file))) return undefined
  const isRight = hash === undefined || hash.digest('hex') === etag
  try {
    await (isRight ? rename(partial, target) : rm(partial))
    return isRight
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    return undefined
  }
}

export const download = async (options: DownloadOptions): Promise<void> => {
  const { target, size, etag, url } = options
  const partial = `${target}.incomplete`
  for (let wrong = 0, isAgain = false; wrong < 2; isAgain = true) {
    if ((await stat(target).catch(() => undefined))?.size === size) return
    const file = await open(partial, constants.O_RDWR | constants.O_CREAT)
    try {
      if (isAgain) options.onBytes((await file.stat()).size - size)
      await fill(options, file)
      const isRight = await settle(options, partial, file)
      if (isRight) return
      if (isRight === false) wrong++
    } finally {
      await file.close()
    }
  }
  throw new DownloadError(`${url}: its content does not match its checksum ${etag} (tried twice)`)
}
