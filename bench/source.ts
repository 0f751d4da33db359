// How a process of this checkout starts another one: compiled by scripts/compile-tests.mjs where it is so itself, else
// each file is compiled as it is imported. The command line it has in one piece, if that was made.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { packagePath } from '../server/version.js'

const isCompiled = process.argv[1]?.endsWith('.ts') === false

export const nodeFlags: readonly string[] = isCompiled ? [] : ['--import', 'tsx']

const command = packagePath('build/js/command/cli.js')
const hasCommand = isCompiled && existsSync(command)

/** `source`: a file of the checkout, such as server/cli.ts. */
export const runnable = (source: string): string =>
  hasCommand && source === 'server/cli.ts'
    ? command
    : packagePath(isCompiled ? join('build/js', source.replace(/\.ts$/, '.js')) : source)

export const nodeArgs = (source: string): readonly string[] => [...nodeFlags, runnable(source)]
