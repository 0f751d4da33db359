// Whether two answers to a question of mathematics are the same, however they are written.

type Rational = readonly [above: bigint, below: bigint]

/** A power of ten beyond it is text: as a number it could take all memory. */
const MAX_EXPONENT = 1000

/** Digit by digit: a double would make one of several long numbers. Commas and spaces divide thousands. */
const readDecimal = (text: string): Rational | undefined => {
  const [, sign = '', whole = '', part = '', exponent = '0'] =
    /^([+-]?)(\d{1,3}(?:[, ]\d{3})+|\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,9}))?$/.exec(text) ?? []
  const digits = whole.replace(/\D/g, '') + part
  if (digits === '' || Math.abs(Number(exponent)) > MAX_EXPONENT) return undefined
  const shift = Number(exponent) - part.length
  const power = 10n ** BigInt(Math.abs(shift))
  const number = BigInt(sign + digits)
  return shift < 0 ? [number, power] : [number * power, 1n]
}

/** A decimal, or one over another. */
const readNumber = (text: string): Rational | undefined => {
  const [, sign, above = '', below = ''] = /^([+-]?)\\frac\{([^{}]*)\}\{([^{}]*)\}$/.exec(text) ??
    /^()([^/]*)\/([^/]*)$/.exec(text) ?? ['', '', text, '1']
  const [a, b] = [readDecimal(above), readDecimal(below)]
  if (a === undefined || b === undefined || b[0] === 0n) return undefined
  return [sign === '-' ? -a[0] * b[1] : a[0] * b[1], a[1] * b[0]]
}

/** White space, signs and marks of TeX in one form. Spaces stay where they divide something: digits from digits, and
 * behind a comma, so that `1, 234` is no number. */
const normalise = (text: string): string =>
  text
    // Only thousands are divided so.
    .replace(/(\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))/g, '$1')
    .replace(/\\(?:left|right|displaystyle)(?![a-z])|(?<!\\)\\!/g, '')
    .replace(/(?<!\\)\\(?:[,;: ]|q?quad(?![a-z]))|~|\s+/g, ' ')
    .replace(/\\[dtc]frac(?![a-z])/g, '\\frac')
    .replace(/\\(?:text|mbox|mathrm)\{([^{}]*)\}/g, '$1')
    .replace(/\\?[%$]|\^ ?(?:\\circ(?![a-z])|\{ ?\\circ ?\})/g, '')
    .replaceAll('−', '-')
    // What stands behind these is one letter or digit where no braces hold it together.
    .replace(/(\\sqrt|\\frac|\^|_) ?([0-9A-Za-z])/g, '$1{$2}')
    .replace(/(\\frac\{(?:[^{}]|\{[^{}]*\})*\}) ?([0-9A-Za-z])/g, '$1{$2}')
    .replace(/ +/g, ' ')
    .replace(/ (?!\d)|(?<![\d,]) /g, '')
    .replace(/\.$/, '')

const isSameValue = (a: string, b: string): boolean => {
  const [one, two] = [readNumber(a), readNumber(b)]
  if (one !== undefined && two !== undefined) return one[0] * two[1] === two[0] * one[1]
  return one === two && a.replaceAll(', ', ',') === b.replaceAll(', ', ',')
}

/** `x = 5 \text{ cm}^2`: its name, its value and its unit, which only what has a digit has. */
const partsOf = (text: string) => {
  const [begin = '', name = ''] = /^[\s$]*([A-Za-z]|\\[a-z]+)\s*=(?=[^=]+$)/.exec(text) ?? []
  const rest = text.slice(begin.length)
  const unit = /\\(?:text|mbox|mathrm)\{[^{}]*\}(?:\^\{?\d\}?)?[\s.$]*$/.exec(rest)
  const value = rest.slice(0, unit?.index)
  return unit !== null && /\d/.test(value)
    ? { name, value, unit: normalise(unit[0]) }
    : { name, value: rest, unit: '' }
}

/** A name or a unit that one of them leaves out makes no difference; another one does. */
export const isSameMath = (a: string, b: string): boolean => {
  if (isSameValue(normalise(a), normalise(b))) return true
  const [one, two] = [partsOf(a), partsOf(b)]
  const agree = (x: string, y: string): boolean => x === '' || y === '' || x === y
  return (
    agree(one.name, two.name) &&
    agree(one.unit, two.unit) &&
    isSameValue(normalise(one.value), normalise(two.value))
  )
}
