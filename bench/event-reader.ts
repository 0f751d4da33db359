// Server-sent events from bytes as they come: any cut, any line ending, comments skipped.

import { StringDecoder } from 'node:string_decoder'

type EventReader = {
  readonly push: (chunk: Uint8Array) => void
  /** A comment line: a sign of life. */
  readonly comments: () => number
}

export const createEventReader = (onData: (data: string) => void): EventReader => {
  const decoder = new StringDecoder('utf8')
  let rest = ''
  let data: string[] = []
  let comments = 0

  const takeLine = (line: string) => {
    if (line === '') {
      if (data.length > 0) onData(data.join('\n'))
      data = []
    } else if (line.startsWith(':')) comments++
    else if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5))
  }

  return {
    push: (chunk) => {
      const text = rest + decoder.write(Buffer.from(chunk))
      let from = 0
      // A \r at the very end may be half of \r\n: it waits.
      for (const match of text.matchAll(/\r\n|\n|\r(?!$)/g)) {
        takeLine(text.slice(from, match.index))
        from = match.index + match[0].length
      }
      rest = text.slice(from)
    },
    comments: () => comments,
  }
}
