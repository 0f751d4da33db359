// The typed face of a tokenizer.

/** Texts, and ids that stand between them. */
export type Parts = readonly (string | number)[]

/** Text to ids and back, from tokenizer.json. Special-token names in plain text stay text. */
export type Tokenizer = {
  readonly vocabSize: number
  /** `special`: names like <|eot_id|> in the text become their ids; default false: they stay text. `caller`: the ids of
   * long texts are kept for who gives this word again; undefined: nothing is kept. */
  readonly encode: (
    text: string,
    options?: { readonly special?: boolean },
    caller?: string,
  ) => Promise<readonly number[]>
  /** Texts, in which no name is a special token, and ids that stand between them. */
  readonly encodeParts: (parts: Parts, caller?: string) => Promise<readonly number[]>
  readonly decode: (ids: ArrayLike<number>, options?: { readonly skipSpecial?: boolean }) => string
  /** Raw bytes of one token; empty for an id beyond the vocabulary. */
  readonly bytes: (id: number) => Uint8Array
  /** A text has at least its bytes divided by this in tokens: the bytes of the longest; Infinity where a
   * text may lose bytes on its way to tokens. */
  readonly longestToken: number
  readonly idOf: (token: string) => number | undefined
  readonly isSpecial: (id: number) => boolean
  /** Every added token, by name. */
  readonly special: ReadonlyMap<string, number>
  /** What the checkpoint puts in front of a raw prompt; null: nothing. */
  readonly bosId: number | null
}
