// The C++ bench: built on demand into bench/.cache, apart from the addon's build folder.

import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Ceilings } from './limits.js'
import { cacheFolder } from './random-model.js'
import type { Clock } from './results.js'

const root = fileURLToPath(new URL('..', import.meta.url))

/** The path of cpu_bench, up to date with its sources. */
export const buildCpuBench = (): string => {
  const build = join(cacheFolder, 'build')
  const ninja = spawnSync('ninja', ['--version']).status === 0 ? ['-G', 'Ninja'] : []
  const options = ['-DCMAKE_BUILD_TYPE=Release', '-DNEMOTRON_TESTS=ON', '-DNEMOTRON_CUDA=OFF']
  const stdio = ['ignore', 2, 2] as const
  execFileSync('cmake', ['-S', root, '-B', build, ...ninja, ...options], { stdio: [...stdio] })
  execFileSync('cmake', ['--build', build, '--target', 'cpu_bench', '--parallel'], {
    stdio: [...stdio],
  })
  return join(build, 'bench/cpu_bench')
}

type CeilingLine = {
  readonly ceiling: string
  readonly gflops?: number
  readonly gb_per_s?: number
}

/** About two seconds: read bandwidth, and the best register rate for BF16 inputs. */
export const measureCeilings = (cpuBench: string, threads: number, clock: Clock): Ceilings => {
  const flags = ['--threads', String(threads), '--seconds', '0.1']
  if (clock === 'wall') flags.push('--wall')
  const lines: readonly CeilingLine[] = execFileSync(cpuBench, ['ceilings', ...flags], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 2],
  })
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const rates = lines.filter(({ ceiling }) => !ceiling.includes('int8'))
  return {
    bandwidth: Math.max(...rates.map(({ gb_per_s = 0 }) => gb_per_s)) * 1e9,
    matrix: Math.max(...rates.map(({ gflops = 0 }) => gflops)) * 1e9,
  }
}
