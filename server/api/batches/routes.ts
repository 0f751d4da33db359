// /v1/files and /v1/batches.

import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import type { Batches } from '../../batch/batches.js'
import { checkBody, type UnservedFields } from '../../check.js'
import type { Ctx } from '../../http/context.js'
import { badRequest, RequestError } from '../../request-error.js'
import { requireReady } from '../admission.js'
import { readRequest } from '../read-request.js'
import type { Server } from '../server.js'
import {
  BatchCreateRequest,
  batchObject,
  fileObject,
  ListQuery,
  listObject,
  windowSeconds,
} from './schema.js'
import { receiveFile } from './upload.js'

/** Of a batch no other server has fields of its own. */
const NO_OTHERS: UnservedFields = { withoutEffect: new Set(), refused: new Map() }

const FILES_PAGE = 10_000
const BATCHES_PAGE = 20

const batchesOf = ({ batches }: Server): Batches => {
  if (batches !== undefined) return batches
  throw new RequestError(
    'Files and batches are off: start the server with --data-dir FOLDER to turn them on.',
    { kind: 'not_found', code: 'batches_off' },
  )
}

/** '' where there are no keys. */
const ownerOf = (c: Ctx): string => c.get('owner') ?? ''

const idOf = (c: Ctx): string => c.req.param('id') ?? ''

const readQuery = (c: Ctx, standard: number) => {
  const { body } = checkBody(ListQuery, c.req.query(), { isStrict: false })
  return { ...body, order: body.order ?? 'desc', limit: body.limit ?? standard }
}

export const createFileRoute = (server: Server) => async (c: Ctx) => {
  const batches = batchesOf(server)
  requireReady(server)
  return c.json(fileObject(await receiveFile(c.env.incoming, batches, ownerOf(c))))
}

export const filesRoute = (server: Server) => (c: Ctx) => {
  const query = readQuery(c, FILES_PAGE)
  const rows = batchesOf(server).files(ownerOf(c), { ...query, limit: query.limit + 1 })
  return c.json(listObject(rows, query.limit, fileObject))
}

export const fileRoute = (server: Server) => (c: Ctx) =>
  c.json(fileObject(batchesOf(server).file(ownerOf(c), idOf(c))))

export const deleteFileRoute = (server: Server) => async (c: Ctx) => {
  const id = idOf(c)
  await batchesOf(server).removeFile(ownerOf(c), id)
  return c.json({ id, object: 'file' as const, deleted: true })
}

/** First and last byte that are asked for, by one range; undefined: all are. The first may be behind the end. */
const rangeOf = (c: Ctx, bytes: number): readonly [number, number] | undefined => {
  const [, from = '', to = ''] = /^bytes=(\d*)-(\d*)$/.exec(c.req.header('range') ?? '') ?? []
  if (from === '') return to === '' ? undefined : [Math.max(0, bytes - Number(to)), bytes - 1]
  const [first, last] = [Number(from), to === '' ? bytes - 1 : Number(to)]
  // Backwards is no range, and so is not heeded.
  return to !== '' && last < first ? undefined : [first, Math.min(last, bytes - 1)]
}

/** A file never changes, so a download that broke off goes on where it was. */
export const contentRoute = (server: Server) => (c: Ctx) => {
  const batches = batchesOf(server)
  const { id, bytes } = batches.file(ownerOf(c), idOf(c))
  const range = rangeOf(c, bytes)
  const [start, end] = range ?? [0, bytes - 1]
  const headers = {
    'content-type': 'application/octet-stream',
    'accept-ranges': 'bytes',
    'content-length': String(Math.max(0, end - start + 1)),
    ...(range && { 'content-range': `bytes ${start <= end ? `${start}-${end}` : '*'}/${bytes}` }),
  }
  if (range && start > end) return c.body(null, 416, headers)
  const status = range ? 206 : 200
  if (c.req.method === 'HEAD' || bytes === 0) return c.body(null, status, headers)
  const stream = Readable.toWeb(createReadStream(batches.pathOf(id), { start, end }))
  return c.body(stream as ReadableStream, status, headers)
}

/** `endpoints`: those whose requests can be lines. */
export const createBatchRoute =
  (server: Server, endpoints: () => readonly string[]) => async (c: Ctx) => {
    const batches = batchesOf(server)
    const body = await readRequest(c, server, BatchCreateRequest, undefined, NO_OTHERS)
    const known = endpoints()
    if (!known.includes(body.endpoint))
      throw badRequest(
        `Invalid value for 'endpoint': '${body.endpoint}'. Lines of a batch can go to ${known.join(', ')}.`,
        'endpoint',
      )
    const owner = ownerOf(c)
    const { purpose } = batches.file(owner, body.input_file_id, 'input_file_id')
    if (purpose !== 'batch')
      throw badRequest(
        `Invalid value for 'input_file_id': the purpose of the file is '${purpose}', not 'batch'.`,
        'input_file_id',
      )
    const row = batches.addBatch({
      owner,
      endpoint: body.endpoint,
      input: body.input_file_id,
      window: body.completion_window,
      seconds: windowSeconds(body.completion_window),
      metadata: body.metadata === undefined ? null : JSON.stringify(body.metadata),
      keep: body.output_expires_after?.seconds ?? null,
    })
    return c.json(batchObject(row))
  }

export const batchesRoute = (server: Server) => (c: Ctx) => {
  const { after, limit } = readQuery(c, BATCHES_PAGE)
  const query = { after, limit: limit + 1, order: 'desc' as const }
  return c.json(listObject(batchesOf(server).batches(ownerOf(c), query), limit, batchObject))
}

export const batchRoute = (server: Server) => (c: Ctx) =>
  c.json(batchObject(batchesOf(server).batch(ownerOf(c), idOf(c))))

export const cancelBatchRoute = (server: Server) => (c: Ctx) =>
  c.json(batchObject(batchesOf(server).cancel(ownerOf(c), idOf(c))))
