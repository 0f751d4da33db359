// The calls that an answer may have, as grammar text: names of tools that may be called, arguments by their
// schemas. What it admits, call-parser.ts reads.

import {
  createGrammarText,
  either,
  type GrammarText,
  literal,
  times,
} from '../../grammar/grammar-text.js'
import { addSchema } from '../../grammar/json-schema.js'
import { createJsonText, type JsonText } from '../../grammar/json-text.js'
import type { Tool } from '../../prompt/conversation.js'
import type { ToolUse } from './tool-use.js'

type ToolGrammar = {
  readonly text: string
  /** The answer is free until this was written; undefined: all of it is the grammar's. */
  readonly after: string | undefined
}

/** As many as a message may have. */
const MAX_CALLS = 128

const argumentsOf = (
  text: GrammarText,
  json: JsonText,
  { function: { name, parameters, strict } }: Tool,
  { at, isRequired }: { readonly at: number; readonly isRequired: boolean },
): string => {
  if (parameters == null) return literal('{}')
  if (strict !== true && !isRequired) return json.anyObject()
  const param = `tools.${at}.function.parameters`
  // What says nothing of its type is an object all the same.
  const schema = { type: 'object', ...parameters }
  return addSchema(text, json, schema, { hint: name, param, what: `'${param}'` })
}

const anyCall = (text: GrammarText, use: ToolUse): string => {
  const json = createJsonText(text)
  const { argumentsKey } = use.format
  const calls = use.callable.flatMap((at) => {
    const tool = use.shown[at]
    if (tool === undefined) return []
    const head = `{"name": ${JSON.stringify(tool.function.name)}, "${argumentsKey}": `
    const args = argumentsOf(text, json, tool, { at, isRequired: use.isRequired })
    return [`${literal(head)} ${args} "}"`]
  })
  return text.rule('call', either(calls))
}

export const toolGrammar = (use: ToolUse): ToolGrammar => {
  const text = createGrammarText('tools')
  const call = anyCall(text, use)
  const { open, close } = use.format
  if (open === '') {
    // One call is the whole answer, and an answer that is none does not begin as one.
    const free = '[ \\t\\r\\n]{0,32} ([^{ \\t\\r\\n] .*)?'
    return { text: text.text(use.isRequired ? call : `${call} | ${free}`), after: undefined }
  }
  const more = use.isSingle ? '' : ` ("," " "? ${call})${times(0, MAX_CALLS - 1)}`
  const calls = `${call}${more} ${literal(`]${close}`)}`
  return use.isRequired
    ? { text: text.text(`${literal(`${open}[`)} ${calls}`), after: undefined }
    : { text: text.text(calls), after: `${open}[` }
}
