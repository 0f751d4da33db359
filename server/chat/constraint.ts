// What holds the answer of a chat to a form: the one that is asked for, calls of tools, or both.

import type { GenerateRequest } from '../engine/types.js'
import type { AnswerForm } from '../grammar/answer-grammar.js'
import type { CompileForm } from '../model/grammars.js'
import type { ServedModel } from '../model/served-model.js'
import { badRequest, RequestError } from '../request-error.js'
import { type AskedForm, type ClashFields, refuseClashes } from './answer-form.js'
import { schemaParam, toolGrammar } from './tools/grammar.js'
import { needsGrammar, type ToolUse } from './tools/tool-use.js'

export type Constraint = {
  readonly grammar: NonNullable<GenerateRequest['grammar']>
  readonly grammarAfter?: readonly string[]
  /** What begins as a call is one. */
  readonly hasSureCalls: boolean
  /** There is no text for stop strings to end. */
  readonly isOnlyCalls: boolean
  /** Schemas that it does without, by their fields. */
  readonly ignored?: readonly string[]
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

/** Tools whose schemas cannot be served, by their place; those that are `strict` have to be. */
const unserved = async (
  compileForm: CompileForm,
  { shown, callable }: ToolUse,
): Promise<readonly number[]> => {
  const found: number[] = []
  for (const at of callable) {
    const { parameters, strict } = shown[at]?.function ?? {}
    if (parameters == null || strict === true) continue
    const schema = { type: 'object', ...parameters }
    try {
      await compileForm({ kind: 'schema', schema }, schemaParam(at))
    } catch (error) {
      if (!(error instanceof RequestError) || error.kind !== 'invalid') throw error
      found.push(at)
    }
  }
  return found
}

/** The grammar of calls, which a schema that nobody insists on does not keep from being served. */
const compileCalls = async (
  compileForm: CompileForm,
  toolUse: ToolUse,
  other: Parameters<typeof toolGrammar>[1],
  isStrict: boolean,
) => {
  const compile = async (loose: readonly number[]) => {
    const { form, after } = toolGrammar(toolUse, other, loose)
    return { grammar: await compileForm(form, 'tools'), after, ignored: loose.map(schemaParam) }
  }
  try {
    return await compile([])
  } catch (error) {
    if (isStrict || !(error instanceof RequestError) || error.kind !== 'invalid') throw error
    const loose = await unserved(compileForm, toolUse)
    if (loose.length === 0) throw error
    return await compile(loose)
  }
}

/** Undefined: the answer is free. `isStrict`: nothing is done without. */
export const planConstraint = async (
  { compileForm }: ServedModel,
  call: ClashFields,
  toolUse: ToolUse | undefined,
  form: AskedForm | undefined,
  isStrict: boolean,
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
  const { grammar, after, ignored } = await compileCalls(compileForm, toolUse, other, isStrict)
  return {
    grammar,
    ignored,
    ...(after !== undefined && { grammarAfter: [after] }),
    // Where calls have no opening text, an answer of another form may begin as one.
    hasSureCalls: other === undefined || toolUse.format.open !== '',
    isOnlyCalls: toolUse.isRequired,
  }
}
