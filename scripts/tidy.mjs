// What no formatter and no compiler checks in the tracked sources:
// - comments: a heading inside a file is one short line, `// --- words ---`; a longer rule breaks when a
//   formatter wraps it, and then its dashes stand in the middle of the next sentence. Comments in C++ and
//   CUDA end at column 100 (clang-format does not touch them). No notes of work to do.
// - functions: at most 70 lines (100 in a kernel) and 6 parameters. What must be longer says why in the
//   comment above it, `// long: why` or `// parameters: why`.
// - exports: each is taken by another file, or is part of the package's face.
// - addon/engine: a file is called as the class that it holds.
// `node scripts/tidy.mjs --debts` also lists what scripts/tidy/debts.json still lets pass;
// --write-debts makes that list anew, for a merge that brought old offenders.

import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { unusedExports } from './tidy/exports.mjs'
import { blank, functionsOf } from './tidy/functions.mjs'

const LINES = 70
const KERNEL_LINES = 100
const PARAMETERS = 6
const COLUMNS = 100

const root = fileURLToPath(new URL('..', import.meta.url))
const git = spawnSync('git', ['ls-files'], { cwd: root, encoding: 'utf8' })
if (git.status !== 0) {
  console.log('tidy: skipped, this is not a git checkout')
  process.exit(0)
}
const read = (file) => {
  try {
    return readFileSync(join(root, file), 'utf8')
  } catch {
    return '' // removed, and not committed yet
  }
}
const files = git.stdout.split('\n').filter(Boolean)
const ended = (...ends) => files.filter((file) => ends.some((end) => file.endsWith(end)))
const cxx = ended('.h', '.cc', '.cu', '.cuh')
const scripts = ended('.ts', '.tsx', '.mjs')

const comment = /^\s*(?:\/\/\/?|#|\*|\/\*\*?)\s?(.*?)\s*(?:\*\/)?$/
const badComments = (file, text) => {
  const isCxx = cxx.includes(file)
  return text.split('\n').flatMap((line, index) => {
    const at = `${file}:${index + 1}`
    const words = comment.exec(line)?.[1] ?? ''
    const found = []
    if (/-{4,}|={4,}/.test(words))
      found.push(`${at}: a rule in a comment; a heading is \`--- words ---\``)
    else if (/^---(?:\s|$)/.test(words) && !/^--- \S.* ---$/.test(words))
      found.push(`${at}: a broken heading; write \`--- words ---\` on one line`)
    if (isCxx && line.includes('//') && [...line].length > COLUMNS)
      found.push(`${at}: a comment of ${[...line].length} columns, at most ${COLUMNS}`)
    if (/^(?:TO-?DO|FIX-?ME|XXX)\b/.test(words))
      found.push(`${at}: a note of work to do; do it, or file it`)
    return found
  })
}

/** The comment that stands above a line. */
const commentAbove = (lines, first) => {
  let from = first - 1
  while (from > 0 && /^\s*(?:\/\/|\*|\/\*)/.test(lines[from - 1])) from--
  return lines.slice(from, first).join('\n')
}

/** Cases are told apart by their text: a test, or a list of tests. */
const isCase = (file, name) =>
  (file.endsWith('.test.ts') && name === 'anonymous') || /^(?:TEST|CASE)/.test(name)

const badFunctions = (file, text) => {
  const lines = text.split('\n')
  return functionsOf(text, cxx.includes(file)).flatMap(({ name, count, isKernel, first, last }) => {
    if (isCase(file, name)) return []
    const why = commentAbove(lines, first)
    const length = last - first + 1
    const most = isKernel ? KERNEL_LINES : LINES
    const found = []
    if (length > most && !/\blong: \S/.test(why))
      found.push({ key: `${file} ${name} long`, text: `${length} lines, at most ${most}` })
    if (count > PARAMETERS && !/\bparameters: \S/.test(why))
      found.push({
        key: `${file} ${name} parameters`,
        text: `${count} parameters, at most ${PARAMETERS}`,
      })
    return found.map((one) => ({ key: one.key, text: `${file}:${first}: ${name}: ${one.text}` }))
  })
}

const snake = (name) => name.replace(/(?<=[a-z0-9])(?=[A-Z])/g, '_').toLowerCase()

/**
 * Of addon/engine: a header is called as a class of its own, a source as its header. A source without a
 * header continues a class, which its first line names.
 */
const badNames = () => {
  const engine = cxx.filter((file) => file.startsWith('addon/engine/'))
  return engine.flatMap((file) => {
    const code = blank(read(file), true)
    const stem = basename(file).replace(/\.\w+$/, '')
    const pattern = file.endsWith('.h')
      ? /^class (\w+)[^;]*\{/gm
      : /^(?:\w[^\n;=]*\s)?(\w+)::~?\w+\(/gm
    const classes = new Set([...code.matchAll(pattern)].map(([, name]) => name))
    const own = [...classes].filter((name) => /^[A-Z]/.test(name))
    if (own.length === 0 || own.some((name) => snake(name) === stem)) return []
    const [opening] = read(file).split('\n')
    const isPart = !files.includes(file.replace(/\.cc$/, '.h')) && /\b[A-Z]\w+/.exec(opening)
    if (file.endsWith('.cc') && own.every((name) => isPart && opening.includes(name))) return []
    const text = `${file} holds ${own.join(', ')}: call it ${snake(own[0])}`
    return [{ key: `${file} name`, text }]
  })
}

const isFace = (file, name) =>
  file === 'server/index.ts' || (file.startsWith('bench/') && name === 'run')

const problems = [...cxx, ...scripts, ...ended('.py', '.sh', 'CMakeLists.txt')].flatMap((file) =>
  badComments(file, read(file)),
)
const typescript = new Map(scripts.map((file) => [file, read(file)]))
const offenders = [
  ...[...cxx, ...scripts].flatMap((file) => badFunctions(file, read(file))),
  ...badNames(),
  ...unusedExports(typescript, isFace).map((text) => ({
    key: `${text.split(' is ')[0]} export`,
    text,
  })),
]
if (process.argv.includes('--write-debts')) {
  const list = Object.fromEntries(offenders.map(({ key, text }) => [key, text]))
  writeFileSync(join(root, 'scripts/tidy/debts.json'), `${JSON.stringify(list, null, 2)}\n`)
  process.exit(0)
}
const debts = new Map(Object.entries(JSON.parse(read('scripts/tidy/debts.json'))))
const owed = offenders.filter(({ key }) => debts.has(key))
problems.push(...offenders.filter(({ key }) => !debts.has(key)).map(({ text }) => text))
const keys = new Set(offenders.map(({ key }) => key))
for (const key of debts.keys())
  if (!keys.has(key)) console.log(`tidy: scripts/tidy/debts.json: '${key}' is paid; strike it`)

if (process.argv.includes('--debts')) for (const { text } of owed) console.log(`debt: ${text}`)
if (owed.length > 0)
  console.log(`tidy: ${owed.length} old debts (node scripts/tidy.mjs --debts lists them)`)
for (const problem of problems) console.error(`tidy: ${problem}`)
process.exit(problems.length > 0 ? 1 : 0)
