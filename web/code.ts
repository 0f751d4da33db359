// A request as a program would make it.

const KEY = 'NEMOTRON_API_KEY'
const SET_KEY = `export ${KEY}=... (a key of this server)`

/** The header, as a shell writes it: one that has no key says what to do. server/commands/serve.ts says it alike. */
export const KEY_HEADER = `-H "authorization: Bearer \${${KEY}:?set it first: ${SET_KEY}}"`

const shellQuoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

const indent = (text: string, by: string): string => text.replaceAll('\n', `\n${by}`)

/** JSON as Python writes it. */
const python = (value: unknown, by: string): string => {
  if (value === null) return 'None'
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  if (Array.isArray(value)) {
    const items = value.map((one) => `${by}    ${python(one, `${by}    `)},\n`)
    return items.length === 0 ? '[]' : `[\n${items.join('')}${by}]`
  }
  if (typeof value === 'object') {
    const items = Object.entries(value).map(
      ([key, one]) => `${by}    ${JSON.stringify(key)}: ${python(one, `${by}    `)},\n`,
    )
    return items.length === 0 ? '{}' : `{\n${items.join('')}${by}}`
  }
  return JSON.stringify(value)
}

/** What OpenAI's Python client has arguments for; the rest goes into extra_body. */
const KNOWN = new Set(
  `model messages temperature top_p max_completion_tokens seed stop n logprobs top_logprobs tools
  tool_choice response_format stream stream_options`.split(/\s+/),
)

const asPython = (body: Record<string, unknown>, base: string, hasKey: boolean): string => {
  const entries = Object.entries(body)
  const known = entries.filter(([key]) => KNOWN.has(key))
  const extra = Object.fromEntries(entries.filter(([key]) => !KNOWN.has(key)))
  const named = [...known, ...(Object.keys(extra).length > 0 ? [['extra_body', extra]] : [])]
  const key = hasKey ? `os.environ["${KEY}"]` : '"none"'
  return `${hasKey ? `# First: ${SET_KEY}\nimport os\n` : ''}from openai import OpenAI

client = OpenAI(base_url="${base}/v1", api_key=${key})
stream = client.chat.completions.create(
${named.map(([name, value]) => `    ${name}=${python(value, '    ')},`).join('\n')}
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="")
`
}

const asJs = (body: Record<string, unknown>, base: string, hasKey: boolean): string =>
  `${hasKey ? `// First: ${SET_KEY}\n` : ''}import OpenAI from 'openai'

const client = new OpenAI({
  baseURL: '${base}/v1',
  apiKey: ${hasKey ? `process.env.${KEY}` : "'none'"},
})
const stream = await client.chat.completions.create(${JSON.stringify(body, null, 2)})
for await (const chunk of stream)
  for (const choice of chunk.choices) process.stdout.write(choice.delta.content ?? '')
`

const asCurl = (body: Record<string, unknown>, base: string, hasKey: boolean): string =>
  `curl -N ${base}/v1/chat/completions \\
  -H 'content-type: application/json' \\${hasKey ? `\n  ${KEY_HEADER} \\` : ''}
  -d ${shellQuoted(indent(JSON.stringify(body, null, 2), '  '))}
`

export const LANGUAGES = { curl: asCurl, JavaScript: asJs, Python: asPython } as const
export type Language = keyof typeof LANGUAGES
