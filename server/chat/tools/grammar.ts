// What the grammar of an answer is that may call tools.

import type { AnswerForm } from '../../grammar/answer-grammar.js'
import type { ToolUse } from './tool-use.js'

/** Where the schema of a tool stands. */
export const schemaParam = (at: number): string => `tools.${at}.function.parameters`

type ToolGrammar = {
  readonly form: Extract<AnswerForm, { kind: 'calls' }>
  /** The answer is free until this was written; undefined: all of it is the grammar's. */
  readonly after: string | undefined
}

/** `other`: what an answer has to be that calls none; undefined: anything. `loose`: tools, by their place, that take any
 * object. */
export const toolGrammar = (
  { format, shown, callable, isRequired, isSingle }: ToolUse,
  other?: ToolGrammar['form']['other'],
  loose: readonly number[] = [],
): ToolGrammar => {
  const { open, close, argumentsKey } = format
  const tools = callable.flatMap((at) => {
    const tool = shown[at]?.function
    if (tool === undefined) return []
    const isBound = tool.strict === true || (isRequired && !loose.includes(at))
    const schema = tool.parameters == null ? null : isBound ? tool.parameters : undefined
    return [{ name: tool.name, schema, param: schemaParam(at) }]
  })
  const where = isRequired ? 'all' : open === '' || other !== undefined ? 'either' : 'behind'
  return {
    form: {
      kind: 'calls',
      open,
      close,
      argumentsKey,
      tools,
      isSingle,
      where,
      ...(where === 'either' && other !== undefined && { other }),
    },
    after: where === 'behind' ? `${open}[` : undefined,
  }
}
