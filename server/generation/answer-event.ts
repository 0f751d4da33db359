// What is told of an answer, in no dialect.

import type { Delta, TokenLogprob } from '../engine/types.js'

/** News of a call of a tool. The first piece of a call brings its id and its name, and no arguments. */
export type CallPiece = {
  /** Counted through the calls of a choice. */
  readonly index: number
  readonly id?: string
  readonly name?: string
  /** JSON text: the pieces of a call one after another. */
  readonly arguments: string
}

/** A call that is put together from its pieces. */
export type Call = { readonly id: string; readonly name: string; arguments: string }

/** Adds what a piece brings to the calls of its choice. */
export const addCallPiece = (
  calls: Call[],
  { index, id, name, arguments: piece }: CallPiece,
): void => {
  if (id !== undefined && name !== undefined) calls.push({ id, name, arguments: '' })
  const call = calls[index]
  if (call) call.arguments += piece
}

/** News of one choice of an answer. At most one per choice per engine step. */
export type AnswerEvent = {
  /** Counted through all choices of all prompts. */
  readonly choice: number
  readonly reasoning: string
  readonly text: string
  readonly calls: readonly CallPiece[]
  readonly tokenIds: readonly number[]
  readonly logprobs: readonly TokenLogprob[] | undefined
  /** With the first event of a prompt, when asked; made while they are read. */
  readonly promptLogprobs: Iterable<TokenLogprob | null> | undefined
  /** Set on the choice's last event. */
  readonly finish: 'stop' | 'length' | 'tool_calls' | undefined
  /** The stop string or the id of the stop token that ended it. */
  readonly stopReason: string | number | undefined
}

const NO_CALLS: readonly CallPiece[] = []

/** A delta as an event. One object a token, and always of the same shape: this is the hot path. */
export const eventOf = (
  choice: number,
  delta: Delta,
  reasoning = '',
  text = delta.text,
): AnswerEvent => ({
  choice,
  reasoning,
  text,
  calls: NO_CALLS,
  tokenIds: delta.tokenIds,
  logprobs: delta.logprobs,
  promptLogprobs: delta.promptLogprobs,
  finish: delta.finish === 'length' || delta.finish === undefined ? delta.finish : 'stop',
  stopReason: delta.stopReason,
})
