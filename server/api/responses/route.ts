// POST /v1/responses.

import { planChat } from '../../chat/plan.js'
import type { Ctx } from '../../http/context.js'
import { findModel, isReward } from '../../model/served-model.js'
import { badRequest } from '../../request-error.js'
import { inTheirNames, nameOf } from '../field-names.js'
import { readRequest } from '../read-request.js'
import { answerId, respond, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { type ResponseAnswer, responseStream, wholeResponse } from './answer.js'
import { namesOf, readCall } from './call.js'
import { UNSERVED } from './fields.js'
import { ResponsesRequest } from './schema.js'

export const responsesRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, ResponsesRequest, 'chat', UNSERVED)
    const model = findModel(server.models(), body.model)
    if (isReward(model))
      throw badRequest(
        `Invalid value for 'model': '${body.model}' is a reward model and writes no answers; use POST /v1/reward.`,
        'model',
      )
    const call = readCall(body, model)
    const names = namesOf(body)
    const plan = await inTheirNames(names, () =>
      planChat(server.models(), model, call, { arrival, defaults: server.config }),
    )
    const ignored = plan.ignored?.map((name) => nameOf(name, names))
    const answer: ResponseAnswer = {
      ...plan,
      ignored,
      body,
      id: answerId('resp_'),
      created: unixTime(),
    }
    const form = body.stream ? { stream: responseStream(answer) } : { whole: wholeResponse(answer) }
    return respond(c, server, answer, form)
  }
