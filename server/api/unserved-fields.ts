// Fields that no schema honours: accepted without effect, refused by name, or unknown.

import type { UnservedFields } from '../check.js'
import { type RequestError, unsupportedParameter, unsupportedValue } from '../request-error.js'

/** Known to OpenAI's clients, of no effect here. */
const WITHOUT_EFFECT: ReadonlySet<string> = new Set([
  'user',
  'metadata',
  'store',
  'service_tier',
  'prompt_cache_key',
  'prompt_cache_retention',
  'safety_identifier',
  'verbosity',
  'parallel_tool_calls',
])

const isEmpty = (value: unknown): boolean =>
  (Array.isArray(value) && value.length === 0) ||
  (typeof value === 'object' && value !== null && Object.keys(value).length === 0)

type Refusal = (value: unknown, body: Readonly<Record<string, unknown>>) => RequestError | null

const never =
  (param: string, why: string): Refusal =>
  () =>
    unsupportedParameter(param, `'${param}' is not supported: ${why}.`)

const unlessEmpty =
  (param: string, why: string): Refusal =>
  (value) =>
    isEmpty(value) ? null : unsupportedParameter(param, `'${param}' is not supported: ${why}.`)

/** Fields that would change the answer: null when this value asks for nothing we lack. */
const REFUSED: ReadonlyMap<string, Refusal> = new Map<string, Refusal>([
  ['audio', never('audio', 'this server makes text only')],
  [
    'modalities',
    (value) =>
      Array.isArray(value) && value.every((one) => one === 'text')
        ? null
        : unsupportedValue('modalities', '\'modalities\' can only be ["text"].'),
  ],
  ['functions', unlessEmpty('functions', 'it was replaced by tools')],
  ['function_call', never('function_call', 'it was replaced by tool_choice')],
  ['web_search_options', never('web_search_options', 'this server does not search the web')],
  ['prediction', never('prediction', 'predicted outputs are not available')],
  ['suffix', never('suffix', 'these models do not fill in the middle')],
  ['tools', unlessEmpty('tools', 'tool calling is not available yet')],
  [
    'tool_choice',
    (value) =>
      value === 'none' || value === 'auto'
        ? null
        : unsupportedParameter('tool_choice', 'Tool calling is not available yet.'),
  ],
  [
    'response_format',
    (value) =>
      typeof value === 'object' && value !== null && 'type' in value && value.type === 'text'
        ? null
        : unsupportedValue(
            'response_format',
            '\'response_format\' can only be {"type": "text"} for now.',
          ),
  ],
  ['chat_template', never('chat_template', "the server's configuration names the template")],
  ['structured_outputs', never('structured_outputs', 'it is not available yet')],
  ['guided_json', never('guided_json', 'structured output is not available yet')],
  ['guided_regex', never('guided_regex', 'structured output is not available yet')],
  ['guided_choice', never('guided_choice', 'structured output is not available yet')],
  ['guided_grammar', never('guided_grammar', 'structured output is not available yet')],
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
    'use_beam_search',
    (value) =>
      value === false
        ? null
        : unsupportedParameter('use_beam_search', 'Beam search is not available.'),
  ],
])

export const UNSERVED: UnservedFields = { withoutEffect: WITHOUT_EFFECT, refused: REFUSED }
