// What the Responses API calls a chat's fields, and which of its own are not served.

import type { UnservedFields } from '../../check.js'
import type { FieldNames } from '../field-names.js'
import { unservedBeside } from '../unserved-fields.js'
import { isLeftOut, type ResponsesRequest } from './schema.js'

export const NAMES: FieldNames = [
  [/^messages(\..*)?$/, 'input'],
  [/^max(_completion)?_tokens$/, 'max_output_tokens'],
  [/^tools\.(\d+)\.function\.(.*)$/, 'tools.$1.$2'],
  [/^tools\.(\d+)\.function$/, 'tools.$1'],
  [/^tool_choice\.function\.name$/, 'tool_choice.name'],
  [/^tool_choice\.allowed_tools\.tools\.(\d+)\.function\.name$/, 'tool_choice.tools.$1.name'],
  [/^response_format\.json_schema\.schema/, 'text.format.schema'],
  [/^response_format.*$/, 'text.format'],
  [/^reasoning_effort$/, 'reasoning.effort'],
]

const NOT_KEPT = "nothing is kept between requests: send the earlier items in 'input'"

/** Tools that are left out, by their type. */
const leftOut: UnservedFields['leftOut'] = (body) => {
  const { tools = [] } = body as Partial<ResponsesRequest>
  return [...new Set(tools.filter(isLeftOut).map(({ type }) => `tools.${type}`))]
}

export const UNSERVED: UnservedFields = {
  leftOut,
  ...unservedBeside({
    path: '/v1/responses',
    withoutEffect: [
      'user',
      'safety_identifier',
      'service_tier',
      'prompt_cache_key',
      'prompt_cache_options',
      'prompt_cache_retention',
      'stream_options',
      'max_tool_calls',
      'access_programs',
      'background_options',
      'client_metadata',
    ],
    refused: {
      messages: "use 'input'",
      max_tokens: "use 'max_output_tokens'",
      max_completion_tokens: "use 'max_output_tokens'",
      response_format: "use 'text.format'",
      reasoning_effort: "use 'reasoning.effort'",
      previous_response_id: NOT_KEPT,
      conversation: NOT_KEPT,
      context_management: NOT_KEPT,
      prompt: 'there are no stored prompts: send its text',
      background: 'nothing runs on without its client',
      moderation: 'this server does not moderate',
      image: 'this server takes and makes text only',
    },
  }),
}
