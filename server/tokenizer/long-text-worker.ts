// The thread of long-text.ts.

import { workerData } from 'node:worker_threads'
import { answerQuestions } from '../thread.js'
import { createEncoder } from './tokenizer.js'
import type { Parts } from './types.js'

const encodeTexts = createEncoder(Buffer.from(workerData).toString())

const encode = async (parts: Parts): Promise<Uint32Array<ArrayBuffer>> => {
  const encoded = (await encodeTexts(parts.filter((part) => typeof part === 'string'))).values()
  const pieces = parts.map((part) =>
    typeof part === 'number' ? [part] : (encoded.next().value ?? []),
  )
  const ids = new Uint32Array(pieces.reduce((sum, piece) => sum + piece.length, 0))
  let at = 0
  for (const piece of pieces) {
    ids.set(piece, at)
    at += piece.length
  }
  return ids
}

answerQuestions(encode, (ids) => [ids.buffer])
