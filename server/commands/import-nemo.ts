// `nemotron-server import-nemo`.

import type { Command } from 'commander'
import { messageOf } from '../failure.js'
import { tell } from '../log.js'
import { importNemo } from '../nemo/import.js'
import { createProgress } from '../terminal.js'
import { print } from './print.js'

export const addImportNemoCommand = (program: Command): void => {
  program
    .command('import-nemo')
    .description("Write a NeMo checkpoint of Nemotron-4 (zarr) in Hugging Face's form.")
    .argument('<dir>', 'the folder with model_config.yaml and model_weights')
    .argument('<out>', 'a new folder, or that of an import that was cut short')
    .action(async (dir: string, out: string, _: unknown, command: Command) => {
      const progress = createProgress()
      try {
        await importNemo(dir, out, { onProgress: progress.update, say: tell })
        progress.finish()
        await print(`${out}\n`)
      } catch (error) {
        progress.finish()
        command.error(`error: ${messageOf(error)}`)
      }
    })
}
