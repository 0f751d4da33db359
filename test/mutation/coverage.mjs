// Which lines of a source some processes ran, as V8 counts it: each writes a file into the folder that
// NODE_V8_COVERAGE names when it ends, with ranges of the text that it ran. That text is JavaScript; its map
// says which line of the source each piece comes from.

import { readdirSync, readFileSync } from 'node:fs'
import { SourceMap } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const MAP = '\n//# sourceMappingURL=data:application/json;base64,'

/** JavaScript without its map, which changes with every letter of the source. */
export const withoutMap = (code) => code.slice(0, code.lastIndexOf(MAP))

/** Offsets in `code` of what comes from each line of the source, counted from 0. */
export const offsetsOfLines = (code) => {
  const map = new SourceMap(
    JSON.parse(Buffer.from(code.slice(code.lastIndexOf(MAP) + MAP.length), 'base64').toString()),
  )
  const offsets = new Map()
  let start = 0
  for (const [row, text] of withoutMap(code).split('\n').entries()) {
    for (let column = 0; column < text.length; column++) {
      const { generatedLine, generatedColumn, originalLine } = map.findEntry(row, column)
      if (generatedLine !== row || generatedColumn !== column) continue
      const found = offsets.get(originalLine) ?? []
      offsets.set(originalLine, [...found, start + column])
    }
    start += text.length + 1
  }
  return offsets
}

/** How often the text at `offset` was run: what the narrowest range around it says. */
const countAt = (ranges, offset) => {
  const around = ranges.filter(
    ({ startOffset, endOffset }) => startOffset <= offset && offset < endOffset,
  )
  const width = ({ startOffset, endOffset }) => endOffset - startOffset
  return around.reduce((least, range) => (width(range) < width(least) ? range : least), {
    startOffset: 0,
    endOffset: Number.POSITIVE_INFINITY,
    count: 0,
  }).count
}

/**
 * Those of `places` that were run by a process that wrote into `folder`. A place has the paths of the text
 * (`compiled`) and the offsets there; one without offsets is run by whoever loads the file.
 */
export const placesRun = (folder, places) => {
  const run = new Set()
  for (const name of readdirSync(folder)) {
    const { result } = JSON.parse(readFileSync(join(folder, name), 'utf8'))
    for (const { url, functions } of result) {
      if (!url.startsWith('file:')) continue
      const path = fileURLToPath(url)
      const ranges = functions.flatMap((one) => one.ranges)
      for (const place of places)
        if (!run.has(place) && place.compiled.includes(path))
          if (place.offsets.length === 0 || place.offsets.some((at) => countAt(ranges, at) > 0))
            run.add(place)
    }
  }
  return run
}
