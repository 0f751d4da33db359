// What the grammar of an answer is that may call tools.

import type { AnswerForm } from '../../grammar/answer-grammar.js'
import type { ToolUse } from './tool-use.js'

type ToolGrammar = {
  readonly form: Extract<AnswerForm, { kind: 'calls' }>
  /** The answer is free until this was written; undefined: all of it is the grammar's. */
  readonly after: string | undefined
}

/** `other`: what an answer has to be that calls none; undefined: anything. */
export const toolGrammar = (
  { format, shown, callable, isRequired, isSingle }: ToolUse,
  other?: ToolGrammar['form']['other'],
): ToolGrammar => {
  const { open, close, argumentsKey } = format
  const tools = callable.flatMap((at) => {
    const tool = shown[at]?.function
    if (tool === undefined) return []
    const isBound = isRequired || tool.strict === true
    const schema = tool.parameters == null ? null : isBound ? tool.parameters : undefined
    return [{ name: tool.name, schema, param: `tools.${at}.function.parameters` }]
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
