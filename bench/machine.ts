// Which machine a figure was measured on.

import { readFileSync } from 'node:fs'
import os from 'node:os'

export type Machine = {
  readonly cpu: string
  readonly isa: readonly string[]
  readonly threads: number
  readonly memoryGiB: number
  readonly hugePages: string
  readonly kernel: string
  readonly node: string
}

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

/** For file names: "amd-epyc-2t". */
export const machineSlug = ({ cpu, threads }: Machine): string =>
  `${cpu} ${threads}t`
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
