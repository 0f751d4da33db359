// Checks (or with --write, applies) clang-format over the tracked C++ and CUDA files.

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const git = spawnSync('git', ['ls-files', '*.h', '*.cc', '*.cu', '*.cuh'], {
  cwd: root,
  encoding: 'utf8',
})
if (git.status !== 0) {
  console.log('clang-format: skipped, this is not a git checkout')
  process.exit(0)
}
const files = git.stdout.split('\n').filter(Boolean)
if (spawnSync('clang-format', ['--version']).status !== 0) {
  console.log('clang-format: skipped, it is not installed (apt-get install clang-format)')
  process.exit(0)
}
const mode = process.argv.includes('--write') ? ['-i'] : ['--dry-run', '--Werror']
const { status } = spawnSync('clang-format', [...mode, ...files], { cwd: root, stdio: 'inherit' })
if (status !== 0) console.error('clang-format: run `npm run format`')
process.exit(status ?? 1)
