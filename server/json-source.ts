// How a caller wrote an object. JSON.parse keeps neither the digits of its numbers (`1.0`, 2^64) nor the
// order of keys that are numbers, and a prompt shows both.

import { createTurn } from './slices.js'

const QUOTE = 0x22
const COMMA = 0x2c
const BACKSLASH = 0x5c
const OPEN_OBJECT = 0x7b
const OPEN_LIST = 0x5b
const CLOSE_OBJECT = 0x7d
const CLOSE_LIST = 0x5d

/** Characters between looks at the clock. */
const STRIDE = 1 << 12

const sources = new WeakMap<object, string>()

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null

/** An object or a list that has begun at `from` and not ended. `value`: what JSON.parse made of it. */
type Open = {
  readonly value: unknown
  readonly from: number
  readonly isList: boolean
  index: number
}

/** Remembers how the objects of `value`, which JSON.parse made of `json`, are written. Of a key that stands
 * twice, the last is the value's, and is noted last. A long text is read in slices. */
export const noteSources = async (json: string, value: unknown): Promise<void> => {
  const open: Open[] = []
  // Where the last text begins and ends: a value's key, if it stands before one in an object.
  let text: readonly [number, number] = [0, 0]
  let textFrom = -1
  let lookAt = STRIDE
  const turn = createTurn()
  const valueAt = (at: Open | undefined): unknown => {
    if (at === undefined) return value
    if (!isObject(at.value)) return undefined
    return at.value[at.isList ? at.index : String(JSON.parse(json.slice(...text)))]
  }
  for (let i = 0; i < json.length; ) {
    const code = json.charCodeAt(i)
    if (textFrom >= 0) {
      const stop = Math.min(json.length, lookAt)
      while (i < stop && json.charCodeAt(i) !== QUOTE) i += json.charCodeAt(i) === BACKSLASH ? 2 : 1
      if (i < stop) {
        i++
        text = [textFrom, i]
        textFrom = -1
      }
    } else {
      const last = open.at(-1)
      if (code === QUOTE) textFrom = i
      else if (code === OPEN_OBJECT || code === OPEN_LIST)
        open.push({ value: valueAt(last), from: i, isList: code === OPEN_LIST, index: 0 })
      else if (code === CLOSE_OBJECT || code === CLOSE_LIST) {
        open.pop()
        // What is empty is written in one way only.
        const isFull = last?.isList === true || text[0] > (last?.from ?? i)
        if (last !== undefined && isObject(last.value) && isFull)
          sources.set(last.value, json.slice(last.from, i + 1))
      } else if (code === COMMA && last !== undefined) last.index++
      i++
    }
    if (i < lookAt) continue
    lookAt = i + STRIDE
    await turn()
  }
}

/** The JSON text of an object or a list as its caller wrote it; undefined: nobody did. */
export const sourceOf = (value: object): string | undefined => sources.get(value)

/** A value as JSON, as its caller wrote it where that is known. */
export const jsonOf = (value: unknown): string => {
  const source = isObject(value) ? sourceOf(value) : undefined
  if (source !== undefined) return source
  return Array.isArray(value) ? `[${value.map(jsonOf).join(',')}]` : JSON.stringify(value)
}
