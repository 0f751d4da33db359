// POST /pause, POST /resume and GET /is_paused, under vLLM's names: for who changes something between rollouts.

import type { PauseMode } from '../engine/types.js'
import type { Ctx } from '../http/context.js'
import { HttpError } from '../http/errors.js'
import type { LiveRequest } from '../http/request-log.js'
import { findModel, type ServedModel } from '../model/served-model.js'
import { badRequest } from '../request-error.js'
import { requireReady } from './admission.js'
import type { Server } from './server.js'

const LOOK_MS = 20

const MODES: readonly PauseMode[] = ['abort', 'wait', 'keep']

/** All models, or the one that `model` names. */
const modelsOf = (c: Ctx, server: Server): readonly ServedModel[] => {
  if (!server.config.allowPause)
    throw new HttpError(
      403,
      'This server is not to be paused by its clients: start it with --allow-pause on.',
      { code: 'pause_not_allowed' },
    )
  requireReady(server)
  const name = c.req.query('model')
  return name === undefined ? server.models() : [findModel(server.models(), name)]
}

const checkQuery = (c: Ctx, known: readonly string[]): void => {
  const unknown = Object.keys(c.req.query()).find((name) => !known.includes(name))
  if (unknown !== undefined)
    throw badRequest(
      `'${unknown}' is no parameter of ${c.req.path}: it has ${known.map((name) => `'${name}'`).join(' and ')}.`,
      unknown,
    )
}

const flagOf = (c: Ctx, name: string): boolean | undefined => {
  const given = c.req.query(name)?.toLowerCase()
  if (given === undefined) return undefined
  if (given === 'true' || given === 'false') return given === 'true'
  throw badRequest(
    `Invalid value for '${name}': ${JSON.stringify(given)}. Supported values are: true, false.`,
    name,
  )
}

const modeOf = (c: Ctx): PauseMode => {
  // vLLM's older name of a mode.
  if (flagOf(c, 'wait_for_inflight_requests') === true) return 'wait'
  const given = c.req.query('mode') ?? 'abort'
  const mode = MODES.find((one) => one === given)
  if (mode !== undefined) return mode
  throw badRequest(
    `Invalid value for 'mode': ${JSON.stringify(given)}. Supported values are: ${MODES.map((one) => `"${one}"`).join(', ')}.`,
    'mode',
  )
}

/** Resolves when nothing is left of the work on these models that a pause lets go on: each of its requests to an
 * engine may be followed by others. */
const workEnds = async (server: Server, models: readonly ServedModel[]): Promise<void> => {
  const engines = new Map(server.models().map(({ id, engine }) => [id, engine]))
  const ours = new Set(models.map(({ engine }) => engine))
  const goesOn = ({ record: { begun, asks }, isTold }: LiveRequest): boolean => {
    if (begun === undefined || isTold()) return false
    if (asks === undefined) return models.some(({ engine }) => engine.goesOn(begun))
    for (const id of asks) {
      const engine = engines.get(id)
      if (engine?.goesOn(begun) && ours.has(engine)) return true
      // What stands still in another's pause has no end that could be waited for.
      if (engine?.isPaused() && !engine.goesOn(begun)) return false
    }
    return false
  }
  while ([...server.live].some(goesOn)) await new Promise((done) => setTimeout(done, LOOK_MS))
}

export const pauseRoute = (server: Server) => async (c: Ctx) => {
  const models = modelsOf(c, server)
  checkQuery(c, ['mode', 'model', 'clear_cache', 'wait_for_inflight_requests'])
  const mode = modeOf(c)
  // Of no effect: what is cached is right until the weights change, and is dropped then.
  flagOf(c, 'clear_cache')
  await Promise.all(models.map(({ engine }) => engine.pause(mode)))
  await workEnds(server, models)
  return c.json({ status: 'paused' })
}

export const resumeRoute = (server: Server) => (c: Ctx) => {
  const models = modelsOf(c, server)
  checkQuery(c, ['model'])
  for (const { engine } of models) engine.resume()
  return c.json({ status: 'resumed' })
}

export const isPausedRoute = (server: Server) => (c: Ctx) => {
  const models = modelsOf(c, server)
  checkQuery(c, ['model'])
  return c.json({ is_paused: models.some(({ engine }) => engine.isPaused()) })
}
