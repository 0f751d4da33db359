// Anthropic's Messages API.

import { type Dialect, post } from '../routes.js'
import { messageError } from './error.js'
import { countTokensRoute, messagesRoute } from './routes.js'
import { CountTokensRequest, MessageError, MessagesRequest } from './schema.js'

const FORM = { error: { MessageError }, errorForm: messageError }

export const anthropic: Dialect = {
  routes: (server) => [
    post('/v1/messages', messagesRoute(server), {
      summary: "Answer a conversation, in Anthropic's Messages API.",
      body: { MessagesRequest },
      ...FORM,
      answer: 'The message, or a stream of events.',
      isStream: true,
    }),
    post('/v1/messages/count_tokens', countTokensRoute(server), {
      summary: "How many tokens a message's prompt has.",
      body: { CountTokensRequest },
      ...FORM,
      answer: 'Their number.',
      isWork: false,
    }),
  ],
  strays: {
    isPath: (path) => /^(\/anthropic)?(\/v1)?\/messages\b/.test(path),
    errorForm: messageError,
  },
}
