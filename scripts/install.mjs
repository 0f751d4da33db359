// npm's install script: builds the addon (build/Release/nemotron.node) and, in a checkout with its
// dev dependencies, dist/. Nothing is downloaded. Run again it does only what changed.
//   node scripts/install.mjs            both
//   node scripts/install.mjs --addon    the addon alone
//   node scripts/install.mjs --dist     dist/ alone
// NEMOTRON_CUDA=AUTO|ON|OFF: the CUDA backend is built when nvcc is there, always, or never.

import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '')
const require = createRequire(import.meta.url)
const minNode = [20, 19]
const minCmake = [3, 22]

const atLeast = (version, wanted) => {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > wanted[0] || (major === wanted[0] && minor >= wanted[1])
}

const output = (command, args) => {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8' })
  return status === 0 ? stdout : null
}

// cmake-js takes g++ or clang++ by itself; CXX, when set, goes before both.
const cxxCompiler = () =>
  [process.env.CXX, 'g++', 'clang++'].find((name) => name && output(name, ['--version']) !== null)

const compilesCxx20 = (compiler) => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
  try {
    const file = join(folder, 'probe.cc')
    writeFileSync(file, '#include <concepts>\n#include <span>\nstd::span<const int> s;\n')
    return output(compiler, ['-std=c++20', '-fsyntax-only', file]) !== null
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Every tool that is missing or too old: [what was found, what would be right, Debian package]. */
const missingTools = () => {
  const missing = []
  if (!atLeast(process.versions.node, minNode)) {
    missing.push([`Node.js ${process.versions.node}`, `Node.js >= ${minNode.join('.')}`, null])
  }
  const cmake = output('cmake', ['--version'])?.match(/version (\S+)/)?.[1]
  if (!cmake || !atLeast(cmake, minCmake)) {
    missing.push([cmake ? `CMake ${cmake}` : 'no cmake', `CMake >= ${minCmake.join('.')}`, 'cmake'])
  }
  const compiler = cxxCompiler()
  if (!compiler) {
    missing.push(['no C++ compiler', 'g++ >= 11 or clang++ >= 14', 'g++'])
  } else if (!compilesCxx20(compiler)) {
    const version = output(compiler, ['--version'])?.split('\n')[0]
    missing.push([`${version} without C++20`, 'g++ >= 11 or clang++ >= 14', 'g++'])
  }
  if (output('ninja', ['--version']) === null && output('make', ['--version']) === null) {
    missing.push(['neither make nor ninja', 'make or ninja', 'make'])
  }
  return missing
}

const fail = (message) => {
  console.error(`nemotron-server: ${message}`)
  process.exit(1)
}

const run = (what, command, args, environment = process.env) => {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    env: environment,
    stdio: 'inherit',
  })
  if (status !== 0) fail(`${what} failed${error ? `: ${error.message}` : ', see above'}`)
}

const cudaMode = () => {
  const asked = (process.env.NEMOTRON_CUDA ?? 'AUTO').toUpperCase()
  if (!['AUTO', 'ON', 'OFF'].includes(asked)) {
    fail(`NEMOTRON_CUDA is "${process.env.NEMOTRON_CUDA}"; it can be AUTO, ON or OFF`)
  }
  if (asked !== 'AUTO') return asked
  const compilers = [process.env.CUDACXX, 'nvcc', '/usr/local/cuda/bin/nvcc']
  if (compilers.some((name) => name && output(name, ['--version']) !== null)) return 'AUTO'
  console.log('nemotron-server: no nvcc here: built without the CUDA backend (docs/cuda.md)')
  return 'OFF'
}

// CMake refuses a build folder that another checkout or another generator configured.
const removeForeignBuild = (build, generator) => {
  const cache = join(build, 'CMakeCache.txt')
  if (!existsSync(cache)) return
  const text = readFileSync(cache, 'utf8')
  const value = (key) => text.match(new RegExp(`^${key}:[A-Z]+=(.*)$`, 'm'))?.[1]
  if (value('CMAKE_HOME_DIRECTORY') !== root || value('CMAKE_GENERATOR') !== generator) {
    rmSync(build, { recursive: true })
  }
}

const buildAddon = () => {
  const missing = missingTools()
  if (missing.length > 0) {
    const lines = missing.map(([found, wanted]) => `  ${found}: needs ${wanted}`)
    const packages = [...new Set(missing.map(([, , name]) => name).filter(Boolean))]
    if (packages.length > 0) {
      lines.push(`On Debian or Ubuntu: sudo apt-get install ${packages.join(' ')}`)
    }
    if (missing.some(([, wanted]) => wanted.startsWith('Node'))) {
      lines.push('Node.js: https://nodejs.org, 24 LTS is recommended')
    }
    fail(`the engine is built from source and needs:\n${lines.join('\n')}`)
  }
  const build = join(root, 'build')
  const generator = output('ninja', ['--version']) === null ? 'Unix Makefiles' : 'Ninja'
  removeForeignBuild(build, generator)
  // Not `cmake-js compile`: it answers every compile error with a second, full build.
  const cmakeJs = require.resolve('cmake-js/bin/cmake-js')
  const configure = [cmakeJs, 'configure', '-d', root, '-O', build, '-G', generator]
  run('configuring the addon', process.execPath, [
    ...configure,
    `--CDNEMOTRON_CUDA=${cudaMode()}`,
    ...(process.env.CXX ? [`--CDCMAKE_CXX_COMPILER=${process.env.CXX}`] : []),
  ])
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism())
  const target = ['--config', 'Release', '--target', 'nemotron', '--parallel', jobs]
  run('building the addon', 'cmake', ['--build', build, ...target])
}

/** Whether dist/ was made after everything that it is made from was last changed. */
const isNewer = (dist) => {
  const made = join(dist, 'server/cli.js')
  if (!existsSync(made)) return false
  const sources = ['server', 'web'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true }).map((path) => join(folder, path)),
  )
  const all = [...sources, 'server', 'web', 'tsconfig.json', 'package.json']
  const { mtimeMs } = statSync(made)
  return all.every((path) => statSync(join(root, path)).mtimeMs < mtimeMs)
}

// An installed package has dist/ inside and no sources; a checkout has the sources.
const buildDist = async () => {
  if (!existsSync(join(root, 'server/cli.ts'))) return
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  if (!existsSync(tsc)) {
    console.error('nemotron-server: dist/ was not built: the dev dependencies are not installed')
    return
  }
  const dist = join(root, 'dist')
  if (isNewer(dist)) return
  // Beside the old one, then in its place: a server that runs from dist/ never finds it half there.
  const fresh = `${dist}.${process.pid}`
  const old = `${fresh}.old`
  process.on('exit', () => {
    for (const folder of [fresh, old]) rmSync(folder, { recursive: true, force: true })
  })
  const began = new Date()
  const project = ['-p', join(root, 'tsconfig.json'), '--outDir', fresh]
  run('compiling TypeScript', process.execPath, [tsc, ...project])
  const { buildPage } = await import('./build-page.mjs')
  await buildPage(join(fresh, 'web'))
  // npm makes a bin executable only when it links it, which is before this.
  const cli = join(fresh, 'server/cli.js')
  chmodSync(cli, 0o755)
  // A source that changed while it was compiled is newer than this.
  utimesSync(cli, began, began)
  if (existsSync(dist)) renameSync(dist, old)
  renameSync(fresh, dist)
}

/** `npx nemotron-server` in a checkout installs that first, to link its command: what is built there is run as
 * it is, as `npm start` does. */
const isForCommand =
  process.env.npm_command === 'exec' &&
  ['build/Release/nemotron.node', 'dist/server/cli.js'].every((path) =>
    existsSync(join(root, path)),
  )

if (!isForCommand && !process.argv.includes('--dist')) buildAddon()
if (!isForCommand && !process.argv.includes('--addon')) await buildDist()
