// npm run bench -- compare-results A B: two result files of `serve` beside each other.

import { optional, readFlags, splitFiles, UsageError } from './flags.js'
import { writePage } from './serve/page.js'
import { compareResults, readResult } from './serve/result-file.js'

const flags = { html: optional('FILE', 'a page with plots of both') }

export const run = async (args: readonly string[]): Promise<void> => {
  const { files, rest } = splitFiles(args)
  const values = readFlags(
    'compare-results A.json B.json',
    'two result files of serve --json',
    flags,
    rest,
  )
  if (!values) return
  const [a, b] = files
  if (a === undefined || b === undefined || files.length > 2)
    throw new UsageError(`expected two result files of \`serve --json FILE\`, not ${files.length}`)
  const results = [readResult(a), readResult(b)] as const
  console.log(`A: ${a}\nB: ${b}\n${compareResults(...results)}`)
  if (values.html === undefined) return
  await writePage(values.html, [
    { name: a, result: results[0] },
    { name: b, result: results[1] },
  ])
  console.log(`the page is ${values.html}`)
}
