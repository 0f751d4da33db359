// What an answer may be asked to be, as grammar text.

import { badRequest } from '../request-error.js'
import { automatonOf, automatonRules, combined, isEmpty } from './automaton.js'
import { type CallForm, callGrammar } from './calls.js'
import { ANY, hasLoneSurrogate } from './code-points.js'
import { characterClass, createGrammarText, type GrammarText } from './grammar-text.js'
import { addSchema } from './json-schema.js'
import { createJsonText, type JsonText } from './json-text.js'
import { character, patternExpression, repeat, sequence, unanchored } from './pattern.js'
import { parseExpression } from './regular-expression.js'
import { textTree } from './text-tree.js'

type TextForm =
  | { readonly kind: 'schema'; readonly schema: unknown; readonly isCompact?: boolean }
  /** Any JSON object. */
  | { readonly kind: 'object' }
  /** The whole answer matches. */
  | { readonly kind: 'expression'; readonly expression: string }
  | { readonly kind: 'choice'; readonly choices: readonly string[] }

export type AnswerForm =
  | TextForm
  /** `other`: what an answer is that calls no tools; with where 'either'. */
  | (CallForm & { readonly other?: { readonly form: TextForm; readonly param: string } })

const MAX_CHOICES = 10_000

const expressionText = (text: GrammarText, expression: string, param: string): string => {
  const { pattern, ahead } = parseExpression(expression, `'${param}'`, param)
  const whole = ahead.length === 0 ? unanchored(pattern, sequence()) : null
  if (whole !== null) return patternExpression(whole)
  const subject = { what: `'${param}'`, param }
  const any = repeat(character(ANY), 0, Number.POSITIVE_INFINITY)
  const begun = (isNegative: boolean) =>
    ahead
      .filter((one) => one.isNegative === isNegative)
      .map((one) => automatonOf(sequence(one.pattern, any), subject))
  const automaton = combined([automatonOf(pattern, subject), ...begun(false)], begun(true), subject)
  if (isEmpty(automaton)) throw badRequest(`No text at all matches '${param}'.`, param)
  return automatonRules(text, automaton, 'text', characterClass)
}

const choiceText = (text: GrammarText, choices: readonly string[], param: string): string => {
  if (choices.length === 0) throw badRequest(`'${param}' has no choices.`, param)
  if (choices.length > MAX_CHOICES)
    throw badRequest(`'${param}' has ${choices.length} choices: at most ${MAX_CHOICES}.`, param)
  const bad = choices.findIndex((one) => one === '' || hasLoneSurrogate(one))
  if (bad >= 0)
    throw badRequest(
      `'${param}.${bad}' is ${choices[bad] === '' ? 'empty' : 'half of a surrogate pair'}: a choice is a text.`,
      `${param}.${bad}`,
    )
  return text.rule('choice', textTree(choices).join(' | '))
}

/** Adds the rules of a form to a grammar; returns the expression for its texts. */
const addForm = (text: GrammarText, json: JsonText, form: TextForm, param: string): string => {
  switch (form.kind) {
    case 'expression':
      return expressionText(text, form.expression, param)
    case 'choice':
      return choiceText(text, form.choices, param)
    case 'object':
      return json.anyObject()
    case 'schema':
      return addSchema(text, json, form.schema, { param, what: `The schema in '${param}'` })
  }
}

/** `param`: the field that asks, for errors. */
export const answerGrammar = (form: AnswerForm, param: string): string => {
  if (form.kind === 'calls') {
    const { other } = form
    return callGrammar(
      form,
      other && ((text, json) => addForm(text, json, other.form, other.param)),
    )
  }
  const text = createGrammarText(param)
  const isCompact = form.kind === 'schema' && form.isCompact === true
  return text.text(addForm(text, createJsonText(text, { isCompact }), form, param))
}
