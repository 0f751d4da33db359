// What the fields of a line are called, where it lacks those that are needed.

/** Names that are shown. */
const MOST_NAMES = 12

/** ` (it has a, b)`; nothing of an empty line. */
export const hasFields = (line: object): string => {
  const names = Object.keys(line)
  if (names.length === 0) return ''
  return ` (it has ${names.slice(0, MOST_NAMES).join(', ')}${names.length > MOST_NAMES ? ', ...' : ''})`
}
