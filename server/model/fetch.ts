// A model's name to the folder that has its files, downloading them when needed.

import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { ConfigError } from '../settings/read.js'
import type { Progress } from '../terminal.js'
import { isGguf } from '../tokenizer/gguf.js'
import { embeddedFolder, embeddedModels } from './embedded.js'
import { createHub, isRepoId } from './hub.js'

/** The folders in `parent`; undefined: it is none. */
const foldersIn = async (parent: string): Promise<readonly string[] | undefined> => {
  const entries = await readdir(parent, { withFileTypes: true }).catch(() => undefined)
  return entries?.filter((one) => !one.isFile()).map(({ name }) => name)
}

const MOST_SHOWN = 10
const MOST_ASKED = 100

const listed = (names: readonly string[]): string =>
  names.slice(0, MOST_SHOWN).join(', ') + (names.length > MOST_SHOWN ? ', ...' : '')

const hasConfig = async (folder: string): Promise<boolean> =>
  (await stat(join(folder, 'config.json')).catch(() => undefined)) !== undefined

/** NVIDIA's own form of Nemotron-4, which is read by `import-nemo` alone. */
const refuseNemo = async (folder: string): Promise<void> => {
  const found = await stat(join(folder, 'model_config.yaml')).catch(() => undefined)
  if (found !== undefined)
    throw new ConfigError(
      `${folder}: has no config.json but a model_config.yaml: it is a NeMo folder. \`nemotron-server import-nemo ${folder} OUT\` makes OUT of it, which is served.`,
    )
}

/** The models in a folder that is none, such as the hub's `models--OWNER--NAME`. */
const modelsIn = async (folder: string): Promise<readonly string[]> => {
  const inner = [folder, join(folder, 'snapshots')]
  const found = await Promise.all(
    inner.map(async (one) => ((await foldersIn(one)) ?? []).map((name) => join(one, name))),
  )
  const below = found.flat().slice(0, MOST_ASKED)
  const isModel = await Promise.all(below.map(hasConfig))
  return below.filter((_, i) => isModel[i])
}

/** How errors say what may be named. */
const KINDS = (): string => {
  const carried = embeddedModels().map(({ name }) => name)
  const which = carried.length > 0 ? ` or one that the package carries (${listed(carried)})` : ''
  return `a folder, a GGUF file, a Hugging Face id such as nvidia/Llama-3.1-Nemotron-Nano-8B-v1${which}`
}

/** The folder of what is here already, in a folder, a GGUF file, the package or in the hub's cache; undefined: `name` is the id of
 * a model that is not. Throws when it can be neither. */
export const findFolder = async (
  name: string,
  env: NodeJS.ProcessEnv,
): Promise<string | undefined> => {
  if (name.trim() === '')
    throw new ConfigError(`a model is ${KINDS()}, and the name given is empty.`)
  const found = await stat(name).catch(() => undefined)
  if (found?.isDirectory()) {
    if (await hasConfig(name)) return name
    await refuseNemo(name)
    const inner = await modelsIn(name)
    const meant =
      inner.length > 0 ? `Do you mean ${listed(inner)}?` : 'A model is a folder that has one.'
    throw new ConfigError(`${name}: has no config.json. ${meant}`)
  }
  if (found && isGguf(name)) return name
  if (found && name.endsWith('.nemo'))
    throw new ConfigError(
      `${name}: this is a NeMo archive; unpack it (tar -xf) and make a checkpoint of its folder: nemotron-server import-nemo FOLDER OUT.`,
    )
  if (found)
    throw new ConfigError(
      `${name}: this is a file; name its folder, or a file whose name ends in .gguf.`,
    )
  const embedded = embeddedFolder(name)
  if (embedded !== undefined) return embedded
  if (!isRepoId(name)) throw new ConfigError(`${name}: no such folder here. A model is ${KINDS()}.`)
  const cached = await createHub(env).cached(name)
  if (cached !== undefined) return cached
  // What begins like a path is meant as one.
  const [parent = ''] = name.split('/')
  const beside = await foldersIn(parent)
  if (beside === undefined) return undefined
  const shown = listed(beside)
  throw new ConfigError(
    `${name}: no such folder (${parent}/ has ${shown || 'none'}). If you mean the model of that name at Hugging Face: nemotron-server pull ${name}`,
  )
}

export const fetchModel = async (
  name: string,
  env: NodeJS.ProcessEnv,
  progress: Progress,
  tell: (text: string) => void,
): Promise<string> => {
  const here = await findFolder(name, env)
  if (here !== undefined) return here
  const hub = createHub(env)
  const say = (text: string) => {
    progress.finish()
    tell(text)
  }
  // It may have been meant as a path.
  say(
    `There is no folder ${name} here, and ${name} is not in ${hub.cache}: downloading it from ${hub.endpoint}.`,
  )
  const folder = await hub.pull(name, { onProgress: progress.update, say })
  progress.finish()
  return folder
}
