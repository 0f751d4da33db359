// `npm test`: brings the build up to date, runs every C++ test executable and every test/**/*.test.ts,
// and ends with `N passed, N failed` over all of them.
//   node scripts/test.mjs [--long] [part of a suite's name...]
// --long adds test/**/*.long.test.ts, ctest's label "long", and NEMOTRON_TEST_LONG=1 for the rest.

import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const build = join(root, 'build')
const wanted = process.argv.slice(2).filter((argument) => argument !== '--long')
const long = process.argv.includes('--long')
if (long) process.env.NEMOTRON_TEST_LONG = '1'
const suiteTimeoutMs = long ? 3_600_000 : 900_000

const isWanted = (name) => wanted.length === 0 || wanted.some((part) => name.includes(part))
const total = { passed: 0, failed: 0 }

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

/** Runs to the end with all output kept. */
const capture = (command, args) =>
  new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      timeout: suiteTimeoutMs,
      killSignal: 'SIGKILL',
    })
    let output = ''
    child.stdout.on('data', (data) => {
      output += data
    })
    child.stderr.on('data', (data) => {
      output += data
    })
    child.on('error', (error) => resolve({ ok: false, output: String(error) }))
    child.on('close', (code, signal) => {
      if (signal) output += `\nended by ${signal} (limit ${suiteTimeoutMs / 1000} s)\n`
      resolve({ ok: code === 0, output })
    })
  })

const number = (text, pattern) => {
  const found = text.match(pattern)?.[1]
  return found === undefined ? undefined : Number(found)
}

const runSuite = async ({ name, command, args, count }) => {
  const began = Date.now()
  const { ok, output } = await capture(command, args)
  const counted = count(output)
  // An executable that counts nothing is one test.
  const passed = counted.passed ?? (ok ? 1 : 0)
  const failed = ok ? 0 : Math.max(counted.failed ?? 0, 1)
  total.passed += passed
  total.failed += failed
  const seconds = ((Date.now() - began) / 1000).toFixed(1)
  console.log(
    `${ok ? 'ok    ' : 'FAILED'} ${name}: ${passed} passed, ${failed} failed (${seconds} s)`,
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

/** What is below test/ and nothing else: no benches. */
const buildCpp = () => {
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism())
  const what = existsSync(join(build, 'build.ninja'))
    ? [build, '--target', 'test/all']
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

const nodeSuites = () =>
  readdirSync(join(root, 'test'), { recursive: true })
    .filter((path) => path.endsWith('.test.ts') && (long || !path.endsWith('.long.test.ts')))
    .sort()
    .filter(isWanted)
    .map((path) => ({
      name: path.replace(/\.test\.ts$/, ''),
      command: process.execPath,
      args: ['--import', 'tsx', '--test', '--test-reporter=spec', join('test', path)],
      count: countNode,
    }))

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
// Two at a time: a suite waits for processes it starts about as long as it computes.
const suites = [...cppSuites(), ...nodeSuites()]
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1))
const work = async () => {
  for (let suite = suites.shift(); suite; suite = suites.shift()) await runSuite(suite)
}
await Promise.all([work(), work()])
console.log(`${((Date.now() - began) / 60_000).toFixed(1)} minutes`)
console.log(`${total.passed} passed, ${total.failed} failed`)
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0)
