// Routes about the server itself: health, version, metrics, its reference.

import type { Ctx } from '../http/context.js'
import { openApiDocument, type RouteDescription } from './openapi.js'
import type { Server } from './server.js'
import { stallOf } from './stall.js'

/** Of the whole server. */
type Health = { readonly ok: boolean; readonly phase: string; readonly message: string }

/** Ready only while every engine makes progress. */
export const healthOf = (server: Server): Health => {
  const phase = server.phase()
  switch (phase.name) {
    case 'loading':
      return { ok: false, phase: 'loading', message: phase.detail }
    case 'leaving':
      return { ok: false, phase: 'leaving', message: 'The server is about to shut down.' }
    case 'draining':
      return { ok: false, phase: 'draining', message: 'Running requests are being finished.' }
    case 'failed':
      return { ok: false, phase: 'failed', message: phase.detail }
    case 'ready':
  }
  for (const model of server.models()) {
    const { id, engine } = model
    const { failure } = engine.stats()
    if (failure !== null) return { ok: false, phase: 'failed', message: `${id}: ${failure}` }
    const stall = stallOf(model, server.config.stallTimeout)
    if (stall !== null) return { ok: false, phase: 'stalled', message: stall }
  }
  return { ok: true, phase: 'ready', message: 'Service is ready.' }
}

export const healthRoute = (server: Server) => (c: Ctx) => {
  const { ok, phase, message } = healthOf(server)
  const body = { object: 'health.response', status: ok ? 'ok' : 'unavailable', phase, message }
  if (ok) return c.json(body)
  c.get('record').line.error = phase
  return c.json(body, 503, { 'retry-after': '5' })
}

export const liveRoute = (c: Ctx) =>
  c.json({ object: 'health.response', status: 'ok', message: 'Service is live.' })

export const versionRoute = (server: Server) => (c: Ctx) => c.json({ version: server.version })

export const metricsRoute = (server: Server) => async (c: Ctx) =>
  c.body(await server.metrics.text(), 200, { 'content-type': server.metrics.contentType })

export const openApiRoute = (server: Server, routes: () => readonly RouteDescription[]) => {
  let text: string | undefined
  return (c: Ctx) => {
    text ??= JSON.stringify(openApiDocument(server.version, routes()))
    return c.body(text, 200, { 'content-type': 'application/json' })
  }
}
