// What a command is asked for, on standard output.

import { fileError } from '../failure.js'

/** Resolves when it is written, or when its reader wants no more (`| head`). */
export const print = (text: string): Promise<void> =>
  new Promise((resolve, reject) => {
    process.stdout.once('error', () => {}) // the write says it
    process.stdout.write(text, (error) => {
      if (!error || ('code' in error && error.code === 'EPIPE')) resolve()
      else reject(fileError(error, 'standard output', 'written'))
    })
  })

/** At the end of a command. `isPiped`: its records went to a pipe, where this would be one more of them. */
export const printSummary = async (text: string, isPiped: boolean): Promise<void> => {
  if (isPiped) process.stderr.write(text)
  else
    await print(text).catch((error) => {
      process.stderr.write(text) // the same command would not say it again
      throw error
    })
}
