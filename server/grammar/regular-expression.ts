// Regular expressions as ECMA-262 (flag u) and Python write them, as far as both mean the same regular
// language. What is no regular language, or differs between the two, is refused by name.

import { badRequest } from '../request-error.js'
import {
  ANY,
  anyOf,
  type CodePoints,
  complement,
  hasLoneSurrogate,
  one,
  range,
  union,
  without,
} from './code-points.js'
import { character, choice, type Pattern, repeat, sequence } from './pattern.js'

/** Characters of one expression. */
const MAX_EXPRESSION = 8192
/** Groups inside groups. */
const MAX_NESTING = 64
/** The largest number in braces. */
const MAX_COUNT = 100_000

export type Expression = {
  readonly pattern: Pattern
  /** What its beginning promises: the text matches such a pattern from its beginning on, or does not. */
  readonly ahead: readonly { readonly pattern: Pattern; readonly isNegative: boolean }[]
}

const DIGIT = range(0x30, 0x39)
const WORD = union(DIGIT, range(0x41, 0x5a), range(0x61, 0x7a), one('_'))
const SPACE = anyOf(
  '\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff',
)
const DOT = complement(anyOf('\n\r\u2028\u2029'))

const SETS: Readonly<Record<string, CodePoints>> = {
  d: DIGIT,
  D: complement(DIGIT),
  w: WORD,
  W: complement(WORD),
  s: SPACE,
  S: complement(SPACE),
}
const CONTROLS: Readonly<Record<string, string>> = {
  t: '\t',
  n: '\n',
  r: '\r',
  v: '\v',
  f: '\f',
}

let everything: string | undefined
const properties = new Map<string, CodePoints>()

/** The characters with a Unicode property, as this JavaScript knows them; null: it knows none. */
const propertySet = (name: string): CodePoints | null => {
  const known = properties.get(name)
  if (known !== undefined) return known
  if (!/^\w{1,40}(=\w{1,40})?$/.test(name)) return null
  let test: RegExp
  try {
    test = new RegExp(`\\p{${name}}+`, 'gu')
  } catch {
    return null
  }
  if (everything === undefined) {
    const points: number[] = []
    for (let i = 0; i < ANY.length; i += 2)
      for (let point = ANY[i] ?? 0; point <= (ANY[i + 1] ?? 0); point++) points.push(point)
    const parts: string[] = []
    for (let i = 0; i < points.length; i += 8192)
      parts.push(String.fromCodePoint(...points.slice(i, i + 8192)))
    everything = parts.join('')
  }
  const ranges: number[] = []
  for (const [run] of everything.matchAll(test)) {
    const isPair = run.charCodeAt(run.length - 1) >> 10 === 0xdc00 >> 10
    // A run may go on over the gap of the surrogates.
    ranges.push(run.codePointAt(0) ?? 0, run.codePointAt(run.length - (isPair ? 2 : 1)) ?? 0)
  }
  const set = without(union(ranges), [0xd800, 0xdfff])
  if (properties.size >= 64) properties.clear()
  properties.set(name, set)
  return set
}

/** `what` names the expression in errors: the field, or the place in a schema. */
// long: a parser, whose parts share the place where it reads
export const parseExpression = (source: string, what: string, param: string | null): Expression => {
  let at = 0
  let nesting = 0
  const ahead: { pattern: Pattern; isNegative: boolean }[] = []

  const refuse: (why: string, where?: number) => never = (why, where = at) => {
    throw badRequest(
      `Invalid regular expression in ${what}: ${why} (at character ${where + 1} of ${JSON.stringify(source.length > 200 ? `${source.slice(0, 200)}...` : source)}).`,
      param,
    )
  }
  if (source.length > MAX_EXPRESSION)
    throw badRequest(
      `The regular expression in ${what} has ${source.length} characters: at most ${MAX_EXPRESSION}.`,
      param,
    )
  if (hasLoneSurrogate(source))
    throw badRequest(`The regular expression in ${what} has half of a surrogate pair.`, param)

  const peek = (text: string): boolean => source.startsWith(text, at)
  const take = (text: string): boolean => {
    if (!peek(text)) return false
    at += text.length
    return true
  }
  /** The character at `at`, which may be two units long. */
  const next = (): string => {
    const point = source.codePointAt(at)
    if (point === undefined) return refuse('it ends too early')
    const text = String.fromCodePoint(point)
    at += text.length
    return text
  }
  const hexDigits = (min: number, max: number): number => {
    const [found = ''] = source.slice(at).match(new RegExp(`^[0-9A-Fa-f]{${min},${max}}`)) ?? []
    if (found === '')
      refuse(`${min === max ? min : `${min} to ${max}`} hexadecimal digits are missing`)
    at += found.length
    return Number.parseInt(found, 16)
  }
  const scalar = (point: number, from: number): CodePoints => {
    if (point > 0x10ffff) refuse('this is beyond the last character, U+10FFFF', from)
    if (point >= 0xd800 && point <= 0xdfff) refuse('half of a surrogate pair is no character', from)
    return [point, point]
  }

  /** Behind a backslash. */
  const readEscape = (inClass: boolean): CodePoints => {
    const from = at - 1
    const letter = next()
    const set = SETS[letter]
    if (set !== undefined) return set
    const control = CONTROLS[letter]
    if (control !== undefined) return one(control)
    switch (letter) {
      case 'b':
        if (inClass) return one('\b')
        return refuse("a word boundary ('\\b') is not supported", from)
      case 'B':
      case 'A':
      case 'Z':
      case 'z':
      case 'G':
        return refuse(
          `'\\${letter}' is not supported${'AZz'.includes(letter) ? ": use '^' and '$'" : ''}`,
          from,
        )
      case 'k':
        return refuse('a reference back to a group is not supported', from)
      case '0':
        if (/^[0-9]/.test(source.slice(at))) refuse('octal escapes are not supported', from)
        return one('\0')
      case 'x':
        return scalar(hexDigits(2, 2), from)
      case 'u': {
        if (take('{')) {
          const point = hexDigits(1, 6)
          if (!take('}')) refuse("'}' is missing")
          return scalar(point, from)
        }
        const unit = hexDigits(4, 4)
        const isHigh = unit >= 0xd800 && unit <= 0xdbff
        if (isHigh && /^\\u[dD][c-fC-F]/.test(source.slice(at))) {
          at += 2
          return scalar(0x10000 + ((unit - 0xd800) << 10) + (hexDigits(4, 4) - 0xdc00), from)
        }
        return scalar(unit, from)
      }
      case 'U':
        return scalar(hexDigits(8, 8), from)
      case 'c': {
        const name = next()
        if (!/^[A-Za-z]$/.test(name)) refuse("a letter is missing behind '\\c'", from)
        const point = (name.codePointAt(0) ?? 0) % 32
        return [point, point]
      }
      case 'p':
      case 'P': {
        const [all, name = ''] = source.slice(at).match(/^\{([^}]*)\}/) ?? []
        const found = all === undefined ? null : propertySet(name)
        if (all === undefined || found === null)
          return refuse(
            `'\\${letter}' needs a Unicode property, as in '\\p{L}' or '\\p{Script=Greek}'`,
            from,
          )
        at += all.length
        return letter === 'p' ? found : complement(found)
      }
    }
    if (/^[1-9]$/.test(letter)) refuse('a reference back to a group is not supported', from)
    if (/^[A-Za-z]$/.test(letter)) refuse(`'\\${letter}' has no meaning here`, from)
    return one(letter)
  }

  const classMember = (): CodePoints => {
    if (take('\\')) return readEscape(true)
    if (peek('[:')) refuse('POSIX classes are not supported')
    return one(next())
  }
  const isOne = (set: CodePoints): boolean => set.length === 2 && set[0] === set[1]

  /** Behind `[`. */
  const readClass = (): Pattern => {
    const from = at - 1
    const isNegative = take('^')
    const sets: CodePoints[] = []
    // As Python: a bracket that comes first is itself. ECMA has the empty class, which nothing matches.
    if (peek(']')) {
      if (!source.slice(at + 1).includes(']') || isNegative === false)
        refuse("an empty class matches nothing: write '\\]' for the bracket")
      else refuse("write '\\]' for a bracket in a class, and '[\\s\\S]' for any character")
    }
    while (!take(']')) {
      if (at >= source.length) refuse("']' is missing", from)
      const start = at
      const low = classMember()
      if (!peek('-') || source[at + 1] === ']' || source[at + 1] === undefined) {
        sets.push(low)
        continue
      }
      at++
      const high = classMember()
      if (!isOne(low) || !isOne(high)) refuse('a range needs a character on both sides', start)
      if ((low[0] ?? 0) > (high[0] ?? 0)) refuse('the range is out of order', start)
      sets.push(range(low[0] ?? 0, high[0] ?? 0))
    }
    const set = union(...sets)
    const chosen = isNegative ? complement(set) : set
    if (chosen.length === 0) refuse('this class matches no character', from)
    return character(chosen)
  }

  const readGroup = (isAtBegin: boolean): Pattern | null => {
    const from = at - 1
    if (++nesting > MAX_NESTING) refuse(`groups are nested deeper than ${MAX_NESTING}`, from)
    let isNegative: boolean | undefined
    if (take('?')) {
      if (take('=')) isNegative = false
      else if (take('!')) isNegative = true
      else if (peek('<=') || peek('<!')) refuse('looking behind is not supported', from)
      else if (take('>')) refuse('atomic groups are not supported', from)
      else if (peek('P=') || peek('P>'))
        refuse('a reference back to a group is not supported', from)
      else if (peek('#')) refuse('comments are not supported', from)
      else if (peek('(')) refuse('conditional groups are not supported', from)
      else if (!take(':')) {
        const [name] = source.slice(at).match(/^P?<[\p{ID_Start}_$][\p{ID_Continue}$]*>/u) ?? []
        if (name === undefined)
          refuse(
            "flags inside an expression are not supported: write the cases out, as in '[aA]'",
            from,
          )
        at += name?.length ?? 0
      }
    }
    if (isNegative !== undefined && (!isAtBegin || nesting > 1))
      refuse("looking ahead is only supported at the very beginning, as in '^(?!...)'", from)
    const inner = readChoice()
    if (!take(')')) refuse("')' is missing", from)
    nesting--
    if (isNegative === undefined) return inner
    ahead.push({ pattern: inner, isNegative })
    return null
  }

  const readAtom = (isAtBegin: boolean): Pattern | null => {
    const from = at
    const text = next()
    switch (text) {
      case '^':
        return { kind: 'begin' }
      case '$':
        return { kind: 'end' }
      case '.':
        return character(DOT)
      case '[':
        return readClass()
      case '(':
        return readGroup(isAtBegin)
      case '\\':
        return character(readEscape(false))
      case '*':
      case '+':
      case '?':
        return refuse(`there is nothing for '${text}' to repeat`, from)
      default:
        return character(one(text))
    }
  }

  const readCount = (): readonly [number, number] | null => {
    if (take('*')) return [0, Number.POSITIVE_INFINITY]
    if (take('+')) return [1, Number.POSITIVE_INFINITY]
    if (take('?')) return [0, 1]
    const from = at
    const [all, low = '', comma, high = ''] =
      source.slice(at).match(/^\{([0-9]+)(,([0-9]*))?\}/) ?? []
    if (all === undefined) {
      if (/^\{,[0-9]+\}/.test(source.slice(at))) refuse("write '{0,' where a count begins at none")
      return null
    }
    at += all.length
    const min = Number(low)
    const max = comma === undefined ? min : high === '' ? Number.POSITIVE_INFINITY : Number(high)
    if (max < min) refuse('the count is out of order', from)
    if (min > MAX_COUNT || (max > MAX_COUNT && max !== Number.POSITIVE_INFINITY))
      refuse(`a count is at most ${MAX_COUNT}`, from)
    return [min, max]
  }

  const readSequence = (): Pattern => {
    const parts: Pattern[] = []
    while (at < source.length && !peek('|') && !peek(')')) {
      const from = at
      const isAtBegin = parts.length > 0 && parts.every(({ kind }) => kind === 'begin')
      const atom = readAtom(isAtBegin)
      const count = readCount()
      if (count === null) {
        if (atom !== null) parts.push(atom)
        continue
      }
      if (atom === null) refuse('looking ahead cannot be repeated', from)
      else if (atom.kind === 'begin' || atom.kind === 'end')
        refuse('an anchor cannot be repeated', from)
      else {
        // Lazy or not: the texts that match are the same.
        if (!take('?') && peek('+')) refuse('possessive repetition is not supported')
        if (peek('*') || peek('+') || peek('?') || /^\{[0-9]/.test(source.slice(at)))
          refuse('this repeats a repetition: put it in a group')
        parts.push(repeat(atom, ...count))
      }
    }
    return sequence(...parts)
  }

  const readChoice = (): Pattern => {
    const branches = [readSequence()]
    while (take('|')) branches.push(readSequence())
    if (nesting === 0 && ahead.length > 0 && branches.length > 1)
      refuse('looking ahead is not supported beside another branch: put the branches in a group', 0)
    return choice(...branches)
  }

  const pattern = readChoice()
  if (at < source.length) refuse("there is no '(' for this ')'")
  return { pattern, ahead }
}
