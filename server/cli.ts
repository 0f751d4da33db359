#!/usr/bin/env node
// The command line. Each subcommand is a file in commands/.

import { Command } from 'commander'
import { addBatchCommand } from './commands/batch.js'
import { addCheckCommand } from './commands/check.js'
import { addEvalCommand } from './commands/eval.js'
import { addGenerateCommand } from './commands/generate.js'
import { addGeneratePairsCommand } from './commands/generate-pairs.js'
import { addImportNemoCommand } from './commands/import-nemo.js'
import { addInfoCommand } from './commands/info.js'
import { addPullCommand } from './commands/pull.js'
import { addScoreCommand } from './commands/score.js'
import { addServeCommand } from './commands/serve.js'
import { warnOfVariables } from './commands/variables.js'
import { VERSION } from './version.js'

// What is said beside the work may be lost (a full disk, a reader that is gone), the work not.
process.stderr.on('error', () => {})

const program = new Command('nemotron-server')
  .description('Inference server for NVIDIA Nemotron models.')
  .version(VERSION)
  .showHelpAfterError('(add --help for help)')

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
  add(program)
warnOfVariables(program)

await program.parseAsync()
