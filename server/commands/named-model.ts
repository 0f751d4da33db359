// The model that a command is given by name, which has to be here.

import { findFolder } from '../model/fetch.js'

export const MODEL_ARGUMENT =
  'a Hugging Face folder, the id of a model that was pulled, a GGUF file, or tiny-reasoner, tiny-reward'

/** Its folder or GGUF file. */
export const folderOf = async (name: string, env: NodeJS.ProcessEnv): Promise<string> => {
  const folder = await findFolder(name, env)
  if (folder !== undefined) return folder
  throw new Error(
    `${name}: no folder here, and not in the cache of Hugging Face: nemotron-server pull ${name} downloads it.`,
  )
}
