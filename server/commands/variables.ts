// Misspelt variables are said by every command.

import type { Command } from 'commander'
import { unknownVariables } from '../settings/read.js'
import { type Host, tell } from './host.js'

/** `serve` puts them in its log, which has a form of its own. */
export const warnOfVariables = (program: Command, host: Host): void => {
  program.hook('preAction', (_, command) => {
    if (command.name() === 'serve') return
    for (const line of unknownVariables(host.env)) tell(host, `warning: ${line}`)
  })
}
