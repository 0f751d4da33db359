// Where the package lies and which version it is.

import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const findRoot = (): string => {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder)
    if (parent === folder) throw new Error('nemotron-server: its package.json is missing')
    folder = parent
  }
  return folder
}

const root = findRoot()

/** A file of the package, from source and from dist alike. */
export const packagePath = (path: string): string => join(root, path)

export const VERSION: string = JSON.parse(readFileSync(packagePath('package.json'), 'utf8')).version
