// The thread of long-text.ts.

import { workerData } from 'node:worker_threads'
import { answerQuestions } from '../thread.js'
import type { LongTextData } from './long-text.js'
import { createEncoder } from './tokenizer.js'
import type { Parts } from './types.js'

const { json, pieces }: LongTextData = workerData
const encodeParts = createEncoder(Buffer.from(json).toString(), pieces)

const encode = async (parts: Parts): Promise<Uint32Array<ArrayBuffer>> => {
  const encoded = (await encodeParts(parts)).map((part) =>
    typeof part === 'number' ? [part] : part,
  )
  const ids = new Uint32Array(encoded.reduce((sum, piece) => sum + piece.length, 0))
  let at = 0
  for (const piece of encoded) {
    ids.set(piece, at)
    at += piece.length
  }
  return ids
}

answerQuestions(encode, (ids) => [ids.buffer])
