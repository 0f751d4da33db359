#!/usr/bin/env node
// The command line (commands/program.ts), run by this process.

import { runCommand } from './commands/program.js'

await runCommand(process.argv.slice(2), process)
