// What holds the answer of a chat to a form: the one that is asked for, calls of tools, or both.

import type { GenerateRequest } from '../engine/types.js'
import type { AnswerForm } from '../grammar/answer-grammar.js'
import type { ServedModel } from '../model/served-model.js'
import { badRequest } from '../request-error.js'
import { type AskedForm, type ClashFields, refuseClashes } from './answer-form.js'
import { toolGrammar } from './tools/grammar.js'
import { needsGrammar, type ToolUse } from './tools/tool-use.js'

export type Constraint = {
  readonly grammar: NonNullable<GenerateRequest['grammar']>
  readonly grammarAfter?: readonly string[]
  /** What begins as a call is one. */
  readonly hasSureCalls: boolean
  /** There is no text for stop strings to end. */
  readonly isOnlyCalls: boolean
}

type TextForm = Exclude<AnswerForm, { readonly kind: 'calls' }>

const textForm = ({ asked, param }: AskedForm): { form: TextForm; param: string } => {
  if (asked.kind === 'grammar' || asked.kind === 'calls')
    throw badRequest(
      `'${param}' cannot be combined with tools that may be called or not: set 'tool_choice' to "none" or "required", or use a schema.`,
      param,
    )
  return { form: asked, param }
}

/** Undefined: the answer is free. */
export const planConstraint = async (
  { compileForm }: ServedModel,
  call: ClashFields,
  toolUse: ToolUse | undefined,
  form: AskedForm | undefined,
): Promise<Constraint | undefined> => {
  if (form === undefined && (toolUse === undefined || !needsGrammar(toolUse))) return undefined
  refuseClashes(call, form?.param ?? 'tools')
  if (toolUse === undefined)
    return (
      form && {
        grammar: await compileForm(form.asked, form.param),
        hasSureCalls: false,
        isOnlyCalls: false,
      }
    )
  // An answer that is a call has no other form; what is asked of one is checked all the same.
  if (form !== undefined) await compileForm(form.asked, form.param)
  const other = form && !toolUse.isRequired ? textForm(form) : undefined
  const { form: calls, after } = toolGrammar(toolUse, other)
  return {
    grammar: await compileForm(calls, 'tools'),
    ...(after !== undefined && { grammarAfter: [after] }),
    // Where calls have no opening text, an answer of another form may begin as one.
    hasSureCalls: other === undefined || toolUse.format.open !== '',
    isOnlyCalls: toolUse.isRequired,
  }
}
