// Misspelt variables are said by every command.

import type { Command } from 'commander'
import { tell } from '../log.js'
import { unknownVariables } from '../settings/read.js'

/** `serve` puts them in its log, which has a form of its own. */
export const warnOfVariables = (program: Command): void => {
  program.hook('preAction', (_, command) => {
    if (command.name() === 'serve') return
    for (const line of unknownVariables(process.env)) tell(`warning: ${line}`)
  })
}
