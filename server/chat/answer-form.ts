// Which fields of a request say what the answer has to be. They are OpenAI's, vLLM's and llama.cpp's; one of
// them may be given.

import type { Asked } from '../model/grammars.js'
import { badRequest, unsupportedParameter } from '../request-error.js'

type Maybe<T> = T | null | undefined
type Schema = Readonly<Record<string, unknown>>

/** The fields have the names that errors give them. */
export type FormFields = {
  readonly response_format?:
    | { readonly type: 'text' }
    | { readonly type: 'json_object'; readonly schema?: Maybe<Schema> }
    | {
        readonly type: 'json_schema'
        readonly json_schema: {
          readonly name: string
          readonly schema: Schema | boolean
          readonly description?: Maybe<string>
          readonly strict?: Maybe<boolean>
        }
      }
    | undefined
  readonly structured_outputs?:
    | {
        readonly json?: Maybe<Schema | boolean | string>
        readonly regex?: Maybe<string>
        readonly choice?: Maybe<readonly string[]>
        readonly grammar?: Maybe<string>
        readonly json_object?: Maybe<boolean>
        readonly disable_any_whitespace?: Maybe<boolean>
      }
    | undefined
  readonly guided_json?: Schema | boolean | string | undefined
  readonly guided_regex?: string | undefined
  readonly guided_choice?: readonly string[] | undefined
  readonly guided_grammar?: string | undefined
  readonly guided_json_object?: boolean | undefined
  readonly grammar?: string | undefined
}

export type AskedForm = { readonly asked: Asked; readonly param: string }

const MEMBERS: Readonly<Record<string, readonly string[]>> = {
  response_format: ['type', 'json_schema', 'schema'],
  'response_format.json_schema': ['name', 'schema', 'strict', 'description'],
  structured_outputs: [
    'json',
    'regex',
    'choice',
    'grammar',
    'json_object',
    'disable_any_whitespace',
    // They ask for what is so here: nothing falls back, and objects that name their properties have no others.
    'disable_fallback',
    'disable_additional_properties',
  ],
}

const WHY: Readonly<Record<string, string>> = {
  whitespace_pattern: "white space is bounded here; use 'disable_any_whitespace' for none",
  structural_tag: "use 'tools', or 'grammar'",
}

/** A member that is not known would change the answer: it is never left out silently. */
const checkMembers = (name: string, given: Maybe<object>): void => {
  for (const [key, value] of Object.entries(given ?? {})) {
    if (MEMBERS[name]?.includes(key) || value === null || value === undefined) continue
    const param = `${name}.${key}`
    const why = Object.hasOwn(WHY, key)
      ? WHY[key]
      : `there are ${MEMBERS[name]?.map((one) => `'${one}'`).join(', ')}`
    throw unsupportedParameter(param, `'${param}' is not supported: ${why}.`)
  }
}

/** The type whose schema stands there. */
const TYPE_OF = { json_schema: 'json_schema', schema: 'json_object' } as const

/** A schema beside another type would be left out silently. */
const checkType = (format: FormFields['response_format']): void => {
  for (const [key, value] of Object.entries(format ?? {})) {
    const type = Object.hasOwn(TYPE_OF, key) ? TYPE_OF[key as keyof typeof TYPE_OF] : undefined
    if (type === undefined || value == null || format?.type === type) continue
    const param = `response_format.${key}`
    throw badRequest(`'${param}' goes with 'type': "${type}", not with "${format?.type}".`, param)
  }
}

/** vLLM takes a schema as JSON text too. */
const schemaOf = (given: Schema | boolean | string, param: string): unknown => {
  if (typeof given !== 'string') return given
  try {
    return JSON.parse(given)
  } catch {
    throw badRequest(`Invalid value for '${param}': the text is no JSON.`, param)
  }
}

/** All that the fields ask for; an empty text asks for nothing. */
const allForms = (fields: FormFields): readonly AskedForm[] => {
  const forms: AskedForm[] = []
  const add = (param: string, asked: Asked) => forms.push({ param, asked })
  const addEach = (
    prefix: string,
    given: Omit<NonNullable<FormFields['structured_outputs']>, 'disable_any_whitespace'>,
    isCompact: boolean,
  ) => {
    const { json, regex, choice, grammar, json_object: isObject } = given
    const param = `${prefix}json`
    if (json != null) add(param, { kind: 'schema', schema: schemaOf(json, param), isCompact })
    if (regex) add(`${prefix}regex`, { kind: 'expression', expression: regex })
    if (choice != null) add(`${prefix}choice`, { kind: 'choice', choices: choice })
    if (grammar) add(`${prefix}grammar`, { kind: 'grammar', text: grammar })
    if (isObject === true) add(`${prefix}json_object`, { kind: 'object' })
  }
  const { response_format: format, structured_outputs: outputs, grammar } = fields
  checkMembers('response_format', format)
  checkType(format)
  checkMembers('structured_outputs', outputs)
  if (format?.type === 'json_object') {
    if (format.schema == null) add('response_format', { kind: 'object' })
    else add('response_format.schema', { kind: 'schema', schema: format.schema })
  }
  if (format?.type === 'json_schema') {
    checkMembers('response_format.json_schema', format.json_schema)
    const { schema } = format.json_schema
    add('response_format.json_schema.schema', { kind: 'schema', schema })
  }
  addEach('structured_outputs.', outputs ?? {}, outputs?.disable_any_whitespace === true)
  addEach(
    'guided_',
    {
      json: fields.guided_json,
      regex: fields.guided_regex,
      choice: fields.guided_choice,
      grammar: fields.guided_grammar,
      json_object: fields.guided_json_object,
    },
    false,
  )
  if (grammar) add('grammar', { kind: 'grammar', text: grammar })
  return forms
}

/** Undefined: the answer is free. */
export const readForm = (fields: FormFields): AskedForm | undefined => {
  const [form, second] = allForms(fields)
  if (second !== undefined)
    throw badRequest(
      `'${form?.param}' and '${second.param}' both say what the answer has to be: give one of them.`,
      second.param,
    )
  return form
}

/** Fields that could leave nothing to write where a grammar says what may be written. */
const CLASHES = ['ignore_eos', 'allowed_token_ids', 'bad_words'] as const
export type ClashFields = { readonly [K in (typeof CLASHES)[number]]?: unknown }

/** `param`: the field that asks for a grammar. */
export const refuseClashes = (fields: ClashFields, param: string): void => {
  for (const name of CLASHES) {
    const value = fields[name]
    if (value === undefined || value === false || (Array.isArray(value) && value.length === 0))
      continue
    throw badRequest(
      `'${name}' cannot be combined with '${param}', which says what may be written and where it ends.`,
      name,
    )
  }
}
