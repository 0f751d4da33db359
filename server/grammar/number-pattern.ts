// Numbers between bounds, exactly, as the decimal texts that JSON writes. No exponents, no `-0`.

import { type Automaton, minimal } from './automaton.js'
import { range } from './code-points.js'
import { FRACTION_DIGITS, INTEGER_DIGITS } from './json-text.js'
import { character, choice, exactly, type Pattern, repeat, sequence } from './pattern.js'

export type Bound = { readonly value: number; readonly isExclusive: boolean }

type NumberBounds = {
  readonly isInteger: boolean
  readonly min?: Bound | undefined
  readonly max?: Bound | undefined
}

/** Of a number that is not negative: its digits before and behind the point, without idle zeros. */
type Decimal = { readonly whole: string; readonly fraction: string; readonly isExclusive: boolean }

const decimalText = (value: number): string => {
  if (Number.isInteger(value)) return BigInt(value).toString()
  const [mantissa = '', exponent = '0'] = Math.abs(value).toString().split('e')
  const [whole = '', fraction = ''] = mantissa.split('.')
  const shift = Number(exponent)
  const digits = whole + fraction
  const point = whole.length + shift
  const padded = point <= 0 ? `${'0'.repeat(1 - point)}${digits}` : digits.padEnd(point, '0')
  const at = Math.max(1, point)
  const text = `${padded.slice(0, at)}.${padded.slice(at)}`
  return (value < 0 ? '-' : '') + text.replace(/^0+(?=[0-9])/, '').replace(/\.?0*$/, '')
}

const decimal = ({ value, isExclusive }: Bound): Decimal => {
  const [whole = '0', fraction = ''] = decimalText(Math.abs(value)).split('.')
  return { whole, fraction, isExclusive }
}

/** With so many decimals at most, no number but the bound is read as it. */
const placesBeside = ({ whole, fraction }: Decimal): number => {
  const spacing = 2 ** (Math.floor(Math.log2(Number(`${whole}.${fraction}`))) - 52)
  // A double says a whole bound exactly; another one is up to half a step beside its decimals.
  const reach = fraction === '' ? spacing / 2 : spacing
  let places = 0
  while (places < FRACTION_DIGITS && 10 ** -(places + 1) > reach) places++
  return places
}

/** Digits that a bound has beyond those that people write: 5e-324 has hundreds, and each is a part of the pattern. */
export const idleDigits = (bound: Bound | undefined): number =>
  bound === undefined ? 0 : Math.max(0, decimalText(bound.value).length - 40)

const digit = (first: number, last: number): Pattern => character(range(0x30 + first, 0x30 + last))
const DIGIT = digit(0, 9)
const NONE: readonly Pattern[] = []

/** Digit texts of one length from low to high, both of that length and in order. */
const between = (low: string, high: string): Pattern => {
  if (low === high) return exactly(low)
  const rest = low.length - 1
  const [a, b] = [Number(low[0]), Number(high[0])]
  if (rest === 0) return digit(a, b)
  if (a === b) return sequence(digit(a, a), between(low.slice(1), high.slice(1)))
  const [zeros, nines] = ['0'.repeat(rest), '9'.repeat(rest)]
  const branches: Pattern[] = []
  const isLowFull = low.slice(1) === zeros
  const isHighFull = high.slice(1) === nines
  if (!isLowFull) branches.push(sequence(digit(a, a), between(low.slice(1), nines)))
  const [from, to] = [isLowFull ? a : a + 1, isHighFull ? b : b - 1]
  if (from <= to) branches.push(sequence(digit(from, to), repeat(DIGIT, rest, rest)))
  if (!isHighFull) branches.push(sequence(digit(b, b), between(zeros, high.slice(1))))
  return choice(...branches)
}

/** Integers from low to high; both have no sign. */
const integersBetween = (low: bigint, high: bigint): readonly Pattern[] => {
  if (low > high) return NONE
  const branches: Pattern[] = []
  const lengths = [low.toString().length, high.toString().length] as const
  for (let length = lengths[0]; length <= lengths[1]; length++) {
    const first = length === 1 ? 0n : 10n ** BigInt(length - 1)
    const last = 10n ** BigInt(length) - 1n
    const from = low > first ? low : first
    const to = high < last ? high : last
    branches.push(between(from.toString(), to.toString()))
  }
  return branches
}

/** All tails behind one digit: each as it is written again would be as many texts as there are digits. */
const behind = (figure: number, tails: readonly Pattern[]): readonly Pattern[] =>
  tails.length === 0 ? NONE : [sequence(digit(figure, figure), choice(...tails))]

const anyFraction = (digits: number): Pattern => repeat(DIGIT, 0, Math.max(0, digits))

/** What may follow digits that were equal to the bound's so far, to be at least the bound. `room`:
 * digits that may still come. */
const atLeast = (rest: string, isExclusive: boolean, room: number): readonly Pattern[] => {
  if (rest === '') {
    if (!isExclusive) return [anyFraction(room)]
    return room < 1
      ? NONE
      : [
          sequence(repeat(digit(0, 0), 0, room - 1), digit(1, 9)),
          ...Array.from({ length: room - 1 }, (_, zeros) =>
            sequence(exactly('0'.repeat(zeros)), digit(1, 9), repeat(DIGIT, 1, room - zeros - 1)),
          ),
        ]
  }
  if (room < 1) return NONE
  const first = Number(rest[0])
  const branches: Pattern[] = []
  if (first < 9) branches.push(sequence(digit(first + 1, 9), anyFraction(room - 1)))
  return [...branches, ...behind(first, atLeast(rest.slice(1), isExclusive, room - 1))]
}

const atMost = (rest: string, isExclusive: boolean, room: number): readonly Pattern[] => {
  if (rest === '') return isExclusive ? NONE : [repeat(digit(0, 0), 0, room)]
  const first = Number(rest[0])
  // Nothing more: the missing digits are zeros.
  const branches: Pattern[] = [sequence()]
  if (room < 1) return branches
  if (first > 0) branches.push(sequence(digit(0, first - 1), anyFraction(room - 1)))
  return [...branches, ...behind(first, atMost(rest.slice(1), isExclusive, room - 1))]
}

/** Between two bounds with the same whole part. */
const within = (low: Decimal, high: Decimal, at: number, room: number): readonly Pattern[] => {
  const [a, b] = [low.fraction.slice(at), high.fraction.slice(at)]
  if (a === '') {
    const above = low.isExclusive
    if (b === '') return above || high.isExclusive ? NONE : [repeat(digit(0, 0), 0, room)]
    if (!above) return atMost(b, high.isExclusive, room)
  }
  if (b === '' || room < 1) return NONE
  const [x, y] = [Number(a[0] ?? '0'), Number(b[0])]
  if (x > y) return NONE
  const next = { ...low, fraction: a === '' ? `${low.fraction}0` : low.fraction }
  if (x === y) return behind(x, within(next, high, at + 1, room - 1))
  const branches = [...behind(x, atLeast(a.slice(1), low.isExclusive, room - 1))]
  if (y - x > 1) branches.push(sequence(digit(x + 1, y - 1), anyFraction(room - 1)))
  return [...branches, ...behind(y, atMost(b.slice(1), high.isExclusive, room - 1))]
}

/** A fraction's digits with their point, or neither. */
const pointed = (digits: Pattern): Pattern => sequence(exactly('.'), digits)

/** Splits off the case of no digits at all, which has no point either. */
const fraction = (languages: readonly Pattern[]): Pattern => {
  const branches: Pattern[] = []
  let mayBeNone = false
  for (const language of languages) {
    const { some, none } = split(language)
    mayBeNone ||= none
    if (some !== null) branches.push(pointed(some))
  }
  if (branches.length === 0) return sequence()
  return mayBeNone ? repeat(choice(...branches), 0, 1) : choice(...branches)
}

/** A pattern without its empty text, and whether it had it. */
const split = (pattern: Pattern): { readonly some: Pattern | null; readonly none: boolean } => {
  if (pattern.kind === 'character') return { some: pattern, none: false }
  if (pattern.kind === 'repeat') {
    if (pattern.max === 0) return { some: null, none: true }
    return {
      some: repeat(pattern.part, Math.max(1, pattern.min), pattern.max),
      none: pattern.min === 0,
    }
  }
  if (pattern.kind === 'sequence') {
    const [first, ...rest] = pattern.parts
    if (first === undefined) return { some: null, none: true }
    if (rest.length === 0) return split(first)
    // All sequences here begin with a digit that must be there, or with zeros before one.
    return { some: pattern, none: false }
  }
  throw new Error('no such part of a fraction')
}

/** Not negative numbers; bounds are not negative either. Text without a sign. */
const unsigned = (
  low: Decimal,
  high: Decimal | undefined,
  isInteger: boolean,
): readonly Pattern[] => {
  if (isInteger) {
    const from = BigInt(low.whole) + (low.fraction !== '' || low.isExclusive ? 1n : 0n)
    const limit = 10n ** BigInt(INTEGER_DIGITS) - 1n
    const top =
      high === undefined
        ? limit
        : BigInt(high.whole) - (high.fraction === '' && high.isExclusive ? 1n : 0n)
    return integersBetween(from, top < limit ? top : limit)
  }
  const limit = 10n ** BigInt(INTEGER_DIGITS) - 1n
  const bottom = BigInt(low.whole)
  const roof = high === undefined ? undefined : BigInt(high.whole)
  const top = roof === undefined || roof > limit ? limit + 1n : roof
  /** Beside a bound that is not allowed itself, few enough digits that none is read as the bound. */
  const room = (bound: Decimal | undefined): number => {
    if (bound === undefined) return FRACTION_DIGITS
    if (!bound.isExclusive) return Math.max(FRACTION_DIGITS, bound.fraction.length + 1)
    return placesBeside(bound)
  }
  const below = Math.min(room(low), high?.isExclusive ? room(high) : room(low))
  const branches: Pattern[] = []
  if (bottom > limit) return NONE
  const withFraction = (whole: bigint, languages: readonly Pattern[]) => {
    if (languages.length > 0)
      branches.push(sequence(exactly(whole.toString()), fraction(languages)))
  }
  if (high !== undefined && bottom === roof) {
    withFraction(bottom, within(low, high, 0, Math.min(room(low), room(high))))
    return branches
  }
  withFraction(bottom, atLeast(low.fraction, low.isExclusive, below))
  const whole = integersBetween(bottom + 1n, top - 1n)
  if (whole.length > 0)
    branches.push(
      sequence(
        choice(...whole),
        fraction([anyFraction(high?.isExclusive ? room(high) : FRACTION_DIGITS)]),
      ),
    )
  if (high !== undefined && top === roof)
    withFraction(top, atMost(high.fraction, high.isExclusive, room(high)))
  return branches
}

const ZERO: Bound = { value: 0, isExclusive: false }

/** The texts of all numbers between the bounds; null: there are none. */
export const numberPattern = ({ isInteger, min, max }: NumberBounds): Pattern | null => {
  const branches: Pattern[] = []
  if (max === undefined || max.value > 0 || (max.value === 0 && !max.isExclusive)) {
    const low = min !== undefined && min.value >= 0 ? min : ZERO
    if (
      max === undefined ||
      max.value > low.value ||
      (max.value === low.value && !low.isExclusive && !max.isExclusive)
    )
      branches.push(...unsigned(decimal(low), max && decimal(max), isInteger))
  }
  if (min === undefined || min.value < 0) {
    // As if they had no sign: from the larger one down, and no zero.
    const low =
      max !== undefined && max.value < 0
        ? { value: -max.value, isExclusive: max.isExclusive }
        : { value: 0, isExclusive: true }
    const high = min && { value: -min.value, isExclusive: min.isExclusive }
    const isIn =
      high === undefined ||
      high.value > low.value ||
      (high.value === low.value && !low.isExclusive && !high.isExclusive)
    const negative = isIn ? unsigned(decimal(low), high && decimal(high), isInteger) : NONE
    if (negative.length > 0) branches.push(sequence(exactly('-'), choice(...negative)))
  }
  return branches.length > 0 ? choice(...branches) : null
}

/** Halves, quarters, eighths. */
const MAX_PLACES = 3
/** Remainders times decimals that are looked at. */
const MAX_REMAINDERS = 4096
/** States, digit by digit: what an automaton of multiples between bounds comes to. */
const MAX_DIGIT_STATES = 2048
/** Beyond so many digits a double is not the number that was written. */
const EXACT_DIGITS = 15

type Multiple = {
  readonly automaton: Automaton
  /** Digits that a number may have before its point. */
  readonly digits: number
}

const remembered = new Map<number, Multiple | null>()

/** As `findMultiples`, once for each number. */
export const multiplesOf = (of: number): Multiple | null => {
  const known = remembered.get(of)
  if (known !== undefined) return known
  const found = findMultiples(of)
  if (remembered.size >= 256) remembered.clear()
  remembered.set(of, found)
  return found
}

/** The decimal texts of all multiples of `of`; null: not one that an automaton and a double both say
 * exactly. */
const findMultiples = (of: number): Multiple | null => {
  let places = 0
  while (places <= MAX_PLACES && !Number.isInteger(of * 2 ** places)) places++
  // A sum of halves, quarters, ...: exact in a double, and its decimals are as many as its bits.
  if (places > MAX_PLACES) return null
  const modulus = of * 10 ** places
  if (modulus * (places + 2) > MAX_REMAINDERS) return null
  // States: begin, behind the sign, then the remainder, by how many decimals there were (0: no point
  // yet, 1: the point, 2: one decimal, ...).
  const state = (part: number, remainder: number): number => 2 + part * modulus + remainder
  const digitEdges = (part: number, remainder: number) =>
    Array.from({ length: 10 }, (_, figure) => ({
      first: 0x30 + figure,
      last: 0x30 + figure,
      to: state(part, (remainder * 10 + figure) % modulus),
    }))
  const edges = [[{ first: 0x2d, last: 0x2d, to: 1 }, ...digitEdges(0, 0)], digitEdges(0, 0)]
  const accepts = [false, false]
  for (let part = 0; part <= (places === 0 ? 0 : places + 1); part++)
    for (let remainder = 0; remainder < modulus; remainder++) {
      const decimals = Math.max(0, part - 1)
      const left = places - decimals
      accepts.push(part !== 1 && (remainder * 10 ** left) % modulus === 0)
      const figures =
        part === 0 ? digitEdges(0, remainder) : left > 0 ? digitEdges(part + 1, remainder) : []
      const point = { first: 0x2e, last: 0x2e, to: state(1, remainder) }
      edges.push(part === 0 && places > 0 ? [point, ...figures] : figures)
    }
  const automaton = minimal({ edges, accepts })
  const digits = Math.min(EXACT_DIGITS, Math.floor(MAX_DIGIT_STATES / automaton.edges.length))
  return digits > modulus.toString().length ? { automaton, digits } : null
}
