// Files and batches under --data-dir: what the routes ask for. Owners see what is theirs alone.

import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { badRequest, RequestError } from '../request-error.js'
import { type Files, makeFolder, newId, now, openFiles } from './files.js'
import {
  type BatchRow,
  type BatchStatus,
  type FileRow,
  isFull,
  type Ledger,
  openLedger,
} from './ledger.js'
import { createRunner, type Log, type Runner, type Work } from './runner.js'

type Options = {
  readonly folder: string
  /** Bytes of the largest file. */
  readonly fileLimit: number
  /** Bytes of the largest body of a line. */
  readonly bodyLimit: number
  /** Who what was made without a key belongs to from now on. */
  readonly soleOwner?: string | undefined
  readonly log: Log
}

/** Batches of one owner that have not ended. */
const MAX_LIVE = 100
const EXPIRE_MS = 1000

const diskFull = (): RequestError =>
  new RequestError(
    'The disk of --data-dir is full: nothing was kept. Free some space and ask again.',
    { kind: 'unavailable', code: 'disk_full', retryAfter: 60 },
  )
const orFull = (error: unknown): unknown => (isFull(error) ? diskFull() : error)

/** Refused in words of ours where the disk is full. */
const save = (ledger: Ledger, work: () => void): void => {
  try {
    ledger.save(work)
  } catch (error) {
    throw orFull(error)
  }
}

const fileStore = (ledger: Ledger, files: Files) => {
  const removeFile = async ({ id }: Pick<FileRow, 'id'>): Promise<void> => {
    ledger.save(() => ledger.removeFile(id))
    await files.remove(id)
  }
  const ownFile = (owner: string, id: string, param: string | null = null): FileRow => {
    const row = ledger.file(id)
    const isThere = row !== undefined && row.owner === owner
    if (isThere && (row.expires === null || row.expires > now())) return row
    throw new RequestError(`No such file: '${id}'.`, {
      kind: 'not_found',
      param,
      code: 'not_found',
    })
  }
  return {
    newFileId: (): string => newId('file-'),
    /** Writes what comes; `addFile` makes it a file. */
    receive: (id: string, from: Readable): Promise<number> =>
      files.receive(id, from).catch((error) => {
        throw orFull(error)
      }),
    /** Of a file that is not to be kept after all. */
    dropReceived: (id: string): Promise<void> => files.remove(id),
    addFile: (row: FileRow): void => {
      save(ledger, () => ledger.addFile(row))
    },
    file: ownFile,
    files: (owner: string, query: Parameters<Ledger['files']>[1]) => {
      if (query.after !== undefined) ownFile(owner, query.after, 'after')
      return ledger.files(owner, query)
    },
    pathOf: files.pathOf,
    removeFile: async (owner: string, id: string): Promise<void> => {
      const row = ownFile(owner, id)
      if (ledger.usesFile(id))
        throw badRequest(`'${id}' is the input of a batch that runs: cancel the batch first.`)
      await removeFile(row)
    },
    /** Removes those whose time is over. */
    expireFiles: async (): Promise<void> => {
      for (const file of ledger.expiredFiles(now()))
        if (!ledger.usesFile(file.id)) await removeFile(file)
    },
  }
}

type NewBatch = Pick<BatchRow, 'owner' | 'endpoint' | 'input' | 'window' | 'metadata' | 'keep'> & {
  /** Of the window. */
  readonly seconds: number
}

const newBatch = ({ seconds, ...given }: NewBatch): BatchRow => {
  const created = now()
  return {
    id: newId('batch_'),
    ...given,
    created,
    expires: created + seconds,
    status: 'validating',
    outcome: 'completed',
    total: 0,
    completed: 0,
    failed: 0,
    output: null,
    error: null,
    problems: null,
    began: null,
    finalizing: null,
    cancelling: null,
    ended: null,
  }
}

const batchStore = (ledger: Ledger, runner: Runner) => {
  const ownBatch = (owner: string, id: string, param: string | null = null): BatchRow => {
    const row = ledger.batch(id)
    if (row !== undefined && row.owner === owner) return row
    throw new RequestError(`No such batch: '${id}'.`, {
      kind: 'not_found',
      param,
      code: 'not_found',
    })
  }
  return {
    addBatch: (given: NewBatch): BatchRow => {
      const live = ledger.live().filter(({ owner }) => owner === given.owner).length
      if (live >= MAX_LIVE)
        throw new RequestError(
          `${live} batches are running or waiting, the most there may be: wait for one, or cancel one.`,
          { kind: 'busy', code: 'too_many_batches', retryAfter: 60 },
        )
      const batch = newBatch(given)
      save(ledger, () => ledger.addBatch(batch))
      runner.tick()
      return batch
    },
    batch: ownBatch,
    batches: (owner: string, query: Parameters<Ledger['batches']>[1]) => {
      if (query.after !== undefined) ownBatch(owner, query.after, 'after')
      return ledger.batches(owner, query)
    },
    cancel: (owner: string, id: string): BatchRow => {
      const batch = ownBatch(owner, id)
      if (batch.status === 'cancelling' || batch.status === 'cancelled') return batch
      if (batch.status !== 'validating' && batch.status !== 'in_progress')
        throw badRequest(`'${id}' is ${batch.status}: it can no longer be cancelled.`)
      save(ledger, () => ledger.setBatch(id, { status: 'cancelling', cancelling: now() }))
      runner.abort(id)
      runner.tick()
      return ownBatch(owner, id)
    },
    /** For /metrics. */
    progress: () => {
      const live = ledger.live().filter(({ status }) => status === 'in_progress')
      const open = live.reduce(
        (sum, { total, completed, failed }) => sum + total - completed - failed,
        0,
      )
      const byStatus: Partial<Record<BatchStatus, number>> = {}
      for (const { status, count } of ledger.byStatus()) byStatus[status] = count
      return { byStatus, open, ...runner.progress() }
    },
  }
}

export type Batches = Awaited<ReturnType<typeof openBatches>>

/** Throws where the folder is another server's, of another version, or cannot be used. */
export const openBatches = async (options: Options) => {
  const { folder, fileLimit, soleOwner, log } = options
  makeFolder(folder)
  const ledger = openLedger(join(folder, 'batches.sqlite'))
  if (soleOwner !== undefined) ledger.save(() => ledger.adopt(soleOwner))
  const files = openFiles(join(folder, 'files'))
  await files.sweep(new Set(ledger.allFiles().map(({ id }) => id)))
  const runner = createRunner(ledger, files, options)
  const store = fileStore(ledger, files)
  let expiring: NodeJS.Timeout | undefined
  return {
    fileLimit,
    ...store,
    ...batchStore(ledger, runner),
    /** From now on lines are asked. */
    begin: (work: Work): void => {
      runner.begin(work)
      expiring = setInterval(() => {
        store.expireFiles().catch((error) => log.warn({ err: error }, 'removing expired files'))
      }, EXPIRE_MS)
    },
    pause: runner.pause,
    /** Lines are being asked. */
    isAsking: (): boolean => runner.progress().running > 0,
    /** What was answered is written; what was not is asked after the next start. Files can still be read. */
    stop: async (): Promise<void> => {
      clearInterval(expiring)
      await runner.close()
    },
    close: async (): Promise<void> => {
      clearInterval(expiring)
      await runner.close()
      ledger.close()
    },
  }
}
