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

type Splitter = {
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

/** A tag that a limit or a budget cut is dropped: `<think`, `</thi`. A lone `<` may be anything. */
const withoutCutTag = (text: string, tag: string, least = 2): string => {
  const partial = partialTag(text, tag)
  return partial >= least ? text.slice(0, text.length - partial) : text
}

/** Thinking that a closing tag follows: a budget's may have cut the model's own. */
const shownThinking = (text: string): string => withoutCutTag(text.trimEnd(), CLOSE).trimEnd()

/** Length of an opening tag that a budget cut at the start of a text, as far as it came: `<thi</think>`. */
const cutOpening = (text: string): number => {
  for (let length = OPEN.length - 1; length > 0; length--) {
    const rest = text.slice(length).trimStart()
    if (
      text.startsWith(OPEN.slice(0, length)) &&
      (rest.startsWith(CLOSE) || CLOSE.startsWith(rest))
    )
      return length
  }
  return 0
}

/** Length of the longest end of `text` that `tag` may go on from. */
export const partialTag = (text: string, tag: string): number => {
  for (let length = Math.min(tag.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(tag.slice(0, length))) return length
  }
  return 0
}

type State = {
  readonly start: Start
  /** With it an answer may begin where thinking is expected; '': with nothing. */
  readonly answerTag: string
  /** The answer is held to a form: a `<` that a limit cut at the opening may be of a tag, and is no answer's. */
  readonly isHeld: boolean
  /** opening: is there a tag? thinking: inside. gap: blank space before the answer. answer: the rest. */
  now: 'opening' | 'thinking' | 'gap' | 'answer'
  /** Not yet decided. */
  held: string
  /** No thinking text has come out yet: leading blank space is dropped. */
  isBlank: boolean
  /** Thinking that no opening tag announced; undefined: a tag did, or none has begun. */
  untagged: string | undefined
  /** UTF-8, of all text pushed before the answer. */
  bytes: number
  closedAt: number | null
}

const thinking = (state: State, text: string): string => {
  const out = state.isBlank ? text.trimStart() : text
  if (out !== '') state.isBlank = false
  if (state.untagged !== undefined) state.untagged += out
  return out
}

const atOpening = (state: State, text: string): Piece => {
  const body = text.trimStart()
  if (body.startsWith(OPEN)) {
    state.now = 'thinking'
    return advance(state, body.slice(OPEN.length))
  }
  if (state.answerTag !== '' && body.startsWith(state.answerTag)) {
    state.now = 'answer'
    return { reasoning: '', content: body }
  }
  if (body === '' || OPEN.startsWith(body) || state.answerTag.startsWith(body)) {
    state.held = text
    return NONE
  }
  if (state.start === 'expected') {
    const cut = cutOpening(body)
    if (cut > 0 && !body.slice(cut).trimStart().startsWith(CLOSE)) {
      state.held = text
      return NONE
    }
    if (cut > 0) {
      state.now = 'thinking'
      return advance(state, body.slice(cut))
    }
    state.now = 'thinking'
    state.untagged = ''
  } else state.now = state.start === 'closed' ? 'gap' : 'answer'
  return advance(state, text)
}

const whileThinking = (state: State, text: string): Piece => {
  const at = text.indexOf(CLOSE)
  if (at >= 0) {
    const rest = text.slice(at + CLOSE.length)
    state.closedAt = state.bytes - Buffer.byteLength(rest)
    state.now = 'gap'
    state.untagged = undefined
    const reasoning = thinking(state, shownThinking(text.slice(0, at)))
    return { reasoning, content: advance(state, rest).content }
  }
  const partial = partialTag(text, CLOSE)
  const before = text.slice(0, text.length - partial)
  const keep = shownThinking(before).length
  state.held = text.slice(keep)
  return { reasoning: thinking(state, text.slice(0, keep)), content: '' }
}

const advance = (state: State, text: string): Piece => {
  switch (state.now) {
    case 'opening':
      return atOpening(state, text)
    case 'thinking':
      return whileThinking(state, text)
    case 'gap': {
      const content = text.trimStart()
      if (content !== '') state.now = 'answer'
      return { reasoning: '', content }
    }
    case 'answer':
      return { reasoning: '', content: text }
  }
}

/** Of what is held when a limit ends it: a budget's tag may be cut behind the model's own. */
const withoutCutTags = ({ now, start, held, isHeld }: State): string => {
  if (now === 'opening' && start === 'expected' && cutOpening(held.trimStart()) > 0) return ''
  if (now === 'opening') return withoutCutTag(held, OPEN, isHeld ? 1 : 2)
  const shown = withoutCutTag(held, CLOSE)
  return now === 'thinking' ? shownThinking(shown) : shown
}

const finish = (state: State, finished: boolean): Piece => {
  const { start } = state
  const rest = finished ? state.held : withoutCutTags(state)
  state.held = ''
  if (state.now === 'opening') {
    if (start === 'expected')
      return { reasoning: rest.trim(), content: finished ? rest.trim() : '' }
    return { reasoning: '', content: start === 'closed' ? rest.trimStart() : rest }
  }
  if (state.now !== 'thinking') return NONE
  const reasoning = thinking(state, rest.trimEnd())
  // The model neither opened nor closed a block and still came to an end: that was its answer.
  return { reasoning, content: finished ? (state.untagged ?? '') : '' }
}

export const createSplitter = (start: Start, answerTag = '', isHeld = false): Splitter => {
  const state: State = {
    start,
    answerTag,
    isHeld,
    now: start === 'thinking' || start === 'answer' ? start : 'opening',
    held: '',
    isBlank: true,
    untagged: undefined,
    bytes: 0,
    closedAt: null,
  }
  return {
    push: (text) => {
      if (text === '') return NONE
      if (state.now === 'answer') return { reasoning: '', content: text }
      state.bytes += Buffer.byteLength(text)
      const all = state.held + text
      state.held = ''
      return advance(state, all)
    },
    end: (finished) => finish(state, finished),
    closedAt: () => state.closedAt,
    isThinking: () => state.now === 'thinking',
    isAnswering: () => state.now === 'answer',
  }
}
