// What `import ... from 'nemotron-server'` gives.

export { EngineFailure } from './engine.js'
export type {
  CreateEngineOptions,
  RewardAnswer,
  RewardCall,
  RewardingEngine,
} from './in-process.js'
export { createEngine } from './in-process.js'
export { loadTokenizer } from './tokenizer.js'
export type * from './types.js'
