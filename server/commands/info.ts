// `nemotron-server info`: what a checkpoint is, and the memory it needs on common GPUs.

import { statSync } from 'node:fs'
import type { Command } from 'commander'
import { type GpuFit, loadAddon, type NativeModelInfo } from '../engine/addon.js'
import { tell } from '../log.js'
import { findFolder } from '../model/fetch.js'
import { namesOfModel } from '../model/identity.js'
import { findEntry, type RegistryEntry } from '../model/registry.js'
import { isGguf } from '../tokenizer/gguf.js'
import { bytesText, countText } from './amounts.js'
import { type GgufUse, ggufInfo } from './info-gguf.js'
import { print } from './print.js'

const tokens = (count: number): string =>
  count >= 1e6 ? `${(count / 1e6).toFixed(1)} M` : `${(count / 1e3).toFixed(0)} K`

/** Columns as wide as their widest cell; the first one is flush left. */
const layOut = (rows: readonly (readonly string[])[]): string => {
  const widths = rows[0]?.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0))) ?? []
  const pad = (cell: string, i: number) =>
    i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)
  return rows.map((row) => `  ${row.map(pad).join('  ')}`.trimEnd()).join('\n')
}

const gpuTable = (gpus: readonly GpuFit[], stored: string): string => {
  const rows = gpus.map((fit) => [
    fit.gpu,
    String(fit.ranks),
    fit.format === 'fp8' ? 'fp8' : stored,
    bytesText(fit.weights),
    ...(fit.kvTokensBf16 === 0 && fit.kvTokensFp8 === 0
      ? ['do not fit', '']
      : [tokens(fit.kvTokensBf16), tokens(fit.kvTokensFp8)]),
  ])
  return layOut([['GPU', 'GPUs', 'weights', 'on each', 'tokens of KV, bf16', 'KV, fp8'], ...rows])
}

const rope = ({ ropeTheta, ropeScaling }: NativeModelInfo['config']): string =>
  `theta ${ropeTheta}${ropeScaling === 'none' ? '' : `, ${ropeScaling} scaling`}`

const kindOf = ({ config }: NativeModelInfo, entry: RegistryEntry | undefined): string => {
  if (config.reward !== 'none') return `reward (${config.reward}): ${config.rewardLabels}`
  return entry?.reward?.judge === undefined ? 'chat' : 'reward (judge): it writes its scores'
}

const facts = (
  info: NativeModelInfo,
  entry: RegistryEntry | undefined,
): readonly (readonly string[])[] => {
  const { config } = info
  const weights = config.quantization === 'none' ? config.dtype : `FP8 (${config.quantization})`
  return [
    ['model', entry?.name ?? 'not in models/registry.json'],
    ['architecture', config.architecture],
    ['kind', kindOf(info, entry)],
    ['parameters', countText(info.parameters)],
    ['weights', `${weights}, ${bytesText(info.bytes)} in ${info.tensors} tensors`],
    [
      'layers',
      `${config.layers}, hidden ${config.hidden}, intermediate ${config.intermediate}, ` +
        `${config.qHeads} query and ${config.kvHeads} KV heads of ${config.headDim}`,
    ],
    ['vocabulary', `${config.vocab}${config.tied ? ', embedding and head tied' : ''}`],
    ['context', `${config.maxPosition} tokens, rope ${rope(config)}`],
    ['bos, eos', `${config.bosId < 0 ? 'none' : config.bosId}, ${config.eosIds.join(' ')}`],
  ]
}

const folderInfo = (name: string, folder: string, json: boolean): string => {
  const entry = findEntry(namesOfModel(name, folder))
  const info = loadAddon().modelInfo(folder, entry?.reward?.rows ?? [])
  if ('code' in info) throw new Error(info.message)
  if (json) return `${JSON.stringify(info, null, 2)}\n`
  const stored = info.config.quantization === 'none' ? info.config.dtype.toLowerCase() : 'fp8'
  const lines = facts(info, entry).map(([name = '', value = '']) => `${name.padEnd(14)}${value}`)
  return `${lines.join('\n')}\n\n${gpuTable(info.gpus, stored)}\n`
}

const useOfGguf = (path: string): GgufUse => {
  if (!isGguf(path)) return { served: false, why: 'the name of a GGUF file ends in .gguf.' }
  const info = loadAddon().modelInfo(path, findEntry(namesOfModel(path))?.reward?.rows ?? [])
  if ('code' in info) return { served: false, why: info.message }
  return { served: true, gpus: info.gpus, widenedOnCpu: info.widenedOnCpu }
}

/** Quantised weights are widened while loading. */
const WIDENED = 'bf16'

const fileInfo = (path: string, json: boolean): string => {
  const use = useOfGguf(path)
  return ggufInfo(path, use, use.served ? gpuTable(use.gpus, WIDENED) : '', json)
}

const isFile = (path: string): boolean =>
  statSync(path, { throwIfNoEntry: false })?.isFile() === true

const infoOf = async (name: string, json: boolean): Promise<string> => {
  if (isFile(name)) return fileInfo(name, json)
  const folder = await findFolder(name)
  if (folder === undefined)
    throw new Error(
      `${name}: no folder here, and not in the cache of Hugging Face: nemotron-server pull ${name} downloads it.`,
    )
  return folderInfo(name, folder, json)
}

export const addInfoCommand = (program: Command): void => {
  program
    .command('info')
    .description('Say what a model is and what memory it needs on common GPUs.')
    .argument('<model>', 'a Hugging Face folder, the id of a model that was pulled, or a GGUF file')
    .option('--json', 'for programs')
    .action(async (name: string, { json }: { readonly json?: boolean }) => {
      try {
        await print(await infoOf(name, json === true))
      } catch (error) {
        tell(`error: ${error instanceof Error ? error.message : String(error)}`)
        process.exitCode = 1
      }
    })
}
