// POST /v1/decisions, OpenAI's typed questions.

import {
  confidenceOf,
  type Decided,
  decide,
  likeliestOf,
  losesDescriptions,
  meanOf,
  type Reading,
} from '../../chat/decide.js'
import { addHeader, type Ctx } from '../../http/context.js'
import { findModel } from '../../model/served-model.js'
import { readRequest, tellUnread } from '../read-request.js'
import { answerId, answerJson, signalOf } from '../respond.js'
import type { Server } from '../server.js'
import { UNSERVED_OF_LABELS } from '../unserved-fields.js'
import { readInput, readQuestion } from './call.js'
import { DecisionsRequest, type Question } from './schema.js'

const answerOf = (question: Question, reading: Reading) => {
  const { probabilities, labelMass } = reading
  const common = { type: question.type, name: question.name ?? null, label_mass: labelMass }
  const confidence = confidenceOf(reading)
  const of = (i: number) => probabilities[i] ?? 0
  switch (question.type) {
    case 'predicate':
      return { ...common, probability: of(0) }
    case 'choice':
      return {
        ...common,
        choice: question.choices[likeliestOf(reading)]?.value,
        confidence,
        probabilities: question.choices.map(({ value }, i) => ({ value, probability: of(i) })),
      }
    case 'score':
      return {
        ...common,
        score: meanOf(reading),
        confidence,
        probabilities: question.levels.map(({ label }, value) => ({
          label,
          value,
          probability: of(value),
        })),
      }
  }
}

/** Nothing is written: what is read off is a probability. */
const usageOf = ({ promptTokens, cachedTokens }: Decided) => ({
  input_tokens: promptTokens,
  input_tokens_details: { cached_tokens: cachedTokens, cache_write_tokens: 0 },
  output_tokens: 0,
  output_tokens_details: { reasoning_tokens: 0 },
  total_tokens: promptTokens,
})

export const decisionsRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, DecisionsRequest, undefined, UNSERVED_OF_LABELS)
    const model = findModel(server.models(), body.model)
    const questions = body.questions.map(readQuestion)
    if (losesDescriptions(model, questions))
      tellUnread(c, server, ['questions.choices.description'])
    const decided = await decide({
      ...{ model, questions },
      messages: readInput(body),
      paramOf: (i) => `questions.${i}`,
      inputParam: 'input',
      record: c.get('record'),
      signal: signalOf(c, server),
      arrival,
      priority: body.priority,
      cacheSalt: body.cache_salt,
    })
    const { readings } = decided
    addHeader(c, 'x-label-mass', String(Math.min(...readings.map(({ labelMass }) => labelMass))))
    return answerJson(c, {
      id: answerId('decision-'),
      object: 'decision',
      model: body.model,
      answers: readings.map((reading, i) => answerOf(body.questions[i] as Question, reading)),
      usage: usageOf(decided),
    })
  }
