// OpenAI's Decisions API.

import { type Dialect, post } from '../routes.js'
import { decisionsRoute } from './route.js'
import { DecisionsRequest } from './schema.js'

export const decisions: Dialect = {
  routes: (server) => [
    post('/v1/decisions', decisionsRoute(server), {
      summary: "Probabilities of answers to typed questions, in OpenAI's Decisions API.",
      body: { DecisionsRequest },
      answer: 'One answer a question, in their order.',
    }),
  ],
}
