// npm run bench -- NAME [flags]

import { runBench } from './benches.js'

const code = await runBench(process.argv.slice(2), console.error)
if (code !== 0) process.exitCode = code
