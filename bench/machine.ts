// Which machine a figure was measured on, and what it allows: the rates that cpu_bench measures.

import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { UsageError } from './flags.js'

export type Machine = {
  readonly cpu: string
  readonly isa: readonly string[]
  readonly threads: number
  readonly memoryGiB: number
  readonly hugePages: string
  readonly kernel: string
  readonly node: string
}

/** What the benches make on demand: models, peers, the C++ bench. */
export const cacheFolder = fileURLToPath(new URL('.cache', import.meta.url))

const firstMatch = (file: string, pattern: RegExp): string => {
  try {
    return readFileSync(file, 'utf8').match(pattern)?.[1] ?? ''
  } catch {
    return ''
  }
}

const shownFlags = ['avx2', 'avx512f', 'avx512_bf16', 'avx512_vnni', 'amx_bf16', 'amx_int8']

export const machine = (): Machine => {
  const flags = firstMatch('/proc/cpuinfo', /^flags\s*:(.*)$/m).split(' ')
  return {
    cpu: os.cpus()[0]?.model ?? 'unknown',
    isa: shownFlags.filter((name) => flags.includes(name)),
    threads: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    hugePages: firstMatch('/sys/kernel/mm/transparent_hugepage/enabled', /\[(\w+)\]/),
    kernel: os.release(),
    node: process.version,
  }
}

/** The first line of every bench. */
export const machineLine = (m: Machine = machine()): string =>
  `${m.cpu} (${m.isa.join(' ')}), ${m.threads} hardware threads, ${m.memoryGiB} GiB, Linux ` +
  `${m.kernel}, huge pages "${m.hugePages}", Node ${m.node}, ${new Date().toISOString().slice(0, 16)}`

/** tokens per CPU second are for one thread on a machine that is not quiet. */
export type Clock = 'wall' | 'cpu'

export type Ceilings = {
  /** Bytes a second, read from memory. */
  readonly bandwidth: number
  /** Floating-point operations a second of the best instruction for BF16 inputs, from registers. */
  readonly matrix: number
}

/** To a test no figure means anything, and what is C++ it has built once. */
const isTest = process.env.NEMOTRON_BENCH_TEST === '1'

/** The path of a C++ bench, up to date with its sources, in the build folder of the addon and the tests. */
export const buildBench = (name: string): string => {
  const build = fileURLToPath(new URL('../build', import.meta.url))
  if (!existsSync(build)) throw new UsageError('the engine is not built yet: npm run build')
  const program = join(build, 'bench', name)
  if (isTest) return program
  const built = spawnSync('cmake', ['--build', build, '--target', name, '--parallel'], {
    encoding: 'utf8',
  })
  const { status, error, stdout, stderr } = built
  if (error) throw new UsageError(`cmake: ${error.message}; ${name} is C++`)
  if (status !== 0) throw new UsageError(`${name} cannot be built:\n${stdout}${stderr}`)
  return program
}

export const buildCpuBench = (): string => buildBench('cpu_bench')

type CeilingLine = {
  readonly ceiling: string
  readonly gflops?: number
  readonly gb_per_s?: number
}

/** About two seconds: read bandwidth, and the best register rate for BF16 inputs. */
export const measureCeilings = (
  cpuBench: string,
  threads: number,
  clock: Clock = 'wall',
): Ceilings => {
  const flags = ['--threads', String(threads), '--seconds', isTest ? '0.01' : '0.1']
  if (clock === 'wall') flags.push('--wall')
  const output = execFileSync(cpuBench, ['ceilings', ...flags], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 2],
  })
  const lines: readonly CeilingLine[] = output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const rates = lines.filter(({ ceiling }) => !ceiling.includes('int8'))
  return {
    bandwidth: Math.max(...rates.map(({ gb_per_s = 0 }) => gb_per_s)) * 1e9,
    matrix: Math.max(...rates.map(({ gflops = 0 }) => gflops)) * 1e9,
  }
}
