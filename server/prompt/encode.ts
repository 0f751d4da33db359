// A prompt to token ids.

import { RequestError } from '../request-error.js'
import type { Tokenizer } from '../tokenizer/types.js'

/** A piece of a prompt: a control token that the template wrote, or text in which nothing is one. */
export type Segment = { readonly id: number; readonly name: string } | { readonly text: string }

export const segmentsText = (segments: readonly Segment[]): string =>
  segments.map((segment) => ('text' in segment ? segment.text : segment.name)).join('')

/** Token ids of a prompt: names by their ids, text by itself. `caller`: see Tokenizer. */
export const encodeSegments = (
  segments: readonly Segment[],
  tokenizer: Tokenizer,
  caller?: string,
): Promise<readonly number[]> =>
  tokenizer.encodeParts(
    segments.map((one) => ('text' in one ? one.text : one.id)),
    caller,
  )

/** Raw text: names of control tokens are parsed, BOS stands once at the front. `caller`: see Tokenizer. */
export const encodeText = async (
  tokenizer: Tokenizer,
  text: string,
  addBos: boolean,
  caller?: string,
): Promise<readonly number[]> => {
  const ids = await tokenizer.encode(text, { special: true }, caller)
  const { bosId } = tokenizer
  // Not a spread, which takes its time over 128,000 ids.
  return addBos && bosId !== null && ids[0] !== bosId ? [bosId].concat(ids) : ids
}

/** Whose prompt it is, as far as its length goes. */
type Reader = {
  readonly tokenizer: Tokenizer
  readonly engine: { readonly info: { readonly maxModelLen: number } }
}

/** Throws before a text is encoded that cannot fit, however few tokens it may have. */
export const checkFits = (text: string, { tokenizer, engine }: Reader, param: string): void => {
  const { maxModelLen } = engine.info
  const bytes = Buffer.byteLength(text)
  const least = Math.ceil(bytes / tokenizer.longestToken)
  if (least <= maxModelLen) return
  throw new RequestError(
    `This model's maximum context length is ${maxModelLen} tokens. However, the prompt has ${bytes} bytes, which are at least ${least} tokens. Please shorten the prompt.`,
    { param, code: 'context_length_exceeded' },
  )
}

/** A token of text has 4 or 5 characters, of a long run of spaces up to 128. */
const CHARACTERS_PER_TOKEN = 32
const MIN_CHARACTERS = 1 << 20

/** Throws before text is worked on at all: what a template does with it holds the event loop. */
export const checkCharacters = (characters: number, { engine }: Reader, param: string): void => {
  const { maxModelLen } = engine.info
  const most = Math.max(MIN_CHARACTERS, CHARACTERS_PER_TOKEN * maxModelLen)
  if (characters <= most) return
  throw new RequestError(
    `This model's maximum context length is ${maxModelLen} tokens. However, the prompt has ${characters} characters: at most ${most} are read. Please shorten the prompt.`,
    { param, code: 'context_length_exceeded' },
  )
}

/** Ids of a prompt that must fit; `param` is its field, for the error. Its texts are known when they come again, to those
 * who share the prefix cache too. */
export const encodePrompt = (
  segments: readonly Segment[],
  reader: Reader,
  param: string,
  cacheSalt: string | undefined,
): Promise<readonly number[]> => {
  checkFits(segmentsText(segments), reader, param)
  return encodeSegments(segments, reader.tokenizer, cacheSalt ?? '')
}
