// The models that the package carries, by name: what `npm start` serves. Small ones need little; the machine is not theirs.

import { existsSync } from 'node:fs'
import { packagePath } from '../version.js'

const MIB = 1 << 20

type Embedded = {
  readonly name: string
  readonly folder: string
  /** Bytes of its KV cache, where nothing else is said. */
  readonly memory: number
}

/** Those that are there: a package may have been put together without them. */
export const embeddedModels = (): readonly Embedded[] =>
  [
    { name: 'tiny-reasoner', memory: 256 * MIB },
    { name: 'tiny-reward', memory: 64 * MIB },
  ]
    .map((one) => ({ ...one, folder: packagePath(`models/tiny/${one.name}`) }))
    .filter(({ folder }) => existsSync(`${folder}/config.json`))

/** What stands at the path `name` goes before a model of that name. */
export const embeddedFolder = (name: string): string | undefined =>
  existsSync(name) ? undefined : embeddedModels().find((one) => one.name === name)?.folder
