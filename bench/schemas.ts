// npm run bench -- schemas: how many of a folder's JSON Schemas become a grammar, and whether what becomes
// one is answered rightly: the folder's own instances are recognised by the grammar or not. Beside it the
// converter of node-llama-cpp. No model is asked.

import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { answerGrammar } from '../server/grammar/answer-grammar.js'
import { RequestError } from '../server/request-error.js'
import { count, optional, readFlags, toggle, UsageError } from './flags.js'
import { type Grammar, readGrammar, recognises } from './grammar/recogniser.js'
import { machineLine } from './machine.js'
import { installLlama } from './peers/start.js'
import { digits, quantile, table } from './stats.js'

const flags = {
  data: optional(
    'DIR',
    'JSON files of a schema with instances, as those of JSONSchemaBench; default: the JSON Schema test suite',
  ),
  every: count('take each Nth schema', 1),
  longest: count('characters of an instance that is looked at', 1500),
  reasons: count('most frequent reasons of refusals that are shown', 15, 0),
  wrong: count('wrongly admitted instances that are shown', 5, 0),
  llama: toggle('the converter of node-llama-cpp beside ours (installed into bench/.cache)'),
}

type Instance = { readonly data: unknown; readonly valid: boolean }
type Case = {
  readonly kind: string
  readonly name: string
  readonly schema: unknown
  readonly tests?: readonly Instance[]
}
/** Schema to grammar text, or the reason why not. `end`: what the grammar wants behind the JSON. */
type Converter = {
  readonly name: string
  readonly convert: (schema: unknown) => string | Error
  readonly end: string
}

/** Github_easy---o12.json and BFCL_java_3.json are of the kinds Github_easy and BFCL. */
const kindOf = (file: string): string =>
  file.replace(/(---|_\d|\.json$).*/, '').replace(/^BFCL.*/, 'BFCL')

const casesOf = (folder: string, file: string): readonly Case[] => {
  const read = JSON.parse(readFileSync(join(folder, file), 'utf8'))
  const groups: readonly Omit<Case, 'kind' | 'name'>[] = Array.isArray(read) ? read : [read]
  return groups.flatMap((one, i) =>
    typeof one === 'object' && one !== null && 'schema' in one
      ? [{ ...one, kind: Array.isArray(read) ? 'suite' : kindOf(file), name: `${file} ${i}` }]
      : [],
  )
}

const suiteFolder = (): string => {
  const at = createRequire(import.meta.url).resolve('json-schema-test-suite/package.json')
  return join(at, '../tests/draft4')
}

const ours: Converter = {
  name: 'ours',
  convert: (schema) => {
    try {
      return answerGrammar({ kind: 'schema', schema }, 'schema')
    } catch (error) {
      if (error instanceof RequestError) return error
      throw error
    }
  },
  end: '',
}

const llamaConverter = async (): Promise<Converter> => {
  const inside =
    'node_modules/node-llama-cpp/dist/utils/gbnfJson/getGbnfGrammarForGbnfJsonSchema.js'
  const file = pathToFileURL(join(installLlama(), inside)).href
  const { getGbnfGrammarForGbnfJsonSchema: convert } = await import(file)
  return {
    name: 'node-llama-cpp',
    convert: (schema) => {
      try {
        return convert(schema)
      } catch (error) {
        return error instanceof Error ? error : new Error(String(error))
      }
    },
    end: '\n\n\n\n',
  }
}

type Tally = {
  schemas: number
  served: number
  /** Served schemas that admit one of their invalid instances: answered wrongly. */
  loose: number
  /** Served schemas that do not admit one of their valid instances. */
  narrow: number
  valid: number
  notAdmitted: number
  invalid: number
  admitted: number
  readonly milliseconds: number[]
  readonly reasons: Map<string, number>
  readonly wrong: string[]
}
const emptyTally = (): Tally => ({
  schemas: 0,
  served: 0,
  loose: 0,
  narrow: 0,
  valid: 0,
  notAdmitted: 0,
  invalid: 0,
  admitted: 0,
  milliseconds: [],
  reasons: new Map(),
  wrong: [],
})

/** A refusal without what is one schema's own. */
const reasonOf = (error: Error): string =>
  error.message
    .replace(/ at '#[^']*'/, '')
    .replace(/^.*? cannot be served:+ /, '')
    .replace(/"[^"]*"|\d+(\.\d+)?/g, 'N')
    .slice(0, 100)

type Verdict = {
  readonly milliseconds: number
  readonly refusal: Error | null
  readonly valid: number
  readonly notAdmitted: number
  readonly invalid: number
  readonly admitted: number
  /** The instances that should not be admitted. */
  readonly wrong: readonly string[]
}

const judge = (converter: Converter, one: Case, longest: number): Verdict => {
  const start = performance.now()
  const found = converter.convert(one.schema)
  const milliseconds = performance.now() - start
  const wrong: string[] = []
  const counts = { valid: 0, notAdmitted: 0, invalid: 0, admitted: 0 }
  const verdict = { milliseconds, refusal: null, wrong, ...counts }
  if (found instanceof Error) return { ...verdict, refusal: found }
  let grammar: Grammar
  try {
    grammar = readGrammar(found)
  } catch (error) {
    return { ...verdict, refusal: new Error(`what it makes is no grammar (${String(error)})`) }
  }
  for (const { data, valid } of one.tests ?? []) {
    const instance = JSON.stringify(data)
    if (instance.length > longest) continue
    const isAdmitted = recognises(grammar, instance + converter.end)
    verdict[valid ? 'valid' : 'invalid']++
    if (valid && !isAdmitted) verdict.notAdmitted++
    if (!valid && isAdmitted) {
      verdict.admitted++
      wrong.push(`${one.name}: ${instance.slice(0, 200)}`)
    }
  }
  return verdict
}

const add = (tally: Tally, verdict: Verdict): void => {
  tally.schemas++
  tally.milliseconds.push(verdict.milliseconds)
  if (verdict.refusal !== null) {
    const reason = reasonOf(verdict.refusal)
    tally.reasons.set(reason, (tally.reasons.get(reason) ?? 0) + 1)
    return
  }
  tally.served++
  tally.wrong.push(...verdict.wrong)
  if (verdict.admitted > 0) tally.loose++
  if (verdict.notAdmitted > 0) tally.narrow++
  for (const key of ['valid', 'notAdmitted', 'invalid', 'admitted'] as const)
    tally[key] += verdict[key]
}

const share = (part: number, all: number): string =>
  all === 0 ? '-' : `${part} (${((100 * part) / all).toFixed(1)} %)`

const head = ['kind', 'converter', 'schemas', 'served', 'of them wrong', 'narrow', 'ms p50', 'p99']
const rowOf = (kind: string, name: string, tally: Tally): readonly string[] => [
  kind,
  name,
  String(tally.schemas),
  share(tally.served, tally.schemas),
  share(tally.loose, tally.served),
  share(tally.narrow, tally.served),
  digits(quantile(tally.milliseconds, 0.5)),
  digits(quantile(tally.milliseconds, 0.99)),
]

const readCases = (folder: string, every: number): readonly Case[] => {
  const files = readdirSync(folder).filter((name) => name.endsWith('.json'))
  const cases = files.flatMap((file) => casesOf(folder, file)).filter((_, i) => i % every === 0)
  if (cases.length === 0)
    throw new UsageError(`${folder}: none of its ${files.length} .json files has a 'schema'`)
  return cases
}

const legend = [
  'wrong: the grammar admits an instance that the folder calls invalid. narrow: it does not admit one',
  'that is valid (keys in another order, properties that are not named: docs/http.md says what is narrower).',
].join('\n')

const measure = (converter: Converter, cases: readonly Case[], longest: number) => {
  const all = emptyTally()
  const byKind = new Map<string, Tally>()
  for (const [i, one] of cases.entries()) {
    if (process.stderr.isTTY && i % 50 === 0)
      process.stderr.write(`\r${converter.name}: ${i} of ${cases.length}`)
    const mine = byKind.get(one.kind) ?? emptyTally()
    byKind.set(one.kind, mine)
    const verdict = judge(converter, one, longest)
    for (const tally of [mine, all]) add(tally, verdict)
  }
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
  return { all, byKind }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const about = 'which JSON Schemas become a grammar, and whether it is right about their instances'
  const options = readFlags('schemas', about, flags, args)
  if (options === undefined) return
  const cases = readCases(options.data ?? suiteFolder(), options.every)
  const rows = [head]
  for (const converter of [ours, ...(options.llama ? [await llamaConverter()] : [])]) {
    const { name } = converter
    const { all, byKind } = measure(converter, cases, options.longest)
    const kinds = [...byKind].sort(([a], [b]) => a.localeCompare(b))
    if (kinds.length > 1)
      for (const [kind, tally] of kinds) rows.push([...rowOf(kind, name, tally)])
    rows.push([...rowOf('all', name, all)])
    console.log(
      `${name}: ${all.notAdmitted} of ${all.valid} valid instances not admitted, ` +
        `${all.admitted} of ${all.invalid} invalid ones admitted`,
    )
    for (const instance of all.wrong.slice(0, options.wrong)) console.log(`  wrong: ${instance}`)
    const reasons = [...all.reasons].sort((a, b) => b[1] - a[1]).slice(0, options.reasons)
    for (const [reason, times] of reasons) console.log(`  ${times} refused: ${reason}`)
  }
  console.log(`\n${table(rows)}\n${legend}\n${machineLine()}`)
}
