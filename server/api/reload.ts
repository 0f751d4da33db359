// POST /update_weights_from_disk, in SGLang's shape: for who trains the model that answers.

import { realpath, stat } from 'node:fs/promises'
import { isAbsolute, relative, resolve, sep } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { z } from 'zod'
import type { UnservedFields } from '../check.js'
import { EngineFailure } from '../failure.js'
import type { Ctx } from '../http/context.js'
import { errorBody, HttpError } from '../http/errors.js'
import { findModel, type ServedModel } from '../model/served-model.js'
import { badRequest, RequestError, unsupportedParameter } from '../request-error.js'
import { requireReady } from './admission.js'
import { readRequest } from './read-request.js'
import type { Server } from './server.js'

export const UpdateWeightsRequest = z.looseObject({
  model_path: z
    .string()
    .min(1)
    .describe('A folder below --reload-from: absolute, or seen from there.'),
  model: z.string().min(1).optional().describe('Needed where several models are served.'),
  weight_version: z
    .string()
    .regex(/^[\x21-\x7e]+$/, 'must be printable ASCII without blanks')
    .max(256)
    .optional()
    .describe('What answers of these weights are stamped with. Default: model_path.'),
  abort_all_requests: z
    .boolean()
    .optional()
    .describe(
      'End live requests when they are loaded. Default false: they go on with the new weights.',
    ),
})

const refuse = (name: string, why: string, harmless: readonly unknown[]) =>
  [
    name,
    (value: unknown) =>
      harmless.includes(value)
        ? null
        : unsupportedParameter(name, `'${name}' is not supported: ${why}.`),
  ] as const

const UNSERVED: UnservedFields = {
  withoutEffect: new Set(['torch_empty_cache', 'recapture_cuda_graph', 'token_step']),
  refused: new Map([
    refuse('load_format', 'a folder says by its files what it is', ['auto', 'safetensors']),
    refuse('flush_cache', 'what old weights computed is dropped always', [true]),
    refuse('is_async', 'the answer comes when the weights are there', [false]),
    refuse('keep_pause', 'a pause that was there stays, and none is made', [false]),
    refuse('manifest', 'the folder is compared with the model that runs', []),
  ]),
}

/** SGLang's clients look at `success` and `message`. */
export const updateError = (error: RequestError) => ({
  success: false,
  message: error.message,
  ...errorBody(error),
})

/** The folder that is meant, if it is in there. */
const folderIn = async (root: string, path: string): Promise<string> => {
  const missing = () =>
    badRequest(
      `Invalid value for 'model_path': there is no such folder below the server's --reload-from.`,
      'model_path',
    )
  const [top, found] = await Promise.all([realpath(root), realpath(resolve(root, path))]).catch(
    () => {
      throw missing()
    },
  )
  const inside = relative(top, found)
  if (inside === '' || inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside))
    throw missing()
  if ((await stat(found)).isDirectory()) return found
  throw badRequest("Invalid value for 'model_path': it is a file, not a folder.", 'model_path')
}

const modelOf = (server: Server, name: string | undefined): ServedModel => {
  const models = server.models()
  if (name !== undefined) return findModel(models, name)
  const [first] = models
  if (first !== undefined && models.length === 1) return first
  throw badRequest(
    `Missing required parameter: 'model', for there are several: ${models.map(({ id }) => `'${id}'`).join(', ')}.`,
    'model',
  )
}

const RETRY_SECONDS = 10

const unavailable = (message: string): RequestError =>
  new RequestError(message, {
    kind: 'unavailable',
    code: 'reload_unavailable',
    retryAfter: RETRY_SECONDS,
  })

const ofFailure = ({ code, message }: EngineFailure): RequestError => {
  switch (code) {
    case 'invalid_argument':
    case 'unsupported':
    case 'not_found':
      return badRequest(message, 'model_path')
    case 'unavailable':
      return unavailable(message)
    default:
      return new RequestError(message, { kind: 'internal', code })
  }
}

/** Live requests go on until the weights are there: a folder that does not fit ends nobody's work. */
const load = async (
  { engine, weights }: ServedModel,
  folder: string,
  version: string,
  abort: boolean,
) => {
  if (weights.change !== undefined) throw unavailable('Other weights are being loaded.')
  weights.change = abort ? 'abort' : 'keep'
  try {
    await engine.reload(folder, { abort })
    weights.version = version
    weights.folder = folder
    // Those that it ended ask why, some promises later.
    if (abort) await nextTurn()
  } catch (error) {
    throw error instanceof EngineFailure ? ofFailure(error) : error
  } finally {
    weights.change = undefined
  }
}

export const updateWeightsRoute = (server: Server) => async (c: Ctx) => {
  const root = server.config.reloadFrom
  if (root === undefined)
    throw new HttpError(
      403,
      'This server loads no weights for its clients: start it with --reload-from FOLDER, below which they lie.',
      { code: 'reload_not_allowed' },
    )
  requireReady(server, 'change')
  const body = await readRequest(c, server, UpdateWeightsRequest, undefined, UNSERVED)
  c.get('record').asks = []
  const model = modelOf(server, body.model)
  const {
    model_path: path,
    weight_version: version = path,
    abort_all_requests: abort = false,
  } = body
  if (!/^[\x21-\x7e]{1,256}$/.test(version))
    throw badRequest(
      "'weight_version' is needed where 'model_path' is no printable ASCII of 256 characters at most.",
      'weight_version',
    )
  const folder = await folderIn(root, path)
  const began = performance.now()
  await load(model, folder, version, abort)
  const seconds = (performance.now() - began) / 1000
  server.log.info({ model: model.id, folder, weight_version: version, seconds }, 'weights loaded')
  return c.json({
    success: true,
    message: `The weights of ${path} are loaded. Weight version updated to ${version}.`,
    num_paused_requests: 0,
  })
}
