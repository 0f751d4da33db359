// What `import ... from 'nemotron-server'` gives.

export type * from './engine/types.js'
export { type EngineError, type EngineErrorCode, EngineFailure } from './failure.js'
export type {
  CreateEngineOptions,
  RewardAnswer,
  RewardCall,
  RewardingEngine,
  ValueAnswer,
  ValueOf,
  ValueRequest,
  ValueSchema,
} from './library.js'
export { createEngine, loadTokenizer } from './library.js'
export { type ErrorKind, RequestError } from './request-error.js'
export type * from './tokenizer/types.js'
