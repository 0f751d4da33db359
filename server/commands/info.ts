// `nemotron-server info`: what a checkpoint is, and the memory it needs on common GPUs.

import { statSync } from 'node:fs'
import type { Command } from 'commander'
import { type CpuNeed, type GpuFit, loadAddon, type NativeModelInfo } from '../engine/addon.js'
import { about, messageOf } from '../failure.js'
import { namesOfModel } from '../model/identity.js'
import { withFlags } from '../model/option-flags.js'
import { findEntry, type RegistryEntry } from '../model/registry.js'
import { isGguf } from '../tokenizer/gguf.js'
import { bytesText, countText } from './amounts.js'
import { type Host, tell } from './host.js'
import { type GgufUse, ggufInfo } from './info-gguf.js'
import { folderOf, MODEL_ARGUMENT } from './named-model.js'
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

/** A row for so many GPUs of a kind, a column for each kind of weights. */
const gpuTable = (gpus: readonly GpuFit[], stored: string): string => {
  const formats = [...new Set(gpus.map(({ format }) => format))]
  const isOf = (one: GpuFit) => (other: GpuFit) =>
    other.gpu === one.gpu && other.ranks === one.ranks
  const groups = gpus
    .filter((one, i) => gpus.findIndex(isOf(one)) === i)
    .map((one) => gpus.filter(isOf(one)))
  const cell = (fit: GpuFit | undefined): string => {
    if (fit === undefined || fit.kvTokensBf16 + fit.kvTokensFp8 === 0) return 'too large'
    return `${bytesText(fit.weights)}, ${tokens(fit.kvTokensBf16)}`
  }
  const rows = groups.map((fits) => [
    fits[0]?.gpu ?? '',
    String(fits[0]?.ranks),
    ...formats.map((format) => cell(fits.find((fit) => fit.format === format))),
  ])
  const names = formats.map((format) => (format === 'stored' ? stored : format))
  const note =
    '  Weights on each GPU, tokens of keys and values in BF16 that fit beside them (twice as many in FP8).'
  return `${layOut([['GPU', 'GPUs', ...names], ...rows])}\n${note}`
}

/** What a model needs on the CPU, by --dtype; a draft model beside it has columns of its own. */
const cpuTable = (needs: readonly CpuNeed[]): string => {
  const withDraft = needs.some(({ draftWeights }) => draftWeights > 0)
  const kv = (bytes: number) => bytesText(1000 * bytes)
  const rows = needs.map((need) => [
    need.format === 'stored' ? 'auto' : need.format,
    bytesText(need.weights),
    kv(need.kvBytesPerToken),
    ...(withDraft ? [bytesText(need.draftWeights), kv(need.draftKvBytesPerToken)] : []),
  ])
  const draft = withDraft ? ['draft model', 'its KV'] : []
  return layOut([['CPU, --dtype', 'weights', '1,000 tokens of KV', ...draft], ...rows])
}

const tables = ({ gpus, cpu }: Pick<NativeModelInfo, 'gpus' | 'cpu'>, stored: string): string =>
  `${gpuTable(gpus, stored)}\n\n${cpuTable(cpu)}`

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

type Asked = { readonly json: boolean; readonly draft: string | undefined }

const folderInfo = (name: string, folder: string, { json, draft }: Asked): string => {
  const entry = findEntry(namesOfModel(name, folder))
  const info = loadAddon().modelInfo(folder, entry?.reward?.rows ?? [], draft)
  if ('code' in info) throw new Error(withFlags(info.message))
  if (json) return `${JSON.stringify(info, null, 2)}\n`
  const dtype = info.config.quantization === 'none' ? info.config.dtype.toLowerCase() : 'fp8'
  const stored = info.gpus.some(({ format }) => format === 'fp8') ? dtype : 'as stored'
  const lines = facts(info, entry).map(([name = '', value = '']) => `${name.padEnd(14)}${value}`)
  return `${lines.join('\n')}\n\n${tables(info, stored)}\n`
}

const useOfGguf = (path: string, draft: string | undefined): GgufUse => {
  if (!isGguf(path)) return { served: false, why: 'the name of a GGUF file ends in .gguf.' }
  const info = loadAddon().modelInfo(path, findEntry(namesOfModel(path))?.reward?.rows ?? [], draft)
  if ('code' in info) return { served: false, why: withFlags(info.message) }
  const { gpus, cpu, widened } = info
  return { served: true, gpus, cpu, widened }
}

const fileInfo = (path: string, { json, draft }: Asked): string => {
  const use = useOfGguf(path, draft)
  return ggufInfo(path, use, use.served ? tables(use, 'as stored') : '', json)
}

const isFile = (path: string): boolean =>
  statSync(path, { throwIfNoEntry: false })?.isFile() === true

/** A file of whatever name: what it is, is told. */
const foundFolder = async (name: string, env: NodeJS.ProcessEnv): Promise<string> =>
  isFile(name) ? name : folderOf(name, env)

type Options = { readonly json?: boolean; readonly draftModel?: string }

const infoOf = async (
  name: string,
  { json = false, draftModel }: Options,
  env: NodeJS.ProcessEnv,
): Promise<string> => {
  const draft =
    draftModel === undefined
      ? undefined
      : await about('--draft-model', foundFolder(draftModel, env))
  if (isFile(name)) return fileInfo(name, { json, draft })
  return folderInfo(name, await foundFolder(name, env), { json, draft })
}

export const addInfoCommand = (program: Command, host: Host): void => {
  program
    .command('info')
    .description('Say what a model is and what memory it needs on common GPUs and on the CPU.')
    .argument('<model>', MODEL_ARGUMENT)
    .option('--draft-model <model>', 'a draft model that lies beside it')
    .option('--json', 'for programs')
    .action(async (name: string, options: Options) => {
      try {
        await print(host, await infoOf(name, options, host.env))
      } catch (error) {
        tell(host, `error: ${messageOf(error)}`)
        host.exitCode = 1
      }
    })
}
