// What a command is asked for, on standard output.

import { fileError } from '../failure.js'
import type { Host } from './host.js'

/** Resolves when it is written, or when its reader wants no more (`| head`). */
export const print = ({ stdout }: Host, text: string): Promise<void> =>
  new Promise((resolve, reject) => {
    stdout.once('error', () => {}) // the write says it
    stdout.write(text, (error) => {
      if (!error || ('code' in error && error.code === 'EPIPE')) resolve()
      else reject(fileError(error, 'standard output', 'written'))
    })
  })

/** At the end of a command. `isPiped`: its records went to a pipe, where this would be one more of them. */
export const printSummary = async (host: Host, text: string, isPiped: boolean): Promise<void> => {
  if (isPiped) host.stderr.write(text)
  else
    await print(host, text).catch((error) => {
      host.stderr.write(text) // the same command would not say it again
      throw error
    })
}
