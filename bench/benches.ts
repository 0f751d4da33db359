// The benches by name. Each is a file that exports `run(args)` and tells its flags under --help. A mistake of the
// caller is one line and exit code 2; a bench that failed ends with 1.

import { UsageError } from './flags.js'

type Bench = { readonly run: (args: readonly string[]) => Promise<void> }

const benches: Readonly<Record<string, readonly [file: string, about: string]>> = {
  engine: [
    'engine',
    'ours beside llama.cpp and transformers, and beside the limits of the machine',
  ],
  packed: ['packed', 'GGUF types and weights quantised at load, beside llama.cpp on the same file'],
  draft: ['draft', 'a draft model beside none: acceptance, tokens a step, speed-up'],
  ops: ['ops', 'ceilings, matrix products, attention and draws of the CPU backend (C++)'],
  serve: ['serve', 'a streaming load on any OpenAI-compatible server'],
  compare: ['compare', 'our server beside another one, or llama.cpp, in turns, as ratios'],
  'compare-results': ['compare-results', 'two result files of serve beside each other'],
  http: ['http', 'plain routes, overload and connection churn of any such server'],
  storm: ['storm', 'answers a second under clients that ignore Retry-After'],
  overload: ['overload', 'four times what the server can: goodput, refusals, health'],
  frames: [
    'frames',
    'how soon the page can be used in Chromium, and its frames while an answer streams',
  ],
  loop: ['event-loop', 'how long prompts of 128K tokens hold up the event loop'],
  reward: ['reward', 'scoring: candidates of one prompt, and prompts beside the limit'],
  score: ['score', 'a file through `nemotron-server score`, beside the engine itself'],
  import: ['import', 'a NeMo folder through `nemotron-server import-nemo`, beside a plain copy'],
  decisions: ['decisions', 'questions over a prompt, beside the prompt and a step of decoding'],
  encode: ['encode', 'a long conversation to token ids, new and with one more turn'],
  batches: ['batches', 'a batch beside the engine alone, and who asks meanwhile'],
  grammar: ['grammar', 'compiling a schema, its masks, and decoding with it beside without'],
  schemas: ['schemas', 'which JSON Schemas are served, and whether rightly; a folder of them'],
  start: ['cold-start', 'from npm start to the first token of the embedded models'],
  gpu: ['gpu', 'docs/gpu-results.md from what bench/gpu.sh measured'],
}

const usage = [
  'npm run bench -- NAME [flags]; each NAME has --help',
  ...Object.entries(benches).map(([name, [, about]]) => `  ${name.padEnd(16)} ${about}`),
].join('\n')

/** One line for what the caller or the machine did wrong; a fault of our own keeps its stack. */
const shown = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  const expected = error instanceof UsageError || 'code' in error
  return expected ? error.message : (error.stack ?? error.message)
}

/** Its exit code. `complain`: what a caller did wrong, and what failed. */
export const runBench = async (
  [name = '', ...args]: readonly string[],
  complain: (text: string) => void,
): Promise<number> => {
  const bench = Object.hasOwn(benches, name) ? benches[name] : undefined
  if (bench === undefined) {
    if (name === '--help' || name === 'help') console.log(usage)
    else complain(name === '' ? usage : `bench: there is no '${name}'\n${usage}`)
    return name === '--help' || name === 'help' ? 0 : 2
  }
  try {
    const { run }: Bench = await import(`./${bench[0]}.js`)
    await run(args)
    return 0
  } catch (error) {
    complain(`bench ${name}: ${shown(error)}`)
    return error instanceof UsageError ? 2 : 1
  }
}
