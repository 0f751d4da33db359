// POST /v1/systemone: typed questions about a state, by id.

import {
  type Question as Asked,
  confidenceOf,
  decide,
  likeliestOf,
  losesDescriptions,
  meanOf,
  type Reading,
} from '../../chat/decide.js'
import { addHeader, type Ctx } from '../../http/context.js'
import { jsonOf } from '../../json-source.js'
import { findModel } from '../../model/served-model.js'
import type { Message } from '../../prompt/conversation.js'
import { badRequest } from '../../request-error.js'
import { readRequest, tellUnread } from '../read-request.js'
import { answerId, answerJson, signalOf, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { UNSERVED_OF_LABELS } from '../unserved-fields.js'
import { LIMITS, type Question, SystemOneRequest } from './schema.js'

const wrong = (param: string, why: string) =>
  badRequest(`Invalid value for '${param}': ${why}.`, param)

const readQuestion = (question: Question, param: string): Asked => {
  const { type, instructions: text } = question
  if (type === 'noul') {
    const { criteria } = question
    return { kind: 'predicate', text: criteria ? `${text}\n${criteria}` : text, options: [] }
  }
  if (type === 'score')
    return { kind: 'score', text, options: question.criteria.map((level) => ({ text: level })) }
  const options = Object.entries(question.criteria).map(([name, meaning]) => ({
    text: name,
    description: meaning ?? undefined,
  }))
  if (options.length < 2 || options.length > LIMITS.options)
    throw wrong(
      `${param}.criteria`,
      `expected 2 to ${LIMITS.options} options, found ${options.length}`,
    )
  return { kind: 'choice', text, options }
}

const readState = ({ state, instructions }: SystemOneRequest): readonly Message[] => {
  if (state === undefined) throw badRequest("Missing required parameter: 'state'.", 'state')
  const content = typeof state === 'string' ? state : jsonOf(state)
  const user: Message = { role: 'user', content }
  return instructions ? [{ role: 'system', content: instructions }, user] : [user]
}

const answerOf = ({ kind, options }: Asked, reading: Reading) => {
  const { probabilities } = reading
  const of = (i: number) => probabilities[i] ?? 0
  if (kind === 'predicate') return { type: 'noul', noul: of(0) }
  const confidence = confidenceOf(reading)
  if (kind === 'choice')
    return {
      type: kind,
      choice: options[likeliestOf(reading)]?.text,
      probabilities: Object.fromEntries(options.map(({ text }, i) => [text, of(i)])),
      confidence,
    }
  return {
    type: kind,
    score: meanOf(reading),
    legend: Object.fromEntries(options.map(({ text }, i) => [String(i), text])),
    probabilities: Object.fromEntries(options.map((_, i) => [String(i), of(i)])),
    confidence,
  }
}

export const systemOneRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, SystemOneRequest, undefined, UNSERVED_OF_LABELS)
    const ids = Object.keys(body.questions)
    if (ids.length < 1 || ids.length > LIMITS.questions)
      throw wrong('questions', `expected 1 to ${LIMITS.questions}, found ${ids.length}`)
    const questions = ids.map((id) =>
      readQuestion(body.questions[id] as Question, `questions.${id}`),
    )
    const model = findModel(server.models(), body.model)
    if (losesDescriptions(model, questions)) tellUnread(c, server, ['questions.criteria'])
    const { readings, promptTokens } = await decide({
      ...{ model, questions },
      messages: readState(body),
      paramOf: (i) => `questions.${ids[i]}`,
      inputParam: 'state',
      record: c.get('record'),
      signal: signalOf(c, server),
      arrival,
      priority: body.priority,
      cacheSalt: body.cache_salt,
    })
    addHeader(c, 'x-label-mass', String(Math.min(...readings.map(({ labelMass }) => labelMass))))
    const byId = <T>(of: (reading: Reading, i: number) => T) =>
      Object.fromEntries(readings.map((reading, i) => [ids[i] as string, of(reading, i)]))
    return answerJson(c, {
      id: answerId('decision-'),
      object: 'structured_decision',
      created: unixTime(),
      model: body.model,
      answers: byId((reading, i) => answerOf(questions[i] as Asked, reading)),
      usage: { input_tokens: promptTokens, output_tokens: 0 },
      diagnostics: byId(({ labelMass, isLabelLikeliest }) => ({
        label_mass: labelMass,
        argmax_is_label: isLabelLikeliest,
      })),
    })
  }
