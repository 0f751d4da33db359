// From the bytes of a request to its JSON.

import type { IncomingMessage } from 'node:http'
import { badRequest, type RequestError } from '../request-error.js'
import { HttpError } from './errors.js'

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

/** The whole body. Rejects with 413 beyond `limit`, after dropping what its sender has still to say. */
const readBody = (incoming: IncomingMessage, limit: number): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const declared = Number(incoming.headers['content-length'] ?? 0)
    const chunks: Buffer[] = []
    let size = 0
    let refusal: NodeJS.Timeout | undefined
    const refuse = () => {
      chunks.length = 0
      refusal ??= setTimeout(() => reject(tooLarge(limit)), LINGER_MS)
    }
    incoming.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size > limit) refuse()
      else if (refusal === undefined) chunks.push(chunk)
    })
    incoming.on('end', () => {
      clearTimeout(refusal)
      if (refusal !== undefined) reject(tooLarge(limit))
      else resolve(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks))
    })
    const broken = () => {
      clearTimeout(refusal)
      reject(badRequest('The request body broke off.'))
    }
    incoming.on('error', broken)
    incoming.on('close', broken)
    if (declared > limit) refuse()
  })

const utf8 = new TextDecoder('utf-8', { fatal: true })

const parseJson = (bytes: Buffer): unknown => {
  let text: string
  try {
    text = utf8.decode(bytes)
  } catch {
    throw badRequest('The request body is not valid UTF-8.')
  }
  if (text.trim() === '') throw badRequest('The request body is empty: send a JSON object.')
  try {
    return JSON.parse(text)
  } catch (error) {
    throw badRequest(
      `We could not parse the JSON body of your request: ${error instanceof Error ? error.message : String(error)}`,
    )
  }
}

export const readJson = async (incoming: IncomingMessage, limit: number): Promise<unknown> => {
  const { origin } = incoming.headers
  checkContentType(incoming.headers['content-type'], origin !== undefined)
  const encoding = incoming.headers['content-encoding']
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity')
    throw new HttpError(415, `Unsupported content encoding '${encoding}': send the body as it is.`)
  return parseJson(await readBody(incoming, limit))
}

const MAX_HEADER = 1024
const percent = (text: string): string =>
  Array.from(Buffer.from(text), (byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')

/** For the x-ignored-params header: names as the client wrote them, made safe. */
export const ignoredHeader = (ignored: readonly string[]): string => {
  const text = ignored.map((name) => name.replace(/[^\w.-]+/g, percent)).join(', ')
  return text.length <= MAX_HEADER ? text : `${text.slice(0, MAX_HEADER - 3)}...`
}
