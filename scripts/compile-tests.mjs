// TypeScript of server/, web/, test/ and bench/ as JavaScript under build/js, file by file: a suite, and all that it
// starts, then begins in half the processor time that it takes with a loader that compiles what it imports.
// A file knows itself by the name of its source.

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build, transform } from 'esbuild'

const here = fileURLToPath(new URL('..', import.meta.url))
const madeIn = (root) => join(root, 'build/js')

// Not what a bench has installed below bench/.cache.
const filesUnder = (folder, end) =>
  readdirSync(folder, { recursive: true }).filter(
    (path) => path.endsWith(end) && !path.startsWith('.cache'),
  )

const sources = (root) =>
  ['server', 'web', 'test', 'bench'].flatMap((room) =>
    filesUnder(join(root, room), '.ts').map((path) => join(room, path)),
  )

const readIfThere = (file) => {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}

/** A file of TypeScript as one of JavaScript. */
const optionsFor = (file) => ({
  loader: 'ts',
  define: { 'import.meta.url': JSON.stringify(pathToFileURL(file).href) },
})

const writeOther = (out, code) => {
  // What is the same stays as it is: another run may be reading it.
  if (readIfThere(out) === code) return
  mkdirSync(dirname(out), { recursive: true })
  writeFileSync(out, code)
}

/** `source`: a path below `root`. Returns that of its JavaScript below build/js. */
export const compile = async (root, source) => {
  const file = join(root, source)
  const { code } = await transform(readFileSync(file, 'utf8'), {
    ...optionsFor(file),
    format: 'esm',
    target: 'node20',
    sourcefile: file,
    sourcemap: 'inline',
    sourcesContent: false,
  })
  const path = source.replace(/\.ts$/, '.js')
  writeOther(join(madeIn(root), path), code)
  return path
}

/** Packages that a command loads in many files, and that look for no file beside theirs. */
const BUNDLED = ['zod', 'commander', 'hono', '@hono/node-server']

const packageOf = (path) => path.split('/', path.startsWith('@') ? 2 : 1).join('/')

const bundling = {
  name: 'sources, and some packages',
  setup: ({ onResolve, onLoad }) => {
    onResolve({ filter: /^[^./]/ }, ({ path, kind }) =>
      kind === 'entry-point' || BUNDLED.includes(packageOf(path))
        ? undefined
        : { path, external: true },
    )
    // Forty languages in which zod says what is wrong: a fifth of all that is read, and none is used.
    onLoad({ filter: /\/zod\/v4\/locales\/index\.js$/ }, () => ({
      contents: 'export {}',
      loader: 'js',
    }))
    // `define` of a build is that of all its files.
    onLoad({ filter: /\/server\/[^.]*\.ts$/ }, async ({ path }) => {
      const { code } = await transform(readFileSync(path, 'utf8'), optionsFor(path))
      return { contents: code, loader: 'js' }
    })
  },
}

/**
 * server/cli.ts with all that it imports in few files, below build/js/command: to find, read and compile two hundred
 * is what most of a short command's time goes to.
 */
export const bundleCommand = async (root = here) => {
  const outdir = join(madeIn(root), 'command')
  const require =
    "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom("
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: ['server/cli.ts'],
    outdir,
    bundle: true,
    splitting: true,
    write: false,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    banner: { js: `${require}${JSON.stringify(join(root, 'package.json'))});` },
    logLevel: 'error',
    plugins: [bundling],
  })
  for (const { path, text } of outputFiles) writeOther(path, text)
  const current = outputFiles.map(({ path }) => path)
  for (const name of filesUnder(outdir, '.js'))
    if (!current.includes(join(outdir, name))) rmSync(join(outdir, name))
}

/** `root`: this checkout, or a copy. Returns the folder in which `test/x.test.ts` is `test/x.test.js`. */
export const compileTests = async (root = here) => {
  const made = madeIn(root)
  mkdirSync(made, { recursive: true })
  const current = new Set(await Promise.all(sources(root).map((source) => compile(root, source))))
  for (const path of filesUnder(made, '.js'))
    if (!current.has(path) && !path.startsWith('command/')) rmSync(join(made, path))
  return made
}
