// Templates for checkpoints that carry none. Ours, in the output forms that the families expect.

const SPLIT_SYSTEM = `{{- bos_token }}
{%- if messages[0].role == 'system' %}
  {%- set system = messages[0].content | trim %}
  {%- set rest = messages[1:] %}
{%- else %}
  {%- set system = '' %}
  {%- set rest = messages %}
{%- endif %}`

const ASK = `{%- if add_generation_prompt %}
  {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}`

const turn = (role: string, content: string): string =>
  `{{- '<|start_header_id|>' + ${role} + '<|end_header_id|>\\n\\n' + ${content} + '<|eot_id|>' }}`

const CALLS = `{%- set calls = namespace(text='') %}
    {%- for call in message.tool_calls %}
      {%- set calls.text = calls.text + ('' if loop.first else ', ') + '{"name": ' + (call.function.name | tojson) + ', "arguments": ' + (call.function.arguments | tojson) + '}' %}
    {%- endfor %}`

/** Calls after what was said, as <TOOLCALL>; results that follow one another are one user turn. */
const TURNS = `{%- for message in rest %}
  {%- set content = message.content %}
  {%- if message.role == 'tool' %}
    {{- '' if loop.previtem and loop.previtem.role == 'tool' else '<|start_header_id|>user<|end_header_id|>\\n\\n<TOOL_RESPONSE>[' }}
    {{- content | trim }}
    {{- ', ' if loop.nextitem and loop.nextitem.role == 'tool' else ']</TOOL_RESPONSE><|eot_id|>' }}
  {%- elif message.role == 'assistant' and message.tool_calls %}
    ${CALLS}
    ${turn("'assistant'", "(content | trim) + '<TOOLCALL>[' + calls.text + ']</TOOLCALL>'")}
  {%- else %}
    ${turn('message.role', '(content | trim)')}
  {%- endif %}
{%- endfor %}`

/** Always a system block; earlier thinking is dropped. */
const NEMOTRON_SUPER = `${SPLIT_SYSTEM}
${turn("'system'", 'system')}
${TURNS.replace(
  '{%- set content = message.content %}',
  `{%- set content = message.content %}
  {%- if message.role == 'assistant' and '</think>' in content %}
    {%- set content = content.split('</think>')[-1].lstrip() %}
  {%- endif %}`,
)}
${ASK}`

/** Tools in the system block. */
const NEMOTRON_NANO = `${SPLIT_SYSTEM}
{%- if tools %}
  {%- set listed = namespace(text='') %}
  {%- for tool in tools %}
    {%- set shown = tool.function if tool.function else tool %}
    {%- set listed.text = listed.text + ('' if loop.first else ', ') + (shown | tojson) %}
  {%- endfor %}
  {%- set system = system + ('\\n\\n' if system else '') + '<AVAILABLE_TOOLS>[' + listed.text + ']</AVAILABLE_TOOLS>' %}
{%- endif %}
${turn("'system'", 'system')}
${TURNS}
${ASK}`

/** Stock Llama-3.1 without its date lines. */
const NEMOTRON_70B = `${SPLIT_SYSTEM}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools %}
  {{- 'Environment: ipython\\n' }}
{%- endif %}
{{- system + '<|eot_id|>' }}
{%- for message in rest %}
  {%- if tools and loop.first %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' }}
    {{- 'Given the following functions, please respond with a JSON for a function call with its proper arguments that best answers the given prompt.\\n\\n' }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.Do not use variables.\\n\\n' }}
    {%- for tool in tools %}
      {{- tool | tojson(indent=4) + '\\n\\n' }}
    {%- endfor %}
    {{- (message.content | trim) + '<|eot_id|>' }}
  {%- elif message.role == 'assistant' and message.tool_calls %}
    {%- if (message.tool_calls | length) != 1 %}
      {{- raise_exception('This model supports one tool call at a time.') }}
    {%- endif %}
    {%- set call = message.tool_calls[0].function %}
    ${turn("'assistant'", `(message.content | trim) + '{"name": ' + (call.name | tojson) + ', "parameters": ' + (call.arguments | tojson) + '}'`)}
  {%- elif message.role == 'tool' %}
    ${turn("'ipython'", '(message.content | tojson)')}
  {%- else %}
    ${turn('message.role', '(message.content | trim)')}
  {%- endif %}
{%- endfor %}
${ASK}`

/** Nemotron-4, as it was aligned: text after `<extra_id_1>` says whose turn it is. */
const NEMOTRON_4_TURNS = `{%- if messages[0].role == 'system' %}
  {%- set system = messages[0].content | trim %}
  {%- set rest = messages[1:] %}
{%- else %}
  {%- set system = '' %}
  {%- set rest = messages %}
{%- endif %}
{{- '<extra_id_0>System\\n' + system + '\\n' }}
{%- for message in rest %}
  {%- if message.role == 'user' %}
    {{- '<extra_id_1>User\\n' + (message.content | trim) + '\\n' }}
  {%- elif message.role == 'assistant' and not message.tool_calls %}
    {{- '<extra_id_1>Assistant\\n' + (message.content | trim) + '\\n' }}
  {%- else %}
    {{- raise_exception('after the system message this model knows messages of the user and the assistant, without calls of tools; messages[' ~ (loop.index0 + (messages | length) - (rest | length)) ~ '] is of role ' ~ message.role) }}
  {%- endif %}
{%- endfor %}`

const NEMOTRON_4 = `${NEMOTRON_4_TURNS}
{%- if add_generation_prompt %}
  {{- '<extra_id_1>Assistant\\n' }}
{%- endif %}`

/** Its labels come after `<extra_id_2>`, and its scores are read there. */
const NEMOTRON_4_REWARD = `${NEMOTRON_4_TURNS}
{{- '<extra_id_2>' }}`

export const BUILT_IN = {
  nemotron_nano: NEMOTRON_NANO,
  nemotron_super: NEMOTRON_SUPER,
  nemotron_70b: NEMOTRON_70B,
  nemotron_4: NEMOTRON_4,
  nemotron_4_reward: NEMOTRON_4_REWARD,
} as const
export type BuiltIn = keyof typeof BUILT_IN

/** The control token that a model must have to speak by a template. */
const needed = (name: BuiltIn): string =>
  name === 'nemotron_4' || name === 'nemotron_4_reward' ? '<extra_id_1>' : '<|start_header_id|>'

/** The template `wanted`, or without a wish the one of a model's tokens; undefined: none of ours fits them. */
export const fittingTemplate = (
  wanted: BuiltIn | undefined,
  hasToken: (name: string) => boolean,
): BuiltIn | undefined => {
  const offered = wanted === undefined ? (['nemotron_70b', 'nemotron_4'] as const) : [wanted]
  return offered.find((name) => hasToken(needed(name)))
}
