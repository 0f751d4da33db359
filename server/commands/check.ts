// `nemotron-server check`: what a quantisation or a rounding costs in accuracy.

import { type Command, Option } from 'commander'
import { about, messageOf } from '../failure.js'
import {
  type Choices,
  keepReceipt,
  measureAccuracy,
  type Receipt,
  receiptsFile,
  receiptText,
  referenceOn,
} from '../model/accuracy.js'
import { withFlags } from '../model/option-flags.js'
import { OPTIONS, type Settings } from '../settings/options.js'
import { readSettings } from '../settings/read.js'
import { createProgress } from '../terminal.js'
import { positiveInteger } from './flags.js'
import { type Host, tell } from './host.js'
import { folderOf, MODEL_ARGUMENT } from './named-model.js'
import { print } from './print.js'

type Flags = {
  readonly dtype?: string
  readonly kvCacheDtype?: string
  readonly exactActivations?: string
  readonly int8Activations?: string
  readonly fp8Activations?: string
  readonly against?: string
  readonly device?: string
  readonly threads?: number
  readonly json?: boolean
}

/** Of `serve`, by its variables too. */
const settingsOf = (flags: Flags, { env }: Host): Settings =>
  readSettings(
    {
      dtype: flags.dtype,
      kv_cache_dtype: flags.kvCacheDtype,
      exact_activations: flags.exactActivations,
      int8_activations: flags.int8Activations,
      fp8_activations: flags.fp8Activations,
      device: flags.device,
      threads: flags.threads?.toString(),
    },
    env,
  )

const choicesOf = (settings: Settings): Choices => ({
  dtype: settings.dtype,
  kvCacheDtype: settings.kv_cache_dtype,
  exactActivations: settings.exact_activations,
  int8Activations: settings.int8_activations,
  fp8Activations: settings.fp8_activations,
})

/** For people. */
const report = (receipt: Receipt): string => {
  const { model, against, dtype, device } = receipt
  const extra = [
    ...(receipt.kv_cache_dtype === 'auto' ? [] : [`keys and values in ${receipt.kv_cache_dtype}`]),
    ...(receipt.exact_activations ? ['exact activations'] : []),
    ...(receipt.int8_activations ? ['activations in 8 bits'] : []),
    ...(receipt.fp8_activations ? ['activations in FP8'] : []),
  ].map((text) => `, ${text}`)
  const of = model === against ? 'the weights as they are stored' : against
  return `${model} with ${dtype} weights${extra.join('')}, on ${device}\nagainst ${of}: ${receiptText(receipt)}\n`
}

/** A model on a disk that is read-only has its figures all the same. */
const keep = async (receipt: Receipt, host: Host): Promise<void> => {
  const file = receiptsFile(receipt.model)
  try {
    await keepReceipt(receipt)
    tell(host, `Kept in ${file}: serve tells it when it loads the model with these choices.`)
  } catch (error) {
    tell(host, `Not kept: ${messageOf(error)}`)
  }
}

const check = async (name: string, flags: Flags, host: Host): Promise<void> => {
  const settings = settingsOf(flags, host)
  const choices = choicesOf(settings)
  const device = settings.device === 'cuda' ? 'cuda' : 'cpu'
  const isReference = JSON.stringify(choices) === JSON.stringify(referenceOn(device))
  if (isReference && flags.against === undefined)
    throw new Error(
      'nothing to compare: choose --dtype or another of the flags that change numbers, or name the original with --against',
    )
  const folder = await folderOf(name, host.env)
  const against =
    flags.against === undefined
      ? folder
      : await about('--against', folderOf(flags.against, host.env))
  const progress = createProgress(host.stderr)
  try {
    const { threads } = settings
    const say = (text: string) => {
      progress.finish()
      tell(host, text)
    }
    const receipt = await measureAccuracy({
      ...{ folder, against, choices, device, threads, say },
      onProgress: progress.update,
    })
    progress.finish()
    await print(host, flags.json ? `${JSON.stringify(receipt, null, 2)}\n` : report(receipt))
    await keep(receipt, host)
  } finally {
    progress.finish()
  }
}

const choice = (flags: string, text: string, values: readonly string[], standard: string) =>
  new Option(flags, `${text} (default: ${standard})`).choices(values)
const SWITCH = ['on', 'off']

export const addCheckCommand = (program: Command, host: Host): void => {
  const device = ['cpu', 'cuda']
  program
    .command('check')
    .description('Measure what quantised weights or rounding cost in accuracy.')
    .argument('<model>', MODEL_ARGUMENT)
    .option('--against <model>', 'the original (default: the same model, weights as stored)')
    .addOption(
      choice('--dtype <type>', 'as of serve', ['auto', 'bf16', 'fp8', 'int8', 'int4'], 'auto'),
    )
    .addOption(choice('--kv-cache-dtype <type>', 'as of serve', ['auto', 'bf16', 'fp8'], 'auto'))
    .addOption(choice('--exact-activations <on|off>', 'as of serve', SWITCH, 'off'))
    .addOption(choice('--int8-activations <on|off>', 'as of serve', SWITCH, 'off'))
    .addOption(choice('--fp8-activations <on|off>', 'as of serve', SWITCH, 'off'))
    .addOption(choice('--device <device>', 'where both run', device, 'cpu'))
    .option(
      '--threads <n>',
      `CPU threads (default: ${OPTIONS.threads?.shownDefault})`,
      positiveInteger,
    )
    .option('--json', 'for programs')
    .action(async (name: string, flags: Flags) => {
      try {
        await check(name, flags, host)
      } catch (error) {
        tell(host, `error: ${withFlags(messageOf(error))}`)
        host.exitCode = 1
      }
    })
}
