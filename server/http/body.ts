// From the bytes of a request to its JSON.

import type { IncomingMessage } from 'node:http'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { brokenText } from '../check.js'
import { messageOf } from '../failure.js'
import { noteSources } from '../json-source.js'
import { badRequest, type RequestError } from '../request-error.js'
import { addHeader, type Ctx } from './context.js'
import { HttpError } from './errors.js'
import { scanJson } from './json-scan.js'

/** A missing type is JSON, and so is text/plain, which fetch() sends when nothing is said; not from a
 * page (`isPage`): a browser asks first whether it may send JSON, and text it just sends. */
const checkContentType = (contentType: string | undefined, isPage: boolean): void => {
  if (isPage && !/^application\//i.test((contentType ?? '').trim()))
    throw new HttpError(415, 'Pages send their body as application/json.')
  if (contentType === undefined || contentType.trim() === '') return
  const [type = '', ...parameters] = contentType.toLowerCase().split(';')
  const name = type.trim()
  if (
    name !== 'application/json' &&
    name !== 'text/plain' &&
    !/^application\/[\w.-]+\+json$/.test(name)
  )
    throw new HttpError(
      415,
      `Unsupported content type '${name}': send the body as application/json.`,
    )
  for (const parameter of parameters) {
    const [key = '', value = ''] = parameter.split('=')
    if (key.trim() === 'charset' && !/^"?utf-?8"?$/.test(value.trim()))
      throw new HttpError(415, `Unsupported charset '${value.trim()}': send UTF-8.`)
  }
}

const tooLarge = (limit: number): RequestError =>
  new HttpError(413, `The request body is larger than ${limit} bytes.`, {
    headers: { connection: 'close' },
  })

/** How long a body that is too large may still come in, so that its sender gets to read the answer. */
const LINGER_MS = 1000

const tooMany = (): RequestError =>
  new HttpError(503, 'Too many large bodies are coming in at once. Retry in 1 s.', {
    code: 'too_many_bodies',
    headers: { 'retry-after': '1', connection: 'close' },
  })

/** Bodies that are coming in may have together as many bytes as so many of the largest. */
const MOST_BODIES = 8

/** Milliseconds. A body that is kept in memory has so long in all; a file must bring its MiB in each. */
export const BODY_TIME = 300_000

const tooLate = (time: number): RequestError =>
  new HttpError(408, `The request body did not come whole in ${time / 1000} s.`, {
    headers: { connection: 'close' },
  })

export type Bodies = {
  /** The whole body. Rejects with 413 beyond the limit and 408 after its time, and drops what its sender has still
   * to say. */
  readonly read: (incoming: IncomingMessage) => Promise<Buffer>
}

/** Bytes of a block of a long body. */
const BLOCK = 1 << 16

/** Bytes as they come, in few blocks: a sender may give them one by one, and a Buffer for each takes hundreds. */
const createPile = () => {
  const full: Buffer[] = []
  let last = Buffer.alloc(0)
  let used = 0
  let size = 0
  return {
    add: (chunk: Buffer) => {
      const fits = chunk.copy(last, used)
      used += fits
      if (fits < chunk.length) {
        full.push(last)
        const rest = chunk.subarray(fits)
        last = Buffer.allocUnsafe(Math.max(rest.length, Math.min(size, BLOCK)))
        used = rest.copy(last)
      }
      size += chunk.length
    },
    whole: (): Buffer => Buffer.concat([...full, last.subarray(0, used)]),
  }
}

/** `limit`: bytes of the largest body. `time`: milliseconds that a body may take. */
export const createBodies = (limit: number, time: number): Bodies => {
  let comingIn = 0

  const read = (incoming: IncomingMessage): Promise<Buffer> =>
    new Promise((resolve, reject) => {
      let pile = createPile()
      let size = 0
      let kept = 0
      let refusal: NodeJS.Timeout | undefined
      let refused: RequestError | undefined
      const drop = () => {
        pile = createPile()
        comingIn -= kept
        kept = 0
      }
      const refuse = (error: RequestError) => {
        drop()
        refused ??= error
        refusal ??= setTimeout(() => reject(refused), LINGER_MS)
      }
      const late = setTimeout(() => refuse(tooLate(time)), time)
      const settle = () => {
        clearTimeout(late)
        clearTimeout(refusal)
        drop()
      }
      incoming.on('data', (chunk: Buffer) => {
        size += chunk.length
        if (size > limit) refuse(tooLarge(limit))
        else if (comingIn + chunk.length > MOST_BODIES * limit) refuse(tooMany())
        else if (refusal === undefined) {
          pile.add(chunk)
          kept += chunk.length
          comingIn += chunk.length
        }
      })
      incoming.on('end', () => {
        const body = pile.whole()
        settle()
        if (refused !== undefined) reject(refused)
        else resolve(body)
      })
      const broken = () => {
        settle()
        reject(badRequest('The request body broke off.'))
      }
      incoming.on('error', broken)
      incoming.on('close', broken)
      if (Number(incoming.headers['content-length'] ?? 0) > limit) refuse(tooLarge(limit))
    })
  return { read }
}

/** Bytes from which a body is long. */
const LONG = 1 << 18

const utf8 = new TextDecoder('utf-8', { fatal: true })

/** Each step on a long body takes a turn's time, and so may what is done with it. */
const turnAfter = async (bytes: Buffer): Promise<void> => {
  if (bytes.length >= LONG) await nextTurn()
}

/** Fields whose objects a prompt shows as they are written. */
const SHOWN = /"(?:tools|chat_template_kwargs|input|data|state)"/

const parseJson = async (bytes: Buffer): Promise<unknown> => {
  let text: string
  try {
    text = utf8.decode(bytes)
  } catch {
    throw badRequest('The request body is not valid UTF-8.')
  }
  if (text.trim() === '') throw badRequest('The request body is empty: send a JSON object.')
  await turnAfter(bytes)
  try {
    const json: unknown = JSON.parse(text)
    await turnAfter(bytes)
    if (SHOWN.test(text)) {
      await turnAfter(bytes)
      await noteSources(text, json)
    }
    return json
  } catch (error) {
    throw badRequest(`We could not parse the JSON body of your request: ${messageOf(error)}`)
  }
}

/** JSON can write it only as an escape. */
const checkTexts = (json: unknown, bytes: Buffer): void => {
  if (!bytes.includes('\\ud') && !bytes.includes('\\uD')) return
  const path = brokenText(json)
  if (path === undefined) return
  const param = path.join('.')
  throw badRequest(
    `Invalid value for '${param}': it has half of a surrogate pair, such as "\\ud83d": cut texts between characters.`,
    param,
  )
}

export const readJson = async (incoming: IncomingMessage, bodies: Bodies): Promise<unknown> => {
  const { origin } = incoming.headers
  checkContentType(incoming.headers['content-type'], origin !== undefined)
  const encoding = incoming.headers['content-encoding']
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity')
    throw new HttpError(415, `Unsupported content encoding '${encoding}': send the body as it is.`)
  const bytes = await bodies.read(incoming)
  await scanJson(bytes)
  const json = await parseJson(bytes)
  await turnAfter(bytes)
  checkTexts(json, bytes)
  await turnAfter(bytes)
  return json
}

const MAX_HEADER = 1024
const percent = (text: string): string =>
  Array.from(Buffer.from(text), (byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')

/** Names as the client wrote them, made safe. */
const ignoredHeader = (ignored: readonly string[]): string => {
  const text = ignored
    .slice(0, MAX_HEADER)
    .map((name) => name.slice(0, MAX_HEADER).replace(/[^\w.-]+/g, percent))
    .join(', ')
  return text.length <= MAX_HEADER ? text : `${text.slice(0, MAX_HEADER - 3)}...`
}

const IGNORED = 'x-ignored-params'

/** Says what was asked for and has no effect. */
export const tellIgnored = (c: Ctx, names: readonly string[]): void => {
  if (names.length === 0) return
  const { [IGNORED]: before } = c.get('headers')
  const more = ignoredHeader(names)
  addHeader(c, IGNORED, before === undefined ? more : `${before}, ${more}`)
}
