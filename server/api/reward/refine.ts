// POST /v1/refine: feedback, edit and select as one request.

import { findRankingModel } from '../../chat/best-of.js'
import { type Refinement, refine } from '../../chat/refine.js'
import type { Ctx } from '../../http/context.js'
import { findModel, refuseReward, type ServedModel } from '../../model/served-model.js'
import { readMessages } from '../../prompt/conversation.js'
import { badRequest } from '../../request-error.js'
import { readRequest } from '../read-request.js'
import { answerId, answerJson, signalOf, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { UNSERVED_OF_REFINE } from '../unserved-fields.js'
import { RefineRequest } from './schema.js'

const FEEDBACK =
  'Evaluate the response to the previous prompt in 2 to 10 sentences: how helpful it is, what is good about it, and what would make it better.'
const EDIT =
  'Edit the response to the previous prompt by the following feedback. Write the edited response and nothing else.\n\n{feedback}'
/** HelpSteer3's: from 0.5 to 0.8. */
const TEMPERATURE = 0.7
const MAX_EDITS = 256

const writer = (models: readonly ServedModel[], name: string, param: string): ServedModel => {
  const model = findModel(models, name, param)
  refuseReward(models, model, 'it writes no text', param)
  return model
}

/** Drafts that are written, or the caller's. */
const draftsOf = (body: RefineRequest): Refinement['drafts'] => {
  const { model, responses, drafts } = body
  if (responses === undefined) {
    if (model !== undefined) return { count: drafts ?? 1 }
    throw badRequest(
      "Missing required parameter: 'model', which writes the drafts, or 'responses', which are the drafts.",
      'model',
    )
  }
  for (const key of ['model', 'drafts'] as const)
    if (body[key] !== undefined)
      throw badRequest(`'${key}' and 'responses' cannot both be given: those are the drafts.`, key)
  const empty = responses.findIndex((one) => one.trim() === '')
  if (empty < 0) return { given: responses }
  const at = `responses.${empty}`
  throw badRequest(`'${at}' is empty: there is nothing to edit.`, at)
}

const plan = (server: Server, body: RefineRequest): Refinement => {
  const models = server.models()
  const { feedback, edit, select, temperature = TEMPERATURE, top_p: topP } = body
  const messages = readMessages(body.messages)
  if (messages.at(-1)?.role === 'assistant')
    throw badRequest(
      "The messages end before the answer, but the last one in 'messages' is the assistant's.",
      'messages',
    )
  const drafts = draftsOf(body)
  const feedbacks = feedback.n ?? 10
  const count = 'given' in drafts ? drafts.given.length : drafts.count
  if (count * feedbacks > MAX_EDITS)
    throw badRequest(
      `${count} drafts with ${feedbacks} feedbacks each make ${count * feedbacks} edits: at most ${MAX_EDITS} in one request.`,
      'feedback.n',
    )
  if (edit.prompt !== undefined && !edit.prompt.includes('{feedback}'))
    throw badRequest(
      "'edit.prompt' must say with {feedback} where the feedback stands in it.",
      'edit.prompt',
    )
  const stage = (name: 'feedback' | 'edit', prompt: string) => ({
    name,
    model: writer(models, body[name].model, `${name}.model`),
    temperature: body[name].temperature ?? TEMPERATURE,
    topP: body[name].top_p,
    prompt: body[name].prompt ?? prompt,
  })
  return {
    ...{ messages, drafts, feedbacks, principle: select.principle },
    draft:
      body.model === undefined
        ? undefined
        : { name: 'draft', model: writer(models, body.model, 'model'), temperature, topP },
    feedback: stage('feedback', FEEDBACK),
    edit: stage('edit', EDIT),
    select: findRankingModel(models, select.model, 'select.model'),
    selectName: select.model,
    maxTokens: body.max_tokens,
    seed: body.seed,
    cacheSalt: body.cache_salt,
    priority: body.priority,
  }
}

export const refineRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const body = await readRequest(c, server, RefineRequest, 'chat', UNSERVED_OF_REFINE)
    const { answers, feedbacks, scores, order, usage } = await refine(plan(server, body), {
      record: c.get('record'),
      signal: signalOf(c, server),
      defaultThinking: server.config.defaultThinking,
    })
    const [best = 0] = order
    return answerJson(c, {
      id: answerId('refine'),
      object: 'refinement',
      created: unixTime(),
      model: body.edit.model,
      best,
      content: answers[best]?.text ?? '',
      candidates: answers.map(({ kind, text, finish, draft, feedback }, index) => ({
        ...{ index, kind, draft, feedback, content: text },
        reward: scores[index] ?? null,
        finish_reason: finish,
      })),
      feedbacks: feedbacks.map(({ draft, text, finish }, index) => ({
        ...{ index, draft, content: text, finish_reason: finish },
      })),
      usage: {
        prompt_tokens: usage.prompt,
        completion_tokens: usage.completion,
        total_tokens: usage.prompt + usage.completion,
        prompt_tokens_details: { cached_tokens: usage.cached },
      },
    })
  }
