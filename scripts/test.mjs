// `npm test`: brings the build up to date, runs every C++ test executable and every test/**/*.test.ts,
// and ends with `N passed, N failed` over all of them.
//   node scripts/test.mjs [--long] [part of a suite's name...]
// --long adds test/**/*.long.test.ts, ctest's label "long", and NEMOTRON_TEST_LONG=1 for the rest.

import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { bundleCommand, compileTests } from './compile-tests.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const build = join(root, 'build')
const wanted = process.argv.slice(2).filter((argument) => argument !== '--long')
const long = process.argv.includes('--long')
if (long) process.env.NEMOTRON_TEST_LONG = '1'
// Processes that live for a second take a tenth less of it where malloc's memory lies in huge pages. Of glibc alone.
process.env.GLIBC_TUNABLES ??= 'glibc.malloc.hugetlb=1'
const suiteTimeoutMs = long ? 3_600_000 : 900_000

const isWanted = (name) => wanted.length === 0 || wanted.some((part) => name.includes(part))
const total = { passed: 0, failed: 0, processor: 0 }

const step = (what, command, args) => {
  const began = Date.now()
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  if (status !== 0) {
    console.log(`${stdout}${stderr}`)
    console.log(`FAILED ${what}`)
    console.log('0 passed, 1 failed')
    process.exit(1)
  }
  const seconds = (Date.now() - began) / 1000
  if (seconds >= 1) console.log(`${what} (${seconds.toFixed(1)} s)`)
  return stdout
}

/** Process groups that run: each suite is one, with all that it starts. */
const groups = new Set()

const isThere = (group) => {
  try {
    return process.kill(-group, 0)
  } catch {
    return false
  }
}

const killGroup = (group) => {
  if (isThere(group)) process.kill(-group, 'SIGKILL')
}
process.on('exit', () => {
  for (const group of groups) killGroup(group)
})

/** How long what a suite started may take to end after it. */
const LEAVE_MS = 5000

/** Resolves to whether it was there to be killed. */
const endGroup = async (group) => {
  const until = Date.now() + LEAVE_MS
  while (isThere(group) && Date.now() < until) await sleep(50)
  const wasThere = isThere(group)
  killGroup(group)
  groups.delete(group)
  return wasThere
}

/** `times` of the shell: of itself, then of what it ran. In seconds. */
const processorSeconds = (times) =>
  [...(times.split('\n')[1] ?? '').matchAll(/(\d+)m([\d.]+)s/g)].reduce(
    (sum, [, minutes, seconds]) => sum + 60 * Number(minutes) + Number(seconds),
    0,
  )

/** Runs to its end, and ends what it leaves behind; with all output, and the processor time of all of it. */
const capture = (command, args) =>
  new Promise((resolve) => {
    const script = '"$@" 3>&-; code=$?; times >&3; exit $code'
    const child = spawn('sh', ['-c', script, 'sh', command, ...args], {
      cwd: root,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    })
    groups.add(child.pid)
    const said = { output: '', times: '' }
    const keep = (stream, what) =>
      stream.setEncoding('utf8').on('data', (data) => {
        said[what] += data
      })
    keep(child.stdout, 'output')
    keep(child.stderr, 'output')
    keep(child.stdio[3], 'times')
    let isLate = false
    const limit = setTimeout(() => {
      isLate = true
      killGroup(child.pid)
    }, suiteTimeoutMs)
    // Not at 'close': what a suite leaves behind holds its pipes open.
    child.on('exit', async (code) => {
      clearTimeout(limit)
      const isLeft = await endGroup(child.pid)
      if (isLate) said.output += `\nended after ${suiteTimeoutMs / 1000} s\n`
      if (isLeft) said.output += '\nleft processes behind\n'
      const ok = code === 0 && !isLeft
      resolve({ ok, output: said.output, seconds: processorSeconds(said.times) })
    })
  })

const number = (text, pattern) => {
  const found = text.match(pattern)?.[1]
  return found === undefined ? undefined : Number(found)
}

const runSuite = async ({ name, command, args, count }) => {
  const began = Date.now()
  const { ok, output, seconds: processor } = await capture(command, args)
  const counted = count(output)
  // An executable that counts nothing is one test.
  const passed = counted.passed ?? (ok ? 1 : 0)
  const failed = ok ? 0 : Math.max(counted.failed ?? 0, 1)
  total.passed += passed
  total.failed += failed
  total.processor += processor
  const seconds = ((Date.now() - began) / 1000).toFixed(1)
  console.log(
    `${ok ? 'ok    ' : 'FAILED'} ${name}: ${passed} passed, ${failed} failed ` +
      `(${seconds} s, processors ${processor.toFixed(1)} s)`,
  )
  for (const line of counted.skipped) console.log(`       skipped: ${line}`)
  if (!ok) console.log(output)
}

/** test/check.h ends with "N passed, N failed". */
const countCpp = (output) => ({
  passed: number(output, /^(\d+) passed, \d+ failed$/m),
  failed: number(output, /^\d+ passed, (\d+) failed$/m),
  skipped: [...output.matchAll(/^skipped:? (.*)$/gim)].map(([, line]) => line),
})

const countNode = (output) => ({
  passed: number(output, /^ℹ pass (\d+)$/m),
  failed: (number(output, /^ℹ fail (\d+)$/m) ?? 0) + (number(output, /^ℹ cancelled (\d+)$/m) ?? 0),
  skipped: [...new Set([...output.matchAll(/^\s*﹣ (.*)$/gm)].map(([, line]) => line))],
})

const listCpp = () =>
  JSON.parse(step('list the C++ tests', 'ctest', ['--test-dir', build, '--show-only=json-v1']))
    .tests

const isLong = ({ properties = [] }) =>
  properties.some(({ name, value }) => name === 'LABELS' && value.includes('long'))

/** Of each kind the longest, the longest first: all others fit in behind them. */
const LONGEST = [
  ...['emulated_ops', 'ops', 'emulated_model', 'engine', 'golden', 'emulated_parallel'],
  ...['emulated_nccl', 'gpu_bench_tiny', 'bench/commands', 'web/page', 'api/cli', 'server/bounds'],
  ...['server/hang', 'server/score-command', 'server/serve', 'docs/commands', 'server/batches'],
  ...['api/package'],
]

/** They wait for most of their time, and have a lane of their own. */
const WAITING = [
  ...['web/page', 'server/bounds', 'server/hang', 'rank_faults', 'server/batches', 'server/stream'],
  ...['server/reload', 'server/refusals', 'server/parallel', 'server/pause', 'bench/load'],
]

const longestFirst = (suites) => {
  const at = ({ name }) => {
    const place = LONGEST.indexOf(name)
    return place < 0 ? LONGEST.length : place
  }
  return suites.toSorted((a, b) => at(a) - at(b))
}

/** A suite that has ended ends, whatever it has open; what it has started is looked for. */
const NODE_FLAGS = ['--enable-source-maps', '--test-reporter=spec', '--test-force-exit']

const nodeSuite = (name, file) => ({
  name,
  command: process.execPath,
  args: [...NODE_FLAGS, file],
  count: countNode,
})

/** So many short suites share a process: to load what they import takes longer than most of them run. */
const TOGETHER = 8

/** Suites that run one behind the other in one process. */
const together = (files) => {
  const names = [...files.keys()]
  if (names.length === 1) return nodeSuite(names[0], files.get(names[0]))
  const file = join(process.env.TMPDIR, `${names[0].replaceAll('/', '-')}.mjs`)
  const imports = [...files.values()].map((path) => `import ${JSON.stringify(path)}\n`)
  writeFileSync(file, imports.join(''))
  return nodeSuite(names.join(', '), file)
}

/** `compiled`: where their JavaScript is. */
const nodeSuites = (compiled) => {
  const files = readdirSync(join(root, 'test'), { recursive: true })
    .filter((path) => path.endsWith('.test.ts') && (long || !path.endsWith('.long.test.ts')))
    .sort()
    .filter(isWanted)
    .map((path) => [
      path.replace(/\.test\.ts$/, ''),
      join(compiled, 'test', path.replace(/\.ts$/, '.js')),
    ])
  const isShort = ([name]) =>
    !name.endsWith('.long') && ![LONGEST, WAITING].some((names) => names.includes(name))
  const short = files.filter(isShort)
  const groups = Array.from({ length: Math.ceil(short.length / TOGETHER) }, (_, i) =>
    together(new Map(short.slice(i * TOGETHER, (i + 1) * TOGETHER))),
  )
  return [
    ...files.filter((suite) => !isShort(suite)).map((suite) => nodeSuite(...suite)),
    ...groups,
  ]
}

const BENCHES = ['cpu_bench', 'grammar_bench']

/** What is below test/, and the benches that a test runs. */
const buildCpp = () => {
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism())
  const what = existsSync(join(build, 'build.ninja'))
    ? [build, '--target', 'test/all', ...(isWanted('bench/commands') ? BENCHES : [])]
    : [join(build, 'test')]
  step('build the C++ tests', 'cmake', ['--build', ...what, '--parallel', jobs])
}

const cppSuites = () => {
  const chosen = (suite) => (long || !isLong(suite)) && isWanted(suite.name)
  if (!listCpp().some(chosen)) return []
  buildCpp()
  // Listed again: ctest knows a command only when its executable is there.
  return listCpp()
    .filter(chosen)
    .map(({ name, command = [name] }) => ({
      name,
      command: command[0],
      args: command.slice(1),
      count: countCpp,
    }))
}

// What tests leave in the folder for temporary files is gone with the run.
process.env.TMPDIR = mkdtempSync(join(tmpdir(), 'nemotron-test-'))
process.on('exit', () => {
  try {
    rmSync(process.env.TMPDIR, { recursive: true, force: true, maxRetries: 3 })
  } catch (error) {
    console.log(`left behind: ${process.env.TMPDIR} (${error.code})`)
  }
})

const began = Date.now()
step('build the addon and dist', process.execPath, [join(root, 'scripts/install.mjs')])
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1))
const all = [cppSuites(), nodeSuites(await compileTests())]
await bundleCommand()
const isWaiting = ({ name }) => WAITING.includes(name)
const [cpp, node] = all.map((suites) => longestFirst(suites.filter((suite) => !isWaiting(suite))))
const waiting = longestFirst(all.flat().filter(isWaiting))
const work = async (...lists) => {
  for (const list of lists)
    for (let suite = list.shift(); suite; suite = list.shift()) await runSuite(suite)
}
// For two processors: a suite of C++ computes, one of Node waits for what it starts half of its time.
const lanes = [work(cpp, node), work(node, cpp), work(node, cpp), work(waiting, node, cpp)]
await Promise.all(lanes)
console.log(
  `${((Date.now() - began) / 60_000).toFixed(1)} minutes, processors ${(total.processor / 60).toFixed(1)}`,
)
console.log(`${total.passed} passed, ${total.failed} failed`)
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0)
