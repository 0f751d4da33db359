// How many small, harmful changes do the tests find? Draws changes by a seed, makes one after another in
// a copy of the checkout, runs the tests that are about that part, and prints the score.
//   node test/mutation/mutate.mjs server|engine [--count 60] [--seed 1] [--only TEXT] [--out FILE]
// `--only` keeps the files whose path contains the text. Survivors are printed as a diff line each: kill
// them by a test, or say in test/mutation/explained.json why they are not harmful. What is said there
// holds for one place: a line that stands in a file several times is named with its count.

import { spawn, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')
const explained = JSON.parse(readFileSync(new URL('explained.json', import.meta.url), 'utf8'))

// Text to text, one place at a time. Spaces keep types and templates out.
const swaps = [
  [' === ', ' !== '],
  [' !== ', ' === '],
  [' == ', ' != '],
  [' != ', ' == '],
  [' < ', ' <= '],
  [' <= ', ' < '],
  [' > ', ' >= '],
  [' >= ', ' > '],
  [' && ', ' || '],
  [' || ', ' && '],
  [' + 1', ''],
  [' - 1', ''],
  ['+= ', '-= '],
  ['++', '--'],
  ['true', 'false'],
  ['false', 'true'],
  ['Math.max(', 'Math.min('],
  ['Math.min(', 'Math.max('],
  ['std::max(', 'std::min('],
  ['std::min(', 'std::max('],
  ['if (!', 'if ('],
  ['if (', 'if (true || '],
  ['if (', 'if (false && '],
]
const callAlone = /^\s+\w[\w.]*(?:->[\w.]+)*\([^{}]*\);?$/
const notCode =
  /^\s*(?:\/\/|\*|\/\*|import |export type|export \{|readonly |\||#|namespace|static_assert)/

/** `file (2): line -> changed line`: the second such line of the file, so that lines may move. */
const keyOf = (file, lines, number, changed) => {
  const was = lines[number].trim()
  const nth = lines.slice(0, number + 1).filter((line) => line.trim() === was).length
  return `${file} (${nth}): ${was} -> ${changed.trim()}`
}

/** Every place of a file where something can be changed: line number and the changed line. */
const placesOf = (text) =>
  text.split('\n').flatMap((line, number) => {
    if (notCode.test(line)) return []
    const code = line.replace(/\s\/\/ .*$/, '')
    const places = []
    for (const [from, to] of swaps)
      for (let at = code.indexOf(from); at >= 0; at = code.indexOf(from, at + 1)) {
        // Inside a string nothing is harmful but words.
        const quotes = code.slice(0, at).match(/(?<!\\)['"`]/g)?.length ?? 0
        if (quotes % 2 === 0)
          places.push({ number, line: code.slice(0, at) + to + code.slice(at + from.length) })
      }
    if (callAlone.test(code)) places.push({ number, line: '' })
    return places
  })

/** Numbers from 0 to 1 that a seed decides (mulberry32). */
const random = (seed) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const tests = (...names) => names.map((name) => `test/server/${name}.test.ts`)
const server = {
  files: 'server/**/*.ts',
  skip: /^server\/(?:commands|cli|terminal|version|model\/(?:hub|download|fetch))/,
  // The recorded answers first: they find most, fast.
  suites: [
    ...tests('recorded', 'wiring', 'stream', 'chat', 'completions', 'errors', 'reward', 'sampling'),
    ...tests('reasoning', 'thinking', 'template', 'jinja', 'wire', 'meta', 'config', 'request-log'),
    ...tests(
      'reward-checkpoints',
      'fields',
      'check',
      'bounds',
      'door',
      'identity',
      'numbers',
      'shapes',
    ),
    ...tests('tools', 'call-parser', 'tool-grammar', 'tool-templates', 'tool-loops'),
    ...tests('serve', 'tiny-models'),
    'test/grammar/json-schema.test.ts',
    'test/grammar/answer-grammar.test.ts',
    'test/api/tokenizer.test.ts',
    'test/api/engine.test.ts',
    'test/api/reward.test.ts',
  ],
  prepare: (copy) => symlinkSync(join(root, 'build'), join(copy, 'build')),
  commands: (suites) =>
    suites.map((suite) => [process.execPath, ['--import', 'tsx', '--test', suite]]),
  limitMs: 300_000,
}
const engine = {
  files: 'addon/engine/*.cc',
  skip: /$^/,
  suites: ['engine_test'],
  prepare: (copy) => {
    const options = ['-DNEMOTRON_CUDA=OFF', '-DCMAKE_BUILD_TYPE=Release']
    run(copy, 'cmake', ['-S', '.', '-B', 'build', ...options])
    run(copy, 'cmake', ['--build', 'build', '--target', 'engine_test', '--parallel', '2'])
  },
  commands: () => [
    ['cmake', ['--build', 'build', '--target', 'engine_test', '--parallel', '2']],
    [join('build', 'test', 'engine', 'engine_test'), []],
  ],
  limitMs: 300_000,
}

const run = (cwd, command, args) => {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8' })
  if (status === 0) return stdout
  console.error(`${command} ${args.join(' ')} failed:\n${stdout}${stderr}`)
  process.exit(1)
}

/** Whether it ended well; one that hangs has found the change. */
const passes = (cwd, [command, args], limitMs) =>
  new Promise((resolve) => {
    const child = spawn(command, args, { cwd, stdio: 'ignore', detached: true })
    const kill = () => {
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {
        // It has ended meanwhile.
      }
    }
    const timer = setTimeout(kill, limitMs)
    child.on('close', (code) => {
      clearTimeout(timer)
      kill()
      resolve(code === 0)
    })
  })

const option = (name, fallback) => {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? fallback : process.argv[at + 1]
}
const parts = { server, engine }
const part = parts[process.argv[2]]
if (part === undefined) {
  console.error(`usage: node test/mutation/mutate.mjs ${Object.keys(parts).join('|')}`)
  process.exit(2)
}
const count = Number(option('count', '60'))
const seed = Number(option('seed', '1'))
const only = option('only', '')
const out = option('out', '')

const copy = mkdtempSync(join(tmpdir(), 'nemotron-mutate-'))
process.on('exit', () => rmSync(copy, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1))
run(root, 'sh', ['-c', `git ls-files -z | xargs -0 tar cf - | tar xf - -C ${copy}`])
symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
if (existsSync(join(root, 'dist'))) run(root, 'cp', ['-r', 'dist', copy])
part.prepare(copy)

const files = run(root, 'git', ['ls-files', part.files])
  .split('\n')
  .filter((file) => file !== '' && !part.skip.test(file) && file.includes(only))
const all = files.flatMap((file) => {
  const text = readFileSync(join(root, file), 'utf8')
  const lines = text.split('\n')
  return placesOf(text).map((place) => ({
    file,
    key: keyOf(file, lines, place.number, place.line),
    ...place,
  }))
})
const keys = new Set(all.map(({ key }) => key))
for (const key of Object.keys(explained)) {
  if (!files.some((file) => key.startsWith(`${file} (`)) || keys.has(key)) continue
  console.error(`explained.json explains what is not in the code: ${key}`)
  process.exit(2)
}
const next = random(seed)
const chosen = Array.from({ length: Math.min(count, all.length) }, () =>
  all.splice(Math.floor(next() * all.length), 1),
).flat()

// A suite that fails by itself would find everything.
for (const command of part.commands(part.suites)) {
  if (await passes(copy, command, part.limitMs)) continue
  console.error(`fails without any change: ${command[1].at(-1) ?? command[0]}`)
  process.exit(2)
}

let found = 0
const survivors = []
for (const [i, { file, number, line, key }] of chosen.entries()) {
  const path = join(copy, file)
  const text = readFileSync(path, 'utf8')
  const lines = text.split('\n')
  const was = lines[number]
  lines[number] = line
  writeFileSync(path, lines.join('\n'))
  let by
  for (const command of part.commands(part.suites)) {
    if (await passes(copy, command, part.limitMs)) continue
    by = command[1].at(-1) ?? command[0]
    break
  }
  writeFileSync(path, text)
  const why = explained[key]
  if (by !== undefined) found++
  else survivors.push({ key, why })
  const verdict = by !== undefined ? `found by ${by}` : why ? `harmless: ${why}` : 'SURVIVED'
  const told = `${i + 1}/${chosen.length} ${file}:${number + 1} ${verdict}\n    ${was.trim()}\n    ${line.trim()}`
  console.log(told)
  if (out !== '') appendFileSync(out, `${told}\n`)
}
const harmless = survivors.filter(({ why }) => why !== undefined).length
const harmful = chosen.length - harmless
const open = survivors.length - harmless
const score = harmful === 0 ? 100 : (100 * found) / harmful
console.log(
  `${process.argv[2]}, seed ${seed}: ${found} of ${harmful} found (${score.toFixed(1)} %), ${harmless} harmless`,
)
console.log(`${found} passed, ${open} failed`)
process.exit(open > 0 ? 1 : 0)
