// The thread of long-text.ts.

import { workerData } from 'node:worker_threads'
import { answerQuestions } from '../thread.js'
import type { LongIds, LongTextData } from './long-text.js'
import { createEncoder } from './tokenizer.js'
import type { Parts } from './types.js'

const { json, pieces }: LongTextData = workerData
const encodeParts = createEncoder(Buffer.from(json).toString(), pieces)

const encode = async (parts: Parts): Promise<LongIds> => {
  const encoded = await encodeParts(parts)
  const ids = new Uint32Array(encoded.reduce((sum, { length }) => sum + length, 0))
  const ends = new Uint32Array(encoded.length)
  let at = 0
  for (const [i, part] of encoded.entries()) {
    ids.set(part, at)
    at += part.length
    ends[i] = at
  }
  return { ids, ends }
}

answerQuestions(encode, ({ ids, ends }) => [ids.buffer, ends.buffer])
