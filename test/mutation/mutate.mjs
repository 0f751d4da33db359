// How many small, harmful changes do the tests find? Draws changes by a seed, makes one after another in
// a copy of the checkout, runs the tests that are about that part, and prints the score.
//   node test/mutation/mutate.mjs server|engine [--count 60] [--seed 1] [--only TEXT] [--out FILE]
//   node test/mutation/mutate.mjs server|engine --keys FILE
// `--only` keeps the files whose path contains the text; `--keys` makes the changes of a file, one key a
// line as `--out` writes them, instead of drawing. Survivors are printed with their key: kill them by a
// test, or say in test/mutation/explained.json why they are not harmful. What is said there holds for one
// place: a line that stands in a file several times is named with its count.
// A failure counts when it comes twice: a suite that failed because the machine was busy found nothing.

import { spawn, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { transformSync } from 'esbuild'

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

const suite = (name) => ({
  name,
  command: process.execPath,
  args: ['--import', 'tsx', '--test', `test/${name}.test.ts`],
})
const allSuites = (folder) =>
  readdirSync(join(root, 'test', folder))
    .filter((name) => name.endsWith('.test.ts') && !name.endsWith('.long.test.ts'))
    .map((name) => suite(`${folder}/${name.replace(/\.test\.ts$/, '')}`))
const target = (name) => ({
  name: `build ${name}`,
  command: 'cmake',
  args: ['--build', 'build', '--target', name, '--parallel', '2'],
  isBuild: true,
})
const server = {
  files: 'server/**/*.ts',
  skip: /^server\/(?:commands|cli|terminal|version|model\/(?:hub|download|fetch))/,
  // The recorded answers first: they find most, fast. What only commands and documents are tested by is out.
  steps: [suite('server/recorded'), ...['server', 'grammar', 'api'].flatMap(allSuites)].filter(
    ({ name }, at) =>
      (at === 0 || name !== 'server/recorded') &&
      !/\/(?:hub|docs|cli|package|preference-data|evaluation|score-command)$/.test(name),
  ),
  prepare: (copy) => symlinkSync(join(root, 'build'), join(copy, 'build')),
  // Its threads, and the commands that tests start, run what is compiled.
  compile: (copy, file, text) => {
    const compiled = join(copy, 'dist', file.replace(/\.ts$/, '.js'))
    if (!existsSync(compiled)) return
    writeFileSync(compiled, transformSync(text, { loader: 'ts', target: 'node20' }).code)
  },
}
const engine = {
  files: 'addon/engine/*.cc',
  skip: /$^/,
  // Most is found by the engine's own tests; the addon is built for what they let pass.
  steps: [
    target('engine_test'),
    { name: 'engine_test', command: join('build', 'test', 'engine', 'engine_test'), args: [] },
    target('nemotron'),
    ...['api/engine', 'api/grammar', 'api/reward', 'server/tiny-models'].map(suite),
  ],
  prepare: (copy) => {
    run(copy, process.execPath, ['scripts/install.mjs', '--addon'])
  },
  compile: () => {},
}

const run = (cwd, command, args) => {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8' })
  if (status === 0) return stdout
  console.error(`${command} ${args.join(' ')} failed:\n${stdout}${stderr}`)
  process.exit(1)
}

/** How a step ended, and how long it took; one that hangs has found the change. */
const runStep = (cwd, { command, args }, limitMs) =>
  new Promise((resolve) => {
    const began = performance.now()
    const child = spawn(command, args, { cwd, stdio: 'ignore', detached: true })
    const kill = () => {
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {
        // It has ended meanwhile.
      }
    }
    let isHung = false
    const timer = setTimeout(() => {
      isHung = true
      kill()
    }, limitMs)
    child.on('close', (code) => {
      clearTimeout(timer)
      kill()
      resolve({ isPassed: code === 0, isHung, ms: performance.now() - began })
    })
  })

/** What finds the change that stands in the copy: undefined when nothing does, false when it is none. */
const findingStep = async (copy, steps) => {
  for (const step of steps) {
    const first = await runStep(copy, step, step.limitMs)
    if (first.isPassed) continue
    // Text that does not compile is no change of what the code does.
    if (step.isBuild) return false
    const second = await runStep(copy, step, step.limitMs)
    if (second.isPassed) console.log(`    ${step.name} failed once and passed then`)
    else return first.isHung && second.isHung ? `${step.name}, which hangs` : step.name
  }
  return undefined
}

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
const keysFile = option('keys', '')

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
const drawn = () => {
  const next = random(seed)
  return Array.from({ length: Math.min(count, all.length) }, () =>
    all.splice(Math.floor(next() * all.length), 1),
  ).flat()
}
const named = () => {
  const wanted = readFileSync(keysFile, 'utf8')
    .split('\n')
    .filter((key) => key !== '')
  const missing = wanted.filter((key) => !keys.has(key))
  for (const key of missing) console.error(`${keysFile}: not in the code: ${key}`)
  if (missing.length > 0) process.exit(2)
  return all.filter(({ key }) => wanted.includes(key))
}
const chosen = keysFile === '' ? drawn() : named()

// A suite that fails by itself would find everything. Five times what it takes is taken for a hang.
const steps = []
for (const step of part.steps) {
  const { isPassed, ms } = await runStep(copy, step, 900_000)
  if (!isPassed && !(await runStep(copy, step, 900_000)).isPassed) {
    console.error(`fails without any change: ${step.name}`)
    process.exit(2)
  }
  console.log(`${step.name} ${(ms / 1000).toFixed(1)} s`)
  steps.push({ ...step, ms, limitMs: step.isBuild ? 900_000 : Math.max(60_000, 5 * ms) })
}

// What is fast first, where nothing has to be built before.
if (!steps.some(({ isBuild }) => isBuild)) steps.sort((a, b) => a.ms - b.ms)

let found = 0
let broken = 0
const survivors = []
for (const [i, { file, number, line, key }] of chosen.entries()) {
  const path = join(copy, file)
  const text = readFileSync(path, 'utf8')
  const lines = text.split('\n')
  lines[number] = line
  const put = (content) => {
    writeFileSync(path, content)
    part.compile(copy, file, content)
  }
  put(lines.join('\n'))
  const by = await findingStep(copy, steps)
  put(text)
  const why = explained[key]
  if (by === false) broken++
  else if (by !== undefined) found++
  else survivors.push({ key, why })
  const verdict =
    by === false
      ? 'does not compile'
      : by !== undefined
        ? `found by ${by}`
        : why
          ? `harmless: ${why}`
          : 'SURVIVED'
  const told = `${i + 1}/${chosen.length} line ${number + 1} ${verdict}\n${key}`
  console.log(told)
  if (out !== '') appendFileSync(out, `${told}\n`)
}
const harmless = survivors.filter(({ why }) => why !== undefined).length
const harmful = chosen.length - harmless - broken
const open = survivors.length - harmless
const score = harmful === 0 ? 100 : (100 * found) / harmful
console.log(
  `${process.argv[2]}, ${keysFile === '' ? `seed ${seed}` : keysFile}: ${found} of ${harmful} found (${score.toFixed(1)} %), ${harmless} harmless, ${broken} not compiled`,
)
console.log(`${found} passed, ${open} failed`)
process.exit(open > 0 ? 1 : 0)
