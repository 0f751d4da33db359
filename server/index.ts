// What `import ... from 'nemotron-server'` gives.

export { createEngine, EngineFailure } from './engine.js'
export { loadTokenizer } from './tokenizer.js'
export type * from './types.js'
