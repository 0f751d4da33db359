// A hub of models that serves some files, as badly as a test asks it to.

import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const REPO = 'nvidia/Tiny-Model'
export const COMMIT = 'c0ffee'.padEnd(40, '0')
export const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
const blobId = (bytes: Buffer): string =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
const isLarge = (name: string): boolean => name.endsWith('.safetensors')

/** What the server does to one request for a file. */
type Trouble = (name: string, response: ServerResponse, body: Buffer, start: number) => boolean

type Remote = {
  readonly env: (more?: Record<string, string>) => NodeJS.ProcessEnv
  readonly cache: string
  readonly log: {
    readonly method: string
    readonly url: string
    readonly range: string | undefined
    readonly auth: string | undefined
  }[]
  readonly close: () => Promise<void>
}

type Options = {
  readonly trouble?: Trouble
  readonly listing?: boolean
  readonly token?: string
  readonly claim?: number
  /** What the listing says of a file besides, or instead. */
  readonly says?: (name: string) => object
  /** Headers of a file, besides or instead. */
  readonly headers?: Readonly<Record<string, string>>
}

/** A file as the hub lists it, of another size if `claim` says so. */
const listed = (
  rfilename: string,
  bytes: Buffer,
  { listing = true, claim = bytes.length, says }: Options,
) =>
  listing
    ? {
        rfilename,
        size: claim,
        blobId: blobId(bytes),
        ...(isLarge(rfilename) && { lfs: { sha256: sha256(bytes), size: bytes.length } }),
        ...says?.(rfilename),
      }
    : { rfilename }

/** A hub that behaves as badly as `trouble` says. */
export const startRemote = async (
  files: Readonly<Record<string, Buffer>>,
  options: Options = {},
): Promise<Remote> => {
  const log: Remote['log'] = []
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    const { url = '', method = '', headers } = request
    log.push({ method, url, range: headers.range, auth: headers.authorization })
    if (options.token !== undefined && headers.authorization !== `Bearer ${options.token}`) {
      response.writeHead(401).end()
      return
    }
    if (url.startsWith(`/api/models/${REPO}/revision/main`)) {
      const siblings = Object.entries(files).map(([name, bytes]) => listed(name, bytes, options))
      response.end(JSON.stringify({ id: REPO, sha: COMMIT, siblings }))
      return
    }
    const name = url.replace(`/${REPO}/resolve/${COMMIT}/`, '')
    const body = files[name]
    if (body === undefined) {
      response.writeHead(404).end()
      return
    }
    const etag = isLarge(name) ? sha256(body) : blobId(body)
    response.setHeader('etag', isLarge(name) ? '"other"' : `"${etag}"`)
    if (isLarge(name)) {
      response.setHeader('x-linked-etag', `"${etag}"`)
      response.setHeader('x-linked-size', String(body.length))
    }
    if (method === 'HEAD') {
      response.setHeader('content-length', String(body.length))
      for (const [key, value] of Object.entries(options.headers ?? {}))
        response.setHeader(key, value)
      response.end()
      return
    }
    const start = Number(/^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] ?? 0)
    if (options.trouble?.(name, response, body, start)) return
    if (start > 0) {
      response.writeHead(206, {
        'content-range': `bytes ${start}-${body.length - 1}/${body.length}`,
        'content-length': String(body.length - start),
      })
    }
    response.end(body.subarray(start))
  }
  const server = createServer(answer)
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const cache = await mkdtemp(join(tmpdir(), 'nemotron-hub-'))
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  return {
    env: (more = {}) => ({ HF_ENDPOINT: endpoint, HF_HUB_CACHE: cache, HF_HOME: cache, ...more }),
    cache,
    log,
    close: async () => {
      server.closeAllConnections()
      await new Promise((done) => server.close(done))
      await rm(cache, { recursive: true })
    },
  }
}
