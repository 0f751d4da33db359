// `nemotron-server import-nemo`.

import type { Command } from 'commander'
import { messageOf } from '../failure.js'
import { importNemo } from '../nemo/import.js'
import { createProgress } from '../terminal.js'
import { type Host, tell } from './host.js'
import { print } from './print.js'

export const addImportNemoCommand = (program: Command, host: Host): void => {
  program
    .command('import-nemo')
    .description("Write a NeMo checkpoint of Nemotron-4 (zarr) in Hugging Face's form.")
    .argument('<dir>', 'the folder with model_config.yaml and model_weights')
    .argument('<out>', 'a new folder, or that of an import that was cut short')
    .action(async (dir: string, out: string, _: unknown, command: Command) => {
      const progress = createProgress(host.stderr)
      try {
        const say = (text: string) => tell(host, text)
        await importNemo(dir, out, { onProgress: progress.update, say })
        progress.finish()
        await print(host, `${out}\n`)
      } catch (error) {
        progress.finish()
        command.error(`error: ${messageOf(error)}`)
      }
    })
}
