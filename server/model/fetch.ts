// A model's name to the folder that has its files, downloading them when needed.

import { stat } from 'node:fs/promises'
import { ConfigError } from '../settings/read.js'
import type { Progress } from '../terminal.js'
import { createHub, isRepoId } from './hub.js'

export const fetchModel = async (
  name: string,
  progress: Progress,
  tell: (text: string) => void,
): Promise<string> => {
  const found = await stat(name).catch(() => undefined)
  if (found?.isDirectory()) return name
  if (found) throw new ConfigError(`--model ${name}: this is a file; name its folder.`)
  if (!isRepoId(name))
    throw new ConfigError(
      `--model ${name}: no such folder, and not a Hugging Face id such as nvidia/Llama-3.1-Nemotron-Nano-8B-v1.`,
    )
  const hub = createHub(process.env)
  const cached = await hub.cached(name)
  if (cached !== undefined) return cached
  // It may have been meant as a path.
  tell(
    `There is no folder ${name} here, and ${name} is not in ${hub.cache}: downloading it from ${hub.endpoint}.`,
  )
  const folder = await hub.pull(name, { onProgress: progress.update })
  progress.finish()
  return folder
}
