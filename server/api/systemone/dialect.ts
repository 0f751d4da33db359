// Typed questions by id.

import { type Dialect, post } from '../routes.js'
import { systemOneRoute } from './route.js'
import { SystemOneRequest } from './schema.js'

export const systemOne: Dialect = {
  routes: (server) => [
    post('/v1/systemone', systemOneRoute(server), {
      summary: 'The same for questions by id about a state.',
      body: { SystemOneRequest },
      answer: 'One answer a question, by its id.',
    }),
  ],
}
