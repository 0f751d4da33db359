// A worker thread with an engine of its own: posts the ids of a greedy answer, then works on until
// it is terminated.

import { parentPort, workerData } from 'node:worker_threads'
import { openEngine } from '../../server/engine/engine.js'
import { generate, idsOf, prompt, smallEngine } from './support.js'

const engine = await openEngine(smallEngine(workerData))
const sampling = { temperature: 0, maxTokens: 24, ignoreEos: true }
parentPort?.postMessage(idsOf(await generate(engine, sampling)))
for (;;) await generate(engine, { maxTokens: 1900, ignoreEos: true }, { promptTokenIds: prompt })
