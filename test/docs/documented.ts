// The commands that the documents show, how the tests run each of them, and which of them no test runs.

import { readdirSync, readFileSync } from 'node:fs'
import { packagePath } from '../../server/version.js'

type Command = {
  /** As it stands in the document, without the comment behind it. */
  readonly text: string
  /** File and line. */
  readonly at: string
  /** JSON that stands under it: a part of what it prints. */
  readonly answer?: string
}

/** A real download, a GPU, another machine, or what another test runs: with the reason. */
export const NOT_RUN: Readonly<Record<string, string>> = {
  'npx nemotron-server pull nvidia/Llama-3.1-Nemotron-Nano-8B-v1': 'a real download of 16 GB',
  'npm start -- --model nvidia/Llama-3.1-Nemotron-Nano-8B-v1': 'a real download of 16 GB',
  'nemotron-server pull ID...': 'a real download',
  'nemotron-server import-nemo DIR OUT': 'test/server/import-nemo.test.ts runs it on small folders',
  'npm test': 'it would run itself; .ci/run runs it',
  'npm run test:long': 'it would run itself',
  'cmake -S . -B build -G Ninja && cmake --build build && ctest --test-dir build':
    'minutes of compiling what npm test compiles',
  'cmake -S . -B build-asan -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DNEMOTRON_SANITIZE=address,undefined -DNEMOTRON_CUDA=OFF':
    'test/engine/sanitized.sh builds and runs the engine under sanitizers',
  'ninja -C build-asan engine_test && gdb --args build-asan/test/engine/engine_test preempt':
    'waits for a person in gdb',
  'node --inspect-brk --import tsx server/cli.ts serve': 'waits for a debugger',
  'python3 -m venv bench/.cache/venv && bench/.cache/venv/bin/pip install torch transformers':
    'a real download of gigabytes',
  'npm run bench -- engine': 'an hour, and writes 5 GB; the line with --shapes tiny runs it',
  'npm run bench -- packed': 'half an hour, and writes 6 GB; test/bench runs it with --shapes tiny',
  'npm run bench -- serve':
    'asks whichever server is at port 8000; test/bench runs it by --base-url',
  'npm run bench -- serve --num-prompts 16':
    'asks whichever server is at port 8000; test/bench runs it by --base-url',
  'npm run bench -- compare --llama-server FILE':
    'a binary of llama.cpp; test/bench has a stand-in',
  'npm run bench -- compare-results A.json B.json': 'two files of serve; test/bench makes them',
  'npm run bench -- batches': 'minutes; test/bench runs it with --shape tiny',
  'npm run bench -- http':
    'asks whichever server is at port 8000; test/bench runs it by --base-url',
  'npm run bench -- gpu --add result.json': 'a result of a GPU; test/bench adds one',
  'npm run bench -- gpu --counts':
    'nvcc, and writes docs/kernels.md; test/bench/gpu-counts.long.test.ts makes the same tables',
  'bench/gpu.sh --build build-gpu': 'nvcc; test/bench/gpu-script.test.ts runs the script',
  'bench/gpu.sh --out results': 'a GPU; test/bench/gpu-script.test.ts runs the script',
  'bench/gpu.sh --dry-run --out dry': 'test/bench/gpu-script.test.ts runs it',
  'NEMOTRON_PROMPT_ATTENTION=wgmma bench/gpu.sh 8b-128k': 'a GPU',
  'NEMOTRON_DECODE_PRODUCTS=wgmma NEMOTRON_PROMPT_PRODUCTS=decode bench/gpu.sh 8b-fp8': 'a GPU',
  'test/cuda_compile.sh --write': 'nvcc, and writes what npm test compares',
  'CMAKE_CXX_COMPILER_LAUNCHER=ccache npm run build:addon':
    'needs ccache; the same without it is run',
  'nemotron-server score': 'the name of a command; docs/data.md has it with its arguments',
  'node scripts/test.mjs': 'the beginning of a command: names of suites follow',
}

/** Minutes, a whole build, or what another test does in less time: `npm run test:long`, in a checkout in which
 * `npm ci` has run. */
export const LONG: readonly string[] = [
  'npm ci',
  'npm run build',
  'npm run build:addon',
  'npm run build:ts',
  'npm run format',
  'npm run lint',
  'node scripts/test.mjs engine',
  'node scripts/test.mjs --long rolling-restart',
  'node scripts/test.mjs server/chat',
  "node --import tsx --test --test-name-pattern='stop' test/server/completions.test.ts",
  'ctest --test-dir build -N',
  'build/test/engine/engine_test preempt',
  'npm run bench -- engine --shapes tiny --threads 1 --peers none --rounds 1 --out none',
  'npm run bench -- ops',
  'npm run bench -- ops qkv --seconds 0.2',
  'npm run bench -- ops loading',
  'npm run bench -- ops disk',
  'npm run bench -- grammar',
  'npm run bench -- storm',
  'npm run bench -- overload',
  'npm run bench -- frames',
  'npm run bench -- loop',
  'npm run bench -- reward',
  'npm run bench -- decisions',
  'npm run bench -- draft',
  'npm run bench -- encode',
  'npm run bench -- schemas',
  'npm run bench -- gpu',
  'npm run bench -- score',
  'npm run bench -- import',
  'npm run bench -- start',
]

/** Runs until it is stopped. */
export const isServer = (text: string): boolean =>
  /^(npm start|node .*\bserve\b|(npx )?nemotron-server serve)/.test(text) &&
  !text.includes('--help')

/** A command where it stands in a sentence: a first word that is one, and another word. */
const INLINE =
  /^([A-Z_]+=\S+ )*(npm|npx|node|nemotron-server|curl|cmake|ctest|ninja|python3|\S+\.(sh|py)) /

/** Lines that belong together, as a shell reads them: a quote or a backslash goes on; comments end it. */
const commandsOf = (script: string): readonly { text: string; line: number }[] => {
  const found: { text: string; line: number }[] = []
  let [text, quote, line, begun] = ['', '', 0, 0]
  const end = () => {
    if (text.trim() !== '') found.push({ text: text.trim(), line: begun })
    text = ''
    begun = line
  }
  for (let i = 0; i < script.length; i++) {
    const letter = script[i] ?? ''
    if (letter === '\n') line++
    if (quote === '' && letter === '#' && /(^|\s)$/.test(script.slice(0, i))) {
      while (i + 1 < script.length && script[i + 1] !== '\n') i++
    } else if (quote === '' && letter === '\n' && script[i - 1] !== '\\') end()
    else {
      if (quote === letter) quote = ''
      else if (quote === '' && (letter === "'" || letter === '"')) quote = letter
      text += letter
    }
  }
  end()
  return found
}

const FENCE = /^```(\w*)\n([\s\S]*?)^```$(?:\n\n```json\n([\s\S]*?)\n```)?/gm

/** Blocks without a language are commands, as `sh` is; messages and pictures are `text`. */
const inDocument = (file: string): readonly Command[] => {
  const text = readFileSync(packagePath(file), 'utf8')
  const at = (offset: number, line = 0) =>
    `${file}:${text.slice(0, offset).split('\n').length + line}`
  const blocks = [...text.matchAll(FENCE)].flatMap(
    ({ 1: language, 2: script = '', 3: answer, index }) => {
      if (language !== '' && language !== 'sh') return []
      const commands = commandsOf(script)
      return commands.map(({ text, line }, i) => ({
        text,
        at: at(index, line + 1),
        ...(answer !== undefined && i === commands.length - 1 && { answer }),
      }))
    },
  )
  const prose = text.replace(/^```[\s\S]*?^```$/gm, (block) => block.replace(/[^\n]/g, ' '))
  const inline = [...prose.matchAll(/`([^`]+)`/g)].flatMap(({ 1: span = '', index }) => {
    const words = span.replace(/\s+/g, ' ').trim()
    return INLINE.test(words) ? [{ text: words, at: at(index) }] : []
  })
  return [...blocks, ...inline]
}

/** Each once, in the order of the documents. */
export const documentedCommands = (): readonly Command[] => {
  const files = [
    'README.md',
    'CONTRIBUTING.md',
    ...readdirSync(packagePath('docs'))
      .filter((name) => name.endsWith('.md'))
      .map((name) => `docs/${name}`),
  ]
  const all = new Map<string, Command>()
  for (const command of files.flatMap(inDocument))
    if (!all.has(command.text)) all.set(command.text, command)
  return [...all.values()]
}
