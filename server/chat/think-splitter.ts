// Thinking apart from the answer: a pure state machine on decoded text. The tags are plain text that
// tokens straddle, so nothing here looks at ids. What comes out does not depend on how the text is cut.

export type Piece = { readonly reasoning: string; readonly content: string }

/**
 * Where a text begins.
 * `thinking`: the prompt ended inside an open block. `expected`: thinking is on, so text without an
 * opening tag is thinking too. `possible`: thinking is off, but a block at the very start is one.
 * `closed`: the prompt ended with a closed block, so blank space before the answer is dropped.
 * `answer`: the prompt ended inside the answer: all that comes belongs to it.
 */
export type Start = 'thinking' | 'expected' | 'possible' | 'closed' | 'answer'

export type Splitter = {
  readonly push: (text: string) => Piece
  /** The rest. `finished`: the model ended by itself, not by a limit. */
  readonly end: (finished: boolean) => Piece
  /** UTF-8 bytes up to the end of the closing tag; null while it has not come. */
  readonly closedAt: () => number | null
  readonly isThinking: () => boolean
  /** All that comes now is content. */
  readonly isAnswering: () => boolean
}

const OPEN = '<think>'
const CLOSE = '</think>'
const NONE: Piece = { reasoning: '', content: '' }

/** Length of the longest end of `text` that `tag` may go on from. */
const partialTag = (text: string, tag: string): number => {
  for (let length = Math.min(tag.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(tag.slice(0, length))) return length
  }
  return 0
}

export const createSplitter = (start: Start): Splitter => {
  // opening: is there a tag? thinking: inside. gap: blank space before the answer. answer: the rest.
  let state: 'opening' | 'thinking' | 'gap' | 'answer' =
    start === 'thinking' || start === 'answer' ? start : 'opening'
  let held = '' // not yet decided
  let blank = true // no thinking text has come out yet: leading blank space is dropped
  let untagged = '' // thinking that no opening tag announced
  let isUntagged = false
  let bytes = 0 // of all text pushed before the answer
  let closedAt: number | null = null

  const thinking = (text: string): string => {
    const out = blank ? text.trimStart() : text
    if (out !== '') blank = false
    if (isUntagged) untagged += out
    return out
  }

  const opened = (text: string): Piece => {
    const body = text.trimStart()
    if (body.startsWith(OPEN)) {
      state = 'thinking'
      return advance(body.slice(OPEN.length))
    }
    if (body === '' || OPEN.startsWith(body)) {
      held = text
      return NONE
    }
    if (start === 'expected') {
      state = 'thinking'
      isUntagged = true
    } else state = start === 'closed' ? 'gap' : 'answer'
    return advance(text)
  }

  const thought = (text: string): Piece => {
    const at = text.indexOf(CLOSE)
    if (at >= 0) {
      const rest = text.slice(at + CLOSE.length)
      closedAt = bytes - Buffer.byteLength(rest)
      state = 'gap'
      isUntagged = false
      const reasoning = thinking(text.slice(0, at).trimEnd())
      return { reasoning, content: advance(rest).content }
    }
    const partial = partialTag(text, CLOSE)
    const keep = text.slice(0, text.length - partial).trimEnd().length
    held = text.slice(keep)
    return { reasoning: thinking(text.slice(0, keep)), content: '' }
  }

  const advance = (text: string): Piece => {
    switch (state) {
      case 'opening':
        return opened(text)
      case 'thinking':
        return thought(text)
      case 'gap': {
        const content = text.trimStart()
        if (content !== '') state = 'answer'
        return { reasoning: '', content }
      }
      case 'answer':
        return { reasoning: '', content: text }
    }
  }

  return {
    push: (text) => {
      if (text === '') return NONE
      if (state === 'answer') return { reasoning: '', content: text }
      bytes += Buffer.byteLength(text)
      const all = held + text
      held = ''
      return advance(all)
    },
    end: (finished) => {
      const rest = held
      held = ''
      if (state === 'opening') {
        if (start === 'expected')
          return { reasoning: rest.trim(), content: finished ? rest.trim() : '' }
        return { reasoning: '', content: start === 'closed' ? rest.trimStart() : rest }
      }
      if (state !== 'thinking') return NONE
      const reasoning = thinking(rest.trimEnd())
      // The model neither opened nor closed a block and still came to an end: that was its answer.
      return { reasoning, content: isUntagged && finished ? untagged : '' }
    },
    closedAt: () => closedAt,
    isThinking: () => state === 'thinking',
    isAnswering: () => state === 'answer',
  }
}
