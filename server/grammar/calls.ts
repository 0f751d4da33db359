// The calls of tools that an answer may have, as grammar text: names of tools that may be called, arguments by
// their schemas. server/chat/tools/ reads what it admits.

import { createGrammarText, either, type GrammarText, literal, times } from './grammar-text.js'
import { addSchema } from './json-schema.js'
import { createJsonText, type JsonText } from './json-text.js'

export type CallForm = {
  readonly kind: 'calls'
  /** Stands before and behind the list of an answer's calls; '': the answer is one call and nothing else. */
  readonly open: string
  readonly close: string
  readonly argumentsKey: string
  readonly tools: readonly {
    readonly name: string
    /** Of its arguments, an object; null: it has none; undefined: any object. */
    readonly schema: Readonly<Record<string, unknown>> | null | undefined
    /** Where the schema stands in the request. */
    readonly param: string
  }[]
  /** An answer has one call at most. */
  readonly isSingle: boolean
  /**
   * all: the answer is calls. behind: the grammar is what follows `open` and `[`. either: the answer is calls
   * or something else.
   */
  readonly where: 'all' | 'behind' | 'either'
}

/** As many as a message may have. */
const MAX_CALLS = 128

const argumentsOf = (
  text: GrammarText,
  json: JsonText,
  { name, schema, param }: CallForm['tools'][number],
): string => {
  if (schema === null) return literal('{}')
  if (schema === undefined) return json.anyObject()
  // What says nothing of its type is an object all the same.
  return addSchema(
    text,
    json,
    { type: 'object', ...schema },
    { hint: name, param, what: `'${param}'` },
  )
}

/** `other`: for an answer that is no call where the form has one; undefined: what does not begin as one. */
export const callGrammar = (
  form: CallForm,
  other?: (text: GrammarText, json: JsonText) => string,
): string => {
  const { open, close, argumentsKey, tools, isSingle, where } = form
  const text = createGrammarText('tools')
  const json = createJsonText(text)
  const call = text.rule(
    'call',
    either(
      tools.map((tool) => {
        const head = `{"name": ${JSON.stringify(tool.name)}, "${argumentsKey}": `
        return `${literal(head)} ${argumentsOf(text, json, tool)} "}"`
      }),
    ),
  )
  // What goes on behind the list's bracket. Without an opening text one call is the whole answer.
  const more = isSingle ? '' : ` ("," " "? ${call})${times(0, MAX_CALLS - 1)}`
  const rest = open === '' ? call : `${call}${more} ${literal(`]${close}`)}`
  if (where === 'behind') return text.text(rest)
  const whole = open === '' ? call : `${literal(`${open}[`)} ${rest}`
  if (where === 'all') return text.text(whole)
  return text.text(`${whole} | ${other?.(text, json) ?? '[ \\t\\r\\n]{0,32} ([^{ \\t\\r\\n] .*)?'}`)
}
