// The requests of recorded.test.ts, and the servers that they go to.

import type { HarnessOptions } from './harness.js'
import type { Script } from './scripted-engine.js'

/** One request, and which of the servers below it goes to; `tiny`: the embedded models. */
export type Recorded = {
  readonly name: string
  readonly server: keyof typeof SERVERS | 'tiny'
  readonly method?: string
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  /** An object is sent as JSON. */
  readonly body?: object | string | Buffer
  /** Sent first and left running, to fill the queue. */
  readonly before?: object
}

/** What the scripted engine answers: the first key that stands in the prompt's last turn decides. */
const SCRIPTS: Readonly<Record<string, Script>> = {
  muse: { pieces: ['<think>', '\nI mu', 'se on it.\n', '</th', 'ink>\n\n', 'For', 'ty-two.'] },
  'open end': { pieces: ['thinking ', 'without', ' an end'] },
  untagged: { pieces: ['first I think', '</think>', 'then I say'] },
  accents: { pieces: ['é', 'ü', '😀', ' "quoted"\n'] },
  'stop here': { pieces: ['one ', 'two '], stopReason: 'END' },
  'stop id': { pieces: ['one ', 'two '], stopReason: 7 },
  'stop eos': { pieces: ['one ', 'two '], stopReason: 260 },
  breaks: { pieces: ['so far ', 'so good'], finish: 'error', error: 'the device failed' },
  'fails at once': { pieces: [''], finish: 'error', error: 'the device failed' },
  slowly: { pieces: ['late'], delaySteps: 400 },
  'long tale': { pieces: [...'Once upon a time there was a server. '.repeat(8)] },
}

const answer = (prompt: string, _: unknown, choice: number): Script => {
  const key = Object.keys(SCRIPTS).find((one) => prompt.includes(one))
  if (key !== undefined) return SCRIPTS[key] ?? { pieces: [] }
  return { pieces: ['Hel', 'lo', choice === 0 ? '' : ` ${'x'.repeat(choice)}`, '!'] }
}

/** The longer the answer, the better. */
const score = (prompt: string): readonly number[] => [
  (prompt.split('assistant\n\n').at(-1) ?? '').length,
]

export const SERVERS = {
  chat: { answer, reward: { score } },
  thinking: { answer, config: { defaultThinking: true } },
  plain: {
    answer,
    id: 'plain',
    template: '{{ bos_token }}{% for m in messages %}{{ m.content }}\n{% endfor %}',
  },
  attributes: {
    reward: {
      score: (prompt: string) => [prompt.length % 7, 0.5, -1],
      labels: ['helpful', 'correct', 'verbose'],
      readout: { weights: { helpful: 1, correct: 2, verbose: -0.5 } },
    },
  },
  vector: {
    reward: { score: (prompt: string) => [prompt.length % 7, 0.5], labels: ['first', 'second'] },
  },
  strict: {
    answer,
    config: {
      apiKeys: ['secret'],
      strictParams: true,
      bodyLimit: 2000,
      allowedOrigins: ['https://good.example'],
    },
  },
  loading: { phase: () => ({ name: 'loading', detail: 'reading weights' }) },
  draining: { phase: () => ({ name: 'draining' }) },
  failed: { phase: () => ({ name: 'failed', detail: 'no such file' }) },
  timed: { answer, config: { requestTimeout: 0.1 } },
  small: { answer, maxNumSeqs: 1, maxWaiting: 0, stepMs: 5, reward: { score } },
  defaults: {
    answer,
    info: { generation: { greedy: true, temperature: 0.7, topP: 0.9, topK: 5 } },
  },
} satisfies Readonly<Record<string, HarnessOptions>>

type Server = Recorded['server']

const user = (content: unknown) => ({ role: 'user', content })
const assistant = (content: unknown) => ({ role: 'assistant', content })
const system = (content: string) => ({ role: 'system', content })

const post = (
  path: string,
  model: string,
  name: string,
  body: object,
  server: Server = 'chat',
): Recorded => ({
  name,
  server,
  path,
  body: { model: server === 'plain' ? 'plain' : model, ...body },
})

const chat = (name: string, body: object, server: Server = 'chat'): Recorded =>
  post('/v1/chat/completions', 'tiny-reasoner', name, { messages: [user('Hi')], ...body }, server)

const say = (name: string, content: string, body: object = {}, server: Server = 'chat') =>
  chat(name, { messages: [user(content)], ...body }, server)

const complete = (name: string, body: object, server: Server = 'chat'): Recorded =>
  post('/v1/completions', 'tiny-reasoner', name, { prompt: 'Hi', ...body }, server)

const reward = (name: string, body: object, server: Server = 'chat'): Recorded =>
  post('/v1/reward', 'tiny-reward', name, body, server)

const get = (path: string, server: Server = 'chat', headers = {}): Recorded => ({
  name: `GET ${path} ${server}`,
  server,
  method: 'GET',
  path,
  headers,
})

const raw = (
  name: string,
  body: string | Buffer,
  headers: Readonly<Record<string, string>> = {},
): Recorded => ({ name, server: 'chat', path: '/v1/chat/completions', body, headers })

const chats: readonly Recorded[] = [
  say('chat', 'Hi'),
  say('chat stream', 'Hi', { stream: true }),
  say('chat stream usage', 'Hi', { stream: true, stream_options: { include_usage: true } }),
  say('chat stream continuous usage', 'Hi', {
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  }),
  say('chat timings', 'Hi', { timings: true, cache_salt: 'cached' }),
  say('chat stream timings', 'Hi', { timings: true, stream: true }),
  say('chat n', 'Hi', { n: 3 }),
  say('chat stream n', 'Hi', { n: 3, stream: true, timings: true }),
  say('chat logprobs', 'Hi', { logprobs: true, top_logprobs: 2 }),
  say('chat stream logprobs', 'Hi', { logprobs: true, top_logprobs: 1, stream: true }),
  say('chat accents', 'accents', { logprobs: true }),
  say('chat stream accents', 'accents', { logprobs: true, stream: true }),
  say('chat token ids', 'Hi', { return_token_ids: true }),
  say('chat stream token ids', 'Hi', { return_token_ids: true, stream: true }),
  say('chat prompt logprobs', 'Hi', { prompt_logprobs: 1 }),
  say('chat stream prompt logprobs', 'Hi', { prompt_logprobs: 1, stream: true }),
  say('chat truncated', 'A longer prompt', { truncate_prompt_tokens: 8, max_tokens: 5 }),
  say('chat stream truncated', 'A longer prompt', { truncate_prompt_tokens: -1, stream: true }),
  say('chat length', 'long tale', { max_tokens: 9 }),
  say('chat max_completion_tokens', 'long tale', { max_completion_tokens: 9, stream: true }),
  say('chat stop string', 'stop here', { stop: ['END', 'FIN'] }),
  say('chat stream stop string', 'stop here', { stop: 'END', stream: true }),
  say('chat stop id asked', 'stop id', { stop_token_ids: [7] }),
  say('chat stop id not asked', 'stop eos', { stream: true }),
  say('chat every field', 'Hi', {
    temperature: 0.5,
    top_p: 0.5,
    top_k: 3,
    min_p: 0.1,
    seed: 1,
    min_tokens: 1,
    presence_penalty: 1,
    frequency_penalty: 1,
    repetition_penalty: 1.1,
    logit_bias: { 65: 5 },
    bad_words: ['bad'],
    allowed_token_ids: [1, 2],
    ignore_eos: true,
    priority: 3,
    skip_special_tokens: false,
    include_stop_str_in_output: true,
    user: 'me',
  }),
  say('chat thinks', 'muse', { chat_template_kwargs: { enable_thinking: true } }),
  say('chat stream thinks', 'muse', { reasoning_effort: 'high', stream: true, timings: true }),
  say('chat stream thinks with logprobs', 'muse', {
    reasoning_effort: 'high',
    stream: true,
    logprobs: true,
    return_token_ids: true,
  }),
  say('chat does not think', 'Hi', { reasoning_effort: 'none', return_token_ids: true }),
  say('chat hides thinking', 'muse', { reasoning_effort: 'low', include_reasoning: false }),
  say('chat stream hides thinking', 'muse', {
    reasoning_effort: 'low',
    include_reasoning: false,
    stream: true,
  }),
  say('chat leaves thinking', 'muse', { reasoning_format: 'none', reasoning_effort: 'low' }),
  say('chat stream leaves thinking', 'muse', { reasoning_format: 'none', stream: true }),
  say('chat open end', 'open end', { reasoning_effort: 'low', max_tokens: 12 }),
  say('chat stream open end', 'open end', { reasoning_effort: 'low', stream: true }),
  say('chat untagged', 'untagged', { reasoning_effort: 'low', stream: true }),
  say('chat thinks by default', 'muse', { thinking_budget: 5 }, 'thinking'),
  chat(
    'chat mode line',
    { messages: [system('detailed thinking off\nBe brief.'), user('muse')] },
    'thinking',
  ),
  chat('chat continues', {
    messages: [user('Hi'), assistant('Hello, my')],
    continue_final_message: true,
    stream: true,
  }),
  chat('chat tool turns', {
    messages: [
      system('Use tools.'),
      user([{ type: 'text', text: 'What time is it?' }]),
      {
        role: 'assistant',
        content: null,
        tool_calls: [
          {
            id: 'call_1',
            type: 'function',
            function: { name: 'time', arguments: '{"zone":"utc"}' },
          },
        ],
      },
      { role: 'tool', tool_call_id: 'call_1', content: 'noon' },
    ],
    return_token_ids: true,
  }),
  say('chat of a model that does not reason', 'Hi', {}, 'plain'),
  say('chat stream of a model that does not reason', 'Hi', { stream: true }, 'plain'),
  say('chat ignored fields', 'Hi', { 'x-unknown': 1, other: { a: 1 }, tools: [] }),
  say('chat by defaults', 'Hi', {}, 'defaults'),
  say('best of', 'Hi', { best_of: 4, n: 2, reward: { model: 'tiny-reward' }, timings: true }),
  say('best of stream', 'Hi', { best_of: 3, reward: { model: 'tiny-reward' }, stream: true }),
  say('best of thinking', 'muse', {
    best_of: 2,
    reward: { model: 'tiny-reward', include_thinking: true },
    reasoning_effort: 'high',
    logprobs: true,
  }),
]

const chatErrors: readonly Recorded[] = [
  say('breaks', 'breaks'),
  say('breaks in a stream', 'breaks', { stream: true }),
  say('fails at once in a stream', 'fails at once', { stream: true }),
  say('best of breaks', 'breaks', { best_of: 2, reward: { model: 'tiny-reward' } }),
  say('times out', 'slowly', {}, 'timed'),
  say('times out in a stream', 'slowly', { stream: true }, 'timed'),
  chat('no model', { model: 'nobody' }),
  chat('no messages', { messages: [] }),
  chat('wrong role', { messages: [{ role: 'robot', content: 'x' }] }),
  chat('wrong content', { messages: [user([{ type: 'image_url' }])] }),
  chat('wrong type', { temperature: 'hot' }),
  chat('too big', { temperature: 3 }),
  chat('too small', { n: 0 }),
  chat('wrong stop', { stop: 7 }),
  chat('wrong enum', { reasoning_effort: 'great' }),
  chat('wrong ids', { stop_token_ids: [1, -2] }),
  chat('id beyond the vocabulary', { allowed_token_ids: [1, 9999] }),
  chat('bias beyond the vocabulary', { logit_bias: { 9999: 1 } }),
  chat('min_tokens above max_tokens', { min_tokens: 9, max_tokens: 3 }),
  chat('top_logprobs alone', { top_logprobs: 2 }),
  chat('stream_options alone', { stream_options: { include_usage: true } }),
  chat('too long', { max_tokens: 5000 }),
  say('prompt too long', 'x'.repeat(1100)),
  chat('tools', { tools: [{ type: 'function' }] }),
  chat('response_format', { response_format: { type: 'json_object' } }),
  chat('best_of below n', { best_of: 1, n: 2 }),
  chat('best_of without reward', { best_of: 2 }),
  chat('best of by a chat model', { best_of: 2, reward: { model: 'tiny-reasoner' } }),
  chat('best of by nobody', { best_of: 2, reward: { model: 'nobody' } }),
  chat('best of with several scores', { reward: { model: 'tiny-reward' } }, 'vector'),
  chat('best of and continuing', {
    messages: [user('Hi'), assistant('Hel')],
    continue_final_message: true,
    reward: { model: 'tiny-reward' },
  }),
  say('best of without room', 'x'.repeat(500), { reward: { model: 'tiny-reward' } }),
  chat('both prompts', { continue_final_message: true, add_generation_prompt: true }),
  chat('continues nothing', { continue_final_message: true }),
  chat('wrong switch', { chat_template_kwargs: { enable_thinking: 'yes' } }),
  chat('thinking of a model that does not', { reasoning_effort: 'high' }, 'plain'),
  chat('budget of a model that does not', { thinking_token_budget: 4 }, 'plain'),
  raw('no json', '{"model": '),
  raw('empty', ''),
  raw('a list', '[]'),
  raw('not UTF-8', Buffer.from([0x7b, 0xff, 0x7d])),
  raw('form', 'a=b', { 'content-type': 'application/x-www-form-urlencoded' }),
  raw('charset', '{}', { 'content-type': 'application/json; charset=latin1' }),
  raw('gzip', '{}', { 'content-encoding': 'gzip' }),
  raw('missing model', '{"messages":[{"role":"user","content":"Hi"}]}'),
  {
    name: 'queue full',
    server: 'small',
    path: '/v1/chat/completions',
    before: { model: 'tiny-reasoner', messages: [user('slowly')] },
    body: { model: 'tiny-reasoner', messages: [user('Hi')] },
  },
]

const completions: readonly Recorded[] = [
  complete('completion', {}),
  complete('completion stream', { stream: true, stream_options: { include_usage: true } }),
  complete('completion echo', { echo: true, max_tokens: 4 }),
  complete('completion echo logprobs', { echo: true, logprobs: 2, max_tokens: 4 }),
  complete('completion stream echo logprobs', { echo: true, logprobs: 1, stream: true }),
  complete('completion echo alone', { echo: true, logprobs: 0, max_tokens: 0 }),
  complete('completion logprobs', { logprobs: 2 }),
  complete('completion accents', { prompt: 'accents', logprobs: 0, stream: true }),
  complete('completion many', { prompt: ['One', 'Two'], n: 2, return_token_ids: true }),
  complete('completion stream many', {
    prompt: ['One', 'Two'],
    n: 2,
    stream: true,
    timings: true,
    return_token_ids: true,
  }),
  complete('completion ids', { prompt: [72, 105], echo: true, prompt_logprobs: 1 }),
  complete('completion lists of ids', { prompt: [[72], [105, 256]], stream: true }),
  complete('completion prompt logprobs stream', { prompt_logprobs: 0, stream: true }),
  complete('completion truncated', { prompt: 'A longer prompt', truncate_prompt_tokens: 4 }),
  complete('completion names', { prompt: '<|eot_id|>stop here', stop: 'END', echo: true }),
  complete('completion without BOS', { add_special_tokens: false, return_token_ids: true }),
  complete('completion breaks', { prompt: 'breaks' }),
  complete('completion breaks in a stream', { prompt: 'breaks', stream: true }),
  complete('completion timings', { timings: true, best_of: 1 }),
  complete('completion best_of', { best_of: 2 }),
  complete('completion max_tokens 0', { max_tokens: 0 }),
  complete('completion id beyond the vocabulary', { prompt: [1, 9999] }),
  complete('completion id beyond the vocabulary in a list', { prompt: [[1], [9999]] }),
  complete('completion empty prompt', { prompt: '', add_special_tokens: false }),
  complete('completion wrong prompt', { prompt: { a: 1 } }),
  complete('completion too long', { max_tokens: 5000 }),
  complete('completion of a reward model', { model: 'tiny-reward' }),
  complete('completion suffix', { suffix: 'x' }),
  complete('completion budget', { thinking_budget: 3 }, 'plain'),
]

const answered = [user('What is 1+1?'), assistant('It is 2.')]
const rewards: readonly Recorded[] = [
  reward('reward', { messages: answered }),
  reward('reward responses', {
    messages: [user('What is 1+1?')],
    responses: ['2', 'It is 2.', 'two'],
    pairwise: true,
  }),
  reward('reward inputs', {
    inputs: [{ messages: answered }, { messages: [user('a')], responses: ['b', 'cc'] }],
    pairwise: true,
    priority: 1,
    cache_salt: 's',
  }),
  reward('reward attributes', { messages: answered }, 'attributes'),
  reward('reward vector', { messages: answered }, 'vector'),
  reward('reward pairwise of a vector', { messages: answered, pairwise: true }, 'vector'),
  reward('reward both', { messages: answered, inputs: [{ messages: answered }] }),
  reward('reward nothing', {}),
  reward('reward empty response', { messages: [user('a')], responses: ['b', ''] }),
  reward('reward of a question', { inputs: [{ messages: [user('a')] }] }),
  reward('reward of an empty answer', { messages: [user('a'), assistant('')] }),
  reward('reward after an answer', { messages: answered, responses: ['x'] }),
  reward('reward too long', { messages: [user('x'.repeat(600)), assistant('y')] }),
  reward('reward response too long', { messages: [user('a')], responses: ['b', 'x'.repeat(600)] }),
  reward('reward by a chat model', { model: 'tiny-reasoner', messages: answered }),
  reward('reward by a chat model alone', { model: 'plain', messages: answered }, 'plain'),
  chat('NIM', { model: 'tiny-reward', messages: answered }),
  chat('NIM attributes', { model: 'tiny-reward', messages: answered }, 'attributes'),
  chat('NIM vector', { model: 'tiny-reward', messages: answered }, 'vector'),
  chat('NIM question', { model: 'tiny-reward' }),
  chat('NIM stream', { model: 'tiny-reward', messages: answered, stream: true }),
  chat('NIM n', { model: 'tiny-reward', messages: answered, n: 2 }),
  chat('NIM reward', {
    model: 'tiny-reward',
    messages: answered,
    reward: { model: 'tiny-reward' },
  }),
  post('/pooling', 'tiny-reward', 'pooling', { input: 'Some text' }),
  post('/pooling', 'tiny-reward', 'pooling messages', { messages: answered }),
  post('/pooling', 'tiny-reward', 'pooling base64', {
    input: [[1, 2], [3]],
    encoding_format: 'base64',
  }),
  post('/pooling', 'tiny-reward', 'pooling neither', {}),
  post('/pooling', 'tiny-reward', 'pooling too long', { input: ['x', 'x'.repeat(600)] }),
  post('/pooling', 'tiny-reasoner', 'pooling by a chat model', { input: 'x' }),
  post('/classify', 'tiny-reward', 'classify', { text: 'Some text' }),
  post('/classify', 'tiny-reward', 'classify several', { input: ['a', 'b'] }),
  post('/classify', 'tiny-reward', 'classify ids', { input_ids: [1, 2, 3] }),
  post('/classify', 'tiny-reward', 'classify both', { text: 'a', input: 'b' }),
  { name: 'classify no name', server: 'chat', path: '/classify', body: { text: 'a' } },
  { name: 'classify no reward model', server: 'plain', path: '/classify', body: { text: 'a' } },
]

const others: readonly Recorded[] = [
  post('/tokenize', 'tiny-reasoner', 'tokenize', {
    prompt: 'é<|eot_id|>',
    return_token_strs: true,
  }),
  post('/tokenize', 'tiny-reasoner', 'tokenize messages', { messages: [user('Hi <|eot_id|>')] }),
  post('/tokenize', 'tiny-reasoner', 'tokenize both', { messages: [user('a')], prompt: 'b' }),
  { name: 'tokenize no name', server: 'chat', path: '/tokenize', body: { prompt: 'x' } },
  post('/detokenize', 'tiny-reasoner', 'detokenize', { tokens: [72, 105, 256] }),
  post('/detokenize', 'tiny-reasoner', 'detokenize beyond', { tokens: [72, 9999] }),
  post('/detokenize', 'nobody', 'detokenize nobody', { tokens: [72] }),
  post('/v1/chat/completions/render', 'tiny-reasoner', 'render', {
    messages: [system('Be brief.'), user('Hi')],
    reasoning_effort: 'high',
  }),
  post('/v1/chat/completions/render', 'tiny-reasoner', 'render keeps thinking', {
    messages: [user('a'), { ...assistant('b'), reasoning: 'why' }, user('c')],
    keep_thinking: true,
  }),
  get('/tokenizer_info'),
  get('/tokenizer_info?model=nobody'),
  get('/v1/models'),
  get('/v1/models/tiny-reasoner'),
  get('/v1/models/nobody'),
  get('/v1/models/a/b'),
  get('/version'),
  get('/health'),
  get('/v1/health/ready'),
  get('/v1/health/live'),
  get('/openapi.json'),
  get('/docs'),
  get('/nowhere'),
  get('/v1/chat/completions'),
  { name: 'HEAD', server: 'chat', method: 'HEAD', path: '/health' },
  { name: 'OPTIONS', server: 'chat', method: 'OPTIONS', path: '/v1/models' },
  { name: 'DELETE', server: 'chat', method: 'DELETE', path: '/v1/models/tiny-reasoner' },
  {
    name: 'preflight',
    server: 'chat',
    method: 'OPTIONS',
    path: '/v1/chat/completions',
    headers: { origin: 'https://any.example', 'access-control-request-method': 'POST' },
  },
]

const authorization = 'Bearer secret'
const guarded: readonly Recorded[] = [
  say('no key', 'Hi', {}, 'strict'),
  { ...say('wrong key', 'Hi', {}, 'strict'), headers: { authorization: 'Bearer other' } },
  { ...say('right key', 'Hi', {}, 'strict'), headers: { authorization } },
  {
    ...say('right key, good origin', 'Hi', { stream: true }, 'strict'),
    headers: { authorization, origin: 'https://good.example', 'x-request-id': 'mine-1' },
  },
  {
    ...say('right key, bad origin', 'Hi', {}, 'strict'),
    headers: { authorization, origin: 'https://bad.example' },
  },
  { ...say('unknown field', 'Hi', { unknown: 1 }, 'strict'), headers: { authorization } },
  { ...say('body too large', 'x'.repeat(3000), {}, 'strict'), headers: { authorization } },
  get('/v1/models', 'strict'),
  get('/health', 'strict'),
  get('/health', 'loading'),
  get('/health', 'draining'),
  get('/health', 'failed'),
  get('/v1/models', 'loading'),
  get('/v1/models', 'draining'),
  get('/v1/models', 'failed'),
  say('while loading', 'Hi', {}, 'loading'),
  say('while draining', 'Hi', {}, 'draining'),
  say('after failing', 'Hi', {}, 'failed'),
]

const greedy = { temperature: 0, max_tokens: 48 }
const tiny: readonly Recorded[] = [
  say('tiny chat', 'What is 3 + 4?', greedy, 'tiny'),
  say('tiny chat stream', 'What is 3 + 4?', { ...greedy, stream: true }, 'tiny'),
  say('tiny chat thinks', 'What is 3 + 4?', { ...greedy, reasoning_effort: 'high' }, 'tiny'),
  say(
    'tiny chat stream thinks',
    'What is 3 + 4?',
    { ...greedy, reasoning_effort: 'high', stream: true, stream_options: { include_usage: true } },
    'tiny',
  ),
  say('tiny stop', 'What is 3 + 4?', { ...greedy, stop: ['+ 4'] }, 'tiny'),
  say('tiny stop stream', 'What is 3 + 4?', { ...greedy, stop: ['+ 4'], stream: true }, 'tiny'),
  say('tiny n', 'What is 3 + 4?', { ...greedy, n: 2, return_token_ids: true }, 'tiny'),
  say(
    'tiny budget',
    'What is 3 + 4?',
    { ...greedy, reasoning_effort: 'high', thinking_budget: 4 },
    'tiny',
  ),
  say(
    'tiny best of',
    'What is 3 + 4?',
    { ...greedy, best_of: 2, reward: { model: 'tiny-reward' } },
    'tiny',
  ),
  complete('tiny completion', { ...greedy, prompt: 'The sum of 3 and 4 is', echo: true }, 'tiny'),
  reward(
    'tiny reward',
    { messages: [user('What is 3 + 4?')], responses: ['7', '8'], pairwise: true },
    'tiny',
  ),
  chat('tiny NIM', { model: 'tiny-reward', messages: answered }, 'tiny'),
  post('/pooling', 'tiny-reward', 'tiny pooling', { input: 'Some text' }, 'tiny'),
  say('tiny bad bias', 'Hi', { logit_bias: { 1: 100 }, allowed_token_ids: [] }, 'tiny'),
  say('tiny too long', 'word '.repeat(3000), {}, 'tiny'),
  get('/v1/models', 'tiny'),
]

export const REQUESTS: readonly Recorded[] = [
  ...chats,
  ...chatErrors,
  ...completions,
  ...rewards,
  ...others,
  ...guarded,
  ...tiny,
]
