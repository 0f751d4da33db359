// The page of web/ as a browser loads it: index.html, and assets whose names have their hash. Beside each
// file stands what gzip makes of it.

import { readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { build } from 'esbuild'

const web = fileURLToPath(new URL('../web/', import.meta.url))

/** `folder` is made. */
export const buildPage = async (folder) => {
  const { metafile } = await build({
    entryPoints: ['main.tsx', 'style.css'],
    absWorkingDir: web,
    outdir: join(folder, 'assets'),
    entryNames: '[name]-[hash]',
    chunkNames: '[name]-[hash]',
    bundle: true,
    splitting: true,
    format: 'esm',
    target: 'es2022',
    minify: true,
    metafile: true,
    legalComments: 'linked',
    logLevel: 'warning',
  })
  const madeOf = (source) =>
    basename(Object.entries(metafile.outputs).find(([, one]) => one.entryPoint === source)[0])
  const html = readFileSync(join(web, 'index.html'), 'utf8')
    .replace('{{style}}', `/assets/${madeOf('style.css')}`)
    .replace('{{script}}', `/assets/${madeOf('main.tsx')}`)
  writeFileSync(join(folder, 'index.html'), html)
  const made = Object.keys(metafile.outputs).map((path) => join(web, path))
  for (const path of [...made, join(folder, 'index.html')])
    writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }))
}
