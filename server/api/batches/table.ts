// The routes of files and batches.

import { ID_PATH } from '../openapi.js'
import { get, post, type Route } from '../routes.js'
import type { Server } from '../server.js'
import {
  batchesRoute,
  batchRoute,
  cancelBatchRoute,
  contentRoute,
  createBatchRoute,
  createFileRoute,
  deleteFileRoute,
  fileRoute,
  filesRoute,
} from './routes.js'
import { BatchCreateRequest, FileCreateForm } from './schema.js'

const FILE_PATH = { parameters: [ID_PATH], errors: ['model'] } as const
const SECONDARY = { isWork: false } as const

/** `endpoints`: those whose requests can be lines. */
export const batchRoutes = (
  server: Server,
  endpoints: () => readonly string[],
): readonly Route[] => [
  post('/v1/files', createFileRoute(server), {
    summary: 'Keep a file: the input of a batch.',
    body: { FileCreateForm },
    bodyType: 'multipart/form-data',
    answer: 'The file.',
    ...SECONDARY,
  }),
  get('/v1/files', filesRoute(server), 'The files that are kept.'),
  get('/v1/files/:id', fileRoute(server), 'One file.', FILE_PATH),
  {
    ...get('/v1/files/:id', deleteFileRoute(server), 'Remove a file.', FILE_PATH),
    method: 'DELETE',
  },
  get('/v1/files/:id/content', contentRoute(server), 'What a file holds.', {
    ...FILE_PATH,
    types: ['application/octet-stream'],
  }),
  post('/v1/batches', createBatchRoute(server, endpoints), {
    summary: 'Ask every line of a file when nobody else needs the engine.',
    body: { BatchCreateRequest },
    answer: 'The batch.',
    ...SECONDARY,
  }),
  get('/v1/batches', batchesRoute(server), 'The batches, the newest first.'),
  get('/v1/batches/:id', batchRoute(server), 'One batch, and how far it is.', FILE_PATH),
  post('/v1/batches/:id/cancel', cancelBatchRoute(server), {
    summary: 'End a batch; what was answered is kept.',
    parameters: [ID_PATH],
    answer: 'The batch.',
    ...SECONDARY,
  }),
]
