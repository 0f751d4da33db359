// How models write calls of tools. A checkpoint's chat template says which of these its model has learned.

import { knowsTools } from '../../prompt/template.js'

/** The text of a call is `{"name": ..., "<key>": {...}}` in each of them. */
export type ToolFormat = {
  /** Stands before and behind the list of an answer's calls; '': the answer is one call and nothing else. */
  readonly open: string
  readonly close: string
  readonly argumentsKey: 'arguments' | 'parameters'
}

/** Nemotron Nano, Super v1.5 and our own reasoner. */
const TOOLCALL: ToolFormat = {
  open: '<TOOLCALL>',
  close: '</TOOLCALL>',
  argumentsKey: 'arguments',
}

/** Llama 3.1 and with it Nemotron 70B. */
const LLAMA_JSON: ToolFormat = { open: '', close: '', argumentsKey: 'parameters' }

/** Undefined: the template shows no tools, or asks for calls in a form that is not known here. */
export const toolFormatOf = (template: string): ToolFormat | undefined => {
  if (!knowsTools(template)) return undefined
  if (template.includes(TOOLCALL.open)) return TOOLCALL
  return /"parameters": /.test(template) ? LLAMA_JSON : undefined
}

/** Calls as the model would have written them. */
export const writeCalls = (
  { open, close, argumentsKey }: ToolFormat,
  calls: readonly { readonly name: string; readonly arguments: string }[],
): string => {
  if (calls.length === 0) return ''
  const written = calls.map(
    (call) => `{"name": ${JSON.stringify(call.name)}, "${argumentsKey}": ${call.arguments}}`,
  )
  return open === '' ? written.join('; ') : `${open}[${written.join(', ')}]${close}`
}
