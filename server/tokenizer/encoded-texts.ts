// Token ids of texts that were encoded before: a conversation comes again with every turn of it, and 100,000
// tokens take a fifth of a second to encode, which no hit in the prefix cache gives back. Long texts are kept in
// pieces of some lines, so that one that goes on differently is known up to there.

import { createHash } from 'node:crypto'

/** Characters from which ids are kept: a shorter text is encoded as fast as it is looked up. */
const LEAST = 256

/** Characters of a piece; it goes on to the end of the line. */
const PIECE = 4096

/** Where a text is cut (see cutsAtLines): the end of a line before what can be seen. */
const lineEnd = /\n(?=[!-~])/g

/** Pieces that give a text's tokens one after another. They depend on nothing behind them. */
export const piecesOf = (text: string): readonly string[] => {
  const pieces: string[] = []
  let start = 0
  while (text.length - start > PIECE) {
    lineEnd.lastIndex = start + PIECE - 1
    const found = lineEnd.exec(text)
    if (found === null) break
    pieces.push(text.slice(start, found.index + 1))
    start = found.index + 1
  }
  pieces.push(text.slice(start))
  return pieces
}

/** Of ids: 8 million tokens. The texts themselves are not kept. */
const MAX_BYTES = 32 << 20

/** What an entry takes beside its ids. */
const ENTRY_BYTES = 256

export type Ids = ArrayLike<number>

/** Those asked for least recently go first. Not shared between callers of different words: how fast a text is
 * encoded would tell one what the other has sent. */
export const createEncodedTexts = (maxBytes = MAX_BYTES) => {
  const known = new Map<string, Uint32Array>()
  let bytes = 0
  const sizeOf = (ids: Uint32Array): number => ids.byteLength + ENTRY_BYTES

  const drop = (key: string, ids: Uint32Array): void => {
    known.delete(key)
    bytes -= sizeOf(ids)
  }

  return {
    /** Of a text of one caller; undefined: too short to be kept. */
    keyOf: (caller: string, text: string): string | undefined => {
      if (text.length < LEAST) return undefined
      // The caller's word cannot run into the text.
      const hash = createHash('sha256').update(`${caller.length} ${caller}`).update(text)
      return hash.digest('base64')
    },
    find: (key: string): Ids | undefined => {
      const ids = known.get(key)
      if (ids === undefined) return undefined
      known.delete(key)
      known.set(key, ids)
      return ids
    },
    keep: (key: string, found: Ids): void => {
      const ids = Uint32Array.from(found)
      if (sizeOf(ids) > maxBytes) return
      const before = known.get(key)
      if (before !== undefined) drop(key, before)
      known.set(key, ids)
      bytes += sizeOf(ids)
      for (const [oldest, old] of known) {
        if (bytes <= maxBytes) return
        drop(oldest, old)
      }
    },
  }
}

export type EncodedTexts = ReturnType<typeof createEncodedTexts>
