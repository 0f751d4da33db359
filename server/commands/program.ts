// The command line. Each subcommand is a file beside this one.

import { Command, CommanderError } from 'commander'
import { VERSION } from '../version.js'
import { addBatchCommand } from './batch.js'
import { addCheckCommand } from './check.js'
import { addEvalCommand } from './eval.js'
import { addGenerateCommand } from './generate.js'
import { addGeneratePairsCommand } from './generate-pairs.js'
import type { Host } from './host.js'
import { addImportNemoCommand } from './import-nemo.js'
import { addInfoCommand } from './info.js'
import { addPullCommand } from './pull.js'
import { addScoreCommand } from './score.js'
import { addServeCommand } from './serve.js'
import { warnOfVariables } from './variables.js'

const programFor = (host: Host): Command => {
  const program = new Command('nemotron-server')
    .description('Inference server for NVIDIA Nemotron models.')
    .version(VERSION)
    .showHelpAfterError('(add --help for help)')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => host.stdout.write(text),
      writeErr: (text) => host.stderr.write(text),
    })
  for (const add of [
    addServeCommand,
    addGenerateCommand,
    addPullCommand,
    addImportNemoCommand,
    addInfoCommand,
    addCheckCommand,
    addEvalCommand,
    addScoreCommand,
    addGeneratePairsCommand,
    addBatchCommand,
  ])
    add(program, host)
  warnOfVariables(program, host)
  return program
}

/** Runs what the words say; resolves when it is done. How it went is the host's exit code. */
export const runCommand = async (words: readonly string[], host: Host): Promise<void> => {
  // What is said beside the work may be lost (a full disk, a reader that is gone), the work not.
  host.stderr.on('error', () => {})
  try {
    await programFor(host).parseAsync(words, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    host.exit(error.exitCode) // it has said why
  }
}
