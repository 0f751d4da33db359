// How a process of this checkout starts another one: compiled by scripts/compile-tests.mjs where it is so itself, else
// each file is compiled as it is imported.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { packagePath } from '../server/version.js'

const isCompiled = process.argv[1]?.endsWith('.ts') === false

export const nodeFlags: readonly string[] = isCompiled ? [] : ['--import', 'tsx']

/** Those that have all they import in few files. */
const bundled = (source: string): string =>
  packagePath(join('build/js/command', source.replace(/\.ts$/, '.js')))

/** `source`: a file of the checkout, such as server/cli.ts. */
export const runnable = (source: string): string => {
  if (!isCompiled) return packagePath(source)
  const command = bundled(source)
  return existsSync(command)
    ? command
    : packagePath(join('build/js', source.replace(/\.ts$/, '.js')))
}

export const nodeArgs = (source: string): readonly string[] => [...nodeFlags, runnable(source)]
