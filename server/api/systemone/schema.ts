// Request bodies of /v1/systemone, in the shape that vLLM takes.

import { z } from 'zod'
import { list, ownObject, recordOf } from '../../list.js'
import { typeErrors } from '../items.js'

const MAX_QUESTIONS = 400
const MAX_OPTIONS = 255
const MAX_LEVELS = 10

const Instructions = { instructions: z.string().min(1) }

const Question = z.discriminatedUnion(
  'type',
  [
    z.looseObject({
      type: z.literal('noul').describe('Whether it is so.'),
      ...Instructions,
      criteria: z.string().nullish(),
    }),
    z.looseObject({
      type: z.literal('choice'),
      ...Instructions,
      criteria: recordOf(z.string().nullable()).describe(
        `Name of an option to what it means; 2 to ${MAX_OPTIONS}.`,
      ),
    }),
    z.looseObject({
      type: z.literal('score'),
      ...Instructions,
      criteria: list(z.string().min(1), 2, MAX_LEVELS).describe('Levels, from the lowest on.'),
    }),
  ],
  { error: typeErrors(() => undefined)('noul', 'choice', 'score') },
)
export type Question = z.output<typeof Question>

export const SystemOneRequest = z.looseObject({
  model: z.string().min(1).describe('A name of GET /v1/models.'),
  state: z.unknown().describe('What the questions are about: any JSON; a text is taken as it is.'),
  questions: recordOf(Question).describe(`By id; 1 to ${MAX_QUESTIONS}.`),
  instructions: z.string().nullish().describe('A system message.'),
  chat_template_kwargs: ownObject({
    enable_thinking: z.literal(false).nullish(),
    thinking: z.literal(false).nullish(),
  })
    .nullish()
    .describe('Thinking is off: an answer that begins with thoughts begins with no label.'),
  seed: z.int().nullish().describe('Of no effect: nothing is drawn.'),
  priority: z.int().min(-2147483648).max(2147483647).optional(),
  cache_salt: z.string().min(1).max(1024).optional(),
})
export type SystemOneRequest = z.output<typeof SystemOneRequest>

export const LIMITS = { questions: MAX_QUESTIONS, options: MAX_OPTIONS } as const
