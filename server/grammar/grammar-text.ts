// Grammar text while it is written, in the form of docs/decisions/0013-grammar-text.md. Every source of a
// grammar (a schema, a regular expression, a list of choices) adds rules here; none knows the names of
// another's.

import { badRequest } from '../request-error.js'
import { type CodePoints, isAny } from './code-points.js'

/** Bytes of a grammar's text. */
const MAX_GRAMMAR_BYTES = 1 << 20

export type GrammarText = {
  /** Adds a rule under a name made of the hint; returns the name. */
  readonly rule: (hint: string, body: string) => string
  /** A name for a rule that refers to itself; `define` gives it its body. */
  readonly reserve: (hint: string) => string
  readonly define: (name: string, body: string) => void
  /** A rule that is written once, however often it is asked for. `key` tells it from others. */
  readonly shared: (key: string, body: () => string) => string
  /** All of it; `root` is the expression that an answer has to be. */
  readonly text: (root: string) => string
}

/** `param`: the field of the request that is named when the text grows too long. */
export const createGrammarText = (param: string | null = null): GrammarText => {
  const taken = new Set(['root'])
  /** By hint: the number that is tried next. */
  const nexts = new Map<string, number>()
  const keys = new Map<string, string>()
  const lines: string[] = []
  let bytes = 0

  const reserve = (hint: string): string => {
    const base = `${/^[A-Za-z_]/.test(hint) ? '' : 'r'}${hint.replace(/[^A-Za-z0-9_]+/g, '-')}`
    const short = base.slice(0, 40)
    let name = short
    let next = nexts.get(short) ?? 2
    while (taken.has(name)) name = `${short}-${next++}`
    nexts.set(short, next)
    taken.add(name)
    return name
  }
  const define = (name: string, body: string): void => {
    const line = `${name} ::= ${body}\n`
    bytes += Buffer.byteLength(line)
    if (bytes > MAX_GRAMMAR_BYTES)
      throw badRequest(
        `${param === null ? 'This' : `'${param}'`} makes a grammar of more than ${MAX_GRAMMAR_BYTES} bytes: ask for less.`,
        param,
      )
    lines.push(line)
  }
  const rule = (hint: string, body: string): string => {
    const name = reserve(hint)
    define(name, body)
    return name
  }
  return {
    rule,
    reserve,
    define,
    shared: (key, body) => {
      const known = keys.get(key)
      if (known !== undefined) return known
      const name = reserve(key)
      keys.set(key, name)
      define(name, body())
      return name
    },
    text: (root) => `root ::= ${root}\n${lines.join('')}`,
  }
}

const hex = (point: number): string => {
  const digits = point.toString(16).toUpperCase()
  if (digits.length <= 2) return `\\x${digits.padStart(2, '0')}`
  if (digits.length <= 4) return `\\u${digits.padStart(4, '0')}`
  return `\\U${digits.padStart(8, '0')}`
}

const ESCAPES: Readonly<Record<string, string>> = {
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
  '\\': '\\\\',
  '"': '\\"',
}

/** Exactly this text. It may have no lone surrogate. */
export const literal = (text: string): string =>
  `"${text.replace(/[\p{C}\\"]/gu, (one) => ESCAPES[one] ?? Array.from(one, (c) => hex(c.codePointAt(0) ?? 0)).join(''))}"`

const classPoint = (point: number): string => {
  const text = String.fromCodePoint(point)
  return /^[A-Za-z0-9]$/.test(text) ? text : hex(point)
}

/** One character of the set, which is not empty. */
export const characterClass = (set: CodePoints): string => {
  if (isAny(set)) return '.'
  let body = ''
  for (let i = 0; i < set.length; i += 2) {
    const [first = 0, last = 0] = [set[i], set[i + 1]]
    body += classPoint(first)
    if (last > first) body += `${last > first + 1 ? '-' : ''}${classPoint(last)}`
  }
  return `[${body}]`
}

/** `{2,5}` and its short forms; '' for exactly once. */
export const times = (min: number, max: number): string => {
  if (min === 1 && max === 1) return ''
  if (max === Number.POSITIVE_INFINITY) return min === 0 ? '*' : min === 1 ? '+' : `{${min},}`
  if (min === 0 && max === 1) return '?'
  return min === max ? `{${min}}` : `{${min},${max}}`
}

/** Nothing: the empty text. */
export const EMPTY = '""'

/** One of these expressions. */
export const either = (branches: readonly string[]): string =>
  branches.length === 1 ? (branches[0] ?? EMPTY) : `(${branches.join(' | ')})`
