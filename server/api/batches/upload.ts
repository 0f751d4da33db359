// A file that comes in as a form: straight to the disk, whatever its size.

import type { IncomingMessage } from 'node:http'
import { Busboy, type BusboyFileStream, type BusboyHeaders } from '@fastify/busboy'
import type { Batches } from '../../batch/batches.js'
import { now } from '../../batch/files.js'
import type { FileRow } from '../../batch/ledger.js'
import { checkBody } from '../../check.js'
import { HttpError } from '../../http/errors.js'
import { badRequest } from '../../request-error.js'
import { FileCreateForm } from './schema.js'

type Received = {
  readonly fields: Readonly<Record<string, string>>
  readonly file: { readonly name: string; readonly bytes: number } | undefined
}

const MAX_FIELDS = 16

const headersOf = ({ headers }: IncomingMessage): BusboyHeaders => {
  const type = headers['content-type'] ?? ''
  if (!/^multipart\/form-data\b.*boundary=/i.test(type))
    throw new HttpError(415, 'Send the file as multipart/form-data, with fields purpose and file.')
  return { ...headers, 'content-type': type }
}

const tooLarge = (limit: number): HttpError =>
  new HttpError(413, `The file is larger than ${limit} bytes: cut it, or raise --file-limit.`, {
    headers: { connection: 'close' },
  })

/** The form's fields, and its file under `id`. What comes after a fault is let through and dropped. */
const receive = (incoming: IncomingMessage, batches: Batches, id: string): Promise<Received> =>
  new Promise((resolve, reject) => {
    const { fileLimit } = batches
    const form = new Busboy({
      headers: headersOf(incoming),
      limits: { fileSize: fileLimit, fields: MAX_FIELDS, fieldSize: 1024, files: 2 },
    })
    const fields: Record<string, string> = {}
    let stream: BusboyFileStream | undefined
    let file: Promise<Received['file']> = Promise.resolve(undefined)
    const fail = (error: unknown) => {
      incoming.unpipe(form)
      incoming.resume()
      stream?.destroy(error instanceof Error ? error : undefined)
      // What was begun is removed before the answer.
      file.catch(() => {}).finally(() => reject(error))
    }
    const broken = () => {
      if (!incoming.complete) fail(badRequest('The request body broke off.'))
    }
    form.on('field', (name, value) => {
      fields[name] = value
    })
    form.on('file', (field, given, name) => {
      if (field !== 'file' || stream !== undefined) {
        given.resume()
        fail(badRequest(`Unexpected file '${field}': send one, in the field 'file'.`, 'file'))
        return
      }
      stream = given
      given.on('limit', () => fail(tooLarge(fileLimit)))
      file = batches.receive(id, given).then((bytes) => ({ name: name || 'file.jsonl', bytes }))
      file.catch(fail)
    })
    form.on('error', () => fail(badRequest('The form is not valid multipart/form-data.')))
    form.on('finish', () => {
      file.then((one) => resolve({ fields, file: one }), reject)
    })
    incoming.on('close', broken)
    incoming.on('error', broken)
    if (Number(incoming.headers['content-length'] ?? 0) > fileLimit + (1 << 16))
      fail(tooLarge(fileLimit))
    else incoming.pipe(form)
  })

/** Checked, and kept. */
export const receiveFile = async (
  incoming: IncomingMessage,
  batches: Batches,
  owner: string,
): Promise<FileRow> => {
  const id = batches.newFileId()
  try {
    const { fields, file } = await receive(incoming, batches, id)
    if (file === undefined) throw badRequest("Missing required parameter: 'file'.", 'file')
    const { purpose } = fields
    if (purpose !== 'batch')
      throw badRequest(
        purpose === undefined
          ? "Missing required parameter: 'purpose'. Files are inputs of batches: send 'batch'."
          : `Invalid value for 'purpose': '${purpose}'. Files are inputs of batches: send 'batch'.`,
        'purpose',
      )
    const { body } = checkBody(FileCreateForm, { ...fields, file: file.name }, { isStrict: true })
    const keep = body['expires_after[seconds]']
    const created = now()
    const row: FileRow = {
      id,
      owner,
      bytes: file.bytes,
      created,
      filename: file.name,
      purpose,
      expires: keep === undefined ? null : created + keep,
    }
    batches.addFile(row)
    return row
  } catch (error) {
    await batches.dropReceived(id)
    throw error
  }
}
