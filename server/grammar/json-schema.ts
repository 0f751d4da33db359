// JSON Schema to grammar: what is admitted at every place, found first; then what can be ended at all;
// then the rules. Keys come in the schema's order. What is served: docs/decisions/0013-grammar-text.md.

import type { RequestError } from '../request-error.js'
import {
  type Automaton,
  automatonOf,
  automatonRules,
  combined,
  isEmpty,
  lengthAutomaton,
  matches,
  minimal,
  type Subject,
  textsAutomaton,
} from './automaton.js'
import { ANY } from './code-points.js'
import { FORMATS, SHORT, SHORT_FORMATS } from './formats.js'
import { EMPTY, either, type GrammarText, literal, times } from './grammar-text.js'
import type { JsonText } from './json-text.js'
import {
  type All,
  ANYTHING,
  type ArrayKind,
  asked,
  both,
  common,
  isClosed,
  isPlainText,
  type Kind,
  type Literal,
  type NumberKind,
  type ObjectKind,
  type StringKind,
  type TextPattern,
  valueKey,
} from './kinds.js'
import { idleDigits, multiplesOf, numberPattern } from './number-pattern.js'
import {
  character,
  lengthsOf,
  type Pattern,
  patternExpression,
  repeat,
  sequence,
  unanchored,
} from './pattern.js'
import { type Expression, parseExpression } from './regular-expression.js'
import { type OneOf, readSchema, type SchemaSource } from './schema-source.js'
import { textTree } from './text-tree.js'

/** Sets of schemas that must hold at once. */
const MAX_PLACES = 20_000
/** Pairs of kinds that are cut with each other. */
const MAX_CUTS = 500_000
/** Parts of objects and lists that are put together, and in which a name is looked for. */
const MAX_LOOKS = 1_000_000
/** Of the making of all automata together. */
const MAX_STEPS = 4_000_000
/** Of the making of a number's pattern, each digit of a bound beyond those that are usual. */
const STEPS_A_DIGIT = 25
/** `anyOf` in `$ref` in `anyOf`, without a value in between. */
const MAX_CHAIN = 200

const ANY_TEXT: Pattern = repeat(character(ANY), 0, Number.POSITIVE_INFINITY)

/** How the names and values of an object follow each other. */
type Field = { readonly name: string; readonly all: All; readonly isRequired: boolean }
type Extra = { readonly names: Automaton | null; readonly all: All }

type Shape =
  | { readonly type: 'null' | 'boolean' }
  | { readonly type: 'number'; readonly kind: NumberKind; readonly write: () => string }
  | { readonly type: 'string'; readonly write: () => string }
  | { readonly type: 'array'; readonly kind: ArrayKind }
  | {
      readonly type: 'object'
      readonly kind: ObjectKind
      readonly fields: readonly Field[]
      readonly extras: readonly Extra[]
    }
  | Literal

type Place = { readonly all: All; readonly shapes: readonly Shape[]; canEnd: boolean }

const keyOf = (all: All): string => all.join()

/** One text's language: an expression over characters, or an automaton. */
type Language = { readonly pattern: Pattern } | { readonly automaton: Automaton }

class Compiler {
  readonly #text: GrammarText
  readonly #json: JsonText
  readonly #source: SchemaSource
  readonly #param: string | null
  readonly #kinds = new Map<string, readonly Kind[]>()
  readonly #open = new Set<string>()
  readonly #places = new Map<string, Place>()
  readonly #expressions = new Map<string, Expression>()
  readonly #automata = new Map<string, Automaton>()
  readonly #rules = new Map<string, string>()
  readonly #pending: Place[] = []
  readonly #hint: string
  #cuts = 0
  #looks = 0
  #steps = 0

  constructor(
    text: GrammarText,
    json: JsonText,
    source: SchemaSource,
    { hint, param }: { readonly hint: string; readonly param: string | null },
  ) {
    this.#text = text
    this.#json = json
    this.#source = source
    this.#hint = hint
    this.#param = param
  }

  // --- What is admitted ---

  #where(all: All): string {
    return all.length === 0 ? '#' : this.#source.pointer(all.at(-1) ?? 0)
  }

  #cycle(number: number): RequestError {
    return this.#source.refuse(
      this.#source.pointer(number),
      'this refers to itself without a value in between',
    )
  }

  /** The kinds of values for which all these schemas hold. */
  kindsOf(all: All): readonly Kind[] {
    if (all.length === 0) return ANYTHING
    const key = keyOf(all)
    const known = this.#kinds.get(key)
    if (known !== undefined) return known
    if (this.#open.has(key)) throw this.#cycle(all.at(-1) ?? 0)
    if (this.#open.size >= MAX_CHAIN)
      throw this.#source.refuse(
        this.#where(all),
        `more than ${MAX_CHAIN} references and branches follow each other without a value in between`,
      )
    this.#open.add(key)
    const kinds = this.#findKinds(all)
    this.#open.delete(key)
    this.#kinds.set(key, kinds)
    return kinds
  }

  /** These schemas and those that must hold with them, as they follow each other in the text. */
  #together(all: All): ReadonlySet<number> {
    const [met, done] = [new Set<number>(), new Set<number>()]
    const pending = [...all].reverse()
    for (let number = pending.at(-1); number !== undefined; number = pending.at(-1)) {
      if (met.has(number)) {
        done.add(number)
        pending.pop()
        continue
      }
      met.add(number)
      for (const one of [...this.#source.said(number).too].reverse()) {
        // Met and not done: what is said here is part of it.
        if (met.has(one) && !done.has(one)) throw this.#cycle(one)
        if (!met.has(one)) pending.push(one)
      }
    }
    return met
  }

  #findKinds(all: All): readonly Kind[] {
    const seen = this.#together(all)
    let kinds: readonly Kind[] = ANYTHING
    for (const number of seen) {
      const said = this.#source.said(number)
      kinds = this.#cut(kinds, said.kinds)
      if (said.values !== null) kinds = this.#cut(kinds, said.values)
    }
    for (const number of seen)
      for (const one of this.#source.said(number).oneOfEach)
        kinds = this.#cut(
          kinds,
          one.keyword === 'anyOf'
            ? one.branches.flatMap((branch) => this.kindsOf(branch))
            : this.#oneOf(one).flatMap((branch) => asked(this.kindsOf(branch))),
        )
    for (const number of seen)
      for (const value of this.#source.said(number).without)
        kinds = this.#without(kinds, value, number)
    return kinds
  }

  /** Without one value. */
  #without(kinds: readonly Kind[], value: unknown, number: number): readonly Kind[] {
    const key = valueKey(value)
    const isSame = (kind: Literal): boolean => kind.key === key
    return kinds.flatMap((kind): Kind[] => {
      switch (kind.type) {
        case 'literal':
          return isSame(kind) ? [] : [kind]
        case 'null':
          return value === null ? [] : [kind]
        case 'boolean':
          if (typeof value !== 'boolean') return [kind]
          return [{ type: 'literal', value: !value, key: valueKey(!value) }]
        case 'string':
          return [typeof value === 'string' ? { ...kind, texts: [...kind.texts, value] } : kind]
        default: {
          if (!this.#admits(kind, value)) return [kind]
          throw this.#source.refuse(
            this.#source.pointer(number),
            `'not' of ${kind.type === 'number' ? 'a number' : `an ${kind.type}`} is served beside an 'enum' only`,
          )
        }
      }
    })
  }

  #cut(a: readonly Kind[], b: readonly Kind[]): readonly Kind[] {
    if (a === ANYTHING) return b
    if (b === ANYTHING) return a
    const literals = new Set(b.flatMap((kind) => (kind.type === 'literal' ? [kind.key] : [])))
    const wide = [a, b].map((list) => list.filter(({ type }) => type !== 'literal')) as [
      Kind[],
      Kind[],
    ]
    this.#cuts += a.length * (wide[1].length + 1) + b.length * (wide[0].length + 1)
    if (this.#cuts > MAX_CUTS)
      throw this.#source.refuse('#', "'anyOf', 'allOf' and 'enum' make too many combinations")
    const out: Kind[] = []
    for (const kind of a) {
      if (kind.type === 'literal') {
        if (literals.has(kind.key) || wide[1].some((other) => this.#admits(other, kind.value)))
          out.push(kind)
      } else {
        for (const other of wide[1]) {
          const cut = common(kind, other)
          if (cut === null) continue
          if (cut.type === 'object' || cut.type === 'array') this.#look(cut.parts.length)
          out.push(cut)
        }
        for (const other of b)
          if (other.type === 'literal' && this.#admits(kind, other.value)) out.push(other)
      }
    }
    return out
  }

  #look(parts: number): void {
    this.#looks += parts
    if (this.#looks > MAX_LOOKS)
      throw this.#source.refuse('#', "'allOf' puts too many objects or lists together")
  }

  #admits(kind: Kind, value: unknown): boolean {
    switch (kind.type) {
      case 'literal':
        throw new Error('literals are compared by key')
      case 'null':
        return value === null
      case 'boolean':
        return typeof value === 'boolean'
      case 'number':
        return typeof value === 'number' && admitsNumber(kind, value)
      case 'string':
        return typeof value === 'string' && this.#admitsText(kind, value)
      case 'array':
        return Array.isArray(value) && this.#admitsList(kind, value)
      case 'object':
        return (
          typeof value === 'object' &&
          value !== null &&
          !Array.isArray(value) &&
          this.#admitsObject(kind, value)
        )
    }
  }

  #admitsAny(all: All, value: unknown): boolean {
    return this.kindsOf(all).some((kind) =>
      kind.type === 'literal' ? kind.key === valueKey(value) : this.#admits(kind, value),
    )
  }

  #admitsText(kind: StringKind, value: string): boolean {
    const length = Array.from(value).length
    if (length < kind.min || length > kind.max) return false
    return (
      kind.patterns.every((pattern) => matches(this.#search(pattern), value)) &&
      kind.formats.every((name) => matches(this.#format(name), value)) &&
      !kind.without.some((pattern) => matches(this.#search(pattern), value)) &&
      !kind.texts.includes(value)
    )
  }

  #admitsList(kind: ArrayKind, value: readonly unknown[]): boolean {
    if (value.length < kind.min || value.length > kind.max) return false
    return value.every((item, i) => this.#admitsAny(itemOf(kind, i), item))
  }

  #admitsObject(kind: ObjectKind, value: object): boolean {
    const members = Object.entries(value)
    if (members.length < kind.min || members.length > kind.max) return false
    for (const name of kind.required) if (!Object.hasOwn(value, name)) return false
    return members.every(
      ([name, member]) =>
        this.#admitsAny(kind.names, name) && this.#admitsAny(this.#memberOf(kind, name), member),
    )
  }

  /** What holds for the member of this name. */
  #memberOf(kind: ObjectKind, name: string): All {
    this.#look(kind.parts.length)
    let all: All = []
    for (const { properties, patterns, rest } of kind.parts) {
      const own = properties.get(name)
      let isNamed = own !== undefined
      if (own !== undefined) all = both(all, own)
      for (const { pattern, all: more } of patterns)
        if (matches(this.#search(pattern), name)) {
          isNamed = true
          all = both(all, more)
        }
      if (!isNamed) all = both(all, rest)
    }
    return all
  }

  // --- oneOf ---

  /** The branches, each without the values of the others. */
  #oneOf({ branches, pointer, apart }: OneOf): readonly All[] {
    for (let i = 0; i < branches.length; i++)
      for (let j = i + 1; j < branches.length; j++) {
        const [a = [], b = []] = [branches[i], branches[j]]
        // Kinds of which a branch does not speak are not written for it, but it admits them.
        const shared = [
          ...this.#cut(asked(this.kindsOf(a)), this.kindsOf(b)),
          ...this.#cut(this.kindsOf(a), asked(this.kindsOf(b))),
        ]
        if (shared.every((kind) => this.#isNone(kind, 0))) continue
        const alone = apart()
        if (alone !== null) return alone
        throw this.#source.refuse(
          pointer,
          `the branches ${i} and ${j} of 'oneOf' may both hold: use 'anyOf', or require a property with another 'const' in each`,
        )
      }
    return branches
  }

  /** Whether it is certain that no value is of the kind. */
  #isNone(kind: Kind, depth: number): boolean {
    const isNoneAll = (all: All): boolean =>
      depth < 8 &&
      !this.#open.has(keyOf(all)) &&
      this.kindsOf(all).every((one) => this.#isNone(one, depth + 1))
    switch (kind.type) {
      case 'number':
        return this.#between(kind) === null
      case 'string':
        return kind.min > kind.max || this.#language(kind) === null
      case 'array':
        return (
          kind.min > kind.max ||
          Array.from({ length: Math.min(kind.min, 16) }, (_, i) => i).some((i) =>
            isNoneAll(itemOf(kind, i)),
          )
        )
      case 'object':
        return (
          Math.max(kind.min, kind.required.size) > kind.max ||
          [...kind.required].some((name) => isNoneAll(this.#memberOf(kind, name)))
        )
      default:
        return false
    }
  }

  // --- Texts ---

  #subject(pointer: string): Subject {
    return {
      what: `The pattern at '${pointer}' of the schema`,
      param: this.#param,
      spend: (steps) => {
        this.#steps += steps
        if (this.#steps > MAX_STEPS)
          throw this.#source.refuse(
            pointer,
            'the patterns, lengths and bounds make too many combinations',
          )
      },
    }
  }

  #expression({ source, pointer }: TextPattern): Expression {
    const known = this.#expressions.get(source)
    if (known !== undefined) return known
    const parsed = parseExpression(source, `the schema at '${pointer}'`, this.#param)
    this.#expressions.set(source, parsed)
    return parsed
  }

  #remembered(key: string, make: () => Automaton): Automaton {
    const known = this.#automata.get(key)
    if (known !== undefined) return known
    const made = make()
    this.#automata.set(key, made)
    return made
  }

  /** Of the texts in which a pattern is found. What it looks ahead for is not in it. */
  #search(pattern: TextPattern): Automaton {
    return this.#remembered(`search ${pattern.source}`, () => {
      const { pattern: found, ahead } = this.#expression(pattern)
      const subject = this.#subject(pattern.pointer)
      const all = automatonOf(sequence(ANY_TEXT, found, ANY_TEXT), subject)
      if (ahead.length === 0) return all
      const from = (one: Pattern) => automatonOf(sequence(one, ANY_TEXT), subject)
      return combined(
        [all, ...ahead.flatMap((one) => (one.isNegative ? [] : [from(one.pattern)]))],
        ahead.flatMap((one) => (one.isNegative ? [from(one.pattern)] : [])),
        subject,
      )
    })
  }

  /** Of the short form, where there is one. */
  #format(name: string): Automaton {
    return this.#remembered(`format ${name}`, () => {
      const short = SHORT_FORMATS.get(name)
      const pattern =
        short === undefined ? this.#formatPattern(name) : parseExpression(short, name, null).pattern
      return automatonOf(pattern, this.#subject(`format ${name}`))
    })
  }

  #every(subject: Subject): Automaton {
    return this.#remembered('any', () => automatonOf(ANY_TEXT, subject))
  }

  #formatPattern(name: string): Pattern {
    return parseExpression(FORMATS.get(name) ?? '', `the format ${name}`, this.#param).pattern
  }

  /** What a text of the kind may be; null: nothing. */
  #language(kind: StringKind): Language | null {
    const { min, max, patterns, formats, without, texts } = kind
    if (min > max) return null
    const [found] = patterns
    const [format] = formats
    if (isPlainText(kind)) return { pattern: repeat(character(ANY), min, max) }
    if (patterns.length + formats.length === 1 && without.length + texts.length === 0) {
      const whole = format === undefined ? this.#whole(found) : this.#formatPattern(format)
      const fitted = whole === null ? undefined : withLength(whole, min, max)
      if (fitted === null) return null
      if (fitted !== undefined) return { pattern: fitted }
    }
    const subject = this.#subject((found ?? without[0])?.pointer ?? '#')
    const last = formats.some((name) => SHORT_FORMATS.has(name)) ? Math.min(max, SHORT) : max
    const lengths =
      min === 0 && last === Number.POSITIVE_INFINITY ? [] : [lengthAutomaton(min, last, subject)]
    const conditions = [
      ...patterns.map((pattern) => this.#search(pattern)),
      ...formats.map((name) => this.#format(name)),
    ]
    const inside = [...conditions, ...lengths]
    const outside = [
      ...without.map((pattern) => this.#search(pattern)),
      ...(texts.length > 0 ? [textsAutomaton(texts, subject)] : []),
    ]
    const automaton = combined(
      inside.length > 0 ? inside : [this.#every(subject)],
      outside,
      subject,
    )
    return isEmpty(automaton) ? null : { automaton }
  }

  /** A pattern as one of whole texts, where it is one. */
  #whole(pattern: TextPattern | undefined): Pattern | null {
    if (pattern === undefined) return null
    const expression = this.#expression(pattern)
    return expression.ahead.length > 0 ? null : unanchored(expression.pattern, ANY_TEXT)
  }

  #writeText(kind: StringKind, language: Language): string {
    const { json } = this
    if (isPlainText(kind)) {
      if (kind.min === 0 && kind.max === Number.POSITIVE_INFINITY) return json.anyString()
      return `"\\"" ${json.anyCharacter()}${times(kind.min, kind.max)} "\\""`
    }
    if ('automaton' in language)
      return `"\\"" ${automatonRules(this.#text, language.automaton, `${this.#hint}-text`, json.character)} "\\""`
    const [format] = kind.formats
    const write = () => `"\\"" ${patternExpression(language.pattern, json.character)} "\\""`
    return format !== undefined && kind.min === 0 && kind.max === Number.POSITIVE_INFINITY
      ? this.#text.shared(`format-${format}`, write)
      : write()
  }

  get json(): JsonText {
    return this.#json
  }

  // --- Numbers ---

  #between(bounds: Pick<NumberKind, 'isInteger' | 'min' | 'max'>): Pattern | null {
    this.#subject('#').spend?.(STEPS_A_DIGIT * (idleDigits(bounds.min) + idleDigits(bounds.max)))
    return numberPattern(bounds)
  }

  /** How its numbers are written; null: it has none. */
  #number(kind: NumberKind): (() => string) | null {
    const { isInteger, min, max, multiples } = kind
    if (multiples.length === 0) {
      if (min === undefined && max === undefined)
        return () => (isInteger ? this.json.anyInteger() : this.json.anyNumber())
      const pattern = this.#between(kind)
      return pattern && (() => patternExpression(pattern))
    }
    const parts = multiples.map((one) => multiplesOf(one)).filter((one) => one !== null)
    const far = 10 ** Math.min(...parts.map(({ digits }) => digits)) - 1
    const bounded = this.#between({
      isInteger: isInteger || multiples.some(Number.isInteger),
      min: min !== undefined && min.value > -far ? min : { value: -far, isExclusive: false },
      max: max !== undefined && max.value < far ? max : { value: far, isExclusive: false },
    })
    if (bounded === null) return null
    const subject: Subject = { ...this.#subject('#'), what: "A 'multipleOf' of the schema" }
    const automaton = minimal(
      combined([automatonOf(bounded, subject), ...parts.map((one) => one.automaton)], [], subject),
    )
    if (isEmpty(automaton)) return null
    return () =>
      automatonRules(this.#text, automaton, `${this.#hint}-multiple`, (set) =>
        patternExpression(character(set)),
      )
  }

  // --- Places ---

  #place(all: All): Place {
    const key = keyOf(all)
    const known = this.#places.get(key)
    if (known !== undefined) return known
    if (this.#places.size >= MAX_PLACES)
      throw this.#source.refuse('#', `the schema has more than ${MAX_PLACES} places`)
    const shapesOf = (kinds: readonly Kind[]) => kinds.flatMap((kind) => this.#shape(kind))
    const kinds = this.kindsOf(all)
    const shapes = shapesOf(asked(kinds))
    const place: Place = {
      all,
      shapes: shapes.length > 0 ? shapes : shapesOf(kinds),
      canEnd: false,
    }
    this.#places.set(key, place)
    this.#pending.push(place)
    return place
  }

  #shape(kind: Kind): Shape[] {
    switch (kind.type) {
      case 'number': {
        const write = this.#number(kind)
        return write === null ? [] : [{ type: 'number', kind, write }]
      }
      case 'string': {
        const language = this.#language(kind)
        return language === null
          ? []
          : [{ type: 'string', write: () => this.#writeText(kind, language) }]
      }
      case 'array':
        return kind.min > kind.max ? [] : [{ type: 'array', kind: closedList(kind) }]
      case 'object':
        return this.#objectShape(kind)
      default:
        return [kind]
    }
  }

  #objectShape(kind: ObjectKind): Shape[] {
    if (Math.max(kind.min, kind.required.size) > kind.max) return []
    const names = [
      ...new Set([
        ...kind.parts.flatMap(({ properties }) => [...properties.keys()]),
        ...kind.required,
      ]),
    ]
    const fields: Field[] = []
    for (const name of names) {
      const isRequired = kind.required.has(name)
      if (kind.names.length === 0 || this.#admitsAny(kind.names, name))
        fields.push({ name, all: this.#memberOf(kind, name), isRequired })
      else if (isRequired) return []
    }
    // With too few names of its own it needs others.
    const closed = isClosed(kind.parts) && kind.min <= fields.length
    return [{ type: 'object', kind, fields, extras: this.#extras(kind, names, closed) }]
  }

  /** Members of names that are not declared: by which patterns their names match. `closed`: one at
   * least. */
  #extras(kind: ObjectKind, declared: readonly string[], closed: boolean): readonly Extra[] {
    const patterns = [
      ...new Map(
        kind.parts
          .flatMap((part) => part.patterns)
          .map(({ pattern }) => [pattern.source, pattern] as const),
      ).values(),
    ]
    const pointer = patterns[0]?.pointer ?? this.#where(kind.names)
    if (patterns.length > 6)
      throw this.#source.refuse(
        pointer,
        "more than 6 'patternProperties' at once are not supported",
      )
    const extras: Extra[] = []
    const subject: Subject = {
      ...this.#subject(pointer),
      what: `The names of an object of the schema (at '${pointer}')`,
    }
    for (let chosen = closed ? 1 : 0; chosen < 1 << patterns.length; chosen++) {
      const isIn = (source: string): boolean =>
        ((chosen >> patterns.findIndex((one) => one.source === source)) & 1) === 1
      let all: All = []
      for (const part of kind.parts) {
        const mine = part.patterns.filter(({ pattern }) => isIn(pattern.source))
        for (const one of mine) all = both(all, one.all)
        if (mine.length === 0) all = both(all, part.rest)
      }
      if (this.kindsOf(all).length === 0) continue
      const search = (isChosen: boolean) =>
        patterns.filter(({ source }) => isIn(source) === isChosen).map((one) => this.#search(one))
      const outside = [
        ...search(false),
        ...(declared.length > 0 ? [textsAutomaton(declared, subject)] : []),
      ]
      for (const allowed of this.#names(kind.names, subject)) {
        if (allowed === null && patterns.length === 0 && declared.length === 0) {
          extras.push({ names: null, all })
          continue
        }
        const inside = [...search(true), ...(allowed === null ? [] : [allowed])]
        const automaton = combined(
          inside.length > 0 ? inside : [this.#every(subject)],
          outside,
          subject,
        )
        if (!isEmpty(automaton)) extras.push({ names: automaton, all })
      }
    }
    return extras
  }

  /** Automata of the names that `propertyNames` admits; null: all. */
  #names(all: All, subject: Subject): readonly (Automaton | null)[] {
    if (all.length === 0) return [null]
    const out: (Automaton | null)[] = []
    const texts: string[] = []
    for (const kind of this.kindsOf(all)) {
      if (kind.type === 'literal' && typeof kind.value === 'string') texts.push(kind.value)
      if (kind.type !== 'string') continue
      const language = this.#language(kind)
      if (language === null) continue
      const isAny = isPlainText(kind) && kind.min === 0 && kind.max === Number.POSITIVE_INFINITY
      if (isAny) out.push(null)
      else
        out.push(
          'automaton' in language ? language.automaton : automatonOf(language.pattern, subject),
        )
    }
    return texts.length > 0 ? [...out, textsAutomaton(texts, subject)] : out
  }

  // --- What can be ended ---

  #discover(): void {
    for (let place = this.#pending.pop(); place !== undefined; place = this.#pending.pop())
      for (const all of place.shapes.flatMap(insideOf)) this.#place(all)
  }

  #canEnd(all: All): boolean {
    return this.#places.get(keyOf(all))?.canEnd === true
  }

  /** The most items a list can have, as far as their kinds have values. */
  #mostItems(kind: ArrayKind): number {
    const items = itemsOf(kind)
    const stop = items.findIndex((all) => !this.#canEnd(all))
    return stop < 0 ? kind.max : Math.min(kind.max, stop)
  }

  #shapeCanEnd(shape: Shape): boolean {
    if (shape.type === 'array') return this.#mostItems(shape.kind) >= shape.kind.min
    if (shape.type === 'object') {
      const { kind, fields, extras } = shape
      if (!fields.every(({ isRequired, all }) => !isRequired || this.#canEnd(all))) return false
      const most = extras.some(({ all }) => this.#canEnd(all))
        ? Number.POSITIVE_INFINITY
        : fields.filter(({ all }) => this.#canEnd(all)).length
      return most >= kind.min
    }
    return true
  }

  #findEnds(): void {
    const users = new Map<string, Place[]>()
    for (const place of this.#places.values())
      for (const key of new Set(place.shapes.flatMap(insideOf).map(keyOf))) {
        const others = users.get(key)
        if (others === undefined) users.set(key, [place])
        else others.push(place)
      }
    const pending = new Set([...this.#places.values()].reverse())
    // A set takes what is added while it is walked.
    for (const place of pending) {
      pending.delete(place)
      if (place.canEnd || !place.shapes.some((shape) => this.#shapeCanEnd(shape))) continue
      place.canEnd = true
      for (const user of users.get(keyOf(place.all)) ?? []) pending.add(user)
    }
  }

  // --- Rules ---

  /** An expression for the values at a place, which can end. */
  #value(all: All): string {
    const key = keyOf(all)
    const known = this.#rules.get(key)
    if (known !== undefined) return known
    const place = this.#place(all)
    if (this.kindsOf(all) === ANYTHING) return this.json.anyValue()
    const name = this.#text.reserve(`${this.#hint}-${hintOf(this.#where(all))}`)
    this.#rules.set(key, name)
    this.#pending.push(place)
    return name
  }

  #write(place: Place): void {
    const shapes = place.shapes.filter((shape) => this.#shapeCanEnd(shape))
    const literals = shapes.filter((shape) => shape.type === 'literal')
    const branches = new Set<string>()
    for (const shape of shapes) if (shape.type !== 'literal') branches.add(this.#shapeText(shape))
    const expressions = [...literalTree(literals, this.json.constant), ...branches]
    this.#text.define(this.#rules.get(keyOf(place.all)) ?? '', expressions.join(' | '))
  }

  #shapeText(shape: Exclude<Shape, Literal>): string {
    switch (shape.type) {
      case 'null':
        return '"null"'
      case 'boolean':
        return '"true" | "false"'
      case 'number':
      case 'string':
        return shape.write()
      case 'array':
        return this.#list(shape.kind)
      case 'object':
        return this.#object(shape)
    }
  }

  #list(kind: ArrayKind): string {
    const { space, comma } = this.json
    const max = this.#mostItems(kind)
    const places = itemsOf(kind)
    if (max === 0) return `"[" ${space} "]"`
    if (
      places.length === 1 &&
      this.kindsOf(places[0] ?? []) === ANYTHING &&
      kind.min === 0 &&
      max === Number.POSITIVE_INFINITY
    )
      return this.json.anyArray()
    const first = places.length - 1
    const rest = max > first ? this.#value(places[first] ?? []) : ''
    const [low, high] = [Math.max(0, kind.min - first), max - first]
    if (first === 0) {
      const all = `${rest} (${comma} ${rest})${times(Math.max(0, low - 1), high - 1)} ${space}`
      return `"[" ${space} ${low === 0 ? `(${all})?` : all} "]"`
    }
    // Behind `first` items; then from the last of those that have places of their own to the first.
    let tail = max > first ? `(${comma} ${rest})${times(low, high)}` : ''
    for (let i = Math.min(first, max) - 1; i >= 0; i--) {
      const item = this.#value(places[i] ?? [])
      const one = `${i > 0 ? `${comma} ` : ''}${item} ${tail}${i === 0 ? ` ${space}` : ''}`
      tail = i >= kind.min ? `(${one})?` : one
      if (tail.length > 400) tail = this.#text.rule(`${this.#hint}-items`, tail)
    }
    return `"[" ${space} ${tail} "]"`
  }

  #object({ kind, fields: all, extras: every }: Extract<Shape, { type: 'object' }>): string {
    const { space, comma, colon } = this.json
    const fields = all.filter((field) => this.#canEnd(field.all))
    const extras = every.filter((extra) => this.#canEnd(extra.all))
    if (fields.length === 0 && kind.min === 0 && kind.max === Number.POSITIVE_INFINITY) {
      const [only] = extras
      if (extras.length === 1 && only?.names === null && this.kindsOf(only.all) === ANYTHING)
        return this.json.anyObject()
    }
    const pairs = fields.map(
      ({ name, all: value }) => `${literal(JSON.stringify(name))} ${colon} ${this.#value(value)}`,
    )
    const extra =
      extras.length === 0
        ? null
        : this.#text.rule(
            `${this.#hint}-more`,
            extras
              .map(({ names, all: value }) => {
                const name =
                  names === null
                    ? this.json.anyString()
                    : `"\\"" ${automatonRules(this.#text, names, `${this.#hint}-name`, this.json.character)} "\\""`
                return `${name} ${colon} ${this.#value(value)}`
              })
              .join(' | '),
          )
    const needed = fields.filter(({ isRequired }) => isRequired).length
    if (extra !== null && kind.min > needed + 1)
      throw this.#source.refuse(
        this.#where(kind.names),
        `'minProperties' of ${kind.min} counts names that the schema does not give, and that could be the same one: name them in 'properties' and 'required', or set 'additionalProperties' to false`,
      )
    const isCounted = kind.min > needed || kind.max !== Number.POSITIVE_INFINITY
    if (isCounted && fields.length * Math.min(fields.length, Math.max(kind.min, kind.max)) > 20_000)
      throw this.#source.refuse(
        this.#where(kind.names),
        "'minProperties' and 'maxProperties' beside so many properties are not supported",
      )
    const first = fields.findIndex(({ isRequired }) => isRequired)
    const memo = new Map<string, string | null>()
    const remembered = (key: string, make: () => string | null): string | null => {
      const known = memo.get(key)
      if (known !== undefined) return known
      const made = make()
      memo.set(key, made)
      return made
    }
    /** From field `i` on, when `count` members are there; null: it cannot end. Behind the first member
     * each has its comma, and the last its white space. */
    const from = (i: number, count: number): string | null =>
      remembered(`${i} ${isCounted ? count : Math.min(count, 1)}`, () => build(i, count))
    /** The same as a rule, where it is used more than once. */
    const named = (i: number, count: number): string | null =>
      remembered(`rule ${i} ${isCounted ? count : Math.min(count, 1)}`, () => {
        const made = from(i, count)
        return made === null || !made.includes(' ')
          ? made
          : this.#text.rule(`${this.#hint}-members`, made)
      })
    /** An object may begin with this field, so that its rest stands at more than one place. */
    const isOpen = (i: number): boolean => isCounted || first < 0 || i <= first
    const build = (i: number, count: number): string | null => {
      const field = fields[i]
      if (field === undefined) {
        const low = isCounted ? Math.max(0, kind.min - count) : 0
        const high = kind.max - count
        if (high < 0 || low > (extra === null ? 0 : 1)) return null
        if (extra === null || high === 0) return (count > 0 && space) || EMPTY
        if (count > 0) return `(${comma} ${extra})${times(low, high)} ${space}`
        const some = `${extra} (${comma} ${extra})${times(0, high - 1)} ${space}`
        return low > 0 ? some : `(${some})?`
      }
      const pair = `${count > 0 ? `${comma} ` : ''}${pairs[i]}`
      if (count >= kind.max) return field.isRequired ? null : from(i + 1, count)
      if (field.isRequired) {
        const rest = isOpen(i) ? named(i + 1, count + 1) : from(i + 1, count + 1)
        return rest === null ? null : `${pair} ${rest}`
      }
      if (!isCounted && count > 0)
        return `(${pair})? ${isOpen(i + 1) ? named(i + 1, count) : from(i + 1, count)}`
      const rest = named(i + 1, count + 1)
      const skipped = named(i + 1, count)
      const branches = rest === null ? [] : [`${pair} ${rest}`]
      if (skipped !== null) branches.push(skipped)
      return branches.length === 0 ? null : either(branches)
    }
    // From the end, so that nothing nests as deep as there are fields.
    for (let i = fields.length; i > 0; i--) {
      from(i, 1)
      if (isOpen(i)) from(i, 0)
    }
    const body = from(0, 0)
    if (body === null)
      throw this.#source.refuse(
        this.#where(kind.names),
        "'minProperties' and 'maxProperties' cannot both hold",
      )
    return `"{" ${space} ${body} "}"`
  }

  compile(): string {
    const { root } = this.#source
    this.#place(root)
    this.#discover()
    this.#findEnds()
    if (!this.#canEnd(root))
      throw this.#source.refuse(
        '#',
        this.kindsOf(root).some((kind) => kind.type !== 'literal' && kind.isUnasked)
          ? "no value of the kinds that this schema speaks of is valid under it: others need a 'type'"
          : 'no value at all is valid under this schema',
      )
    const expression = this.#value(root)
    for (let place = this.#pending.pop(); place !== undefined; place = this.#pending.pop())
      this.#write(place)
    return expression
  }
}

/** A name for a rule from the place of its schema. */
const hintOf = (pointer: string): string =>
  pointer.split('/').at(-1)?.replace(/^#$/, 'root') || 'root'

const admitsNumber = ({ isInteger, min, max, multiples }: NumberKind, value: number): boolean =>
  !(isInteger && !Number.isInteger(value)) &&
  (min === undefined || value > min.value || (value === min.value && !min.isExclusive)) &&
  (max === undefined || value < max.value || (value === max.value && !max.isExclusive)) &&
  multiples.every((one) => value % one === 0)

/** What may stand inside the values of a shape. */
const insideOf = (shape: Shape): readonly All[] => {
  if (shape.type === 'array') return itemsOf(shape.kind)
  return shape.type === 'object' ? [...shape.fields, ...shape.extras].map(({ all }) => all) : []
}

/** What stands at place `i` of a list. */
const itemOf = (kind: ArrayKind, i: number): All =>
  kind.parts.reduce<All>((all, { first, rest }) => both(all, first[i] ?? rest), [])

/** Without the items of which nothing is said behind those that have a place of their own. */
const closedList = (kind: ArrayKind): ArrayKind => {
  const named = Math.max(0, ...kind.parts.map(({ first }) => first.length))
  return isClosed(kind.parts) && kind.min <= named
    ? { ...kind, max: Math.min(kind.max, named) }
    : kind
}

/** What stands at each place of a list: those that differ, and last what stands at all others. */
const itemsOf = (kind: ArrayKind): readonly All[] => {
  const most = Math.max(0, ...kind.parts.map(({ first }) => first.length))
  return Array.from({ length: most + 1 }, (_, i) => itemOf(kind, i))
}

/** A pattern whose texts have between min and max characters, where that is a pattern: undefined where
 * it is not; null where there is none. */
const withLength = (pattern: Pattern, min: number, max: number): Pattern | null | undefined => {
  const own = lengthsOf(pattern)
  if (own.min >= min && own.max <= max) return pattern
  if (own.max < min || own.min > max) return null
  const only =
    pattern.kind === 'sequence' && pattern.parts.length === 1 ? pattern.parts[0] : pattern
  if (only?.kind !== 'repeat' || only.part.kind !== 'character') return undefined
  return repeat(only.part, Math.max(min, only.min), Math.min(max, only.max))
}

/** Constants, with what they begin with in common written once. */
const literalTree = (
  literals: readonly Literal[],
  write: (value: unknown) => string,
): readonly string[] => {
  const texts: string[] = []
  const others: string[] = []
  for (const { value } of literals)
    if (typeof value === 'object' && value !== null) others.push(write(value))
    else texts.push(JSON.stringify(value))
  return [...textTree(texts), ...others]
}

type SchemaOptions = {
  /** The beginning of the names of its rules. */
  readonly hint?: string
  /** The field of the request, for errors, and how they name the schema. */
  readonly param: string | null
  readonly what: string
}

/** Adds the rules of a schema to a grammar; returns the expression for its values. */
export const addSchema = (
  text: GrammarText,
  json: JsonText,
  schema: unknown,
  { hint = 'json', param, what }: SchemaOptions,
): string => new Compiler(text, json, readSchema(schema, what, param), { hint, param }).compile()
