// Long texts are encoded in a thread of their own: what the native tokenizer leaves behind for a text
// of 128K tokens takes up to a tenth of a second to free, and is freed by the thread that asked for it.
// The thread has an instance of its own (250 MB for 128,256 entries).

import { createThread } from '../thread.js'
import type { PieceNormalizer } from './piece-normalizer.js'
import type { Parts } from './types.js'

/** Ids of all parts, and where each part's end. */
export type LongIds = {
  readonly ids: Uint32Array<ArrayBuffer>
  readonly ends: Uint32Array<ArrayBuffer>
}

const partsOf = ({ ids, ends }: LongIds): readonly Uint32Array[] =>
  Array.from(ends, (end, i) => ids.subarray(i > 0 ? ends[i - 1] : 0, end))

export type LongTextData = {
  readonly json: SharedArrayBuffer
  readonly pieces: PieceNormalizer | undefined
}

/** `json`: what the native tokenizer is made from. No file is read again. */
export const createLongText = (
  json: string,
  pieces: PieceNormalizer | undefined,
  idleMs?: number,
) => {
  // One copy for all threads, in UTF-8.
  const shared = new SharedArrayBuffer(Buffer.byteLength(json))
  Buffer.from(shared).write(json)
  const ask = createThread<Parts, LongIds>({
    file: 'dist/server/tokenizer/long-text-worker.js',
    data: { json: shared, pieces } satisfies LongTextData,
    failed: 'a long text was not encoded',
    ...(idleMs !== undefined && { idleMs }),
  })
  /** Ids of each part, or of all in one where there are so many that lists of their own would keep the event loop. */
  return async (parts: Parts, isInOne = false): Promise<readonly Uint32Array[]> => {
    const found = await ask(parts)
    return isInOne ? [found.ids] : partsOf(found)
  }
}
