import type { EngineError, EngineErrorCode } from './engine/types.js'

/** An EngineError where only an exception will do. */
export class EngineFailure extends Error {
  override readonly name = 'EngineFailure'
  readonly code: EngineErrorCode
  constructor(error: EngineError, options?: ErrorOptions) {
    super(error.message, options)
    this.code = error.code
  }
}
