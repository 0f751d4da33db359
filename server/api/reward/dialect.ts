// Scores of reward models, in our shape and in those of vLLM and SGLang.

import { type Dialect, post } from '../routes.js'
import { rerankRoute, scoreRoute } from './rank.js'
import { refineRoute } from './refine.js'
import { classifyRoute, poolingRoute, rewardRoute } from './routes.js'
import {
  ClassifyRequest,
  PoolingRequest,
  RefineRequest,
  RerankRequest,
  RewardRequest,
  ScoreRequest,
} from './schema.js'

export const reward: Dialect = {
  routes: (server) => [
    post('/v1/reward', rewardRoute(server), {
      summary: 'Score answers: one conversation, candidates of one prompt, or many of both.',
      body: { RewardRequest },
      answer: 'One reward an answer, in the order given.',
    }),
    post('/v1/refine', refineRoute(server), {
      summary: 'Drafts, feedback on them, edits by it, and the best of all by a reward model.',
      body: { RefineRequest },
      answer: 'The best text, and all others with their rewards.',
    }),
    ...['/v1/rerank', '/v2/rerank', '/rerank'].map((path) =>
      post(path, rerankRoute(server), {
        summary:
          "Order documents by how good an answer each is, in Cohere's, Jina's and vLLM's shape.",
        body: { RerankRequest },
        answer: 'The documents and their rewards, the best first.',
      }),
    ),
    ...['/v1/score', '/score'].map((path) =>
      post(path, scoreRoute(server), {
        summary: "Score pairs of a query and an answer, in vLLM's shape.",
        body: { ScoreRequest },
        answer: 'One reward a pair, in the order given.',
      }),
    ),
    post('/pooling', poolingRoute(server), {
      summary: "The outputs of a reward model, in vLLM's shape.",
      body: { PoolingRequest },
      answer: 'The outputs.',
    }),
    post('/classify', classifyRoute(server), {
      summary: "The outputs of a reward model, in SGLang's shape.",
      body: { ClassifyRequest },
      answer: 'The outputs; a list for several texts.',
    }),
  ],
}
