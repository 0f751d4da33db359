// Keeps the picture of server/ in docs/architecture.md true: which room imports which, no circle of
// files, and few files outside a room. And keeps bench/ off test/.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const problems = []

/** At server/'s top, which anybody may import; they import each other alone. */
const shared = [
  'check',
  'failure',
  'json-source',
  'lock',
  'log',
  'request-error',
  'line',
  'list',
  'slices',
  'terminal',
  'thread',
  'version',
]

/** Room, or file at the top, or one file of a room -> what it may import beside itself and `shared`. */
const below = {
  settings: [],
  grammar: [],
  nemo: [],
  tokenizer: [],
  engine: ['tokenizer'],
  prompt: ['tokenizer'],
  metrics: ['engine'],
  model: ['metrics', 'engine', 'prompt', 'tokenizer', 'settings', 'grammar'],
  batch: ['http'],
  generation: ['model', 'engine', 'tokenizer'],
  scoring: ['generation', 'model', 'engine', 'prompt'],
  chat: ['scoring', 'generation', 'model', 'engine', 'prompt', 'tokenizer', 'grammar'],
  http: ['metrics'],
  api: [
    'batch',
    'chat',
    'scoring',
    'generation',
    'http',
    'model',
    'metrics',
    'engine',
    'prompt',
    'tokenizer',
  ],
  app: ['api', 'http'],
  server: ['app', 'api', 'batch', 'http', 'generation', 'model', 'metrics', 'settings'],
  library: ['scoring', 'model', 'engine', 'tokenizer', 'settings'],
  index: ['library', 'engine', 'tokenizer'],
  // A command asks a server as any client does, through client.ts.
  commands: ['batch', 'model', 'engine', 'prompt', 'tokenizer', 'settings', 'nemo'],
  'commands/client': ['server', 'settings'],
  'commands/serve': ['server', 'model', 'settings'],
  cli: ['commands'],
}
const MOST_AT_TOP = 17

const git = spawnSync('git', ['ls-files', 'server/*.ts', 'server/**/*.ts'], {
  cwd: root,
  encoding: 'utf8',
})
const files = [...new Set(git.stdout.split('\n').filter(Boolean))]
/** `server/api/openai/chat.ts` -> `api/openai/chat`. */
const nameOf = (file) => file.replace(/^server\//, '').replace(/\.[jt]s$/, '')
const roomOf = (name) => name.split('/')[0]
const importsOf = (file) =>
  [...readFileSync(join(root, file), 'utf8').matchAll(/\bfrom '(\.[^']+)'/g)].map(([, path]) =>
    nameOf(join(dirname(file), path)),
  )
const imports = new Map(files.map((file) => [nameOf(file), importsOf(file)]))

for (const [name, list] of imports) {
  const room = roomOf(name)
  const allowed = shared.includes(name) ? [] : (below[name] ?? below[room])
  if (allowed === undefined) problems.push(`server/${name}.ts is in no room of check-layers.mjs`)
  for (const to of list) {
    const isInside = room === roomOf(to) && name.includes('/')
    if (isInside || shared.includes(to) || allowed?.includes(roomOf(to))) continue
    problems.push(
      `server/${name}.ts imports ${to}: ${room} may use ${allowed?.join(', ') || 'no room'}`,
    )
  }
}

// A dialect is a folder of api/, and is known to the table of routes alone.
const dialectOf = (name) => /^api\/([^/]+)\//.exec(name)?.[1]
for (const [name, list] of imports)
  for (const to of list) {
    const dialect = dialectOf(to)
    const mayKnow = roomOf(name) !== 'api' || dialectOf(name) === dialect
    if (dialect !== undefined && !mayKnow)
      problems.push(`server/${name}.ts imports ${to}: no dialect knows another`)
  }

const done = new Set()
const visit = (name, path) => {
  const at = path.indexOf(name)
  if (at >= 0) {
    problems.push(`a circle of imports: ${[...path.slice(at), name].join(' -> ')}`)
    return
  }
  if (done.has(name)) return
  for (const to of imports.get(name) ?? []) visit(to, [...path, name])
  done.add(name)
}
for (const name of imports.keys()) visit(name, [])

const top = [...imports.keys()].filter((name) => !name.includes('/'))
if (top.length > MOST_AT_TOP)
  problems.push(`server/ has ${top.length} files at its top; at most ${MOST_AT_TOP}`)

/** One way into a room: file -> who may call it. Types may be imported by all. */
const doors = {
  'generation/answer': ['api/respond'],
  'generation/run': ['generation/answer'],
}
for (const file of files) {
  const text = readFileSync(join(root, file), 'utf8')
  const values = text.replace(/\bimport type [^']*'[^']*'/g, '')
  for (const [, path] of values.matchAll(/\bfrom '(\.[^']+)'/g)) {
    const to = nameOf(join(dirname(file), path))
    if (doors[to]?.includes(nameOf(file)) ?? true) continue
    problems.push(`${file} calls ${to}: only ${doors[to].join(', ')} may`)
  }
}

// A command that took the process itself could not be run beside others in one.
for (const file of files.filter((one) => one.startsWith('server/commands/'))) {
  const taken = /^(?!\s*(?:\/\/|\*|\/\*)).*\b(process\.\w+)/m.exec(
    readFileSync(join(root, file), 'utf8'),
  )?.[1]
  if (taken) problems.push(`${file} says ${taken}: a command is given a Host`)
}

// The walk of docs/architecture.md, in and back: the first file of a row is in a room of its own.
const walk = readFileSync(join(root, 'docs/architecture.md'), 'utf8')
  .split('\n')
  .flatMap((line) => /^\| \d+ \| `([^`]+)`/.exec(line)?.[1] ?? [])
const isServer = (file) => file.startsWith('server/')
const back = walk.findLastIndex((file) => !isServer(file))
const end = walk.findIndex((file) => !isServer(file))
for (const way of [walk.slice(0, end), walk.slice(back)]) {
  const rooms = way.map((file) => (isServer(file) ? roomOf(nameOf(file)) : file))
  for (const [i, room] of rooms.entries())
    if (rooms.indexOf(room) < i) problems.push(`docs/architecture.md enters ${room} twice`)
}

// Tests stand on everything, so nothing stands on tests.
const benches = spawnSync('git', ['ls-files', 'bench/*.ts', 'bench/**/*.ts'], {
  cwd: root,
  encoding: 'utf8',
})
for (const file of benches.stdout.split('\n').filter(Boolean))
  for (const to of importsOf(file))
    if (to.startsWith('test/')) problems.push(`${file} imports ${to}: bench may not use test`)

for (const problem of problems) console.error(`check-layers: ${problem}`)
process.exit(problems.length > 0 ? 1 : 0)
