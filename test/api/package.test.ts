// The package as a user gets it: packed, installed into an empty project, imported, type-checked, run.

import assert from 'node:assert/strict'
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { before, describe, test } from 'node:test'
import { packagePath, VERSION } from '../../server/version.js'
import { tinyCheckpoint } from './tiny_checkpoint.js'

const long = process.env.NEMOTRON_TEST_LONG === '1'

const run = (
  cwd: string,
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): SpawnSyncReturns<string> =>
  spawnSync(command, args, { cwd, encoding: 'utf8', env: { ...process.env, ...env } })

const script = `
import { createEngine, EngineFailure, loadTokenizer } from 'nemotron-server'
const model = process.argv[2]
const tokenizer = await loadTokenizer(model)
try {
  const engine = await createEngine({ model, device: 'cpu', kvCacheMemory: 4 << 20 }, tokenizer)
  let count = 0
  const promptTokenIds = await tokenizer.encode('Hello')
  const sampling = { maxTokens: 5, ignoreEos: true }
  for await (const delta of engine.generate({ promptTokenIds, sampling })) count += delta.tokenIds.length
  await engine.close()
  console.log(count)
} catch (error) {
  console.log(error instanceof EngineFailure, error.code, error.message)
}
`

const typed = `
import { createEngine, type Delta, type Engine } from 'nemotron-server'
const engine: Engine = await createEngine({ model: 'x', onPlan: (plan) => plan.total.toFixed() })
const deltas: AsyncIterable<Delta> = engine.generate({ promptTokenIds: [1] })
for await (const { text, finish } of deltas) console.log(text.length, finish === 'stop')
// @ts-expect-error: the device is one of three
await createEngine({ model: 'x', device: 'tpu' })
`

describe('the packed package in an empty project', () => {
  const project = mkdtempSync(join(tmpdir(), 'nemotron-package-'))
  const addon = { NEMOTRON_ADDON: packagePath('build/Release/nemotron.node') }
  const model = tinyCheckpoint()
  let unreachable: string | false = false
  before(() => {
    const packed = run(packagePath('.'), 'npm', [
      ...['pack', '--ignore-scripts', '--json', '--pack-destination', project],
    ])
    assert.equal(packed.status, 0, packed.stderr)
    const [tarball = ''] = readdirSync(project).filter((name) => name.endsWith('.tgz'))
    writeFileSync(join(project, 'package.json'), '{"private": true, "type": "module"}')
    writeFileSync(join(project, 'use.js'), script)
    // Without its install script: the addon's build is the long part, see below.
    const flags = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund']
    const installed = run(project, 'npm', ['install', ...flags, `./${tarball}`])
    if (/ENOTFOUND|ENOTCACHED|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT/.test(installed.stderr)) {
      unreachable = 'npm reaches no registry'
    } else assert.equal(installed.status, 0, installed.stderr)
  })

  test('it has what it needs and no more', (t) => {
    if (unreachable) return t.skip(unreachable)
    const inside = readdirSync(join(project, 'node_modules/nemotron-server'))
    for (const name of ['dist', 'addon', 'models', 'scripts', 'CMakeLists.txt', 'LICENSE']) {
      assert.ok(inside.includes(name), name)
    }
    for (const name of ['server', 'test', 'bench', 'build', 'node_modules']) {
      assert.ok(!inside.includes(name), name)
    }
  })

  test('createEngine is imported and works', (t) => {
    if (unreachable) return t.skip(unreachable)
    const { stdout, stderr } = run(project, process.execPath, ['use.js', model], addon)
    assert.equal(stdout, '5\n', stderr)
  })

  test('without the addon the error names the command that builds it', (t) => {
    if (unreachable) return t.skip(unreachable)
    const { stdout } = run(project, process.execPath, ['use.js', model])
    assert.match(stdout, /^true unavailable .*nemotron\.node is not there.*scripts\/install\.mjs/)
  })

  test('its types are there', (t) => {
    if (unreachable) return t.skip(unreachable)
    const options = { module: 'nodenext', target: 'es2023', strict: true, noEmit: true }
    const tsconfig = { compilerOptions: { ...options, types: ['node'] }, files: ['use.ts'] }
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify(tsconfig))
    writeFileSync(join(project, 'use.ts'), typed)
    mkdirSync(join(project, 'node_modules/@types'), { recursive: true })
    for (const name of ['@types/node', 'undici-types']) {
      symlinkSync(packagePath(`node_modules/${name}`), join(project, 'node_modules', name))
    }
    const tsc = packagePath('node_modules/typescript/bin/tsc')
    const { status, stdout } = run(project, process.execPath, [tsc])
    assert.equal(status, 0, stdout)
  })

  test('npx nemotron-server runs', (t) => {
    if (unreachable) return t.skip(unreachable)
    const { stdout, stderr } = run(project, 'npx', ['--no-install', 'nemotron-server', '--version'])
    assert.equal(stdout.trim(), VERSION, stderr)
  })

  test('its install script builds the addon', { skip: long ? false : 'a long one' }, (t) => {
    if (unreachable) return t.skip(unreachable)
    const built = run(project, 'npm', ['rebuild', 'nemotron-server', '--foreground-scripts'], {
      NEMOTRON_CUDA: 'OFF',
    })
    assert.equal(built.status, 0, built.stdout + built.stderr)
    const { stdout, stderr } = run(project, process.execPath, ['use.js', model])
    assert.equal(stdout, '5\n', stderr)
  })
})

describe('the install script', () => {
  test('names every missing tool at once, with the line that installs them', () => {
    const bin = mkdtempSync(join(tmpdir(), 'nemotron-bin-'))
    const install = packagePath('scripts/install.mjs')
    const { status, stderr } = run(dirname(install), process.execPath, [install], {
      PATH: bin,
      CXX: '',
    })
    assert.equal(status, 1)
    for (const message of [/no cmake: needs CMake >= 3\.22/, /no C\+\+ compiler/, /nor ninja/]) {
      assert.match(stderr, message)
    }
    assert.match(stderr, /sudo apt-get install cmake g\+\+ make/)
  })

  test('refuses a wrong NEMOTRON_CUDA', () => {
    const install = packagePath('scripts/install.mjs')
    const { status, stderr } = run(packagePath('.'), process.execPath, [install, '--addon'], {
      NEMOTRON_CUDA: 'yes',
    })
    assert.equal(status, 1)
    assert.match(stderr, /NEMOTRON_CUDA is "yes"; it can be AUTO, ON or OFF/)
  })
})
