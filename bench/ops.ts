// npm run bench -- ops [ceilings | disk | loading | ops] [--threads N] [--isa NAME] [--weights NAME] [--bf16-kv]
//                      [--seconds S] [--wall] [case...]
// The C++ bench of the CPU backend; one line of JSON a case. The program tells its flags itself.

import { spawnSync } from 'node:child_process'
import { buildCpuBench, machineLine } from './machine.js'

export const run = async (args: readonly string[]): Promise<void> => {
  const whole = ['ceilings', 'disk', 'loading', 'ops', '--help'].includes(args[0] ?? '')
    ? args
    : ['ops', ...args]
  const program = buildCpuBench()
  if (!whole.includes('--help')) console.error(machineLine())
  const { status } = spawnSync(program, whole, { stdio: 'inherit' })
  process.exitCode = status ?? 1
}
