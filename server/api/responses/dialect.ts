// OpenAI's Responses API.

import { type Dialect, post } from '../routes.js'
import { responsesRoute } from './route.js'
import { ResponsesRequest } from './schema.js'

export const responses: Dialect = {
  routes: (server) => [
    post('/v1/responses', responsesRoute(server), {
      summary: "Answer items, in OpenAI's Responses API; nothing is kept.",
      body: { ResponsesRequest },
      answer: 'The response, or a stream of events.',
      isStream: true,
    }),
  ],
}
