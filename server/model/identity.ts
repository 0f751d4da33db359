// Which model a folder or a GGUF file is. It has several names: that of its folder in the hub's cache, of
// the folder itself, of links to it, what it says it was made from, what it is served as.

import { readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { z } from 'zod'
import { isGguf, readGguf } from '../tokenizer/gguf.js'

/** `models--nvidia--Llama` anywhere on a path of the hub's cache is nvidia/Llama. */
export const hubName = (path: string): string | undefined => {
  const folder = path.split(/[\\/]/).findLast((part) => part.startsWith('models--'))
  const [, owner, ...rest] = folder?.split('--') ?? []
  if (owner === undefined) return undefined
  return rest.length === 0 ? owner : `${owner}/${rest.join('--')}`
}

const realPath = (path: string): string | undefined => {
  try {
    return realpathSync(path)
  } catch {
    return undefined
  }
}

const Config = z.looseObject({ _name_or_path: z.string().min(1).optional() })

const MAX_CONFIG = 1 << 20

/** A config.json that cannot be read names nothing; who needs it says what is wrong. */
const configName = (folder: string): string | undefined => {
  const path = join(folder, 'config.json')
  try {
    const found = statSync(path)
    if (!found.isFile() || found.size > MAX_CONFIG) return undefined
    return Config.safeParse(JSON.parse(readFileSync(path, 'utf8'))).data?._name_or_path
  } catch {
    return undefined
  }
}

/** What a GGUF file says of itself, and of what it was made from: that may be the model that it was trained from. */
const ggufNames = (path: string): { own: readonly string[]; base: readonly string[] } => {
  if (!isGguf(path)) return { own: [], base: [] }
  try {
    const { metadata } = readGguf(path)
    const idsIn = (...keys: readonly string[]) =>
      keys.flatMap((key) => {
        const url = String(metadata.get(`general.${key}`))
        const [, id] = /huggingface\.co\/([^/]+\/[^/]+)/.exec(url) ?? []
        return id === undefined ? [] : [id]
      })
    /** One name of several parts. */
    const named = (...keys: readonly string[]) => {
      const parts = keys.map((key) => metadata.get(`general.${key}`))
      const name = parts.filter((part) => typeof part === 'string').join('-')
      return name === '' ? [] : [name.replaceAll(' ', '-')]
    }
    return {
      own: [
        ...named('name'),
        ...named('basename', 'size_label', 'finetune', 'version'),
        ...idsIn('source.url', 'repo_url'),
      ],
      base: [...idsIn('base_model.0.repo_url'), ...named('base_model.0.name')],
    }
  } catch {
    return { own: [], base: [] } // who needs it says what is wrong
  }
}

/** Names that say which of a model's versions or files it is, and not which model. */
const VERSION =
  /^(?:v?\d[\d._-]*|[\da-f]{7,64}|main|master|latest|current|hf|model|weights|checkpoint-\d+)$/i

const withoutSuffix = (path: string): string => basename(path, '.gguf')

/** The folder that says what a file or a version is: `X-GGUF/Q4_K_M.gguf`, `X/main`. */
const folderName = (path: string): readonly string[] =>
  isGguf(path) || VERSION.test(basename(path)) ? [basename(dirname(path))] : []

/** As many as Linux follows. */
const MAX_LINKS = 40

/** A path and what it links to, one link after the other; the last is no link. */
const linksOf = (path: string): readonly string[] => {
  const paths = [path]
  try {
    for (let at = path; paths.length <= MAX_LINKS; paths.push(at))
      at = resolve(dirname(at), readlinkSync(at))
  } catch {} // no link
  return paths
}

/** Files of the hub's cache may be linked into a folder of another name. */
const hubOfFiles = (folder: string): string | undefined =>
  ['config.json', 'model.safetensors', 'model.safetensors.index.json', 'tokenizer.json']
    .flatMap((name) => linksOf(join(folder, name)).slice(1))
    .map(hubName)
    .find((name) => name !== undefined)

/**
 * Names of a model, the surest first. `model`: a folder or a hub's id as the user gave it; `folder`:
 * where its files are; `served`: its names in the API.
 */
export const namesOfModel = (
  model: string,
  folder = model,
  served: readonly string[] = [],
): readonly string[] => {
  const given = resolve(folder)
  const real = realPath(given) ?? given
  const links = linksOf(given)
  const gguf = ggufNames(given)
  const names = [
    hubName(real),
    hubName(given),
    hubName(model),
    hubOfFiles(real),
    ...(folder === model ? [] : [model]),
    withoutSuffix(real),
    ...links.flatMap((path) => [hubName(path), withoutSuffix(path)]),
    ...gguf.own,
    configName(given),
    ...served,
    ...[real, ...links].flatMap(folderName),
    ...gguf.base,
  ]
  return [...new Set(names.filter((name) => name !== undefined))]
}

/** What it is called where nobody named it. */
export const defaultName = (model: string, folder: string): string => {
  if (folder !== model) return model
  const given = resolve(folder)
  return hubName(given) ?? withoutSuffix(given)
}

/** Whether a name says that the model gives rewards. */
export const soundsLikeReward = (names: readonly string[]): boolean =>
  names.some((name) => /reward|(?:^|[-_./])(?:gen|p|o)?rm(?:[-_./]|$)/i.test(name))
