// What Anthropic calls a chat's fields, and which of its own are not served.

import type { UnservedFields } from '../../check.js'
import type { FieldNames } from '../field-names.js'
import { unservedBeside } from '../unserved-fields.js'

export const NAMES: FieldNames = [
  [/^messages\..*$/, 'messages'],
  [/^continue_final_message$/, 'messages'],
  [/^tools\.(\d+)\.function\.name$/, 'tools.$1.name'],
  [/^tools\.(\d+)\.function\.parameters/, 'tools.$1.input_schema'],
  [/^tools\.(\d+)\.function/, 'tools.$1'],
  [/^tool_choice\.function\.name$/, 'tool_choice.name'],
  [/^parallel_tool_calls$/, 'tool_choice.disable_parallel_tool_use'],
  [/^response_format\.json_schema\.schema/, 'output_config.format.schema'],
  [/^response_format.*$/, 'output_config.format'],
  [/^thinking(_token)?_budget$/, 'thinking.budget_tokens'],
  [/^reasoning_effort$/, 'thinking'],
  [/^stop\b/, 'stop_sequences'],
]

const NO_SERVICE = 'nothing is kept or run on this server beside the answer'

export const UNSERVED: UnservedFields = unservedBeside({
  path: '/v1/messages',
  withoutEffect: [
    'betas',
    'billing_policy',
    'cache_control',
    'diagnostics',
    'fallback_credit_token',
    'inference_geo',
    'service_tier',
    'speed',
    'user_profile_id',
    'workspace_id',
    'max_tokens',
    'stream',
    'stop_sequences',
    'temperature',
    'top_p',
    'top_k',
    'metadata',
  ],
  refused: {
    stop: "use 'stop_sequences'",
    max_completion_tokens: "use 'max_tokens'",
    max_tokens_to_sample: "use 'max_tokens'",
    prompt: "use 'messages'",
    reasoning_effort: "use 'thinking'",
    thinking_token_budget: "use 'thinking.budget_tokens'",
    response_format: "use 'output_config.format'",
    output_format: "use 'output_config.format'",
    container: NO_SERVICE,
    compaction: NO_SERVICE,
    mcp_servers: NO_SERVICE,
    fallbacks: NO_SERVICE,
    thread: 'nothing is kept between requests: send the whole conversation',
  },
})
