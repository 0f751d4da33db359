// /openapi.json as a page.

import { useEffect, useState } from 'preact/hooks'
import { call, messageOf } from './api.js'
import { KEY_HEADER } from './code.js'
import { Copy, Page, Problem } from './parts.js'

type Schema = {
  readonly $ref?: string
  readonly type?: string
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly anyOf?: readonly Schema[]
  readonly oneOf?: readonly Schema[]
  readonly items?: Schema
  readonly properties?: Readonly<Record<string, Schema>>
  readonly required?: readonly string[]
  readonly description?: string
}
type Operation = {
  readonly summary: string
  readonly requestBody?: {
    /** By media type: JSON, or the form of a file. */
    readonly content: Readonly<Record<string, { readonly schema: Schema }>>
  }
}
type Spec = {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> }
}

const typeOf = (schema: Schema): string => {
  if (schema.const !== undefined) return JSON.stringify(schema.const)
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(' | ')
  const one = schema.anyOf ?? schema.oneOf
  if (one) return [...new Set(one.map(typeOf))].join(' | ')
  if (schema.type === 'array') return `list of ${typeOf(schema.items ?? {})}`
  return schema.type ?? 'any'
}

const Fields = ({ schema }: { schema: Schema }) => (
  <div class="wide">
    <table class="fields">
      <tbody>
        {Object.entries(schema.properties ?? {}).map(([name, field]) => (
          <tr key={name}>
            <th scope="row">
              <code>{name}</code>
              {schema.required?.includes(name) && <small> required</small>}
            </th>
            <td>
              <code>{typeOf(field)}</code>
              {field.description && <p>{field.description}</p>}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  </div>
)

export const ReferenceView = ({ model, hasKey }: { model: string; hasKey: boolean }) => {
  const [spec, setSpec] = useState<Spec>()
  const [problem, setProblem] = useState('')
  useEffect(() => {
    call('/openapi.json')
      .then((response) => response.json())
      .then(setSpec, (error: unknown) => setProblem(messageOf(error)))
  }, [])
  const example = [
    `curl ${location.origin}/v1/chat/completions -H 'content-type: application/json' \\`,
    ...(hasKey ? [`  ${KEY_HEADER} \\`] : []),
    `  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`,
  ].join('\n')
  return (
    <Page>
      <h1>API</h1>
      <p>
        Point any OpenAI client at <code>{location.origin}/v1</code>. The whole description is{' '}
        <a href="/openapi.json">openapi.json</a>.
      </p>
      <figure class="code">
        <figcaption>
          <span>curl</span>
          <Copy text={() => example} />
        </figcaption>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls can be scrolled by keys */}
        <pre tabIndex={0}>
          <code>{example}</code>
        </pre>
      </figure>
      {problem && <Problem>{problem}</Problem>}
      {Object.entries(spec?.paths ?? {}).flatMap(([path, methods]) =>
        Object.entries(methods).map(([method, operation]) => {
          const [body] = Object.values(operation.requestBody?.content ?? {})
          const name = body?.schema.$ref?.split('/').pop()
          const schema = name === undefined ? body?.schema : spec?.components.schemas[name]
          return (
            <section class="route" key={`${method} ${path}`}>
              <h2>
                <span class="tag">{method.toUpperCase()}</span> <code>{path}</code>
              </h2>
              <p>{operation.summary}</p>
              {schema && (
                <details>
                  <summary>Fields</summary>
                  <Fields schema={schema} />
                </details>
              )}
            </section>
          )
        }),
      )}
    </Page>
  )
}
