// `nemotron-server pull`.

import type { Command } from 'commander'
import { messageOf } from '../failure.js'
import { createHub } from '../model/hub.js'
import { createProgress } from '../terminal.js'
import { type Host, tell } from './host.js'
import { print } from './print.js'

export const addPullCommand = (program: Command, host: Host): void => {
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
      const hub = createHub(host.env)
      for (const id of ids) {
        const progress = createProgress(host.stderr)
        const say = (text: string) => {
          progress.finish()
          tell(host, text)
        }
        try {
          const folder = await hub.pull(id, { revision, onProgress: progress.update, say })
          progress.finish()
          await print(host, `${folder}\n`)
        } catch (error) {
          progress.finish()
          tell(host, `error: ${messageOf(error)}`)
          host.exit(1) // other files of the model may still be coming
        }
      }
    })
}
