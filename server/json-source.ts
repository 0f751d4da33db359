// How a caller wrote an object. JSON.parse keeps neither the digits of its numbers (`1.0`, 2^64) nor the
// order of keys that are numbers, and a prompt shows both.

const QUOTE = 0x22
const COMMA = 0x2c
const BACKSLASH = 0x5c

/** Where the text ends that begins at `from`, with its quote. */
const endOfText = (json: string, from: number): number => {
  for (let i = from + 1; i < json.length; i++) {
    const code = json.charCodeAt(i)
    if (code === BACKSLASH) i++
    else if (code === QUOTE) return i + 1
  }
  return json.length
}

const sources = new WeakMap<object, string>()

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null

/** `value` is what JSON.parse made of the object or list that begins at `from`. Returns where that ends. Of a
 * key that stands twice, the last is the value's, and is noted last. */
const note = (json: string, from: number, value: unknown): number => {
  const isList = json[from] === '['
  let index = 0
  let text = [0, 0]
  for (let i = from + 1; i < json.length; ) {
    const char = json[i]
    if (json.charCodeAt(i) === QUOTE) {
      text = [i, endOfText(json, i)]
      i = text[1] ?? json.length
    } else if (char === '{' || char === '[') {
      // The text before it is its key.
      const key = isList ? String(index) : String(JSON.parse(json.slice(...text)))
      i = note(json, i, isObject(value) ? value[key] : undefined)
    } else if (char === '}' || char === ']') {
      if (!isList && isObject(value)) sources.set(value, json.slice(from, i + 1))
      return i + 1
    } else {
      if (json.charCodeAt(i) === COMMA) index++
      i++
    }
  }
  return json.length
}

/** Remembers how the objects of `value`, which JSON.parse made of `json`, are written. */
export const noteSources = (json: string, value: unknown): void => {
  if (isObject(value)) note(json, json.search(/[{[]/), value)
}

/** The JSON text of an object as its caller wrote it; undefined: nobody did. */
export const sourceOf = (value: object): string | undefined => sources.get(value)
