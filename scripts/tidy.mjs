// What no formatter checks in the tracked sources: a heading inside a file is one short line,
// `// --- words ---`. A longer rule breaks when a formatter wraps it, and then its dashes stand in
// the middle of the next sentence. Comments in C++ and CUDA end at column 100: clang-format does
// not touch them.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const patterns = [
  '*.h',
  '*.cc',
  '*.cu',
  '*.cuh',
  '*.ts',
  '*.mjs',
  '*.py',
  '*.sh',
  '*CMakeLists.txt',
]
const git = spawnSync('git', ['ls-files', ...patterns], { cwd: root, encoding: 'utf8' })
if (git.status !== 0) {
  console.log('tidy: skipped, this is not a git checkout')
  process.exit(0)
}
const comment = /^\s*(?:\/\/\/?|#|\*|\/\*\*?)\s?(.*?)\s*(?:\*\/)?$/
const columns = 100

const problems = []
for (const file of git.stdout.split('\n').filter(Boolean)) {
  const isCxx = /\.(?:h|cc|cu|cuh)$/.test(file)
  readFileSync(join(root, file), 'utf8')
    .split('\n')
    .forEach((line, index) => {
      const at = `${file}:${index + 1}`
      const text = comment.exec(line)?.[1] ?? ''
      if (/-{4,}|={4,}/.test(text)) {
        problems.push(`${at}: a rule in a comment; a heading is \`--- words ---\``)
      } else if (/^---(?:\s|$)/.test(text) && !/^--- \S.* ---$/.test(text)) {
        problems.push(`${at}: a broken heading; write \`--- words ---\` on one line`)
      }
      if (isCxx && line.includes('//') && [...line].length > columns) {
        problems.push(`${at}: a comment of ${[...line].length} columns, at most ${columns}`)
      }
    })
}

for (const problem of problems) console.error(`tidy: ${problem}`)
process.exit(problems.length > 0 ? 1 : 0)
