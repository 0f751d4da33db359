// Keeps the documents true: every path of the repository that they name exists. And no file
// includes a layer above its own (napi -> engine -> models -> device <- cpu, cuda).

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const read = (path) => readFileSync(join(root, path), 'utf8')
const problems = []

// Paths with a folder, in backquotes. What a build or a run makes is not there yet; capitals stand for
// something.
const guides = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'models/tiny/README.md']
for (const folder of ['docs', 'docs/decisions'])
  for (const name of readdirSync(join(root, folder)))
    if (name.endsWith('.md')) guides.push(`${folder}/${name}`)
const made = /^(?:build|dist|node_modules|bench\/\.cache)(?:\/|$)|\/[A-Z]{4,}/
const homes = ['', 'addon/', 'docs/', 'models/tiny/', 'models/tiny/training/']
for (const guide of guides.filter((name) => existsSync(join(root, name)))) {
  for (const [, path] of read(guide).matchAll(/`((?:[\w.-]+\/)+[\w.-]*)`/g)) {
    if (
      made.test(path) ||
      !/^(?:addon|bench|cuda|docs|models|scripts|server|test|web)\//.test(path)
    )
      continue
    const found = homes.some((home) => existsSync(join(root, home, path)))
    if (!found) problems.push(`${guide} names ${path}, which does not exist`)
  }
}

// Folder -> prefixes that its files may include, beside the standard library.
const layers = {
  'addon/device/': ['device/'],
  'addon/cpu/': ['cpu/', 'device/'],
  'cuda/': ['cuda/', 'device/'],
  'models/': ['models/', 'device/'],
  'addon/engine/': ['engine/', 'models/', 'device/'],
  'addon/napi/': ['napi/', 'engine/', 'models/', 'device/'],
}
const ownFolders = /^(?:device|cpu|cuda|models|engine|napi)\//
const git = spawnSync('git', ['ls-files', '*.h', '*.cc', '*.cu', '*.cuh'], {
  cwd: root,
  encoding: 'utf8',
})
for (const file of (git.stdout ?? '').split('\n').filter(Boolean)) {
  const folder = Object.keys(layers).find((prefix) => file.startsWith(prefix))
  if (!folder) continue
  for (const [, path] of read(file).matchAll(/^#include "([^"]+)"/gm)) {
    if (ownFolders.test(path) && !layers[folder].some((prefix) => path.startsWith(prefix))) {
      problems.push(
        `${file} includes ${path}: ${folder} may use ${layers[folder].join(', ')} alone`,
      )
    }
  }
}

for (const problem of problems) console.error(`check-docs: ${problem}`)
process.exit(problems.length > 0 ? 1 : 0)
