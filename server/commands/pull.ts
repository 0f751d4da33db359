// `nemotron-server pull`.

import type { Command } from 'commander'
import { messageOf } from '../failure.js'
import { tell } from '../log.js'
import { createHub } from '../model/hub.js'
import { createProgress } from '../terminal.js'
import { print } from './print.js'

export const addPullCommand = (program: Command): void => {
  program
    .command('pull')
    .description('Download models into the Hugging Face cache.')
    .argument('<ids...>', 'such as nvidia/Llama-3.1-Nemotron-Nano-8B-v1')
    .option('--revision <name>', 'branch, tag or commit', 'main')
    .addHelpText(
      'after',
      '\nUses HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE, HF_HOME and HF_HUB_OFFLINE. An interrupted\ndownload goes on where it stopped.',
    )
    .action(async (ids: readonly string[], { revision }: { readonly revision: string }) => {
      const hub = createHub(process.env)
      for (const id of ids) {
        const progress = createProgress()
        const say = (text: string) => {
          progress.finish()
          tell(text)
        }
        try {
          const folder = await hub.pull(id, { revision, onProgress: progress.update, say })
          progress.finish()
          await print(`${folder}\n`)
        } catch (error) {
          progress.finish()
          tell(`error: ${messageOf(error)}`)
          process.exit(1) // other files of the model may still be coming
        }
      }
    })
}
