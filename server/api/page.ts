// The reference page: one file, everything inline, nothing loaded but /openapi.json.

import { createHash } from 'node:crypto'

const STYLE = `
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: 13px }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8885; border-radius: 4px }
h2 { font-size: 1rem; margin-top: 2rem; border-top: 1px solid #8885; padding-top: 1rem }
table { border-collapse: collapse; width: 100% }
td { padding: .15rem .75rem .15rem 0; vertical-align: top; border-bottom: 1px solid #8883 }
`

const SCRIPT = `
const element = (name, text, parent) => {
  const node = document.createElement(name)
  if (text) node.textContent = text
  parent.append(node)
  return node
}
const typeOf = (schema) =>
  schema.const !== undefined ? JSON.stringify(schema.const)
  : schema.enum ? schema.enum.map((one) => JSON.stringify(one)).join(' | ')
  : (schema.anyOf || schema.oneOf) ? (schema.anyOf || schema.oneOf).map(typeOf).join(' | ')
  : schema.type === 'array' ? 'list of ' + typeOf(schema.items || {})
  : schema.type || 'any'
const show = (spec) => {
  const main = document.querySelector('main')
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      element('h2', method.toUpperCase() + ' ' + path, main)
      element('p', operation.summary, main)
      const body = operation.requestBody
      if (!body) continue
      const name = body.content['application/json'].schema.$ref.split('/').pop()
      const schema = spec.components.schemas[name]
      const table = element('table', '', main)
      for (const [key, field] of Object.entries(schema.properties || {})) {
        const row = element('tr', '', table)
        const cell = element('td', '', row)
        element('code', key + ((schema.required || []).includes(key) ? ' *' : ''), cell)
        element('code', typeOf(field), element('td', '', row))
        element('td', field.description || '', row)
      }
    }
  }
}
const example = document.querySelector('pre')
example.textContent = example.textContent.replace('http://localhost:8000', location.origin)
fetch('/openapi.json').then((answer) => answer.json()).then(show)
`

const hash = (text: string): string =>
  `'sha256-${createHash('sha256').update(text).digest('base64')}'`

export const PAGE_POLICY = [
  "default-src 'none'",
  `script-src ${hash(SCRIPT)}`,
  `style-src ${hash(STYLE)}`,
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

const escapeHtml = (text: string): string =>
  text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`)

/** The example asks `model`; `needsKey`: and sends a key. */
export const page = (model: string, needsKey: boolean): string => `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>nemotron-server</title><link rel="icon" href="data:,"><style>${STYLE}</style></head>
<body>
<h1>nemotron-server</h1>
<p>OpenAI-compatible. Point any OpenAI client at <code>/v1</code> of this host. The full description is
<a href="/openapi.json">openapi.json</a>.</p>
<pre>curl http://localhost:8000/v1/chat/completions -H 'content-type: application/json' \\${needsKey ? `\n  -H "authorization: Bearer $NEMOTRON_API_KEY" \\` : ''}
  -d '{"model": "${escapeHtml(model)}", "messages": [{"role": "user", "content": "Hello"}]}'</pre>
<main></main>
<script>${SCRIPT}</script>
</body>
</html>
`
