// The report: one HTML file with its data, its script and its style in it; it asks nobody for anything.

import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { UsageError } from '../flags.js'
import type { Result } from './figures.js'

type Named = { readonly name: string; readonly result: Result }

const bundle = async (): Promise<{ readonly script: string; readonly style: string }> => {
  const esbuild = await import('esbuild').catch(() => {
    throw new UsageError('--html needs esbuild: npm ci')
  })
  const { outputFiles } = await esbuild.build({
    entryPoints: ['page.ts', 'page.css'].map((file) =>
      fileURLToPath(new URL(`plots/${file}`, import.meta.url)),
    ),
    ...{ bundle: true, minify: true, write: false, format: 'iife', target: 'es2022' },
    outdir: 'out',
  })
  const of = (end: string): string => outputFiles.find(({ path }) => path.endsWith(end))?.text ?? ''
  return { script: of('.js'), style: of('.css') }
}

/** As JSON inside a script element: nothing in it may look like the element's end. */
const embedded = (value: unknown): string => JSON.stringify(value).replaceAll('<', '\\u003c')

export const writePage = async (path: string, results: readonly Named[]): Promise<void> => {
  const { script, style } = await bundle()
  const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<title>Load on ${results.map(({ name }) => name.replace(/[<&]/g, '')).join(' and ')}</title>
<style>${style}</style>
</head>
<body>
<main id="page"></main>
<script type="application/json" id="results">${embedded(results)}</script>
<script>${script.replaceAll('</script', '<\\/script')}</script>
</body>
</html>
`
  writeFileSync(path, html)
}
