// Random texts of any characters at all.

import fc from 'fast-check'

const SURROGATES = 0xd800
const SURROGATE_COUNT = 0x800

/** What `unit: 'binary'` is, which first makes a table of all of them. */
const character = fc
  .nat(0x10ffff - SURROGATE_COUNT)
  .map((i) => String.fromCodePoint(i < SURROGATES ? i : i + SURROGATE_COUNT))

export const anyText = (maxLength?: number): fc.Arbitrary<string> =>
  fc.string({ unit: character, ...(maxLength !== undefined && { maxLength }) })
