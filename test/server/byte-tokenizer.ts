// A tokenizer for tests: one id a byte, then the special names of the Llama-3 family.

import type { Tokenizer } from '../../server/tokenizer/types.js'

export const SPECIAL_NAMES = [
  '<|begin_of_text|>',
  '<|end_of_text|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|python_tag|>',
] as const

export const createByteTokenizer = (): Tokenizer => {
  const special = new Map<string, number>(SPECIAL_NAMES.map((name, i) => [name, 256 + i]))
  const names = new Map([...special].map(([name, id]) => [id, name]))
  const pattern = /<\|[a-z_]+\|>/g
  const bytesOf = (id: number): Uint8Array =>
    id < 256 ? Uint8Array.of(id) : Buffer.from(names.get(id) ?? '')
  const plain = (text: string): number[] => [...Buffer.from(text)]
  return {
    vocabSize: 256 + SPECIAL_NAMES.length,
    encode: async (text, options) => {
      if (options?.special !== true) return plain(text)
      const ids: number[] = []
      let at = 0
      for (const match of text.matchAll(pattern)) {
        const id = special.get(match[0])
        if (id === undefined) continue
        ids.push(...plain(text.slice(at, match.index)), id)
        at = match.index + match[0].length
      }
      ids.push(...plain(text.slice(at)))
      return ids
    },
    encodeParts: async (parts) =>
      parts.flatMap((part) => (typeof part === 'string' ? plain(part) : part)),
    decode: (ids, options) =>
      Buffer.concat(
        Array.from(ids, (id) =>
          options?.skipSpecial && names.has(id) ? Buffer.of() : bytesOf(id),
        ),
      ).toString(),
    bytes: bytesOf,
    idOf: (token) => special.get(token),
    longestToken: 19,
    isSpecial: (id) => names.has(id),
    special,
    bosId: 256,
  }
}
