// OpenAI's chats and completions, and what vLLM has beside them.

import { MODEL_QUERY } from '../openapi.js'
import { type Dialect, get, post } from '../routes.js'
import { chatRoute } from './chat.js'
import { chatBatchRoute } from './chat-batch.js'
import { completionRoute } from './completions.js'
import { generativeScoringRoute } from './generative-scoring.js'
import {
  ChatBatchRequest,
  ChatRequest,
  CompletionRequest,
  DetokenizeRequest,
  GenerativeScoringRequest,
  RenderRequest,
  TokenizeRequest,
} from './schema.js'
import { detokenizeRoute, renderRoute, tokenizeRoute, tokenizerInfoRoute } from './tokenize.js'

export const openai: Dialect = {
  routes: (server) => [
    post('/v1/chat/completions', chatRoute(server), {
      summary:
        'Answer a conversation; with `reward`, the best of several answers. A reward model scores it.',
      body: { ChatRequest },
      answer: 'The answer, or a stream of chunks.',
      isStream: true,
    }),
    post('/v1/chat/completions/batch', chatBatchRoute(server), {
      summary: "Answer several conversations, in vLLM's shape.",
      body: { ChatBatchRequest },
      answer: 'One choice a conversation, in their order.',
    }),
    post('/v1/completions', completionRoute(server), {
      summary: 'Continue text.',
      body: { CompletionRequest },
      answer: 'The text, or a stream of chunks.',
      isStream: true,
    }),
    post('/v1/chat/completions/render', renderRoute(server), {
      summary: 'The prompt of a conversation, without an answer.',
      body: { RenderRequest },
      answer: 'The prompt and its tokens.',
      isWork: false,
    }),
    post('/generative_scoring', generativeScoringRoute(server), {
      summary: "How likely a chat model goes on with a label, in vLLM's shape.",
      body: { GenerativeScoringRequest },
      answer: 'One probability an item, in the order given.',
    }),
    post('/tokenize', tokenizeRoute(server), {
      summary: 'Text or a conversation to tokens.',
      body: { TokenizeRequest },
      answer: 'The tokens.',
      isWork: false,
    }),
    post('/detokenize', detokenizeRoute(server), {
      summary: 'Tokens to text.',
      body: { DetokenizeRequest },
      answer: 'The text.',
      isWork: false,
    }),
    get(
      '/tokenizer_info',
      tokenizerInfoRoute(server),
      'Names of control tokens and the chat template.',
      { errors: ['model', 'ready'], parameters: [MODEL_QUERY] },
    ),
  ],
}
