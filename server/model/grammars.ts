// Grammars as a model's engine reads them, from what an answer is asked to be.

import type { Engine, Grammar } from '../engine/types.js'
import { EngineFailure } from '../failure.js'
import type { AnswerForm } from '../grammar/answer-grammar.js'
import { hasLoneSurrogate } from '../grammar/code-points.js'
import { createGrammarTexts } from '../grammar/grammar-texts.js'
import { badRequest, grammarsWait } from '../request-error.js'

/** What an answer has to be: a form, or grammar text as a caller wrote it. */
export type Asked = AnswerForm | { readonly kind: 'grammar'; readonly text: string }

/** `param`: the field that asks, for errors. */
export type CompileForm = (asked: Asked, param: string) => Promise<Grammar>

export const createGrammars = (engine: Pick<Engine, 'compileGrammar'>): CompileForm => {
  const textOf = createGrammarTexts()
  return async (asked, param) => {
    // As UTF-8 it would be another character.
    if (asked.kind === 'grammar' && hasLoneSurrogate(asked.text))
      throw badRequest(`The grammar in '${param}' has half of a surrogate pair.`, param)
    const text = asked.kind === 'grammar' ? asked.text : await textOf(asked, param)
    try {
      return await engine.compileGrammar(text)
    } catch (error) {
      if (error instanceof EngineFailure && error.code === 'queue_full') throw grammarsWait()
      if (!(error instanceof EngineFailure) || error.code !== 'invalid_argument') throw error
      throw badRequest(
        asked.kind === 'grammar'
          ? `Invalid value for '${param}': ${error.message}.`
          : `'${param}' makes a grammar that cannot be served: ${error.message}.`,
        param,
      )
    }
  }
}
