// What an answer may be asked to be, as grammar text. The same question again is answered from memory.

import { badRequest } from '../request-error.js'
import { automatonOf, automatonRules, combined, isEmpty } from './automaton.js'
import { ANY, hasLoneSurrogate } from './code-points.js'
import { characterClass, createGrammarText } from './grammar-text.js'
import { addSchema } from './json-schema.js'
import { createJsonText } from './json-text.js'
import { character, patternExpression, repeat, sequence, unanchored } from './pattern.js'
import { parseExpression } from './regular-expression.js'
import { checkSize } from './schema-source.js'
import { textTree } from './text-tree.js'

export type AnswerForm =
  | { readonly kind: 'schema'; readonly schema: unknown; readonly isCompact?: boolean }
  /** Any JSON object. */
  | { readonly kind: 'object' }
  /** The whole answer matches. */
  | { readonly kind: 'expression'; readonly expression: string }
  | { readonly kind: 'choice'; readonly choices: readonly string[] }

const MAX_CHOICES = 10_000
/** Characters of the questions and grammars that are remembered. */
const MAX_REMEMBERED = 16 << 20

const expressionGrammar = (expression: string, param: string): string => {
  const text = createGrammarText(param)
  const { pattern, ahead } = parseExpression(expression, `'${param}'`, param)
  const whole = ahead.length === 0 ? unanchored(pattern, sequence()) : null
  if (whole !== null) return text.text(patternExpression(whole))
  const subject = { what: `'${param}'`, param }
  const any = repeat(character(ANY), 0, Number.POSITIVE_INFINITY)
  const begun = (isNegative: boolean) =>
    ahead
      .filter((one) => one.isNegative === isNegative)
      .map((one) => automatonOf(sequence(one.pattern, any), subject))
  const automaton = combined([automatonOf(pattern, subject), ...begun(false)], begun(true), subject)
  if (isEmpty(automaton)) throw badRequest(`No text at all matches '${param}'.`, param)
  return text.text(automatonRules(text, automaton, 'text', characterClass))
}

const choiceGrammar = (choices: readonly string[], param: string): string => {
  if (choices.length === 0) throw badRequest(`'${param}' has no choices.`, param)
  if (choices.length > MAX_CHOICES)
    throw badRequest(`'${param}' has ${choices.length} choices: at most ${MAX_CHOICES}.`, param)
  const bad = choices.findIndex((one) => one === '' || hasLoneSurrogate(one))
  if (bad >= 0)
    throw badRequest(
      `'${param}.${bad}' is ${choices[bad] === '' ? 'empty' : 'half of a surrogate pair'}: a choice is a text.`,
      `${param}.${bad}`,
    )
  const text = createGrammarText(param)
  return text.text(text.rule('choice', textTree(choices).join(' | ')))
}

const make = (form: AnswerForm, param: string): string => {
  switch (form.kind) {
    case 'expression':
      return expressionGrammar(form.expression, param)
    case 'choice':
      return choiceGrammar(form.choices, param)
    case 'object': {
      const text = createGrammarText(param)
      return text.text(createJsonText(text).anyObject())
    }
    case 'schema': {
      const text = createGrammarText(param)
      const json = createJsonText(text, { isCompact: form.isCompact === true })
      return text.text(
        addSchema(text, json, form.schema, { param, what: `The schema in '${param}'` }),
      )
    }
  }
}

/** Equal for equal questions. What JSON cannot say is refused for its size: it is too deep, or has no
 * end. */
const keyOf = (form: AnswerForm, param: string): string => {
  try {
    return JSON.stringify(form)
  } catch (error) {
    if (form.kind === 'schema') checkSize(form.schema, param, `The schema in '${param}'`)
    throw error
  }
}

/** Remembers what it was asked. `param`: the field that asks, for errors. */
export const createAnswerGrammars = () => {
  const remembered = new Map<string, string>()
  let size = 0
  return (form: AnswerForm, param: string): string => {
    const key = keyOf(form, param)
    const known = remembered.get(key)
    if (known !== undefined) {
      // The last asked for is the last to go.
      remembered.delete(key)
      remembered.set(key, known)
      return known
    }
    const made = make(form, param)
    remembered.set(key, made)
    size += key.length + made.length
    for (const [oldest, text] of remembered) {
      if (size <= MAX_REMEMBERED) break
      remembered.delete(oldest)
      size -= oldest.length + text.length
    }
    return made
  }
}
