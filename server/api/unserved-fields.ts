// Fields that no schema honours: accepted without effect, refused by name, or unknown. The refused are
// those by which another server (OpenAI, vLLM, SGLang, NIM, llama-server, TGI, Ollama) changes its answer;
// a value that asks for nothing passes.

import type { UnservedFields } from '../check.js'
import { type RequestError, unsupportedParameter, unsupportedValue } from '../request-error.js'

/** Known to clients, of no effect on an answer here. */
const WITHOUT_EFFECT: ReadonlySet<string> = new Set([
  'user',
  'metadata',
  'store',
  'service_tier',
  'prompt_cache_key',
  'prompt_cache_options',
  'prompt_cache_retention',
  'safety_identifier',
  'verbosity',
  'parallel_tool_calls',
  'guided_decoding_backend',
  // They choose how something is done that is refused by its own name.
  'mirostat_tau',
  'mirostat_eta',
  'xtc_threshold',
  'dry_base',
  'dry_allowed_length',
  'dry_penalty_last_n',
  'dry_sequence_breakers',
  'dynatemp_exponent',
  // Where and how it is computed.
  'cache_prompt',
  'id_slot',
  'keep_alive',
  'request_id',
  'rid',
  'spaces_between_special_tokens',
])

type Refusal = (value: unknown, body: Readonly<Record<string, unknown>>) => RequestError | null

const isEmpty = (value: unknown): boolean =>
  value === '' ||
  (Array.isArray(value) && value.length === 0) ||
  (typeof value === 'object' && value !== null && Object.keys(value).length === 0)

const refused = (name: string, why: string): RequestError =>
  unsupportedParameter(name, `'${name}' is not supported: ${why}.`)

const EMPTY = Symbol('an empty text, list or object')

/** `harmless`: values that ask for nothing. */
const refuse =
  (why: string, ...harmless: readonly unknown[]) =>
  (name: string): Refusal =>
  (value) =>
    harmless.includes(value) || (harmless.includes(EMPTY) && isEmpty(value))
      ? null
      : refused(name, why)

const CHAT = 'it is for /v1/chat/completions'
const SAMPLER = 'this server does not have this sampler'
const TEXT_ONLY = 'this server takes and makes text only'
const use = (instead: string): string => `use '${instead}'`
const ANSWERS = 'it is for answers of chats and completions'
const FORM = use('response_format')
const THINKING = use('chat_template_kwargs.enable_thinking')

const BY_NAME: Readonly<Record<string, (name: string) => Refusal>> = {
  // Structured output.
  response_format: refuse(ANSWERS),
  structured_outputs: refuse(ANSWERS),
  guided_json: refuse(ANSWERS),
  guided_regex: refuse(ANSWERS, ''),
  guided_choice: refuse(ANSWERS),
  guided_grammar: refuse(ANSWERS, ''),
  guided_json_object: refuse(ANSWERS, false),
  grammar: refuse(ANSWERS, ''),
  guided_decoding: refuse(FORM, EMPTY),
  guided_whitespace_pattern: refuse('white space is bounded here', ''),
  structural_tag: refuse("use 'tools', or 'grammar'", ''),
  json_schema: refuse(FORM),
  json_object: refuse(FORM, false),
  grammar_lazy: refuse("use 'tools'", false),
  grammar_triggers: refuse("use 'tools'", EMPTY),
  regex: refuse(use('structured_outputs.regex'), ''),
  ebnf: refuse(use('grammar'), ''),
  format: refuse(FORM, ''),
  response_schema: refuse(FORM),
  output_schema: refuse(FORM),
  json_mode: refuse(FORM, false),
  responseFormat: refuse(FORM, EMPTY),
  text: refuse(FORM, EMPTY),
  grammar_string: refuse(use('grammar'), ''),

  // Tools.
  tools: refuse(CHAT, EMPTY),
  tool_choice: refuse(CHAT, 'none', 'auto'),
  functions: refuse(use('tools'), EMPTY),
  function_call: refuse(use('tool_choice'), 'none', 'auto'),
  toolChoice: refuse(use('tool_choice'), 'none', 'auto'),
  toolConfig: refuse(use('tool_choice'), EMPTY),
  tool_config: refuse(use('tool_choice'), EMPTY),
  web_search_options: refuse('this server does not search the web'),

  // Of another route.
  messages: refuse(CHAT, EMPTY),
  prompt: refuse("use 'messages', or /v1/completions", EMPTY),
  reasoning_effort: refuse(CHAT, 'none'),
  chat_template_kwargs: refuse(CHAT, EMPTY),
  include_reasoning: refuse(CHAT, true),
  reasoning_format: refuse(CHAT, 'none'),
  keep_thinking: refuse(CHAT, false),
  add_generation_prompt: refuse(CHAT, false),
  continue_final_message: refuse(CHAT, false),
  reward: refuse(CHAT),
  judge: refuse('it is for /v1/reward'),
  pairwise: refuse('it is for /v1/reward', false),

  // Thinking.
  enable_thinking: refuse(THINKING),
  thinking: refuse(THINKING),
  think: refuse(THINKING),
  reasoning: refuse(use('reasoning_effort'), EMPTY),
  reasoning_budget: refuse(use('thinking_token_budget'), -1),
  max_thinking_tokens: refuse(use('thinking_token_budget')),
  reasoning_max_tokens: refuse(use('thinking_token_budget')),
  thinking_budget_tokens: refuse(use('thinking_token_budget')),
  budget_tokens: refuse(use('thinking_token_budget')),
  thinking_config: refuse(THINKING, EMPTY),
  include_thinking: refuse(use('reward.include_thinking')),
  include_thoughts: refuse(use('include_reasoning')),
  min_thinking_tokens: refuse('thinking has no least length here', 0),
  separate_reasoning: refuse('use \'reasoning_format\': "none"', true),
  stream_reasoning: refuse("use 'include_reasoning': false", true),
  thinking_forced_open: refuse(THINKING, false),
  prompt_mode: refuse(THINKING),
  chat_template_args: refuse(use('chat_template_kwargs'), EMPTY),

  // Where an answer ends.
  stop_sequences: refuse(use('stop'), EMPTY),
  stop_regex: refuse(use('stop'), EMPTY),
  stop_words: refuse(use('stop'), EMPTY),
  stopSequences: refuse(use('stop'), EMPTY),
  custom_stopping_strings: refuse(use('stop'), EMPTY),
  ban_eos_token: refuse(use('ignore_eos'), false),
  stopping_strings: refuse(use('stop'), EMPTY),
  no_stop_trim: refuse(use('include_stop_str_in_output'), false),
  eos_token_id: refuse(use('stop_token_ids')),
  max_new_tokens: refuse(use('max_tokens')),
  max_output_tokens: refuse(use('max_tokens')),
  max_tokens_to_sample: refuse(use('max_tokens')),
  max_length: refuse(use('max_tokens')),
  n_predict: refuse(use('max_tokens'), -1),
  num_predict: refuse(use('max_tokens'), -1),
  maxTokens: refuse(use('max_tokens')),
  maxOutputTokens: refuse(use('max_tokens')),
  min_new_tokens: refuse(use('min_tokens'), 0),
  t_max_predict_ms: refuse('an answer is limited by tokens, not by time', 0),

  // Sampling.
  typical_p: refuse(SAMPLER, 1),
  typical: refuse(SAMPLER, 1),
  top_a: refuse(SAMPLER, 0),
  tfs_z: refuse(SAMPLER, 1),
  top_n_sigma: refuse(SAMPLER, -1, 0),
  mirostat: refuse(SAMPLER, 0, false),
  dry_multiplier: refuse(SAMPLER, 0),
  xtc_probability: refuse(SAMPLER, 0),
  dynatemp_range: refuse(SAMPLER, 0),
  min_keep: refuse(SAMPLER, 0),
  samplers: refuse('the samplers and their order are fixed', EMPTY),
  repeat_penalty: refuse(use('repetition_penalty'), 1),
  repeat_last_n: refuse('penalties count the whole text', -1),
  penalize_nl: refuse('penalties count every token', true),
  no_repeat_ngram_size: refuse(SAMPLER, 0),
  encoder_repetition_penalty: refuse(SAMPLER, 1),
  epsilon_cutoff: refuse(SAMPLER, 0),
  eta_cutoff: refuse(SAMPLER, 0),
  temperature_last: refuse('the samplers and their order are fixed', false),
  dynamic_temperature: refuse(SAMPLER, false),
  smoothing_factor: refuse(SAMPLER, 0),
  penalty_alpha: refuse(SAMPLER, 0),
  guidance_scale: refuse(SAMPLER, 1),
  rep_pen: refuse(use('repetition_penalty'), 1),
  random_seed: refuse(use('seed')),
  presencePenalty: refuse(use('presence_penalty'), 0),
  frequencyPenalty: refuse(use('frequency_penalty'), 0),
  topP: refuse(use('top_p')),
  p: refuse(use('top_p')),
  k: refuse(use('top_k'), 0),
  topK: refuse(use('top_k')),
  num_return_sequences: refuse(use('n'), 1),
  custom_token_bans: refuse(use('bad_words'), ''),
  repetition_detection: refuse('an answer ends by its own end, stop or max_tokens', EMPTY),
  do_sample: refuse("use 'temperature': 0 for greedy", true),
  watermark: refuse('this server marks nothing', false),
  bad_words_ids: refuse(use('bad_words'), EMPTY),
  use_beam_search: refuse('beam search is not available', false),
  num_beams: refuse('beam search is not available', 1),
  beam_width: refuse('beam search is not available', 1),
  length_penalty: refuse('beam search is not available', 0, 1),
  early_stopping: refuse('beam search is not available', false),
  logits_processors: refuse('only the samplers named here run', EMPTY),
  custom_logit_processor: refuse('only the samplers named here run', EMPTY),
  custom_params: refuse('only the samplers named here run', EMPTY),
  prediction: refuse('predicted outputs are not available'),
  suffix: refuse('these models do not fill in the middle', ''),

  // What is answered.
  return_full_text: refuse(use('echo'), false),
  return_hidden_states: refuse('hidden states are not shown', false),
  return_tokens_as_token_ids: refuse(use('return_token_ids'), false),
  return_tokens: refuse(use('return_token_ids'), false),
  return_logprob: refuse(use('logprobs'), false),
  top_logprobs_num: refuse(use('top_logprobs'), 0),
  logprobs_mode: refuse(ANSWERS),
  logprob_token_ids: refuse(ANSWERS, EMPTY),
  n_probs: refuse(use('logprobs'), 0),
  post_sampling_probs: refuse('log probabilities are of the raw logits', false),
  top_n_tokens: refuse(use('logprobs'), 0),
  decoder_input_details: refuse(use('prompt_logprobs'), false),
  details: refuse(use('logprobs'), false),
  detokenize: refuse("use 'return_token_ids'", true),

  // What the prompt is.
  audio: refuse(TEXT_ONLY),
  images: refuse(TEXT_ONLY, EMPTY),
  image_data: refuse(TEXT_ONLY, EMPTY),
  audio_data: refuse(TEXT_ONLY, EMPTY),
  video_data: refuse(TEXT_ONLY, EMPTY),
  multi_modal_data: refuse(TEXT_ONLY, EMPTY),
  mm_processor_kwargs: refuse(TEXT_ONLY, EMPTY),
  prompt_token_ids: refuse('it is for chats and completions', EMPTY),
  input_ids: refuse(use('prompt_token_ids'), EMPTY),
  prompt_embeds: refuse('a prompt is text or token ids', EMPTY),
  input_embeds: refuse('a prompt is text or token ids', EMPTY),
  chat_template: refuse("the server's configuration names the template"),
  documents: refuse(use('chat_template_kwargs.documents'), EMPTY),
  system: refuse("send it as a message of role 'system'", ''),
  systemInstruction: refuse("send it as a message of role 'system'", EMPTY),
  system_instruction: refuse("send it as a message of role 'system'", EMPTY),
  preamble: refuse("send it as a message of role 'system'", ''),
  message: refuse(use('messages'), ''),
  chat_history: refuse(use('messages'), EMPTY),
  contents: refuse(use('messages'), EMPTY),
  safe_prompt: refuse("send it as a message of role 'system'", false),
  response_prefix: refuse(use('continue_final_message'), ''),
  prefill: refuse(use('continue_final_message'), ''),
  inputs: refuse("use 'messages', or 'prompt' of /v1/completions", ''),
  input: refuse("use 'messages', or 'prompt' of /v1/completions", EMPTY),
  negative_prompt: refuse('there is no guidance', ''),
  raw: refuse('use /v1/completions', false),
  template: refuse("the server's configuration names the template", ''),
  n_keep: refuse(use('truncate_prompt_tokens'), 0),
  max_prompt_tokens: refuse(use('truncate_prompt_tokens')),
  instructions: refuse("send it as a message of role 'system'", ''),
  context: refuse('send the earlier messages', EMPTY),
  previous_response_id: refuse('nothing is kept between requests: send the earlier messages', ''),
  conversation: refuse('nothing is kept between requests: send the earlier messages', ''),
  truncate: refuse(use('truncate_prompt_tokens')),
  truncation: refuse(use('truncate_prompt_tokens'), 'disabled', false),
  echo: refuse('it is for /v1/completions', false),
  add_special_tokens: refuse('the template says where they stand', false),
  adapter_id: refuse('adapters are not available', ''),
  lora: refuse('adapters are not available', EMPTY),
  lora_path: refuse('adapters are not available', ''),
  lora_request: refuse('adapters are not available', EMPTY),
  session_params: refuse('nothing is kept between requests', EMPTY),

  // Wrappers, whose members would go unseen.
  nvext: refuse('send its members as fields of the request', EMPTY),
  vllm_xargs: refuse('send its members as fields of the request', EMPTY),
  extra_body: refuse('send its members as fields of the request', EMPTY),
  sampling_params: refuse('send its members as fields of the request', EMPTY),
  parameters: refuse('send its members as fields of the request', EMPTY),
  generation_config: refuse('send its members as fields of the request', EMPTY),
  generationConfig: refuse('send its members as fields of the request', EMPTY),
  guardrails: refuse('this server guards nothing', EMPTY),
  moderation: refuse('this server does not moderate', EMPTY, false),
  options: refuse('send its members as fields of the request', EMPTY),
}

/** Fields that would change the answer: null when this value asks for nothing we lack. */
const REFUSED: ReadonlyMap<string, Refusal> = new Map<string, Refusal>([
  ...Object.entries(BY_NAME).map(([name, make]): [string, Refusal] => [name, make(name)]),
  [
    'modalities',
    (value) =>
      Array.isArray(value) && value.every((one) => one === 'text')
        ? null
        : unsupportedValue('modalities', '\'modalities\' can only be ["text"].'),
  ],
  [
    'best_of',
    (value, body) =>
      value === (body.n ?? 1)
        ? null
        : unsupportedValue(
            'best_of',
            "'best_of' can only equal 'n' here; chat completions pick the best with 'reward'.",
          ),
  ],
  [
    'top_logprobs',
    (value) =>
      value === 0 ? null : refused('top_logprobs', "a completion's 'logprobs' is their number"),
  ],
])

const table = (more: Readonly<Record<string, (name: string) => Refusal>>) =>
  new Map([
    ...REFUSED,
    ...Object.entries(more).map(([name, make]): [string, Refusal] => [name, make(name)]),
  ])

const RAW_SCORES = "a score is the reward model's own number"

const REWARD_FORM =
  "/v1/reward takes 'messages' that end with the answer, 'messages' and 'responses', or 'inputs' of these"
/** As data sets have them, which `nemotron-server score` reads. */
const DATA_FIELDS = [
  ...['prompt', 'question', 'instruction', 'conversations', 'input', 'output', 'answer'],
  ...['response', 'completion', 'completions', 'chosen', 'rejected', 'system_prompt'],
]

/** Of routes that score, whose answers other servers change by these. */
export const UNSERVED_OF_SCORES: UnservedFields = {
  withoutEffect: WITHOUT_EFFECT,
  refused: table({
    ...Object.fromEntries(DATA_FIELDS.map((name) => [name, refuse(REWARD_FORM)])),
    include_thinking: refuse(
      "thinking is scored where it stands: in the answer as <think> to </think>, or as its turn's 'reasoning_content'",
    ),
    truncate_prompt_tokens: refuse('what is too long is refused, not cut'),
    max_tokens_per_doc: refuse('what is too long is refused, not cut'),
    max_chunks_per_doc: refuse('a document is scored whole', 1),
    rank_fields: refuse("a document is its 'text'", EMPTY),
    dimensions: refuse(RAW_SCORES),
    normalize: refuse(RAW_SCORES, false),
    activation: refuse(RAW_SCORES, false),
    use_activation: refuse(RAW_SCORES, false),
    softmax: refuse(RAW_SCORES, false),
    apply_softmax: refuse(RAW_SCORES, false),
    raw_scores: refuse(RAW_SCORES, true),
    add_special_tokens: refuse('give token ids where the text is not to begin with BOS', true),
    label_token_ids: refuse('it is for /generative_scoring', EMPTY),
    instruction: refuse('write it into the query', ''),
    stream: refuse('there is nothing to stream', false),
    n: refuse('there is one reward, the same each time', 1),
  }),
}

/** Of routes that read off how likely labels are. */
export const UNSERVED_OF_LABELS: UnservedFields = {
  withoutEffect: WITHOUT_EFFECT,
  refused: table({
    stream: refuse('there is nothing to stream', false),
    n: refuse('nothing is drawn: an answer is the same each time', 1),
    truncate_prompt_tokens: refuse('what is too long is refused, not cut'),
  }),
}

/** Of drafts that are edited, of which the best is one answer. */
export const UNSERVED_OF_REFINE: UnservedFields = {
  withoutEffect: WITHOUT_EFFECT,
  refused: table({
    stream: refuse('the best text is known when all are written', false),
    n: refuse("the best text is one; 'candidates' has them all", 1),
    max_completion_tokens: refuse("use 'max_tokens'"),
  }),
}

/** Of raw text. */
export const UNSERVED_OF_COMPLETIONS: UnservedFields = {
  withoutEffect: WITHOUT_EFFECT,
  refused: table({
    max_completion_tokens: refuse(use('max_tokens')),
    principle: refuse('it is for /v1/reward'),
  }),
}

export const UNSERVED: UnservedFields = {
  withoutEffect: WITHOUT_EFFECT,
  refused: REFUSED,
}

const ONE_CHAT = 'it is for /v1/chat/completions, one conversation a request'

/** Of many chats in one request. */
export const UNSERVED_OF_BATCH: UnservedFields = {
  withoutEffect: WITHOUT_EFFECT,
  refused: table({
    n: refuse(ONE_CHAT, 1),
    best_of: refuse(ONE_CHAT, 1),
    stream: refuse(ONE_CHAT, false),
    stream_options: refuse(ONE_CHAT, EMPTY),
    tools: refuse(ONE_CHAT, EMPTY),
    tool_choice: refuse(ONE_CHAT, 'none', 'auto'),
    reward: refuse(ONE_CHAT),
    principle: refuse(ONE_CHAT),
    prompt_token_ids: refuse("it is one chat's: /v1/completions takes several", EMPTY),
  }),
}

/** Of chats, and of no other dialect. */
const CHATS_OWN = [
  'n',
  'messages',
  'max_tokens',
  'max_completion_tokens',
  'min_p',
  'stop',
  'stop_token_ids',
  'include_stop_str_in_output',
  'skip_special_tokens',
  'allowed_token_ids',
  'bad_words',
  'seed',
  'logit_bias',
  'logprobs',
  'prompt_logprobs',
  'presence_penalty',
  'frequency_penalty',
  'repetition_penalty',
  'min_tokens',
  'ignore_eos',
  'return_token_ids',
  'prompt_token_ids',
  'truncate_prompt_tokens',
  'thinking_token_budget',
  'thinking_budget',
  'timings',
  'add_generation_prompt',
  'continue_final_message',
  'chat_template_kwargs',
  'reasoning_effort',
  'keep_thinking',
  'reasoning_format',
  'include_reasoning',
  'reward',
  'principle',
]

type Dialect = {
  /** Its path. */
  readonly path: string
  readonly withoutEffect: readonly string[]
  /** What is refused, and why, or what to use. */
  readonly refused: Readonly<Record<string, string>>
}

/** Of a dialect that is not OpenAI's chat: what asks for something is refused by its name. */
export const unservedBeside = ({ path, withoutEffect, refused: own }: Dialect): UnservedFields => {
  const table = new Map<string, Refusal>()
  const not = (name: string, why = `it is no field of ${path}; see /v1/chat/completions`) =>
    refused(name, why)
  for (const [name, refusal] of REFUSED)
    table.set(name, (value, body) => refusal(value, body) && not(name))
  for (const name of CHATS_OWN) table.set(name, () => not(name))
  for (const [name, why] of Object.entries(own))
    table.set(name, (value) => (value === false || isEmpty(value) ? null : not(name, why)))
  return { withoutEffect: new Set(withoutEffect), refused: table }
}
