// Small, harmful changes: where in a file they can be made, and the key of each.

// Text to text, one place at a time. Spaces keep types and templates out.
const swaps = [
  [' === ', ' !== '],
  [' !== ', ' === '],
  [' == ', ' != '],
  [' != ', ' == '],
  [' < ', ' <= '],
  [' <= ', ' < '],
  [' > ', ' >= '],
  [' >= ', ' > '],
  [' && ', ' || '],
  [' || ', ' && '],
  [' + 1', ''],
  [' - 1', ''],
  ['+= ', '-= '],
  ['++', '--'],
  ['true', 'false'],
  ['false', 'true'],
  ['Math.max(', 'Math.min('],
  ['Math.min(', 'Math.max('],
  ['std::max(', 'std::min('],
  ['std::min(', 'std::max('],
  ['if (!', 'if ('],
  ['if (', 'if (true || '],
  ['if (', 'if (false && '],
]
const callAlone = /^\s+\w[\w.]*(?:->[\w.]+)*\([^{}]*\);?$/
const notCode =
  /^\s*(?:\/\/|\*|\/\*|import |export type|export \{|readonly |\||#|namespace|static_assert)/

/** `file (2): line -> changed line`: the second such line of the file, so that lines may move. */
const keyOf = (file, lines, number, changed) => {
  const was = lines[number].trim()
  const nth = lines.slice(0, number + 1).filter((line) => line.trim() === was).length
  return `${file} (${nth}): ${was} -> ${changed.trim()}`
}

/** Every place of a file where something can be changed: its key, line number and the changed line. */
export const placesIn = (file, text) => {
  const lines = text.split('\n')
  return lines.flatMap((line, number) => {
    if (notCode.test(line)) return []
    const code = line.replace(/\s\/\/ .*$/, '')
    const changed = []
    for (const [from, to] of swaps)
      for (let at = code.indexOf(from); at >= 0; at = code.indexOf(from, at + 1)) {
        // Inside a string nothing is harmful but words.
        const quotes = code.slice(0, at).match(/(?<!\\)['"`]/g)?.length ?? 0
        if (quotes % 2 === 0) changed.push(code.slice(0, at) + to + code.slice(at + from.length))
      }
    if (callAlone.test(code)) changed.push('')
    return changed.map((line) => ({ file, key: keyOf(file, lines, number, line), number, line }))
  })
}
