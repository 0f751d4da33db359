// What an engine says when it cannot.

export type EngineErrorCode =
  | 'invalid_argument'
  | 'not_found'
  | 'unsupported'
  | 'out_of_memory'
  | 'unavailable'
  | 'queue_full'
  | 'aborted'
  | 'internal'

/** A record, not an exception class: engine errors cross threads as data. */
export type EngineError = { readonly code: EngineErrorCode; readonly message: string }

/** An EngineError where only an exception will do. */
export class EngineFailure extends Error {
  override readonly name = 'EngineFailure'
  readonly code: EngineErrorCode
  constructor(error: EngineError, options?: ErrorOptions) {
    super(error.message, options)
    this.code = error.code
  }
}
