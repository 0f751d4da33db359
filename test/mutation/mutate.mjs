// How many small, harmful changes do the tests find? Draws changes by a seed, makes one after another in
// a copy of the checkout, runs the tests that are about that part, and prints the score.
//   node test/mutation/mutate.mjs server|engine [--count 60] [--seed 1] [--only TEXT] [--out FILE]
//   node test/mutation/mutate.mjs server|engine --keys FILE
// `--only` keeps the files whose path contains the text; `--keys` makes the changes of a file, one key a
// line as `--out` writes them, instead of drawing; `--jobs` suites run at once. Survivors are printed with
// their key: kill them by a test, or say in test/mutation/explained.json why they are not harmful. What is
// said there holds for one place: a line that stands in a file several times is named with its count.
// A failure counts when it comes twice: a suite that failed because the machine was busy found nothing.
// Of the server's suites those are run that run the changed line, as V8 counted it before the changes; a
// process that was killed has counted nothing, so where no suite runs a line all are tried.

import { spawn, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { compile, compileTests } from '../../scripts/compile-tests.mjs'
import { offsetsOfLines, placesRun, withoutMap } from './coverage.mjs'
import { placesIn } from './places.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')
const explained = JSON.parse(readFileSync(new URL('explained.json', import.meta.url), 'utf8'))

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

const FLAGS = ['--enable-source-maps', '--test-reporter=tap', '--test-force-exit']
const suite = (name) => ({
  name,
  command: process.execPath,
  args: [...FLAGS, join('build/js/test', `${name}.test.js`)],
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

/** The copy's tests as JavaScript; its threads run what is in dist/, which is made to be the same text. */
const compileCopy = async (copy) => {
  const made = await compileTests(copy)
  cpSync(join(made, 'server'), join(copy, 'dist/server'), { recursive: true })
}

/** Whether the file is other JavaScript than before. */
const compileChanged = async (copy, file) => {
  const path = file.replace(/\.ts$/, '.js')
  const made = join(copy, 'build/js', path)
  const before = readFileSync(made, 'utf8')
  await compile(copy, file)
  const code = readFileSync(made, 'utf8')
  writeFileSync(join(copy, 'dist', path), code)
  return withoutMap(code) !== withoutMap(before)
}

const server = {
  files: 'server/**/*.ts',
  skip: /^server\/(?:commands|cli|terminal|version|model\/(?:hub|download|fetch))/,
  // What only commands and documents are tested by is out.
  steps: ['server', 'grammar', 'api']
    .flatMap(allSuites)
    .filter(
      ({ name }) =>
        !/\/(?:hub|docs|cli|package|preference-data|evaluation|score-command)$/.test(name),
    ),
  prepare: async (copy) => {
    mkdirSync(join(copy, 'build'))
    for (const name of readdirSync(join(root, 'build')))
      if (name !== 'js') symlinkSync(join(root, 'build', name), join(copy, 'build', name))
    await compileCopy(copy)
  },
  compile: compileChanged,
}
const engine = {
  files: 'addon/engine/*.cc',
  skip: /$^/,
  isOrdered: true,
  // Most is found by the engine's own tests; the addon is built for what they let pass.
  steps: [
    target('engine_test'),
    { name: 'engine_test', command: join('build', 'test', 'engine', 'engine_test'), args: [] },
    target('nemotron'),
    ...['api/engine', 'api/grammar', 'api/reward', 'server/tiny-models'].map(suite),
  ],
  prepare: async (copy) => {
    run(copy, process.execPath, ['scripts/install.mjs', '--addon'])
    await compileCopy(copy)
  },
  compile: async () => true,
}

const run = (cwd, command, args) => {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8' })
  if (status === 0) return stdout
  console.error(`${command} ${args.join(' ')} failed:\n${stdout}${stderr}`)
  process.exit(1)
}

/** What a killed suite had mounted there is taken off. */
const remove = (folder) => {
  const mounts = existsSync('/proc/mounts') ? readFileSync('/proc/mounts', 'utf8') : ''
  for (const [, path] of mounts.matchAll(/^\S+ (\S+)/gm))
    if (path.startsWith(`${folder}/`)) spawnSync('umount', ['-l', path])
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
}

const FAILURE = /^\s*not ok (?!.*# (?:TODO|SKIP))/

/**
 * How a step ended, and how long it took; one that hangs has found the change. Its first failure ends it,
 * unless the whole is wanted, and so does `stop`.
 */
const runStep = (cwd, { command, args, limitMs = 900_000 }, { env = {}, stop, isWhole } = {}) =>
  new Promise((resolve) => {
    const began = performance.now()
    const folder = mkdtempSync(join(temporary, 'step-'))
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env, TMPDIR: folder },
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    })
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
    stop?.addEventListener('abort', kill)
    createInterface(child.stdout).on('line', (line) => {
      if (!isWhole && FAILURE.test(line)) kill()
    })
    child.on('exit', (code) => {
      clearTimeout(timer)
      stop?.removeEventListener('abort', kill)
      kill()
      remove(folder)
      resolve({ isPassed: code === 0, isHung, ms: performance.now() - began })
    })
  })

/** What finds the change that stands in the copy: undefined when nothing does, false when it is none. */
const findingStep = async (copy, steps) => {
  const left = [...steps]
  const stopping = new AbortController()
  const { signal: stop } = stopping
  let by
  const work = async () => {
    for (let step = left.shift(); step && !stop.aborted; step = left.shift()) {
      const first = await runStep(copy, step, { stop })
      if (first.isPassed || stop.aborted) continue
      // Text that does not compile is no change of what the code does.
      const second = step.isBuild ? first : await runStep(copy, step, { stop })
      if (stop.aborted) return
      if (second.isPassed) {
        console.log(`    ${step.name} failed once and passed then`)
        continue
      }
      by = first.isHung && second.isHung ? `${step.name}, which hangs` : step.name
      if (step.isBuild) by = false
      stopping.abort()
    }
  }
  await Promise.all(Array.from({ length: part.isOrdered ? 1 : jobs }, work))
  return by
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
const jobs = Number(option('jobs', '2'))

const [copy, temporary] = ['mutate', 'test'].map((what) => {
  const folder = mkdtempSync(join(tmpdir(), `nemotron-${what}-`))
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
  return folder
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1))
run(root, 'sh', ['-c', `git ls-files -z | xargs -0 tar cf - | tar xf - -C ${copy}`])
symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
if (existsSync(join(root, 'dist'))) run(root, 'cp', ['-r', 'dist', copy])
await part.prepare(copy)

const files = run(root, 'git', ['ls-files', part.files])
  .split('\n')
  .filter((file) => file !== '' && !part.skip.test(file) && file.includes(only))
const all = files.flatMap((file) => placesIn(file, readFileSync(join(root, file), 'utf8')))
const keys = new Set(all.map(({ key }) => key))
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

for (const place of chosen) {
  const path = place.file.replace(/\.ts$/, '.js')
  place.compiled = ['build/js', 'dist'].map((folder) => join(copy, folder, path))
  const [made] = place.compiled
  place.offsets = existsSync(made)
    ? (offsetsOfLines(readFileSync(made, 'utf8')).get(place.number) ?? [])
    : []
}

/** A suite that fails by itself would find everything. Five times what it takes is taken for a hang. */
const tried = async (step) => {
  const folder = mkdtempSync(join(temporary, 'counts-'))
  const env = part.isOrdered ? {} : { NODE_V8_COVERAGE: folder }
  let run = await runStep(copy, step, { env, isWhole: true })
  const places = placesRun(folder, chosen)
  rmSync(folder, { recursive: true })
  // What is counted is slower, which some suites measure.
  if (!run.isPassed) run = await runStep(copy, step)
  if (!run.isPassed) {
    console.log(`${step.name} FAILS WITHOUT ANY CHANGE and is left out`)
    return undefined
  }
  console.log(`${step.name} ${(run.ms / 1000).toFixed(1)} s`)
  const limitMs = step.isBuild ? 900_000 : Math.max(60_000, 5 * run.ms)
  return { ...step, ms: run.ms, limitMs, places }
}
const waiting = [...part.steps]
const ready = []
const tryAll = async () => {
  for (let step = waiting.shift(); step; step = waiting.shift()) ready.push(await tried(step))
}
await Promise.all(Array.from({ length: part.isOrdered ? 1 : jobs }, tryAll))
const steps = ready.filter((step) => step !== undefined)
if (part.isOrdered && steps.length < part.steps.length) process.exit(2)
// What is fast first, where nothing has to be built before.
if (!part.isOrdered) steps.sort((a, b) => a.ms - b.ms)

/** What can see a change of a place. */
const stepsFor = (place) => {
  const seeing = part.isOrdered ? steps : steps.filter(({ places }) => places.has(place))
  return seeing.length > 0 ? seeing : steps
}

const judge = async (place) => {
  const path = join(copy, place.file)
  const text = readFileSync(path, 'utf8')
  const lines = text.split('\n')
  lines[place.number] = place.line
  const put = (content) => {
    writeFileSync(path, content)
    return part.compile(copy, place.file)
  }
  const isOther = await put(lines.join('\n')).catch(() => false)
  const by = isOther ? await findingStep(copy, stepsFor(place)) : false
  await put(text)
  return by
}

let found = 0
let broken = 0
const survivors = []
for (const [i, place] of chosen.entries()) {
  const { key, number } = place
  const began = performance.now()
  const by = await judge(place)
  const why = explained[key]
  if (by === false) broken++
  else if (by !== undefined) found++
  else survivors.push({ key, why })
  const verdict =
    by === false
      ? 'does not compile, or to the same'
      : by !== undefined
        ? `found by ${by}`
        : why
          ? `harmless: ${why}`
          : 'SURVIVED'
  const seconds = ((performance.now() - began) / 1000).toFixed(0)
  const told = `${i + 1}/${chosen.length} line ${number + 1} ${verdict} (${seconds} s)\n${key}`
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
