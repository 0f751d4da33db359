// What `import ... from 'nemotron-server'` gives.

export { EngineFailure } from './engine/engine.js'
export type * from './engine/types.js'
export type {
  CreateEngineOptions,
  RewardAnswer,
  RewardCall,
  RewardingEngine,
} from './library.js'
export { createEngine } from './library.js'
export { loadTokenizer } from './tokenizer/tokenizer.js'
