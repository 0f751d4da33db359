// GET /v1/models and /v1/models/{id}.

import type { Ctx } from '../http/context.js'
import { findModel, type ServedModel } from '../model/served-model.js'
import { requireReady } from './admission.js'
import type { Server } from './server.js'

const describe = (model: ServedModel, id: string) => ({
  id,
  object: 'model' as const,
  created: model.created,
  owned_by: 'nemotron-server',
  root: model.root,
  parent: null,
  max_model_len: model.engine.info.maxModelLen,
})

export const modelsRoute = (server: Server) => (c: Ctx) => {
  requireReady(server, 'show')
  // The router drops a slash at the end: a name that came out empty asks for no list.
  if (new URL(c.req.url).pathname.endsWith('/')) findModel(server.models(), '')
  return c.json({
    object: 'list' as const,
    data: server
      .models()
      .flatMap((model) => [model.id, ...model.aliases].map((id) => describe(model, id))),
  })
}

export const modelRoute = (server: Server) => (c: Ctx) => {
  requireReady(server, 'show')
  const id = c.req.param('id') ?? ''
  return c.json(describe(findModel(server.models(), id), id))
}
