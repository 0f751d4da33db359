// A prompt to token ids.

import type { Tokenizer } from '../tokenizer/types.js'

/** A piece of a prompt: a control token that the template wrote, or text in which nothing is one. */
export type Segment = { readonly id: number; readonly name: string } | { readonly text: string }

export const segmentsText = (segments: readonly Segment[]): string =>
  segments.map((segment) => ('text' in segment ? segment.text : segment.name)).join('')

/** Token ids of a prompt: names by their ids, text by itself. */
export const encodeSegments = async (
  segments: readonly Segment[],
  tokenizer: Tokenizer,
): Promise<readonly number[]> => {
  const parts = await Promise.all(
    segments.map((segment) => ('text' in segment ? tokenizer.encode(segment.text) : [segment.id])),
  )
  // Not flat(), which takes its time over 128,000 ids.
  const ids = new Array<number>(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) for (const id of part) ids[at++] = id
  return ids
}

/** Raw text: names of control tokens are parsed, BOS stands once at the front. */
export const encodeText = async (
  tokenizer: Tokenizer,
  text: string,
  addBos: boolean,
): Promise<readonly number[]> => {
  const ids = await tokenizer.encode(text, { special: true })
  const { bosId } = tokenizer
  // Not a spread, which takes its time over 128,000 ids.
  return addBos && bosId !== null && ids[0] !== bosId ? [bosId].concat(ids) : ids
}
