// Calls of tools apart from the text around them, while the answer grows. What comes out does not depend
// on how the text is cut. A call that is malformed is text, to the last character.

import { randomBytes } from 'node:crypto'
import type { CallPiece } from '../../generation/answer-event.js'
import { partialTag } from '../think-splitter.js'
import type { ToolFormat } from './format.js'

type Part = { readonly text: string; readonly calls: readonly CallPiece[] }

export type CallParser = {
  readonly push: (text: string) => Part
  /** The rest: the answer has ended. */
  readonly end: () => Part
  /** There is a call, and the last one is whole. */
  readonly endsInCalls: () => boolean
}

export type ParserOptions = {
  readonly format: ToolFormat
  /**
   * The calls follow a grammar, so what begins as a call is one: its arguments are told as they come.
   * Else a call is told once its arguments are whole, since what was told cannot be taken back.
   */
  readonly isSure: boolean
  /** Whether a tool of this name may be called. What calls another is text: nobody could run it. */
  readonly isTool: (name: string) => boolean
}

/** What was read is no call. */
class NoCall extends Error {}

const BLANK = /[ \t\r\n]/

/** Takes one character at a time. */
type Reader<T> = Generator<undefined, T, string>

/** From `char` on, the first that is no blank. */
function* solid(char: string): Reader<string> {
  let at = char
  while (BLANK.test(at)) at = yield
  return at
}

const expect = (char: string, wanted: string): void => {
  if (char !== wanted) throw new NoCall()
}

/** A JSON string behind its first quote; returns it as it was written. */
function* stringText(): Reader<string> {
  let text = '"'
  for (;;) {
    const char = yield
    text += char
    if (char === '"') return text
    if (char < ' ') throw new NoCall()
    if (char !== '\\') continue
    const escaped = yield
    text += escaped
    if (escaped === 'u') {
      for (let i = 0; i < 4; i++) {
        const digit = yield
        if (!/[0-9a-fA-F]/.test(digit)) throw new NoCall()
        text += digit
      }
    } else if (!'"\\/bfnrt'.includes(escaped)) throw new NoCall()
  }
}

function* readString(char: string): Reader<string> {
  expect(char, '"')
  return JSON.parse(yield* stringText())
}

const WORD = /[-+.0-9A-Za-z]/
const SCALAR = /^(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)$/

/** A number, true, false or null; returns the character behind it. */
function* readScalar(first: string): Reader<string> {
  let [text, char] = ['', first]
  while (WORD.test(char)) {
    text += char
    char = yield
  }
  if (!SCALAR.test(text)) throw new NoCall()
  return char
}

/** A string, a number, true, false or null from `char` on; returns what stands behind it. */
function* readLeaf(char: string): Reader<string> {
  if (char !== '"') return yield* readScalar(char)
  yield* stringText()
  return yield
}

/** An object behind its `{`, to its `}` and no further. */
function* readObject(): Reader<void> {
  const open = ['{']
  let isEmpty = true
  let char = yield* solid(yield)
  for (;;) {
    const isObject = open.at(-1) === '{'
    if (!isEmpty || char !== (isObject ? '}' : ']')) {
      if (isObject) {
        expect(char, '"')
        yield* stringText()
        expect(yield* solid(yield), ':')
        char = yield* solid(yield)
      }
      if (char === '{' || char === '[') {
        open.push(char)
        isEmpty = true
        char = yield* solid(yield)
        continue
      }
      char = yield* solid(yield* readLeaf(char))
    }
    isEmpty = false
    while (char === (open.at(-1) === '{' ? '}' : ']')) {
      open.pop()
      if (open.length === 0) return
      char = yield* solid(yield)
    }
    expect(char, ',')
    char = yield* solid(yield)
  }
}

/** Where a reader of calls tells what it finds. */
type Finder = {
  /** The arguments of a call begin with the character that was read last, a `{`. */
  readonly begin: (name: string) => void
  /** The arguments ended with the character that was read last. */
  readonly end: () => void
  /** A whole call whose arguments are known otherwise. */
  readonly found: (name: string, args: string) => void
  /** All that was read is accounted for. */
  readonly accept: () => void
  /** What was read since this began. */
  readonly copy: () => () => string
}

/** Arguments that came as a string, or null: JSON text of an object all the same. */
const objectText = (given: string): string => {
  if (given.trim() === '') return '{}'
  let value: unknown
  try {
    value = JSON.parse(given)
  } catch {
    throw new NoCall()
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new NoCall()
  return given
}

/** One call behind its `{`; returns what stands behind it. */
function* readCall(
  { isSure, isTool }: Omit<ParserOptions, 'format'>,
  finder: Finder,
): Reader<string> {
  let name: string | undefined
  let args: string | undefined
  let told = false
  const tell = () => {
    if (told || name === undefined || args === undefined) return
    finder.found(name, args)
    told = true
  }
  let char = yield* solid(yield)
  for (;;) {
    const key = yield* readString(char)
    expect(yield* solid(yield), ':')
    char = yield* solid(yield)
    if (key === 'name') {
      if (name !== undefined) throw new NoCall()
      name = yield* readString(char)
      if (!isTool(name)) throw new NoCall()
      tell()
      char = yield
    } else if (key === 'arguments' || key === 'parameters') {
      if (args !== undefined) throw new NoCall()
      if (char === '{') {
        if (isSure && name !== undefined) {
          finder.begin(name)
          told = true
        }
        const copied = finder.copy()
        yield* readObject()
        args = `{${copied()}`
        if (told) finder.end()
        else tell()
        char = yield
      } else if (char === '"') {
        args = objectText(yield* readString(char))
        tell()
        char = yield
      } else {
        expect(char, 'n')
        char = yield* readScalar(char)
        args = '{}'
        tell()
      }
    } else if (key === 'type' || key === 'id') char = yield* readLeaf(char)
    else throw new NoCall()
    char = yield* solid(char)
    // NVIDIA's template of Nano forgets the brace behind the arguments, and what a model reads it writes.
    if (told && (char === ']' || char === '<')) return char
    if (char === '}') break
    expect(char, ',')
    char = yield* solid(yield)
    if (told && char === '{') return char
  }
  if (name === undefined) throw new NoCall()
  args ??= '{}'
  tell()
  finder.accept()
  return yield* solid(yield)
}

/** The calls of an answer, behind the opening tag where there is one. */
function* readCalls({ format, isSure, isTool }: ParserOptions, finder: Finder): Reader<void> {
  const { open, close } = format
  // Where a grammar takes over, see grammar.ts.
  const first = open === '' ? '' : yield
  let char = first === '' ? '{' : yield* solid(first)
  if (char === '[') char = yield* solid(yield)
  expect(char, '{')
  while (char === '{') {
    const isSureHere = isSure && (first === '' || first === '[')
    char = yield* readCall({ isSure: isSureHere, isTool }, finder)
    if (char === ',' || (open === '' && char === ';')) char = yield* solid(yield)
  }
  // Whatever stands here is text.
  if (open === '') throw new NoCall()
  if (char === ']') {
    finder.accept()
    char = yield* solid(yield)
  }
  for (const wanted of close) {
    expect(char, wanted)
    if (wanted !== close.at(-1)) char = yield
  }
  finder.accept()
}

const newId = (): string => `call_${randomBytes(12).toString('hex')}`

/** Text that is told: blank space at its start only if more follows. */
const createSpeech = () => {
  let told = ''
  let blank = ''
  let isSpeaking = false
  return {
    say: (more: string) => {
      const all = blank + more
      if (isSpeaking || all.trim() !== '') {
        told += all
        blank = ''
        isSpeaking = true
      } else blank = all
    },
    /** A call: blank space before it and behind it is no text. */
    pause: () => {
      blank = ''
      isSpeaking = false
    },
    /** Of an answer without calls, the blank space too. */
    end: (isPlain: boolean) => {
      if (isPlain) told += blank
      blank = ''
    },
    take: () => {
      const text = told
      told = ''
      return text
    },
  }
}
type Speech = ReturnType<typeof createSpeech>

/** Calls that are told. */
const createCalls = () => {
  let told: CallPiece[] = []
  let count = 0
  let isWhole = false
  /** Of the arguments of the last one. */
  let piece = ''
  const flush = () => {
    if (piece !== '') told.push({ index: count - 1, arguments: piece })
    piece = ''
  }
  return {
    begin: (name: string) => {
      told.push({ index: count++, id: newId(), name, arguments: '' })
      isWhole = false
    },
    add: (text: string) => {
      piece += text
    },
    /** Nothing has been taken since it was added. */
    takeBack: () => {
      piece = piece.slice(0, -1)
    },
    finish: () => {
      flush()
      isWhole = true
    },
    take: (): readonly CallPiece[] => {
      flush()
      const calls = told
      told = []
      return calls
    },
    count: () => count,
    endsWhole: () => count > 0 && isWhole,
  }
}
type Calls = ReturnType<typeof createCalls>

/** What was read since the last that was accepted, and who gets it. */
const createTeller = (speech: Speech, calls: Calls) => {
  /** The arguments of a call are told as they come. */
  let isOpen = false
  let held = ''
  let copied = ''
  const hold = (text: string) => {
    held = text
  }
  const begin = (name: string, args: string) => {
    calls.begin(name)
    calls.add(args)
    speech.pause()
    held = ''
  }
  const finder: Finder = {
    begin: (name) => {
      begin(name, '{')
      isOpen = true
    },
    end: () => {
      calls.finish()
      isOpen = false
    },
    found: (name, args) => {
      begin(name, args)
      calls.finish()
    },
    accept: () => hold(''),
    copy: () => {
      copied = ''
      return () => copied
    },
  }
  return {
    finder,
    hold,
    note: (char: string) => {
      if (isOpen) calls.add(char)
      else held += char
      copied += char
    },
    /** What was noted last does not belong to a call; nor does what is held before it. */
    fail: () => {
      if (isOpen) calls.takeBack()
      else if (held !== '') speech.say(held.slice(0, -1))
      held = ''
      isOpen = false
    },
    end: (isRest: (text: string) => boolean) => {
      if (!isRest(held)) speech.say(held)
      held = ''
    },
  }
}

/** Text outside of calls, up to where calls begin. Returns what stands behind their opening. */
type Search = (text: string, speech: Speech) => { readonly opening: string; readonly rest: string }

const NOWHERE = { opening: '', rest: '' }

/** Calls begin with a tag. */
const createTagSearch = (tag: string) => {
  let held = ''
  const search: Search = (text, speech) => {
    const all = held + text
    const at = all.indexOf(tag)
    held = at < 0 ? all.slice(all.length - partialTag(all, tag)) : ''
    speech.say(all.slice(0, at < 0 ? all.length - held.length : at))
    return at < 0 ? NOWHERE : { opening: tag, rest: all.slice(at + tag.length) }
  }
  return { search, end: (speech: Speech) => speech.say(held) }
}

/** An answer that is calls and nothing else begins with a bracket. */
const createStartSearch = () => {
  let isStart = true
  const search: Search = (text, speech) => {
    const at = text.search(/[^ \t\r\n]/)
    const isCall = isStart && text[at] === '{'
    if (at >= 0) isStart = false
    speech.say(isCall ? text.slice(0, at) : text)
    return isCall ? { opening: '{', rest: text.slice(at + 1) } : NOWHERE
  }
  return { search, end: () => {} }
}

export const createCallParser = (options: ParserOptions): CallParser => {
  const { open, close } = options.format
  const speech = createSpeech()
  const calls = createCalls()
  const teller = createTeller(speech, calls)
  const { search, end } = open === '' ? createStartSearch() : createTagSearch(open)
  /** Undefined: outside of calls. */
  let reader: Reader<void> | undefined
  let countBefore = 0

  /** The calls of `text`; returns what stands behind them. */
  const readBlock = (block: Reader<void>, text: string): string => {
    for (let at = 0; at < text.length; at++) {
      const char = text[at] ?? ''
      teller.note(char)
      try {
        if (!block.next(char).done) continue
        reader = undefined
        return text.slice(at + 1)
      } catch (error) {
        if (!(error instanceof NoCall)) throw error
        teller.fail()
        reader = undefined
        return text.slice(at)
      }
    }
    return ''
  }

  const readText = (text: string): string => {
    const { opening, rest } = search(text, speech)
    if (opening === '') return ''
    countBefore = calls.count()
    teller.hold(opening)
    reader = readCalls(options, teller.finder)
    reader.next()
    return rest
  }

  const take = (): Part => ({ text: speech.take(), calls: calls.take() })

  return {
    push: (text) => {
      for (let rest = text; rest !== ''; )
        rest = reader === undefined ? readText(rest) : readBlock(reader, rest)
      return take()
    },
    end: () => {
      // Behind a call, what a limit cut of the closing tag is no text.
      const isBehind = reader !== undefined && calls.count() > countBefore
      teller.end((held) => {
        const rest = held.trim()
        return isBehind && (rest === ',' || close.startsWith(rest))
      })
      end(speech)
      speech.end(calls.count() === 0)
      return take()
    },
    endsInCalls: calls.endsWhole,
  }
}
