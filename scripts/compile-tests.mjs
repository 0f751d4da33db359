// TypeScript of server/, web/, test/ and bench/ as JavaScript under build/js, file by file: a suite, and all that it
// starts, then begins in half the processor time that it takes with a loader that compiles what it imports.
// A file knows itself by the name of its source.

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { transform } from 'esbuild'

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

/** `source`: a path below `root`. Returns that of its JavaScript below build/js. */
export const compile = async (root, source) => {
  const file = join(root, source)
  const { code } = await transform(readFileSync(file, 'utf8'), {
    loader: 'ts',
    format: 'esm',
    target: 'node20',
    define: { 'import.meta.url': JSON.stringify(pathToFileURL(file).href) },
    sourcefile: file,
    sourcemap: 'inline',
    sourcesContent: false,
  })
  const path = source.replace(/\.ts$/, '.js')
  const out = join(madeIn(root), path)
  // What is the same stays as it is: another run may be reading it.
  if (readIfThere(out) !== code) {
    mkdirSync(dirname(out), { recursive: true })
    writeFileSync(out, code)
  }
  return path
}

/** `root`: this checkout, or a copy. Returns the folder in which `test/x.test.ts` is `test/x.test.js`. */
export const compileTests = async (root = here) => {
  const made = madeIn(root)
  mkdirSync(made, { recursive: true })
  const current = new Set(await Promise.all(sources(root).map((source) => compile(root, source))))
  for (const path of filesUnder(made, '.js')) if (!current.has(path)) rmSync(join(made, path))
  return made
}
