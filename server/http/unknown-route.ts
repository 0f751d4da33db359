// What to say of a path that is not ours: other servers' routes name what to use here instead.

import { RequestError } from '../request-error.js'

const CHAT = 'use POST /v1/chat/completions'
const SCORES = 'use POST /v1/reward, which scores answers with a reward model'
const HEALTH = 'use GET /health, /v1/health/ready or /v1/health/live'

const INSTEAD: readonly (readonly [pattern: RegExp, instead: string])[] = [
  [/^\/chat\/completions$/, CHAT],
  [/^\/v1\/v1\//, 'the base URL has /v1 twice'],
  [/^\/completions?$/, 'use POST /v1/completions'],
  [/^\/models$/, 'use GET /v1/models'],
  [/^\/openai\/deployments\/.*\/(chat\/)?completions$/, `deployments are models here: ${CHAT}`],
  [/^\/v1(beta\d?|alpha)?\/models\/[^/]+:\w+$/, CHAT],
  [/^(\/v1)?\/responses\b/, 'responses are not kept: use POST /v1/responses'],
  [
    /^\/v1\/(assistants|threads|conversations|vector_stores)\b/,
    `nothing is kept between requests: ${CHAT}`,
  ],
  [
    /^(\/anthropic)?(\/v1)?\/messages\/batches\b/,
    'batches are files of requests here: POST /v1/files and /v1/batches',
  ],
  [/^(\/anthropic)?(\/v1)?\/messages\b/, 'use POST /v1/messages or /v1/messages/count_tokens'],
  [/^\/v1\/realtime\b/, `there is no realtime API: ${CHAT} with "stream": true`],
  [
    /^(\/v\d|\/api)?\/(embed(ding)?s?|encode)\b/,
    `these models make no embeddings; for scores ${SCORES}`,
  ],
  [/^(\/v\d)?\/(re)?rank(ing)?$/, 'use POST /v1/rerank'],
  [/^\/decisions$/, 'use POST /v1/decisions'],
  [/^\/systemone$/, 'use POST /v1/systemone'],
  [/^\/v1\/generative_scoring$/, 'use it without /v1'],
  [/^\/v1\/moderations$/, SCORES],
  [/^\/v1\/uploads\b/, 'send a file whole: POST /v1/files'],
  [/^\/v1\/(batches|files)\b/, 'use GET or POST /v1/files and /v1/batches'],
  [/^\/v1\/(images|audio|videos)\b/, 'this server makes text only'],
  [/^\/v1\/(fine_tuning|fine-tunes)\b/, 'this server trains nothing'],
  [/^\/v1\/engines\b/, 'engines are models now: use GET /v1/models'],
  [/^\/v1\/(pooling|classify)$/, 'use it without /v1, or POST /v1/reward'],
  [/^\/v1\/(tokenize|detokenize|tokenizer_info|version|metrics)$/, 'use it without /v1'],
  [/^\/(apply-template|render|v1\/completions\/render)$/, 'use POST /v1/chat/completions/render'],
  [/^\/(generate|generate_stream|infill|invocations|v1\/complete)$/, 'use POST /v1/completions'],
  [/^\/api\/(chat|generate)$/, CHAT],
  [/^\/api\/(tags|show|ps)$/, 'use GET /v1/models'],
  [
    /^(\/v1)?\/(un)?load_lora_adapter$|^\/lora-adapters$/,
    'adapters are not available: merge them into the checkpoint',
  ],
  [/^\/(v1\/)?(load|slots)$|^\/get_load$/, 'use GET /metrics'],
  [
    /^\/update_weights_from_(tensor|distributed|ipc)$|^\/(update_weights|init_weights_update_group)$/,
    'use POST /update_weights_from_disk',
  ],
  [/^\/(get_)?weight_version$/, 'use GET /v1/server, whose models have a weight_version'],
  [/^\/api\/version$/, 'use GET /version'],
  [
    /^\/(start|stop)_profile$|^\/(sleep|wake_up|is_sleeping|flush_cache|reset_prefix_cache)$|^\/api\/(pull|push|create|copy|delete)$|^\/models\/(un)?load$/,
    'a server is changed by starting it anew',
  ],
  [
    /^\/(get_)?(server_info|model_info)$|^\/(info|props|v1\/(metadata|manifest|license))$/,
    'use GET /v1/models',
  ],
  [/^\/(v1\/health|healthz?|livez|readyz|ready|live|ping|health_generate)$/, HEALTH],
  [/^\/swagger\b|^\/redoc$|^\/v1\/openapi\.json$/, 'use GET /openapi.json or /docs'],
  [/^\/v2(\/|$)/, `the inference protocol of KServe is not available: ${CHAT}`],
]

export const unknownRoute = (method: string, path: string): RequestError => {
  let end = path.length
  while (end > 1 && path[end - 1] === '/') end--
  const asked = path.slice(0, end)
  const instead = INSTEAD.find(([pattern]) => pattern.test(asked))?.[1]
  return new RequestError(`Invalid URL (${method} ${path})${instead ? `: ${instead}.` : ''}`, {
    kind: 'not_found',
  })
}
