// system_fingerprint: which weights, in which form, under which version of this program.

import { createHash } from 'node:crypto'
import { VERSION } from '../version.js'

/** `layout`: of the checkpoint's tensors, as addon.modelInfo() says it. */
export const fingerprint = (layout: string, dtype: string): string => {
  const hash = createHash('sha256').update(`${VERSION}\n${dtype}\n${layout}`)
  return `fp_${hash.digest('hex').slice(0, 10)}`
}
