// npm run bench -- ops [ceilings | ops | decoder] [--threads N] [--isa NAME] [--shape 1b|160m]
//                      [--weights bf16|fp8] [--bf16-kv] [--seconds S] [--wall] [case...]
// The C++ bench of the CPU backend; one line of JSON a case.

import { spawnSync } from 'node:child_process'
import { buildCpuBench } from './ceilings.js'

const parts = ['ceilings', 'ops', 'decoder']

export const run = async (args: readonly string[]): Promise<void> => {
  const whole = parts.includes(args[0] ?? '') ? args : ['ops', ...args]
  const { status } = spawnSync(buildCpuBench(), whole, { stdio: 'inherit' })
  process.exitCode = status ?? 1
}
